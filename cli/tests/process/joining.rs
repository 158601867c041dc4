//! A host that has only a token and the fingerprint of the CA joins a cluster of real processes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argosy_proto::v1;
use argosy_state::actor::PrincipalKind;
use argosy_testbed::certificates::IdentityFiles;
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::cluster::{Cluster, argosy, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Runs `argosy`; returns its output, or its errors.
async fn run(words: &[&str], more: &[String]) -> Result<String, String> {
    let mut command = Command::new(argosy());
    let output = command.args(words).args(more).output().await;
    let output = output.expect("the executable starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match output.status.success() {
        true => Ok(text(output.stdout) + &text(output.stderr)),
        false => Err(text(output.stderr)),
    }
}

/// A cluster, and what a host has before it joins.
struct Joining {
    cluster: Cluster,
    token: PathBuf,
    fingerprint: String,
    /// More arguments of `argosy ca join`.
    more: Vec<&'static str>,
}

impl Joining {
    fn path(&self, name: &str) -> PathBuf {
        self.cluster.directory.path().join(name)
    }

    /// Runs `argosy ca join` for a host with this directory.
    async fn join(
        &self,
        (identity, directory): (&str, &str),
        fingerprint: &str,
    ) -> Result<String, String> {
        let directory = self.path(directory).display().to_string();
        let token = self.token.display().to_string();
        let masters = self.cluster.masters_list().to_string();
        let words = [
            "ca",
            "join",
            identity,
            "--dir",
            &directory,
            "--token-file",
            &token,
        ];
        let mut more = vec!["--ca-fingerprint", fingerprint, "--masters", &masters];
        more.extend(&self.more);
        let more: Vec<_> = more.into_iter().map(str::to_owned).collect();
        run(&words, &more).await
    }

    /// Returns the uses of the token that are left.
    async fn uses(&self) -> u32 {
        let operator = self.cluster.operator();
        let page = operator.list_tokens(v1::ListRequest::default());
        let token = page.await.expect("an operator lists them").tokens.remove(0);
        match token.purpose {
            Some(v1::token::Purpose::Join(join)) => join.uses,
            other => panic!("it is a join token, not {other:?}"),
        }
    }

    fn files(&self, directory: &str, name: &str) -> IdentityFiles {
        let directory = self.path(directory);
        IdentityFiles {
            certificate: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
            ca: directory.join("ca.crt"),
        }
    }
}

fn mode(path: &Path) -> u32 {
    let found = fs::metadata(path).expect("the file is there");
    found.permissions().mode() & 0o777
}

#[tokio::test]
async fn a_host_joins_by_a_token_and_is_bound_to_its_key() {
    let (mut cluster, certificates) = Cluster::start_issuing().await;
    cluster.release_machine();
    let create = ["token", "create", "--for", "agent", "--uses", "2"];
    let token = run(&create, &cluster.client_flags()).await.unwrap();
    let token = token.lines().find(|line| line.starts_with("argosy_"));
    let path = cluster.directory.path().join("join.token");
    fs::write(&path, token.expect("the token is printed")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let ca = cluster.directory.path().join("tls/ca.crt");
    let shown = ["ca", "show", &ca.display().to_string(), "-o", "json"];
    let shown = run(&shown, &[]).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let fingerprint = shown["certificates"][0]["fingerprint"].as_str().unwrap();
    let mut host = Joining {
        cluster,
        token: path,
        fingerprint: fingerprint.to_owned(),
        more: Vec::new(),
    };
    is_refused_by_another_cluster(&mut host).await;
    joins(&host).await;
    others_are_refused(&host).await;

    // The agent runs with these files.
    let mut cluster = host.cluster;
    let files = IdentityFiles {
        certificate: cluster.directory.path().join("a7/agent-a7.crt"),
        key: cluster.directory.path().join("a7/agent-a7.key"),
        ca: cluster.directory.path().join("a7/ca.crt"),
    };
    let place = cluster.add_agent(107, files.clone());
    cluster.wait_registered().await;
    // Another certificate of the CA for this name is refused: its key is another one.
    let other = certificates
        .issue(PrincipalKind::Agent, "a7", None)
        .unwrap();
    let mut flags = vec!["--masters".to_owned(), cluster.masters_list().to_string()];
    flags.extend(other.flags());
    let refused = run(&["agent", "list"], &flags).await.unwrap_err();
    assert!(refused.contains("joined with another key"), "{refused}");
    // Another agent's certificate does not get the id of this agent.
    let other = certificates.issue(PrincipalKind::Agent, "b", None).unwrap();
    let agent = &mut cluster.agents[place];
    agent.signal(Signal::SIGTERM);
    wait_until("the agent has stopped", LONG, async || {
        agent.has_ended().then_some(())
    })
    .await;
    for (mine, its) in [
        (&files.certificate, &other.certificate),
        (&files.key, &other.key),
    ] {
        let [mine, its] = [mine, its].map(|path| path.display().to_string());
        agent.replace_argument(&mine, &its);
    }
    agent.start();
    wait_until("the agent is refused", LONG, async || {
        let log = agent.log();
        log.contains("registered with another certificate, of agent/a7")
            .then_some(())
    })
    .await;
}

/// Masters of another cluster than the named one do not get the token.
async fn is_refused_by_another_cluster(host: &mut Joining) {
    host.more = vec!["--cluster", "another"];
    let joined = host.join(("agent/a7", "a7"), &host.fingerprint).await;
    let refused = joined.unwrap_err();
    assert!(
        refused.contains("not of another; the token was not sent"),
        "{refused}"
    );
    host.more.clear();
}

/// A host joins, and repeats its request.
async fn joins(host: &Joining) {
    let a7 = ("agent/a7", "a7");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let refused = host.join(a7, &wrong).await.unwrap_err();
    assert!(refused.contains("the token was not sent"), "{refused}");
    assert!(!host.path("a7").exists());
    host.join(a7, &host.fingerprint).await.unwrap();
    assert_eq!(host.uses().await, 1);
    let IdentityFiles {
        certificate,
        key,
        ca,
    } = host.files("a7", "agent-a7");
    assert_eq!(
        [&certificate, &key, &ca].map(|path| mode(path)),
        [0o644, 0o600, 0o644]
    );
    let done = host.join(a7, &wrong).await.unwrap();
    assert!(done.contains("this host has joined"), "{done}");
    // The answer was lost: the key is kept, and gets a certificate without a second use.
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&certificate).unwrap();
    host.join(a7, &host.fingerprint).await.unwrap();
    assert_eq!(fs::read(&key).unwrap(), kept);
    assert_eq!(host.uses().await, 1);
}

/// Other hosts do not get the name, nor a use that is not there.
async fn others_are_refused(host: &Joining) {
    let own = &host.fingerprint;
    let refused = host.join(("agent/a7", "thief"), own).await.unwrap_err();
    assert!(refused.contains("bound to another key"), "{refused}");
    let refused = host.join(("master/m9", "m9"), own).await.unwrap_err();
    assert!(refused.contains("--host"), "{refused}");
    host.join(("agent/a8", "a8"), own).await.unwrap();
    assert_eq!(host.uses().await, 0);
    let refused = host.join(("agent/a9", "a9"), own).await.unwrap_err();
    assert!(
        refused.contains("the join token is not accepted"),
        "{refused}"
    );
    assert!(!host.path("a9/agent-a9.crt").exists());
}
