//! Idle connections: they take no descriptor that a master needs, and keep no active client out.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, wait_until, write};

/// Opens connections from many loopback addresses, sends the same few bytes on each, prints their
/// number, and keeps them until its input ends.
const HOLD: &str = "import resource, socket, sys
host, port, network, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
first = bytes.fromhex(sys.argv[5])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for number in range(count):
    caller = socket.socket()
    caller.settimeout(5)
    caller.bind((f'127.{network}.{number // 250}.{number % 250 + 1}', 0))
    try:
        caller.connect((host, port))
        caller.sendall(first)
        held.append(caller)
    except OSError:
        pass
print(len(held), flush=True)
sys.stdin.read()";

/// Descriptors of each master, independent of the limit of this host.
const DESCRIPTORS: usize = 2_000;
/// Connections of each of the two processes: together more than a master has descriptors.
const CONNECTIONS_EACH: usize = 2_000;

/// A process with idle connections, until the value is dropped.
pub(crate) struct Flood {
    child: Child,
}

impl Flood {
    /// Starts one whose connections send these bytes, in hexadecimal digits, and nothing more.
    pub(crate) fn start(
        (host, port): (&str, u16),
        network: u8,
        connections: usize,
        first: &str,
    ) -> Self {
        let child = Command::new("python3")
            .args(["-c", HOLD, host, &port.to_string(), &network.to_string()])
            .args([&connections.to_string(), first])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        Self { child }
    }

    /// Returns how many connections the kernel has made, once all were tried.
    pub(crate) async fn tried(&mut self) -> usize {
        let output = self.child.stdout.take().expect("it is piped");
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        });
        let line = line.await.unwrap().unwrap();
        line.trim().parse().expect("it prints a number")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Attacks the master at `leader`, and checks that it keeps leading.
async fn flood(cluster: &mut Cluster, leader: usize, networks: [u8; 2]) {
    let host = cluster.masters[leader].address.to_string();
    let mut floods =
        networks.map(|network| Flood::start((&host, 5050), network, CONNECTIONS_EACH, ""));
    let mut tried = Vec::new();
    for flood in &mut floods {
        tried.push(flood.tried().await);
    }
    assert!(tried.iter().sum::<usize>() > DESCRIPTORS, "{tried:?}");
    // Each write uses a new connection, which must be accepted.
    for number in 0..20 {
        let limit = Duration::from_secs(30);
        wait_until("the write is acknowledged", limit, async || {
            write(&cluster.operator(), number.to_string()).await
        })
        .await;
    }
    assert_eq!(cluster.leader().await, leader, "it is still the leader");
    for master in &mut cluster.masters {
        assert!(!master.has_ended(), "{} has ended", master.name);
        let log = master.log();
        assert!(!log.contains("oo many open files"), "{log}");
    }
    // So the limit of its port has rejected them.
    let log = cluster.masters[leader].log();
    assert!(
        log.contains("this port has reached its limit of connections"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_of_two_processes_crash_no_master_and_delay_no_write() {
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let mut cluster = Cluster::start_within(1, &["prlimit", &limit]).await;
    let leader = cluster.leader().await;
    flood(&mut cluster, leader, [90, 91]).await;
    // The next leader is attacked in the same way.
    cluster.fail_over().await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    flood(&mut cluster, next, [92, 93]).await;
}
