//! Tests of resource exhaustion by tasks that request no limit: each reaches its agent's defaults,
//! and its neighbour continues to run. Memory: `limits`.

use argosy_agent::Config;
use argosy_proto::v1;
use argosy_testing::{refused, skip};

use super::crashes::audit;
use super::volumes::with_disk;
use super::{code, reason, runs, state};
use crate::host::TestHost;
use crate::master::{AgentStream, Master, shell};
use crate::running::Agent;

super::cases!("bombs":
    bombs_in_tasks_without_limits_meet_the_agents_defaults_and_spare_other_tasks,
);

/// The command of a task, its end, and a harmless amount of the same.
struct ResourceAttack {
    name: &'static str,
    line: &'static str,
    end: AttackOutcome,
    control: &'static str,
}

#[derive(Clone, Copy)]
enum AttackOutcome {
    /// The agent kills it.
    Killed(v1::Reason),
    /// The kernel refuses further resources, and it exits with this code.
    Refused(i32),
}

const OUT_OF_DISK: AttackOutcome = AttackOutcome::Killed(v1::Reason::LimitDisk);

const BOMBS: [ResourceAttack; 8] = [
    ResourceAttack {
        name: "fill its sandbox",
        line: "n=0; while n=$((n+1)); do head -c 1000000 /dev/zero > f$n; done",
        end: OUT_OF_DISK,
        control: "head -c 6000000 /dev/zero > f",
    },
    ResourceAttack {
        name: "fill its sandbox with names",
        line: "n=0; while n=$((n+1)); do true > f$n; done",
        end: OUT_OF_DISK,
        // Each name counts as 4 KiB: two thirds of the limit, for longer than a measurement takes.
        control: "n=0; while [ $n -lt 10000 ]; do n=$((n+1)); true > f$n; done; sleep 3",
    },
    ResourceAttack {
        name: "flood its output",
        line: "exec cat /dev/zero",
        end: OUT_OF_DISK,
        control: "head -c 6000000 /dev/zero",
    },
    ResourceAttack {
        name: "fill /tmp",
        line: "n=0; while head -c 1000000 /dev/zero > /tmp/f$n; do n=$((n+1)); done; [ $n -lt 100 ] && exit 9",
        end: AttackOutcome::Refused(9),
        control: "head -c 3000000 /dev/zero > /tmp/f",
    },
    ResourceAttack {
        name: "fill /dev/shm",
        line: "n=0; while head -c 1000000 /dev/zero > /dev/shm/f$n; do n=$((n+1)); done; [ $n -lt 100 ] && exit 9",
        end: AttackOutcome::Refused(9),
        control: "head -c 3000000 /dev/zero > /dev/shm/f",
    },
    ResourceAttack {
        name: "fill /tmp with names",
        line: "n=0; while true > /tmp/f$n; do n=$((n+1)); done; [ $n -lt 20000 ] && exit 9",
        end: AttackOutcome::Refused(9),
        control: "n=0; while [ $n -lt 1000 ]; do n=$((n+1)); true > /tmp/f$n; done",
    },
    ResourceAttack {
        name: "fill /dev/shm with names",
        line: "n=0; while true > /dev/shm/f$n; do n=$((n+1)); done; [ $n -lt 20000 ] && exit 9",
        end: AttackOutcome::Refused(9),
        control: "n=0; while [ $n -lt 1000 ]; do n=$((n+1)); true > /dev/shm/f$n; done",
    },
    ResourceAttack {
        name: "make processes without an end",
        // The shell exits with 2 when it cannot fork.
        line: "while sleep 1000 & do true; done",
        end: AttackOutcome::Refused(2),
        control: "n=0; while [ $n -lt 100 ]; do n=$((n+1)); sleep 0.01 & done; wait",
    },
];

/// Returns a task with only `cpus` and the added resources.
fn of(task: &str, line: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        resources: argosy_client::resources::resources("cpus:0.1").unwrap(),
        ..shell(task, line)
    }
}

async fn neighbour_runs(agent: &Agent, bomb: &str) {
    let containers = agent.containers().await;
    let mut others = containers
        .iter()
        .filter(|one| one["task_id"] == "neighbour");
    let neighbour = others.next();
    assert_eq!(neighbour.unwrap()["state"], "running", "during {bomb}");
}

async fn run_attack(bomb: &ResourceAttack, order: u64, agent: &Agent, link: &mut AgentStream) {
    let (bad, good) = (format!("bomb-{order}"), format!("control-{order}"));
    link.launch(order, of(&bad, bomb.line)).await;
    let updates = link.end_of(&bad).await;
    let end = updates.last().unwrap();
    let reported = || format!("{}: {}", bomb.name, end.text);
    assert_eq!(state(end), v1::TaskState::Failed, "{}", reported());
    match bomb.end {
        AttackOutcome::Killed(why) => assert_eq!(reason(end), why, "{}", reported()),
        AttackOutcome::Refused(with) => {
            assert_eq!(code(end), Some(v1::exit::How::Code(with)), "{}", reported())
        }
    }
    neighbour_runs(agent, bomb.name).await;
    link.launch(order + 1, with_disk(of(&good, bomb.control), 64))
        .await;
    let updates = link.end_of(&good).await;
    let end = updates.last().unwrap();
    assert_eq!(
        state(end),
        v1::TaskState::Finished,
        "{}: {}",
        bomb.name,
        end.text
    );
    refused("a task without limits", bomb.name);
}

/// Returns an agent whose defaults are small, and a task on it that continues to run.
async fn with_a_neighbour(host: &TestHost, master: &mut Master) -> (Agent, AgentStream) {
    let small = |config: &mut Config| config.default_disk_bytes = 4 << 20;
    let agent = host.agent_with(master.address, small).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, of("neighbour", "exec sleep 1000")).await;
    link.until("neighbour", runs).await;
    (agent, link)
}

async fn end(agent: Agent) {
    agent.end_tasks.cancel();
    agent.ended().await.unwrap();
}

pub(super) async fn bombs_in_tasks_without_limits_meet_the_agents_defaults_and_spare_other_tasks() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let audit = audit(&host);
    let (agent, mut link) = with_a_neighbour(&host, &mut master).await;
    for (order, bomb) in (2..).step_by(2).zip(&BOMBS) {
        run_attack(bomb, order, &agent, &mut link).await;
    }
    end(agent).await;
    audit.expect_nothing_left("after the bombs");
}
