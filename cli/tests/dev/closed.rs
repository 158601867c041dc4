//! A dev cluster is closed: another user of the host gets nothing from its ports and its files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use argosy_testing::skip;

use crate::cluster::{CONFIGURATION, CommandOutput, DevCluster, argosy, executable, split};

/// The user `nobody`.
const OTHER: u32 = 65_534;

/// Runs a command as this user.
fn run_as(user: u32, mut command: Command) -> CommandOutput {
    // The standard library then also leaves all groups.
    split(
        command
            .uid(user)
            .gid(user)
            .current_dir("/")
            .output()
            .unwrap(),
    )
}

/// The same words as an `argosy` that every user can execute.
struct Program {
    directory: tempfile::TempDir,
}

impl Program {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("argosy");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if fs::hard_link(executable(), &path).is_err() {
            fs::copy(executable(), &path).unwrap();
        }
        Self { directory }
    }

    fn run_as(&self, user: u32, words: &[&str]) -> CommandOutput {
        let like = argosy(words);
        let mut command = Command::new(self.directory.path().join("argosy"));
        command.args(like.get_args());
        let variables = like.get_envs();
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        run_as(user, command)
    }
}

/// Returns the status of an answer over TLS, or in plaintext; 0 is none.
fn status(user: u32, url: &str, more: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--noproxy", "*", "--max-time", "30", "-k"])
        .args(["-o", "/dev/null", "-w", "%{http_code}"])
        .args(more)
        .arg(url);
    run_as(user, curl).1
}

#[test]
fn another_user_gets_nothing_from_a_dev_cluster() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let mut cluster = DevCluster::start(76, "1x1", &[]);
    let program = Program::new();
    let masters = cluster.record["masters"].as_str().unwrap().to_owned();
    let file = |name: &str| cluster.record["tls"][name].as_str().unwrap().to_owned();
    let (ca, certificate, key) = (file("ca"), file("certificate"), file("key"));

    // Every user can read the certificate of the CA, so the reason is another one.
    let trusting = ["--masters", &masters, "--tls-ca", &ca];
    for words in [&["status"][..], &["master", "list"], &["agent", "list"]] {
        let words = [words, &trusting].concat();
        let (code, stdout, stderr) = program.run_as(0, &words);
        assert_eq!(code, 0, "{words:?}: {stderr}");
        assert!(!stdout.is_empty(), "{words:?}");
        let (code, stdout, stderr) = program.run_as(OTHER, &words);
        assert_eq!((code, stdout.as_str()), (5, ""), "{words:?}: {stderr}");
        assert!(stderr.contains("requires a certificate"), "{stderr}");
    }
    let run = ["run", "--timeout", "5s", "--masters", &masters];
    let started = [&run[..], &["--tls-ca", &ca, "--", "true"]].concat();
    let (code, _, stderr) = program.run_as(OTHER, &started);
    assert_ne!(code, 0, "{stderr}");

    // Plaintext.
    let (code, stdout, stderr) = program.run_as(OTHER, &["status", "--masters", &masters]);
    assert_eq!((code, stdout.as_str()), (5, ""), "{stderr}");
    assert!(stderr.contains("needs TLS"), "{stderr}");

    // The keys of the user.
    let own = ["--tls-cert", &certificate, "--tls-key", &key];
    let words = [&["status"][..], &trusting, &own].concat();
    assert_eq!(program.run_as(0, &words).0, 0);
    let (code, _, stderr) = program.run_as(OTHER, &words);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("Permission denied"), "{stderr}");
    let path = cluster.configuration.path().join("argosy/contexts.json");
    is_private(&path);
    for entry in fs::read_dir(Path::new(&key).parent().unwrap()).unwrap() {
        is_private(&entry.unwrap().path());
    }

    for member in cluster.members() {
        for port in ["api", "raft"] {
            let Some(address) = member[port].as_str() else {
                continue;
            };
            let path = "/metrics";
            let (tls, plain) = (
                format!("https://{address}{path}"),
                format!("http://{address}{path}"),
            );
            // An agent reads the request, because it could present a ticket.
            let is_agent = member["kind"] == "agent";
            let refused = if is_agent { "403" } else { "000" };
            assert_eq!(status(OTHER, &tls, &[]), refused, "{tls}");
            assert_ne!(status(OTHER, &plain, &[]), "200", "{plain}");
            if port == "api" {
                // The same for the user of the cluster, and for a certificate.
                assert_eq!(status(0, &tls, &["--cacert", &ca]), "200", "{tls}");
            }
        }
    }
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}

fn is_private(path: &Path) {
    let mut cat = Command::new("cat");
    cat.arg(path);
    let (code, stdout, stderr) = run_as(OTHER, cat);
    assert_eq!((code, stdout.as_str()), (1, ""), "{}", path.display());
    assert!(stderr.contains("ermission denied"), "{stderr}");
}

#[test]
fn commands_find_the_dev_clusters_of_their_user_by_context() {
    let cluster = DevCluster::start(77, "1x1", &[]);
    let other = DevCluster::start(78, "1x0", &["--insecure-plaintext"]);
    let names = |cluster: &DevCluster| cluster.record["context"].as_str().unwrap().to_owned();
    assert_ne!(names(&cluster), names(&other));
    let run = |words: &[&str]| {
        let mut command = argosy(words);
        command.env(CONFIGURATION, cluster.configuration.path());
        split(command.output().unwrap())
    };
    let name = names(&cluster);
    let (code, listed, stderr) = run(&["context", "list"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(listed.contains(&name) && listed.contains("TLS, certificate"));
    let (code, stdout, stderr) = run(&["--context", &name, "status"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("healthy: 1 master"), "{stdout}");
    let (code, _, stderr) = run(&["context", "use", &name]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(run(&["status"]).1, stdout);
    // Another cluster in plaintext, by its address.
    let masters = other.record["masters"].as_str().unwrap();
    let (code, stdout, stderr) = run(&["status", "--masters", masters]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("agents         0 "), "{stdout}");
    let (code, stdout, stderr) = other.run(&["context", "show", &names(&other)]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("plaintext"), "{stdout}");

    let mut ended = cluster;
    let (code, text) = ended.stop();
    assert_eq!(code, 0, "{text}");
    let (code, listed, stderr) = ended.run(&["context", "list", "-o", "json"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(!listed.contains(&name), "{listed}");
    assert!(!ended.directory().exists());
}
