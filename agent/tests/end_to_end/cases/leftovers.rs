//! Tests of remains of earlier agents that the next one cannot remove immediately: it starts in
//! spite of them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use argosy_agent::Config;
use argosy_network::why_no_ipv6;
use argosy_proto::v1;
use argosy_proto::v1::network::Mode;
use argosy_testing::skip;

use super::disks::{impossible, looped, remove_all};
use super::volumes::with_disk;
use super::{code, on_a_host_of_its_own, runs, state};
use crate::host::TestHost;
use crate::master::{Master, kill, shell};
use crate::running::{Agent, content};

super::cases!("leftovers":
    an_orphan_that_does_not_exit_does_not_block_its_agent,
    a_route_that_overlaps_the_container_network_does_not_block_adoption,
    another_subnet_is_used_when_the_tasks_of_the_former_have_ended,
    tasks_have_ipv4_on_a_host_without_ipv6,
);

/// The file of the generated prefix, in an agent's directory.
const PREFIX6: &str = "network-prefix6";

fn run(program: &str, words: &[&str]) {
    let status = Command::new(program).args(words).status().unwrap();
    assert!(status.success(), "{program} {words:?}: {status}");
}

/// Waits until this number is reported as unresolved.
async fn unresolved(agent: &Agent, what: &str, count: u64) {
    let name = format!("argosy_agent_unresolved{{what=\"{what}\"}}");
    while agent.counted(&name).await != count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A file system that is frozen until it is dropped: a process that writes to it cannot be killed.
struct FrozenFileSystem<'a>(&'a Path);

impl<'a> FrozenFileSystem<'a> {
    fn new(path: &'a Path) -> Self {
        run("fsfreeze", &["-f", path.to_str().unwrap()]);
        Self(path)
    }
}

impl Drop for FrozenFileSystem<'_> {
    fn drop(&mut self) {
        run("fsfreeze", &["-u", self.0.to_str().unwrap()]);
    }
}

pub(super) async fn an_orphan_that_does_not_exit_does_not_block_its_agent() {
    if let Some(why) = impossible() {
        return skip(&why);
    }
    if !Path::new("/usr/sbin/fsfreeze").exists() {
        return skip("needs the package util-linux");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent_with(master.address, looped).await;
    let (mut link, _) = master.registered(true).await;
    let line = "echo up > up; while :; do echo written >> written; sleep 0.01; done";
    link.launch(1, with_disk(shell("t", line), 16)).await;
    link.until("t", runs).await;
    let sandbox = host.sandbox("t");
    content(&sandbox.join("up")).await;
    let pid = agent.containers().await[0]["pid"].as_u64().unwrap();
    let frozen = FrozenFileSystem::new(&sandbox);
    while !held_by_the_kernel(pid) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.stop().await;
    for name in ["journal", "journal.next"] {
        // The second exists only during a compaction of the journal.
        let _ = std::fs::remove_file(host.directory().join(name));
    }
    let agent = host.agent_with(master.address, looped).await;
    let (mut link, _) = master.registered(true).await;
    link.answer_during(unresolved(&agent, "orphans", 1)).await;
    // This master gives every agent the same id: an order of another number names another
    // container.
    link.order(1, kill("none", 0)).await;
    link.launch(2, shell("u", "exit 3")).await;
    let updates = link.end_of("u").await;
    let end = updates.last().unwrap();
    assert_eq!(code(end), Some(v1::exit::How::Code(3)), "{}", end.text);
    drop(frozen);
    link.answer_during(unresolved(&agent, "orphans", 0)).await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    agent.is_clear().await;
    agent.stop().await;
    remove_all(&host);
}

/// Whether a child of this process is in an uninterruptible wait.
fn held_by_the_kernel(pid: u64) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().any(|child| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ");
        state.is_some_and(|(_, rest)| rest.starts_with('D'))
    })
}

pub(super) fn bridged(task: &str, line: &str) -> v1::TaskSpec {
    let mode = Some(Mode::Bridge(v1::BridgeNetwork::default()));
    let container = v1::ContainerSpec {
        network: Some(v1::Network { mode }),
        ..v1::ContainerSpec::default()
    };
    v1::TaskSpec {
        container: Some(container),
        ..shell(task, line)
    }
}

pub(super) async fn a_route_that_overlaps_the_container_network_does_not_block_adoption() {
    on_a_host_of_its_own(|| resumed_below(|_| "10.183.0.0/24".to_owned())).await;
    if why_no_ipv6().is_none() {
        on_a_host_of_its_own(|| resumed_below(prefix6)).await;
    }
}

