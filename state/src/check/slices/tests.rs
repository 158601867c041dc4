//! Tests of the checks in slices: rounds, and damages that a slice finds.

use super::super::tests::{Damage, assert_found, busy, check_round, key_of, reindex};
use super::*;
use crate::digest::DigestKind;
use crate::framework::SchedulerConnection;
use crate::ids::{GroupId, TaskId};
use crate::resources::Resources;
use crate::testing::World;

/// Runs all slices of a round, each of at most `most` records and one agent's tasks.
fn round(registry: &Registry, most: usize) -> Result<usize, InvariantViolation> {
    let mut round = CheckRound::default();
    let mut records = 0;
    for _ in 0..10_000 {
        let slice = registry.check_slice(&mut round, most)?;
        assert!(slice.records <= most + MAX_TASKS, "{slice:?}");
        records += slice.records;
        if slice.is_last {
            return Ok(records);
        }
    }
    panic!("the round does not end");
}

#[test]
fn a_round_of_slices_checks_every_record() {
    let world = busy();
    let all = world.registry.tasks().len() + world.registry.finished_tasks.len();
    for most in [1, 7, 200, 100_000] {
        assert!(round(&world.registry, most).unwrap() > all);
    }
}

#[test]
fn a_round_continues_after_a_removed_record() {
    let mut world = World::new();
    let agents: Vec<AgentId> = (0..5).map(|_| world.register("cpus:1")).collect();
    let mut round = CheckRound(CheckCursor::Agents(Some(agents[1])));
    world.registry.remove_agent(agents[1]);
    world.registry.take_changes();
    let slice = world.registry.check_slice(&mut round, 1).unwrap();
    assert_eq!(
        round,
        CheckRound(CheckCursor::Agents(Some(agents[2]))),
        "{slice:?}"
    );
}

/// Adds an answer to an operator.
fn answer_operator(registry: &mut Registry, id: &str) {
    let (_, answer) = registry.operator_answers.first_key_value().unwrap();
    let answer = answer.clone();
    let name = ("operator/bob".to_owned(), id.to_owned());
    registry.operator_answers.insert(name, answer);
}

/// The damages that a round finds. Each one could be due to a defect of `apply`.
pub(in crate::check) const SLICE_DAMAGES: &[Damage] = &[
    ("agent-1: it is found by its nonce", |registry| {
        registry.index.nonces.clear();
    }),
    ("agent-2: it is found by its nonce", |registry| {
        let nonce = registry.agents[&AgentId(2)].nonce;
        registry.index.nonces.insert(nonce, AgentId(1));
    }),
    (
        "Agent(AgentId(1)): its indexed deadline is in its record",
        |registry| {
            let agent = registry.agents().next().unwrap();
            let (at, subject) = (agent.mode_since(), Subject::Agent(agent.id));
            let deadlines = &mut registry.index.deadlines;
            deadlines.damage(DeadlineKind::Lost, at, subject);
        },
    ),
    (
        "Agent(AgentId(3)): its indexed deadline is in its record",
        |registry| {
            let lost = registry.agents[&AgentId(3)].mode_since();
            let (at, subject) = (lost.plus_ms(1), Subject::Agent(AgentId(3)));
            let deadlines = &mut registry.index.deadlines;
            deadlines.damage(DeadlineKind::Lost, at, subject);
        },
    ),
    ("framework-1: its deadlines are indexed", |registry| {
        let framework = registry.frameworks.first_mut().unwrap();
        let since = Timestamp(1);
        framework.connection = SchedulerConnection::Disconnected { since };
    }),
    ("agent-1: its deadlines are indexed", |registry| {
        let admin = &mut registry.agents.first_mut().unwrap().admin;
        admin.deadline = Some(admin.since);
    }),
    ("request-2: its deadlines are indexed", |registry| {
        answer_operator(registry, "request-2");
    }),
    ("usage: agent-1", |registry| {
        let index = registry.index.agents.first_mut().unwrap();
        index.used = Resources::none();
    }),
    ("agent-5: it has an index", |registry| {
        registry.index.agents.remove(&AgentId(5));
    }),
    ("framework-4: it has an index", |registry| {
        registry.index.frameworks.remove(&FrameworkId(4));
    }),
    ("agent-1: its index agrees with its tasks", |registry| {
        let index = registry.index.agents.first_mut().unwrap();
        index.expected.add(DigestKind::Task, 1);
    }),
    ("framework-1: its answers are counted", |registry| {
        let index = registry.index.frameworks.first_mut().unwrap();
        index.answers += 1;
    }),
    ("framework-1: it is found by its session", |registry| {
        registry.index.sessions.clear();
    }),
    (
        "framework-1: its tasks are live or have ended",
        |registry| {
            registry.index.frameworks.first_mut().unwrap().live += 1;
        },
    ),
    (
        "framework-1/web: the index of its agent names it",
        |registry| {
            // The indexes are those without the task.
            let key = key_of(registry, "web");
            let task = registry.tasks.remove(&key).unwrap();
            reindex(registry);
            registry.tasks.insert(key, task);
        },
    ),
    (
        "framework-1/web: the index of its framework names it",
        |registry| {
            let index = registry.index.frameworks.first_mut().unwrap();
            index.tasks.remove(&TaskId::new("web").unwrap());
            index.live -= 1;
        },
    ),
    (
        "framework-1/web: its framework's index lists its unacknowledged updates",
        |registry| {
            let index = registry.index.frameworks.first_mut().unwrap();
            index.unacknowledged.remove(&TaskId::new("web").unwrap());
        },
    ),
    (
        "framework-1/quiet: its framework's index lists its unacknowledged updates",
        |registry| {
            let index = registry.index.frameworks.first_mut().unwrap();
            index.unacknowledged.insert(TaskId::new("quiet").unwrap());
        },
    ),
    (
        "framework-1/pod-0: the index of its group names it",
        |registry| {
            let index = registry.index.frameworks.first_mut().unwrap();
            index.groups.remove(&GroupId::new("pod").unwrap());
        },
    ),
    ("framework-1/pod: its tasks belong to it", |registry| {
        // The task is in the index of the group only.
        let index = registry.index.frameworks.first_mut().unwrap();
        let pod = index.groups.get_mut(&GroupId::new("pod").unwrap());
        pod.unwrap().insert(TaskId::new("web").unwrap());
    }),
    ("framework-1/pod-2: history is indexed", |registry| {
        registry.index.history.by_key.clear();
    }),
    ("framework-2/task-0: history is indexed", |registry| {
        let key = key_of(registry, "task-0");
        registry.index.history.by_key.insert(key, 1);
    }),
    ("agent-1: its mode began in the past", |registry| {
        registry.agents.first_mut().unwrap().admin.since = registry.time.plus_ms(1);
    }),
    (
        "framework-1/dying: its newest transition led to its state",
        |registry| {
            registry.transitions.first_mut().unwrap().pop();
        },
    ),
];

