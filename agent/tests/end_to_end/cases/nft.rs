//! Tests with malfunctioning host programs that an agent runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_testing::skip;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;

use super::disks::{impossible, remove_all};
use super::leftovers::bridged;
use super::published_ports::publishing;
use super::volumes::with_disk;
use super::{on_a_host_of_its_own, runs, state, with_namespaces};
use crate::host::TestHost;
use crate::master::{AgentStream, Master, TIMEOUT, in_no_network, kill, shell};
use crate::running::Agent;

super::cases!("nft":
    a_hung_or_missing_nft_fails_only_tasks_that_need_it,
    a_hung_mkfs_fails_only_tasks_that_need_a_file_system,
    rules_that_the_host_removes_are_restored_while_tasks_run,
);

const NFT: &str = "/usr/sbin/nft";
/// The device by which a task detects that it is in the host's network.
const DEVICE: &str = "of-host";
const MKFS: &str = "/sbin/mkfs.ext4";

/// Another file in place of a program, for the mounts of this test alone; until it is dropped.
struct ReplacedProgram(&'static str);

impl ReplacedProgram {
    fn of(program: &'static str, file: &Path) -> Self {
        let none = None::<&str>;
        mount(Some(file), program, none, MsFlags::MS_BIND, none).unwrap();
        Self(program)
    }
}

impl Drop for ReplacedProgram {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Returns a program that does not end.
fn hanging(host: &TestHost) -> PathBuf {
    let hangs = host.shared().join("hangs");
    fs::write(&hangs, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&hangs, fs::Permissions::from_mode(0o755)).unwrap();
    hangs
}

pub(super) async fn a_hung_or_missing_nft_fails_only_tasks_that_need_it() {
    with_namespaces(
        CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS,
        without_nft,
    )
    .await;
}

async fn without_nft() {
    let mut added = Command::new("ip");
    added.args(["link", "add", DEVICE, "type", "veth"]);
    assert!(added.status().unwrap().success());
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let hangs = hanging(&host);
    // A file that cannot be executed counts as missing.
    let missing = host.shared().join("missing");
    fs::write(&missing, "").unwrap();
    let mut order = 0;
    for (file, expected) in [(&hangs, "has not ended within"), (&missing, "denied")] {
        let instead = ReplacedProgram::of(NFT, file);
        let agent = host.agent(master.address).await;
        let (mut link, _) = master.registered(order > 0).await;
        order += 3;
        let tasks = [order - 2, order - 1, order].map(|number| format!("t{number}"));
        let [named, unnamed, none] = tasks;
        link.launch(order - 2, bridged(&named, "exit 0")).await;
        link.launch(order - 1, shell(&unnamed, "exit 0")).await;
        link.launch(order, in_no_network(shell(&none, "exit 0")))
            .await;
        let end = ended(&mut link, &none).await;
        assert_eq!(state(&end), v1::TaskState::Finished, "{}", end.text);
        for task in [&named, &unnamed] {
            let end = ended(&mut link, task).await;
            assert_eq!(state(&end), v1::TaskState::Failed, "{}", end.text);
            assert!(end.text.contains(expected), "{}", end.text);
            let remedy = "--allow-host-network";
            assert_eq!(end.text.contains(remedy), *task == unnamed, "{}", end.text);
        }
        agent.stop().await;
        // If the operator allows it, a task that names no network is in the host's.
        let agent = host.agent_that_opens(master.address).await;
        let (mut link, _) = master.registered(true).await;
        order += 1;
        let opened = format!("t{order}");
        link.launch(
            order,
            shell(&opened, &format!("grep -q {DEVICE} /proc/net/dev")),
        )
        .await;
        let end = ended(&mut link, &opened).await;
        assert_eq!(state(&end), v1::TaskState::Finished, "{}", end.text);
        drop(instead);
        order += 1;
        works_again(&mut link, &agent, order).await;
        agent.stop().await;
    }
}

async fn ended(link: &mut AgentStream, task: &str) -> v1::NumberedUpdate {
    link.end_of(task).await.pop().unwrap()
}

/// Checks that the agent needs no restart.
async fn works_again(link: &mut AgentStream, agent: &Agent, order: u64) {
    let task = format!("t{order}");
    link.launch(order, bridged(&task, "exit 0")).await;
    let end = ended(link, &task).await;
    assert_eq!(state(&end), v1::TaskState::Finished, "{}", end.text);
    agent.is_clear().await;
}

pub(super) async fn a_hung_mkfs_fails_only_tasks_that_need_a_file_system() {
    if let Some(why) = impossible() {
        return skip(&why);
    }
    with_namespaces(CloneFlags::CLONE_NEWNS, without_mkfs).await;
}

async fn without_mkfs() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    host.makes_file_systems();
    let instead = ReplacedProgram::of(MKFS, &hanging(&host));
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(false).await;
    link.launch(1, with_disk(shell("first", "exit 0"), 4)).await;
    link.launch(2, shell("second", "exit 0")).await;
    let end = ended(&mut link, "second").await;
    assert_eq!(state(&end), v1::TaskState::Finished, "{}", end.text);
    let end = ended(&mut link, "first").await;
    assert_eq!(state(&end), v1::TaskState::Failed, "{}", end.text);
    assert!(
        end.text.contains("has not ended within 10s"),
        "{}",
        end.text
    );
    drop(instead);
    link.launch(3, with_disk(shell("third", "exit 0"), 4)).await;
    let end = ended(&mut link, "third").await;
    assert_eq!(state(&end), v1::TaskState::Finished, "{}", end.text);
    agent.is_clear().await;
    agent.stop().await;
    remove_all(&host);
}

pub(super) async fn rules_that_the_host_removes_are_restored_while_tasks_run() {
    // The broker of an agent that has given up root may make fewer system calls.
    on_a_host_of_its_own(flushed).await;
}

/// Returns the rules of the host.
fn ruleset() -> String {
    let listed = Command::new(NFT).args(["list", "ruleset"]).output();
    String::from_utf8(listed.unwrap().stdout).unwrap()
}

/// Does what a reload of the host's firewall does.
fn flush() {
    let flushed = Command::new(NFT).args(["flush", "ruleset"]).status();
    assert!(flushed.unwrap().success());
}

async fn flushed() {
    const RESTORED: &str = "\nargosy_agent_network_rules_restored_total 1\n";
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.divided(master.address);
    let (mut link, _) = master.registered(true).await;
    link.launch(1, publishing("t", 8053, "exec sleep 600"))
        .await;
    link.until("t", runs).await;
    let before = ruleset();
    assert!(before.contains("udp . 8053 : "), "{before}");
    flush();
    let deadline = Instant::now() + TIMEOUT;
    let restored = async {
        while ruleset() != before || !agent.get("/metrics").await.1.contains(RESTORED) {
            assert!(Instant::now() < deadline, "{}", ruleset());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    link.answer_during(restored).await;
    flush();
    link.order(2, kill("t", 0)).await;
    let end = ended(&mut link, "t").await;
    assert_eq!(state(&end), v1::TaskState::Killed, "{}", end.text);
    agent.is_clear().await;
    flush();
    link.launch(3, publishing("u", 8053, "exit 0")).await;
    let end = ended(&mut link, "u").await;
    assert_eq!(state(&end), v1::TaskState::Finished, "{}", end.text);
    agent.stop().await;
}
