//! Tests of limits that are changed while a task runs: enforced as far as this host has
//! controllers, otherwise reported.

use std::path::PathBuf;

use argosy_agent::Config;
use argosy_proto::v1;
use argosy_testing::{refused, skip};

use super::{reason, runs, state};
use crate::host::TestHost;
use crate::master::{AgentStream, FRAMEWORK, Master, kill, shell};
use crate::running::{Agent, content};

super::cases!("limits":
    a_task_without_a_memory_request_has_the_agents_default,
    limits_of_a_running_task_are_changed_and_the_outcome_is_reported,
    changed_limits_survive_an_agent_restart_and_can_be_changed_again,
);

const LINE: &str = "echo begun > begun; exec sleep 1000";

fn order(task: &str, limits: v1::Limits) -> v1::order::Order {
    v1::order::Order::Limits(v1::LimitsOrder {
        framework_id: FRAMEWORK.into(),
        task_id: task.into(),
        limits: Some(limits),
    })
}

fn pids(most: u64) -> v1::Limits {
    v1::Limits {
        pids: Some(most),
        ..v1::Limits::default()
    }
}

/// Returns the cgroup of the only container; `None` if this agent creates none.
async fn group(agent: &Agent) -> Option<PathBuf> {
    let pid = agent.containers().await[0]["pid"].as_u64().unwrap();
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = argosy_isolation::cgroup::mount_point().ok()?;
    let path = mount.join(path.trim_start_matches('/'));
    path.to_string_lossy().contains("argosy").then_some(path)
}

/// Returns the report on this order.
async fn outcome(link: &mut AgentStream, order: u64) -> v1::LimitsReport {
    let of_order = |update: &v1::NumberedUpdate| {
        let report = update.limits.as_ref();
        report.is_some_and(|report| report.order_index == order)
    };
    let updates = link.until("t", of_order).await;
    let update = updates.iter().find(|update| of_order(update)).unwrap();
    assert_eq!(state(update), v1::TaskState::Running);
    assert_eq!(reason(update), v1::Reason::LimitsUpdated);
    update.limits.clone().unwrap()
}

/// Checks that a limit of processes is enforced if the host has the controller, and reported as not
/// enforced otherwise.
async fn is_limited(agent: &Agent, report: &v1::LimitsReport, most: u64) {
    let Some(group) = group(agent).await else {
        let why = report.refusal.as_ref().unwrap();
        return assert!(why.contains("no control groups"), "{why}");
    };
    match std::fs::read_to_string(group.join("pids.max")) {
        Ok(text) => {
            assert_eq!(report.refusal, None);
            assert_eq!(text.trim(), most.to_string());
        }
        Err(_) => {
            let why = report.refusal.as_ref().unwrap();
            assert!(why.contains("no cgroup controllers pids"), "{why}");
        }
    }
}

pub(super) async fn a_task_without_a_memory_request_has_the_agents_default() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let small = |config: &mut Config| config.default_memory_bytes = 32 << 20;
    let agent = host.agent_with(master.address, small).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", LINE)).await;
    link.until("t", runs).await;
    let limit = group(&agent).await.map(|group| group.join("memory.max"));
    let limit = limit.and_then(|limit| std::fs::read_to_string(limit).ok());
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    if let Some(limit) = limit {
        assert_eq!(limit.trim(), (32 << 20).to_string());
        link.launch(3, shell("bomb", "exec tail /dev/zero")).await;
        let updates = link.end_of("bomb").await;
        let end = updates.last().unwrap();
        assert_eq!(reason(end), v1::Reason::LimitMemory, "{}", end.text);
        // Less than the default is allowed.
        let within = "head -c 8000000 /dev/zero | tail -c 8000000 > /dev/null";
        link.launch(4, shell("control", within)).await;
        let updates = link.end_of("control").await;
        let end = updates.last().unwrap();
        assert_eq!(state(end), v1::TaskState::Finished, "{}", end.text);
        refused("a task without limits", "take memory without an end");
    } else {
        skip("needs the cgroup controller memory");
    }
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn limits_of_a_running_task_are_changed_and_the_outcome_is_reported() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, hello) = master.registered(true).await;
    assert!(hello.info.unwrap().changes_limits);
    link.launch(1, shell("t", LINE)).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("begun")).await;
    link.order(2, order("t", pids(30))).await;
    is_limited(&agent, &outcome(&mut link, 2).await, 30).await;
    // An impossible limit is reported, and the task continues to run unchanged.
    let disk = v1::DiskLimit {
        disk: "/dev/null".into(),
        read_bytes: Some(1),
        ..v1::DiskLimit::default()
    };
    let limits = v1::Limits {
        io: vec![disk],
        ..pids(20)
    };
    link.order(3, order("t", limits)).await;
    let why = outcome(&mut link, 3).await.refusal.unwrap();
    assert!(why.contains("limits.io: /dev/null"), "{why}");
    if let Some(group) = group(&agent).await
        && let Ok(text) = std::fs::read_to_string(group.join("pids.max"))
    {
        assert_eq!(text.trim(), "30", "nothing of it is in force");
    }
    link.order(4, order("t", v1::Limits::default())).await;
    assert_eq!(
        outcome(&mut link, 4).await.refusal,
        None,
        "nothing is asked"
    );
    link.order(5, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn changed_limits_survive_an_agent_restart_and_can_be_changed_again() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", LINE)).await;
    link.until("t", runs).await;
    link.order(2, order("t", pids(30))).await;
    outcome(&mut link, 2).await;
    agent.stop().await;
    let agent = host.agent(master.address).await;
    let (mut link, hello) = master.registered(true).await;
    assert_eq!(hello.floor, 2);
    link.order(3, order("t", pids(25))).await;
    is_limited(&agent, &outcome(&mut link, 3).await, 25).await;
    link.order(4, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    agent.stop().await;
}