/// The damages that a round finds if they come after the slices of frameworks.
pub(in crate::check) const TASK_DAMAGES: &[Damage] =
    &[("framework-3/job: its framework has an index", |registry| {
        registry.index.frameworks.remove(&FrameworkId(3));
    })];

#[test]
fn a_damaged_record_or_index_is_found_in_a_round() {
    assert_found(SLICE_DAMAGES, check_round);
}

#[test]
fn a_damage_that_comes_during_a_round_is_found_in_its_rest() {
    assert_found(TASK_DAMAGES, |registry| {
        let mut round = CheckRound(CheckCursor::Tasks(None));
        registry.check_slice(&mut round, 10_000).map(drop)
    });
}

#[test]
fn a_removed_framework_with_too_many_tasks_is_counted_as_skipped() {
    for is_removed in [true, false] {
        let mut registry = World::with_running_task("web").registry;
        let framework = registry.frameworks.first_mut().unwrap();
        framework.removing = is_removed;
        let index = registry.index.frameworks.first_mut().unwrap();
        for at in 0..MAX_TASKS {
            index.tasks.insert(TaskId::new(&format!("t{at}")).unwrap());
        }
        index.live = index.tasks.len();
        let slice = registry.check_slice(&mut CheckRound::default(), 1_000);
        assert_eq!(slice.unwrap().skipped, usize::from(is_removed));
        let index = registry.index.frameworks.first_mut().unwrap();
        index.tasks.remove(&TaskId::new("t0").unwrap());
        index.live = index.tasks.len();
        // At the bound, the tasks are read.
        let slice = registry.check_slice(&mut CheckRound::default(), 1_000);
        assert_eq!(slice.is_err(), is_removed, "{slice:?}");
    }
}

#[test]
fn an_agent_with_too_many_tasks_is_counted_as_skipped() {
    let mut world = World::new();
    let agent = world.register("cpus:8");
    let framework = world.subscribe("many");
    let key = world.launch(framework, agent, "one", "cpus:0.001");
    // Only the index is larger, and it is not scanned.
    let index = world.registry.index.agents.get_mut(&agent).unwrap();
    for at in 0..=MAX_TASKS {
        let task = TaskId::new(&format!("t{at}")).unwrap();
        index.tasks.insert(TaskKey {
            task,
            ..key.clone()
        });
    }
    let slice = world
        .registry
        .check_slice(&mut CheckRound::default(), 1_000);
    assert_eq!(slice.unwrap().skipped, 1);
}
