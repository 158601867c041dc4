//! Launchers and supervisors that are stopped (SIGSTOP): tasks start and end in spite of them, and so does the agent.

use std::time::Duration;

use argosy_proto::v1;
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

use super::{runs, state};
use crate::host::{Agent, Host, content, launcher_of};
use crate::master::{Link, Master, kill, shell};

const FORCED: &str = "argosy_agent_forced_kills_total";

fn stop(pid: u32) {
    signal(Pid::from_raw(pid as i32), Signal::SIGSTOP).unwrap();
}

/// The launcher of an agent in this process. Other tests of this program have ended by now, and their launchers with them.
fn launcher() -> u32 {
    launcher_of(std::process::id())
}

/// The supervisor of an agent's only living container.
fn supervisor(host: &Host) -> u32 {
    let containers = std::fs::read_dir(host.directory().join("containers")).unwrap();
    let living = containers.map(|entry| entry.unwrap().path());
    let mut living = living.filter(|container| !container.join("exit.json").exists());
    let handle = std::fs::read(living.next().unwrap().join("handle.json")).unwrap();
    let handle: serde_json::Value = serde_json::from_slice(&handle).unwrap();
    u32::try_from(handle["held"]["supervisor"]["pid"].as_u64().unwrap()).unwrap()
}

fn lives(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    state.is_some_and(|state| state != "Z")
}

/// Waits to be told to end.
const WAITS: &str = "until [ -e go ]; do sleep 0.01; done";

async fn running(link: &mut Link, host: &Host, index: u64, task: &str, line: &str) {
    let line = format!("echo up > up; {line}");
    link.launch(index, shell(task, &line)).await;
    link.until(task, runs).await;
    content(&host.sandbox(task).join("up")).await;
}

/// Tells a task that waits to end; nothing of it stays.
async fn finishes(host: &Host, agent: Agent, link: &mut Link, task: &str) {
    std::fs::write(host.sandbox(task).join("go"), "").unwrap();
    let updates = link.end_of(task).await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_kill_ends_a_task_whose_supervisor_is_stopped() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    running(&mut link, &host, 1, "t", "sleep 1000 & wait").await;
    let pid = agent.containers().await[0]["pid"].as_u64().unwrap();
    let forced = agent.counted(FORCED).await;
    let supervisor = supervisor(&host);
    stop(supervisor);
    link.order(2, kill("t", 100)).await;
    let updates = link.end_of("t").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    assert!(
        !lives(pid),
        "nothing of a task that is told to be killed lives"
    );
    assert!(!lives(supervisor.into()));
    assert_eq!(agent.counted(FORCED).await, forced + 1);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn the_next_agent_ends_a_task_whose_supervisor_is_stopped() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    running(&mut link, &host, 1, "t", "sleep 1000").await;
    let pid = agent.containers().await[0]["pid"].as_u64().unwrap();
    agent.stop().await;
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    // Its supervisor has answered this agent by then.
    while agent.containers().await[0]["state"] != "running" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop(supervisor(&host));
    link.order(2, kill("t", 0)).await;
    let updates = link.end_of("t").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    assert!(!lives(pid));
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_stopped_launcher_is_replaced_and_its_tasks_run_on() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    running(&mut link, &host, 1, "old", WAITS).await;
    let stopped = launcher();
    stop(stopped);
    // It reads no request any more: this one is lost with it, which is told.
    link.launch(2, shell("lost", "exit 0")).await;
    let updates = link.end_of("lost").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Failed);
    assert!(!lives(stopped.into()), "it is killed");
    link.launch(3, shell("new", "exit 0")).await;
    let updates = link.end_of("new").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
    finishes(&host, agent, &mut link, "old").await;
}

pub(super) async fn an_agent_stops_although_its_launcher_is_stopped() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    running(&mut link, &host, 1, "t", WAITS).await;
    let stopped = launcher();
    stop(stopped);
    agent.stop().await;
    assert!(!lives(stopped.into()));
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    finishes(&host, agent, &mut link, "t").await;
}
