//! TLS between real processes: a cluster moves from plaintext to TLS in two rolling restarts while
//! its tasks run, and is closed afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use argosy_client::{Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::transport::Dialer;
use argosy_proto::v1;
use argosy_testbed::command_lines::PLAINTEXT;
use argosy_testbed::health::leader_address;
use argosy_tls::application::Application;
use argosy_tls::credentials::{CredentialFiles, OwnFiles};
use argosy_tls::store::CredentialStore;
use argosy_tls::{PlaintextPolicy, Time, dialer};
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::cluster::{Cluster, TestMember, argosy, sleepers, sleeping, wait_until};

const LONG: Duration = Duration::from_secs(60);
/// The time for which the task sleeps, by which its process is found.
const MARK: &str = "86417.5";

/// A CA and the certificates of all members, in the directory of a cluster.
struct Certificates(PathBuf);

impl Certificates {
    async fn create(cluster: &Cluster) -> Self {
        let own = Self(cluster.directory.path().join("tls"));
        std::fs::create_dir(&own.0).expect("the directory is new");
        own.issue(&["init", "--cluster", "test"]).await;
        for member in cluster.masters.iter().chain(&cluster.agents) {
            let address = member.address.to_string();
            let identity = identity(member);
            own.issue(&["issue", &identity, "--host", &address]).await;
        }
        own.issue(&["issue", "operator/alice"]).await;
        own
    }

