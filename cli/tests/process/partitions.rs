//! Partitions between masters only: each master has a network namespace, and two networks, one for
//! Raft and one for the API.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use argosy_client::{Connector, ConnectorConfig, OperatorClient};
use argosy_proto::v1;
use argosy_testbed::command_lines::{AgentFlags, MasterFlags, MemberTransport};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::cluster::{AGENT_RESOURCES, Cluster, TestMember, argosy, member, wait_until};
use crate::test_framework::{TestFramework, task};

const LONG: Duration = Duration::from_secs(60);
/// An isolated master reports the lack of contact within a second, and a poll takes a moment.
const REPORT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Number of [`PartitionNamespaces`] so far. Each has unique namespace names.
static SITES: AtomicU8 = AtomicU8::new(0);
/// Numbers of hosts that have only an agent begin after this one.
const AGENT_HOSTS: usize = 110;

/// Namespaces of masters, and of agents that are to be cut off. This thread's own namespace holds
/// the switches.
pub(crate) struct PartitionNamespaces {
    number: u8,
    namespaces: Vec<String>,
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("iproute2 is installed");
    let received = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {received}");
}

impl PartitionNamespaces {
    pub(crate) fn new() -> Self {
        ip("link set lo up");
        for switch in ["raft", "api"] {
            ip(&format!("link add {switch} type bridge"));
            ip(&format!("link set {switch} up"));
        }
        ip("address add 10.77.2.101/24 dev api");
        let mut namespaces = Self {
            number: SITES.fetch_add(1, Ordering::Relaxed),
            namespaces: Vec::new(),
        };
        for host in 1..=3 {
            namespaces.add_host(host, &[(1, "raft"), (2, "api")]);
        }
        namespaces
    }

    /// Adds a namespace with a cable to each of these switches.
    fn add_host(&mut self, host: usize, switches: &[(u8, &str)]) {
        let name = format!("argosy-cut{}-{}-{host}", std::process::id(), self.number);
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        for (number, switch) in switches {
            let port = port(switch, host);
            ip(&format!(
                "link add {port} type veth peer name {switch} netns {name}"
            ));
            ip(&format!("link set {port} master {switch} up"));
            let address = format!("10.77.{number}.{host}/24");
            ip(&format!("-n {name} address add {address} dev {switch}"));
            ip(&format!("-n {name} link set {switch} up"));
        }
        self.namespaces.push(name);
    }

    pub(crate) fn master(&self, directory: &TempDir, index: usize, more: &[&str]) -> TestMember {
        let host = index + 1;
        let name = format!("master-{host}");
        let address = Ipv4Addr::from([10, 77, 2, host as u8]);
        let raft = format!("10.77.1.{host}:5052");
        let flags = MasterFlags {
            listen: &format!("{address}:5050"),
            peers: "10.77.1.1:5052,10.77.1.2:5052,10.77.1.3:5052",
            data_dir: &directory.path().join(&name),
            transport: &MemberTransport::Plaintext,
        };
        let own = ["--raft-listen", &raft];
        let arguments = flags.arguments(&[&own[..], more].concat());
        let master = member(directory.path(), name, address, arguments);
        master.within(&["ip", "netns", "exec", &self.namespaces[index]])
    }

    /// Returns an agent on the host of this thread.
    fn agent(directory: &TempDir) -> TestMember {
        Self::agent_at(directory, 1, 101)
    }

    /// Returns an agent on a separate host, which can be cut off.
    pub(crate) fn agent_apart(&mut self, directory: &TempDir, number: usize) -> TestMember {
        let host = AGENT_HOSTS + number;
        self.add_host(host, &[(2, "api")]);
        let name = self.namespaces.last().expect("it was just added");
        // Unlike `ip netns exec`, this keeps the cgroups that are mounted below /sys.
        let net = format!("--net=/run/netns/{name}");
        Self::agent_at(directory, number, host).within(&["nsenter", &net])
    }

    fn agent_at(directory: &TempDir, number: usize, host: usize) -> TestMember {
        let name = format!("agent-{number}");
        let address = Ipv4Addr::from([10, 77, 2, host as u8]);
        let flags = AgentFlags {
            listen: &address.to_string(),
            masters: "10.77.2.1:5050,10.77.2.2:5050,10.77.2.3:5050",
            data_dir: &directory.path().join(&name),
            transport: &MemberTransport::Plaintext,
            resources: AGENT_RESOURCES,
        };
        let arguments = flags.arguments(&["--host-path", &directory.path().display().to_string()]);
        member(directory.path(), name, address, arguments)
    }

    async fn cluster(&self) -> Cluster {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let masters = (0..3).map(|index| self.master(&directory, index, &[]));
        let masters = masters.collect();
        let agents = vec![Self::agent(&directory)];
        Cluster::of(masters, agents, directory).await
    }

    /// Cuts all traffic between this master and the others; the API's network is unchanged.
    fn cut(index: usize) {
        ip(&format!("link set {} nomaster", port("raft", index + 1)));
    }

    fn heal(index: usize) {
        ip(&format!("link set {} master raft", port("raft", index + 1)));
    }

    /// Cuts all traffic between this agent, which has a separate host, and any other host.
    pub(crate) fn cut_agent(number: usize) {
        let port = port("api", AGENT_HOSTS + number);
        ip(&format!("link set {port} nomaster"));
    }

    pub(crate) fn heal_agent(number: usize) {
        let port = port("api", AGENT_HOSTS + number);
        ip(&format!("link set {port} master api"));
    }
}

