//! Tests of tasks in CNI networks: the input of plugins, and the release of all networks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_testing::skip;

use super::{reason, runs, state};
use crate::host::TestHost;
use crate::master::{Master, TIMEOUT, kill, shell};
use crate::running::content;

super::cases!("plugged":
    cni_plugins_create_and_remove_the_network_of_a_task,
    a_network_that_cannot_be_created_fails_its_task_with_a_message,
    a_restarted_agent_has_cni_plugins_remove_earlier_networks,
);

/// Records each call, and answers with an address; waits while a file `hang` exists, fails while
/// `refuse` exists.
const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
read=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS" >> "$here/calls"
echo "$read" >> "$here/inputs"
[ "$CNI_COMMAND" = ADD ] || exit 0
while [ -e "$here/hang" ]; do sleep 0.05; done
if [ -e "$here/refuse" ]; then
  echo '{"cniVersion":"1.0.0","code":11,"msg":"the pool is dry"}'
  exit 1
fi
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.7/24"}]}'
"#;
const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "blue", "plugins": [
    {"type": "wire", "capabilities": {"portMappings": true}}]}"#;

/// A host whose agents have one plugin and one network, `blue`.
struct CniHost(TestHost, PathBuf);

impl CniHost {
    fn new() -> Self {
        let host = TestHost::new();
        let directory = lay(&host);
        Self(host, directory)
    }

    /// Returns the verbs of all calls, and checks that all were for one container.
    fn verbs(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.1.join("calls")).unwrap_or_default();
        let verbs = calls.lines().filter_map(|call| call.split(' ').next());
        verbs.map(str::to_owned).collect()
    }

    async fn until_called(&self, verbs: &[&str]) {
        let deadline = Instant::now() + TIMEOUT;
        while self.verbs() != verbs {
            assert!(Instant::now() < deadline, "{:?}", self.verbs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn nothing_is_left(&self) {
        nothing_is_left(&self.0);
    }
}

/// Installs one plugin and one network for agents that start from now on.
pub(super) fn lay(host: &TestHost) -> PathBuf {
    let directory = host.plugins();
    fs::write(directory.join("wire"), PLUGIN).unwrap();
    fs::set_permissions(directory.join("wire"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("blue.conflist"), LIST).unwrap();
    directory
}

/// Checks that no record and no namespace of any call is left.
pub(super) fn nothing_is_left(host: &TestHost) {
    let records = host.directory.path().join("agent/cni");
    let left: Vec<_> = fs::read_dir(&records).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let calls = fs::read_to_string(host.plugins().join("calls")).unwrap();
    for call in calls.lines() {
        let place = call.split(' ').nth(2).unwrap();
        assert!(!Path::new(place).exists(), "{call}");
    }
}

pub(super) fn plugged(network: &str, line: &str) -> v1::TaskSpec {
    let cni = v1::CniNetwork {
        name: network.to_owned(),
        published: vec![v1::PublishedPort {
            host_port: 8080,
            container_port: 80,
            udp: false,
        }],
    };
    v1::TaskSpec {
        container: Some(v1::ContainerSpec {
            network: Some(v1::Network {
                mode: Some(v1::network::Mode::Cni(cni)),
            }),
            ..v1::ContainerSpec::default()
        }),
        ..shell("t", line)
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub(super) async fn cni_plugins_create_and_remove_the_network_of_a_task() {
    if !is_root() {
        return skip("needs root");
    }
    let (plugs, mut master) = (CniHost::new(), Master::start().await);
    let agent = plugs.0.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let line = "echo $ARGOSY_ADDRESS > address; grep -c : /proc/net/dev > devices; cat /etc/hosts > hosts; exec sleep 1000";
    link.launch(1, plugged("blue", line)).await;
    link.until("t", runs).await;
    let sandbox = plugs.0.sandbox("t");
    assert_eq!(content(&sandbox.join("address")).await, "10.99.0.7\n");
    assert_eq!(content(&sandbox.join("devices")).await, "1\n", "lo alone");
    let hosts = content(&sandbox.join("hosts")).await;
    assert!(hosts.contains("10.99.0.7\tt\n"), "{hosts}");
    assert_eq!(plugs.verbs(), ["ADD"]);
    let inputs = fs::read_to_string(plugs.1.join("inputs")).unwrap();
    assert!(inputs.contains(r#""hostPort":8080"#), "{inputs}");
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    assert_eq!(plugs.verbs(), ["ADD", "DEL"]);
    plugs.nothing_is_left();
    agent.stop().await;
}

pub(super) async fn a_network_that_cannot_be_created_fails_its_task_with_a_message() {
    if !is_root() {
        return skip("needs root");
    }
    let (plugs, mut master) = (CniHost::new(), Master::start().await);
    let agent = plugs.0.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    fs::write(plugs.1.join("refuse"), "").unwrap();
    let mut absent = plugged("red", "true");
    absent.task_id = "absent".to_owned();
    link.launch(1, absent).await;
    link.launch(2, plugged("blue", "true")).await;
    for (task, expected) in [
        ("absent", "this agent has no network \"red\"; it has blue"),
        ("t", "the pool is dry (code 11)"),
    ] {
        let updates = link.end_of(task).await;
        let last = updates.last().unwrap();
        assert_eq!(state(last), v1::TaskState::Failed, "{updates:?}");
        assert_eq!(reason(last), v1::Reason::ContainerLaunchFailed);
        assert!(last.text.contains(expected), "{}", last.text);
    }
    agent.is_clear().await;
    assert_eq!(plugs.verbs(), ["ADD", "DEL"]);
    plugs.nothing_is_left();
    agent.stop().await;
}

pub(super) async fn a_restarted_agent_has_cni_plugins_remove_earlier_networks() {
    if !is_root() {
        return skip("needs root");
    }
    let (plugs, mut master) = (CniHost::new(), Master::start().await);
    let first = plugs.0.process(master.address);
    let (mut link, _) = master.registered(true).await;
    link.launch(1, plugged("blue", "exec sleep 1000")).await;
    link.until("t", runs).await;
    // The plugin of the second hangs when its agent crashes.
    fs::write(plugs.1.join("hang"), "").unwrap();
    let mut half = plugged("blue", "exec sleep 1000");
    half.task_id = "half".to_owned();
    link.launch(2, half).await;
    plugs.until_called(&["ADD", "ADD"]).await;
    drop(first);
    fs::remove_file(plugs.1.join("hang")).unwrap();
    let second = plugs.0.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.order(3, kill("t", 0)).await;
    link.order(4, kill("half", 0)).await;
    link.end_of("t").await;
    link.end_of("half").await;
    second.is_clear().await;
    let verbs = plugs.verbs();
    let count = |wanted: &str| verbs.iter().filter(|verb| *verb == wanted).count();
    assert!(count("DEL") >= 2, "{verbs:?}");
    plugs.nothing_is_left();
    second.stop().await;
}