/// Returns the prefix that the agent has generated.
fn prefix6(host: &TestHost) -> String {
    let kept = std::fs::read_to_string(host.directory().join(PREFIX6));
    kept.unwrap().trim().to_owned()
}

/// Returns a host whose agent was stopped, and the process id of the task `t` on it, which has a
/// network.
async fn stopped() -> (TestHost, Master, serde_json::Value) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, bridged("t", "echo up > up; sleep 1000"))
        .await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    let pid = agent.containers().await[0]["pid"].clone();
    agent.stop().await;
    (host, master, pid)
}

async fn resumed_below(subnet: impl Fn(&TestHost) -> String) {
    let (host, mut master, pid) = stopped().await;
    // Like a VPN that was started in the meantime.
    let subnet = subnet(&host);
    run("ip", &["route", "add", &subnet, "dev", "lo"]);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.answer_during(unresolved(&agent, "networks", 1)).await;
    assert_eq!(agent.containers().await[0]["pid"], pid);
    link.launch(2, bridged("u", "exit 0")).await;
    let updates = link.end_of("u").await;
    let end = updates.last().unwrap();
    assert_eq!(state(end), v1::TaskState::Failed);
    assert!(end.text.contains(&subnet), "{}", end.text);
    run("ip", &["route", "del", &subnet, "dev", "lo"]);
    link.answer_during(unresolved(&agent, "networks", 0)).await;
    link.launch(3, bridged("v", "exit 0")).await;
    let updates = link.end_of("v").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
    link.order(4, kill("t", 0)).await;
    let updates = link.end_of("t").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn another_subnet_is_used_when_the_tasks_of_the_former_have_ended() {
    on_a_host_of_its_own(resumed_in_another_subnet).await;
}

async fn resumed_in_another_subnet() {
    let (host, mut master, pid) = stopped().await;
    let change = |config: &mut Config| config.networks.subnet = "10.184.0.0/16".parse().unwrap();
    let agent = host.agent_with(master.address, change).await;
    let (mut link, _) = master.registered(true).await;
    link.answer_during(unresolved(&agent, "networks", 1)).await;
    assert_eq!(agent.containers().await[0]["pid"], pid);
    link.launch(2, bridged("u", "exit 0")).await;
    let updates = link.end_of("u").await;
    let end = updates.last().unwrap();
    assert_eq!(state(end), v1::TaskState::Failed);
    assert!(end.text.contains("keep the former subnet"), "{}", end.text);
    // Statistics are requested as well, and end no process.
    agent.containers().await;
    link.order(3, kill("t", 0)).await;
    let updates = link.end_of("t").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    link.answer_during(unresolved(&agent, "networks", 0)).await;
    link.launch(4, bridged("v", "echo $ARGOSY_ADDRESS > given"))
        .await;
    let updates = link.end_of("v").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
    let given = content(&host.sandbox("v").join("given")).await;
    assert!(given.starts_with("10.184."), "{given}");
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn tasks_have_ipv4_on_a_host_without_ipv6() {
    if let Some(why) = why_no_ipv6() {
        return skip(&format!("needs IPv6: {why}"));
    }
    on_a_host_of_its_own(without_ipv6).await;
}

async fn without_ipv6() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let file = host.directory().join(PREFIX6);
    let damage = || std::fs::write(&file, "rubbish").unwrap();
    let switch_off = || {
        std::fs::remove_file(&file).unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    };
    let nothing = || {};
    let reasons: [(&dyn Fn(), bool); 3] =
        [(&nothing, true), (&damage, false), (&switch_off, false)];
    for (order, (reason, has_ipv6)) in (1..).zip(reasons) {
        reason();
        let agent = host.agent(master.address).await;
        let (mut link, _) = master.registered(true).await;
        let task = format!("t{order}");
        let line = "echo $ARGOSY_ADDRESS and $ARGOSY_ADDRESS6 > told";
        link.launch(order, bridged(&task, line)).await;
        let updates = link.end_of(&task).await;
        let end = updates.last().unwrap();
        assert_eq!(state(end), v1::TaskState::Finished, "{}", end.text);
        let reported = content(&host.sandbox(&task).join("told")).await;
        assert!(reported.starts_with("10.183."), "{reported}");
        let given = reported.trim().rsplit_once("and").unwrap().1;
        assert_eq!(given.starts_with(" fd"), has_ipv6, "{order}: {reported}");
        assert_eq!(given.is_empty(), !has_ipv6, "{order}: {reported}");
        agent.is_clear().await;
        agent.stop().await;
    }
}