impl Drop for PartitionNamespaces {
    fn drop(&mut self) {
        for name in &self.namespaces {
            // Everything else in it is removed with the thread's own namespace.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// The switch's end of a master's cable.
fn port(switch: &str, host: usize) -> String {
    format!("{switch}-{host}")
}

/// Runs the test on a thread with a separate network, together with everything it starts.
pub(crate) fn in_a_network_of_its_own(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Returns whether this process may create networks, which tests of partitions need.
pub(crate) fn may_make_networks() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        argosy_testing::skip("needs root");
    }
    is_root
}

/// Returns one value of a member's metrics, if it is shown.
async fn figure(of: &TestMember, port: u16, name: &str) -> Option<f64> {
    let url = format!("http://{}:{port}/metrics", of.address);
    let text = reqwest::get(&url).await.ok()?.text().await.ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn is_ready(master: &TestMember) -> bool {
    let answer = reqwest::get(format!("http://{}/readyz", master.api())).await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// Returns the gRPC health of the service and of the process.
async fn health(master: &TestMember) -> [ServingStatus; 2] {
    let endpoint = Endpoint::from_shared(format!("http://{}", master.api())).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let mut reported = [ServingStatus::Unknown; 2];
    for (service, reported) in ["argosy.v1.Scheduler", ""].into_iter().zip(&mut reported) {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        *reported = client.check(request).await.unwrap().into_inner().status();
    }
    reported
}

/// Returns the cluster as this master alone sees it.
async fn cluster_of(master: &TestMember) -> v1::Cluster {
    let only = Connector::new(master.api().parse().unwrap(), ConnectorConfig::default());
    let request = v1::GetClusterRequest {
        consistency: v1::Consistency::Local.into(),
    };
    OperatorClient::new(only)
        .get_cluster(request)
        .await
        .unwrap()
}

/// Waits until the master reports a leader nowhere, and checks that all its interfaces agree.
async fn knows_no_leader(master: &TestMember) {
    wait_until("it knows no leader", REPORT_TIMEOUT, async || {
        let has_leader = figure(master, 5050, "argosy_raft_has_leader ").await?;
        (has_leader == 0.0).then_some(())
    })
    .await;
    assert!(!is_ready(master).await);
    assert_eq!(
        health(master).await,
        [ServingStatus::NotServing, ServingStatus::Serving]
    );
    let cluster = cluster_of(master).await;
    assert_eq!(cluster.leader, "");
    assert!(cluster.without_leader_ms > 0);
    assert!(cluster.masters.iter().all(|one| one.role != "leader"));
    let api = master.api();
    let status = Command::new(argosy())
        .args(["status", "--masters", &api])
        .output();
    let received = String::from_utf8_lossy(&status.unwrap().stdout).into_owned();
    assert!(
        received.starts_with("no quorum: no leader for "),
        "{received}"
    );
}

async fn knows_a_leader_again(master: &TestMember) {
    wait_until("it follows again", LONG, async || {
        (is_ready(master).await && !cluster_of(master).await.leader.is_empty()).then_some(())
    })
    .await;
    assert_eq!(cluster_of(master).await.without_leader_ms, 0);
    assert_eq!(health(master).await, [ServingStatus::Serving; 2]);
}

#[test]
fn a_partitioned_leader_closes_links_within_a_second() {
    if !may_make_networks() {
        return;
    }
    in_a_network_of_its_own(async || {
        let namespaces = PartitionNamespaces::new();
        let cluster = namespaces.cluster().await;
        let framework = TestFramework::start(cluster.masters_list(), "witness").await;
        let leader = cluster.leader().await;
        let old = &cluster.masters[leader];
        let agents = "argosy_streams{peer_kind=\"agent\"} ";
        wait_until("the agent hangs on the leader", LONG, async || {
            (figure(old, 5050, agents).await? == 1.0).then_some(())
        })
        .await;
        PartitionNamespaces::cut(leader);
        let cut = Instant::now();
        wait_until(
            "its agents are let go",
            Duration::from_secs(5),
            async || (figure(old, 5050, agents).await? == 0.0).then_some(()),
        )
        .await;
        let took = cut.elapsed();
        assert!(took < Duration::from_secs(1), "it took {took:?}");
        knows_no_leader(old).await;
        // The others continue, with the agent.
        framework.launch([task("meanwhile", "true")]);
        ended(&framework, "meanwhile").await;
        let next = cluster.leader().await;
        assert_ne!(next, leader);
        PartitionNamespaces::heal(leader);
        knows_a_leader_again(old).await;
        framework.launch([task("after", "true")]);
        ended(&framework, "after").await;
        drop(cluster);
        drop(namespaces);
    });
}

#[test]
fn a_partitioned_follower_reports_no_leader_and_causes_no_election() {
    if !may_make_networks() {
        return;
    }
    in_a_network_of_its_own(async || {
        let namespaces = PartitionNamespaces::new();
        let cluster = namespaces.cluster().await;
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        let term = cluster_of(&cluster.masters[leader]).await.term;
        PartitionNamespaces::cut(follower);
        knows_no_leader(&cluster.masters[follower]).await;
        PartitionNamespaces::heal(follower);
        knows_a_leader_again(&cluster.masters[follower]).await;
        let after = cluster_of(&cluster.masters[leader]).await;
        assert_eq!((after.term, after.without_leader_ms), (term, 0));
        drop(cluster);
        drop(namespaces);
    });
}

async fn ended(framework: &TestFramework, name: &str) {
    framework
        .wait_for_event("the task has ended", LONG, |events| {
            events
                .states(name)
                .contains(&v1::TaskState::Finished)
                .then_some(())
        })
        .await;
}