    async fn issue(&self, words: &[&str]) {
        let ca = self.0.join("ca");
        let mut command = Command::new(argosy());
        command.arg("ca").args(words).arg("--ca").arg(ca);
        if words[0] == "issue" {
            command.arg("--dir").arg(&self.0);
        }
        let output = command.output().await.expect("the executable starts");
        assert!(output.status.success(), "{output:?}");
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn ca(&self) -> String {
        self.path("ca/ca.crt")
    }

    /// Returns the flags of a process with this identity.
    fn flags(&self, identity: &str) -> Vec<String> {
        let name = identity.replace('/', "-");
        let flags = [
            ("--tls-cert", self.path(&format!("{name}.crt"))),
            ("--tls-key", self.path(&format!("{name}.key"))),
            ("--tls-ca", self.ca()),
        ];
        let words = flags.into_iter();
        words
            .flat_map(|(flag, path)| [flag.to_owned(), path])
            .collect()
    }

    /// Returns `operator/alice` as a client of these masters that trusts only this CA.
    fn operator(&self, masters: Masters) -> OperatorClient {
        let files = CredentialFiles {
            own: Some(OwnFiles {
                certificate: self.0.join("operator-alice.crt"),
                key: self.0.join("operator-alice.key"),
            }),
            ca: self.0.join("ca/ca.crt"),
        };
        let store = CredentialStore::load(files, Time::now()).expect("the CA can be read");
        let plaintext = PlaintextPolicy::Rejected;
        let dialer = dialer::dial(
            Dialer::tcp(),
            Arc::new(store),
            Application::Http2,
            plaintext,
        );
        let config = ConnectorConfig {
            dialer,
            ..ConnectorConfig::default()
        };
        OperatorClient::new(Connector::new(masters, config))
    }
}

/// Returns the identity of a member in its certificate, as `master/1`.
fn identity(member: &TestMember) -> String {
    member.name.replacen('-', "/", 1)
}

/// Waits until all masters follow one leader and are caught up, and all agents are connected to it,
/// as clients with TLS see it.
async fn wait_healthy(cluster: &Cluster, certificates: &Certificates) {
    wait_until("the cluster is healthy over TLS", LONG, async || {
        let mut leaders = Vec::new();
        for master in &cluster.masters {
            let itself = certificates.operator(Masters::new([master.api()]).ok()?);
            let local = v1::GetClusterRequest {
                consistency: v1::Consistency::Local.into(),
            };
            let seen = itself.get_cluster(local).await.ok()?;
            leaders.push((seen.leader, seen.term));
        }
        leaders.dedup();
        let operator = certificates.operator(cluster.masters_list());
        let view = operator.get_cluster(v1::GetClusterRequest::default());
        let view = view.await.ok()?;
        let is_ready = |master: &&v1::Master| {
            master.voter && (master.role == "leader" || master.lag.is_some_and(|lag| lag < 100))
        };
        let ready = view.masters.iter().filter(is_ready).count();
        let agents = operator
            .list_agents(v1::ListRequest::default())
            .await
            .ok()?;
        let connected = agents.agents.iter().filter(|agent| agent.connected).count();
        let is_healthy = leaders.len() == 1
            && ready == cluster.masters.len()
            && connected == cluster.agents.len();
        is_healthy.then_some(())
    })
    .await;
}

/// Stops a member and starts it again.
async fn restart(member: &mut TestMember) {
    member.signal(Signal::SIGTERM);
    let name = member.name.clone();
    let stopped = format!("{name} has stopped");
    wait_until(&stopped, LONG, async || member.has_ended().then_some(())).await;
    member.start();
}

/// Runs `argosy` with these words; returns its output, or its errors.
async fn client(words: &[&str], more: &[String]) -> Result<String, String> {
    let (is_done, output, errors) = run(words, more).await;
    if is_done { Ok(output) } else { Err(errors) }
}

/// The same; returns whether it succeeds, its output and its errors.
async fn run(words: &[&str], more: &[String]) -> (bool, String, String) {
    let mut command = Command::new(argosy());
    let output = command.args(words).args(more).output().await;
    let output = output.expect("the executable starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let is_done = output.status.success();
    (is_done, text(output.stdout), text(output.stderr))
}

/// Replaces the flag of plaintext by those of TLS, in the mode in which both are accepted.
fn allow_tls(member: &mut TestMember, certificates: &Certificates) {
    let mut flags = certificates.flags(&identity(member));
    flags.extend(["--tls", "optional"].map(str::to_owned));
    member.replace_argument_by(PLAINTEXT, flags);
}

/// Starts a task as a client without TLS.
async fn start_task(cluster: &Cluster) {
    let masters = cluster.masters_list().to_string();
    let script = format!("echo ready; exec sleep {MARK}");
    let words = ["--masters", &masters, "--name", "web", "--detach"];
    let task = ["--cpus", "0.1", "--mem", "32M", "--", "sh", "-c", &script];
    let words = words.iter().chain(&task).map(|word| (*word).to_owned());
    let started = client(&["run"], &words.collect::<Vec<_>>()).await;
    started.expect("plaintext is accepted at first");
}

#[tokio::test]
async fn a_cluster_moves_to_tls_in_two_rolling_restarts() {
    let mut cluster = Cluster::start(1).await;
    let certificates = Certificates::create(&cluster).await;
    start_task(&cluster).await;
    let before = sleeping(MARK, 1).await;

    // The first round: every process accepts both, and uses TLS where the other end has it.
    for place in 0..3 {
        allow_tls(&mut cluster.masters[place], &certificates);
        restart(&mut cluster.masters[place]).await;
        cluster.wait_registered().await;
    }
    allow_tls(&mut cluster.agents[0], &certificates);
    restart(&mut cluster.agents[0]).await;
    cluster.wait_registered().await;
    wait_healthy(&cluster, &certificates).await;

    // The second: plaintext is refused.
    for place in 0..3 {
        cluster.masters[place].replace_argument("optional", "required");
        restart(&mut cluster.masters[place]).await;
        wait_healthy(&cluster, &certificates).await;
    }
    cluster.agents[0].replace_argument("optional", "required");
    restart(&mut cluster.agents[0]).await;
    wait_healthy(&cluster, &certificates).await;
    assert_eq!(sleepers(MARK), before, "the task was not restarted");

    closed_cluster(&cluster, &certificates).await;

    replace_leader(&mut cluster, &certificates).await;
}

/// Kills the leader, and waits for another one and for the return of the killed one.
async fn replace_leader(cluster: &mut Cluster, certificates: &Certificates) {
    let operator = certificates.operator(cluster.masters_list());
    let place = leading(cluster, &operator).await;
    let former = cluster.masters[place].api();
    cluster.masters[place].kill();
    wait_until("another master leads", LONG, async || {
        let leader = leader_address(&operator).await;
        leader.filter(|leader| *leader != former)
    })
    .await;
    cluster.masters[place].start();
    wait_healthy(cluster, certificates).await;
}

/// Returns the position of the leader.
async fn leading(cluster: &Cluster, operator: &OperatorClient) -> usize {
    let leader = wait_until("there is a leader", LONG, async || {
        leader_address(operator).await
    });
    let leader = leader.await;
    let mut masters = cluster.masters.iter();
    let place = masters.position(|member| member.api() == leader);
    place.expect("it is one of them")
}

/// Checks what clients of a cluster with TLS may do.
async fn closed_cluster(cluster: &Cluster, certificates: &Certificates) {
    let masters = ["--masters".to_owned(), cluster.masters_list().to_string()];
    let trusting = |words: &[&str]| -> Vec<String> {
        let tls = certificates.flags("operator/alice");
        let words = words.iter().map(|word| (*word).to_owned());
        masters.iter().cloned().chain(tls).chain(words).collect()
    };
    // Calls, a list, a file of a task through master and agent, and a stream.
    let list = client(&["agent", "list"], &trusting(&["-o", "name"])).await;
    assert_eq!(list.map(|list| list.lines().count()), Ok(1));
    let output = client(&["logs", "web"], &trusting(&[])).await;
    assert_eq!(output.as_deref(), Ok("ready\n"));
    let exec = client(&["exec"], &trusting(&["web", "--", "echo", "inside"])).await;
    assert_eq!(exec.as_deref(), Ok("inside\n"));
    // Whether this host is slow or its disk full is another check.
    let (_, doctor, errors) = run(&["doctor"], &trusting(&["-o", "json"])).await;
    assert_eq!(errors, "");
    let findings: Vec<serde_json::Value> = serde_json::from_str(&doctor).unwrap();
    for check in ["masters", "quorum"] {
        let mut found = findings.iter().filter(|finding| finding["check"] == check);
        let found = found.next();
        assert_eq!(
            found.map(|found| &found["verdict"]),
            Some(&"ok".into()),
            "{doctor}"
        );
    }
    client(&["status"], &trusting(&[]))
        .await
        .expect("a person with a certificate");
    // Without an identity.
    let mut nameless = masters.to_vec();
    nameless.extend(["--tls-ca".to_owned(), certificates.ca()]);
    let refused = client(&["status"], &nameless).await.unwrap_err();
    assert!(refused.contains("has not proved its identity"), "{refused}");

    // Plaintext, and another CA.
    let mut plain = masters.to_vec();
    plain.extend(["--timeout", "2s"].map(str::to_owned));
    let refused = client(&["status"], &plain).await.unwrap_err();
    assert!(refused.contains("TLS"), "{refused}");
    let other = certificates.path("other");
    let init = ["ca", "init", "--cluster", "test", "--ca", &other];
    client(&init, &[]).await.expect("another CA");
    let other = certificates.path("other/ca.crt");
    plain.extend(["--tls-ca".to_owned(), other]);
    let refused = client(&["status"], &plain).await.unwrap_err();
    assert!(refused.contains("no trusted CA has signed it"), "{refused}");
    // The ports themselves.
    for (place, port) in [(0, 5050), (0, 5052)] {
        let address = (cluster.masters[place].address, port);
        assert_eq!(plain_answer(address).await, "", "port {port}");
    }
}

/// Sends a request in the protocol of Raft without TLS, and returns what comes back.
async fn plain_answer(address: (std::net::Ipv4Addr, u16)) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"\0argosy raft frames 1").await.unwrap();
    let mut answer = String::new();
    // The port may reset the connection.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}
