//! Tests of the transitions of tasks: the kept ones, the bounds, and the feature level.

use crate::Registry;
use crate::actor::Actor;
use crate::command::{
    AgentDecision, AgentUpdate, Command, LogEntry, Operate, OperatorOperation, ProposedCommand,
    SweepTarget, TasksStopped, UpdateTasks,
};
use crate::encode::{self, DecodeError};
use crate::ids::{AgentId, NodeId, TaskKey};
use crate::level::Level;
use crate::limits;
use crate::registry::RecordKey;
use crate::task::{Reason, TaskState, TaskTransition, UpdateSource};
use crate::testing::{World, key, next_update, spec};

const AGENT: AgentId = AgentId(1);

/// Returns the numbers and states of the kept transitions.
fn kept(world: &World, key: &TaskKey) -> Vec<(u32, TaskState)> {
    let all = world.registry.transitions(key).iter();
    all.map(|(number, transition)| (*number, transition.state))
        .collect()
}

fn numbers(world: &World, key: &TaskKey) -> Vec<u32> {
    let all = world.registry.transitions(key).iter();
    all.map(|(number, _)| *number).collect()
}

/// The agent is lost and returns with its tasks: two transitions of each.
fn flap(world: &mut World) {
    world.mark_unreachable(AGENT);
    world.register_again(AGENT);
    let floor = world.registry.last_order(AGENT);
    world.reconcile(AGENT, floor);
}

fn running() -> (World, TaskKey) {
    let world = World::with_running_task("web");
    let key = world.registry.tasks().next().unwrap().key.clone();
    (world, key)
}

/// Returns the numbers of the stored transitions, of all tasks.
fn stored(world: &World) -> Vec<u32> {
    let names = world
        .stored
        .keys()
        .map(|key| encode::read_key(key).unwrap());
    let numbers = names.filter_map(|name| match name {
        RecordKey::TaskTransition(_, number) => Some(number),
        _ => None,
    });
    numbers.collect()
}

#[test]
fn every_change_of_state_is_kept_until_the_history_drops_the_task() {
    let (mut world, key) = running();
    // An update without another state is no transition.
    world.update(&key, TaskState::Running);
    flap(&mut world);
    world.update(&key, TaskState::Killing);
    world.update(&key, TaskState::Killed);
    let life = [
        (1, TaskState::Staging),
        (2, TaskState::Running),
        (3, TaskState::Unreachable),
        (4, TaskState::Running),
        (5, TaskState::Killing),
        (6, TaskState::Killed),
    ];
    assert_eq!(kept(&world, &key), life);
    let lost = world.registry.transition(&key, 3).unwrap();
    assert_eq!(
        (lost.source, lost.reason),
        (UpdateSource::Master, Reason::AgentUnreachable)
    );
    let latest = &world.registry.task(&key).unwrap().latest.clone();
    assert_eq!(
        world.registry.transition(&key, 6),
        Some(&TaskTransition::of(latest))
    );
    assert_eq!(world.registry.transition(&key, 7), None);
    let snapshot = world.registry.snapshot();
    world.acknowledge(&key);
    assert!(world.registry.finished_task(&key).is_some());
    assert_eq!(kept(&world, &key), life);
    assert_eq!(stored(&world), [1, 2, 3, 4, 5, 6]);
    assert!(world.reloaded() == world.registry);

    // Another task has its own numbers, and its end fills the history.
    world.registry.index.bytes.history += limits::FINISHED_TASK_BYTES;
    let mut registry = world.registry.clone();
    let ended = registry.finished_task(&key).unwrap().task.clone();
    let other = crate::task::Task {
        key: TaskKey {
            task: crate::ids::TaskId::new("other").unwrap(),
            ..key.clone()
        },
        ..ended
    };
    registry.put_finished(other, &mut 0);
    assert_eq!(registry.transitions(&key), []);
    // A later task of the same id begins its own list.
    let mut reused = registry.clone();
    let first = TaskTransition::of(latest);
    reused.add_transition(&key, first);
    assert_eq!(reused.transitions(&key), [(1, first)]);
    let deleted = registry.take_changes().into_iter();
    let deleted = deleted.filter(|write| write.key[0] == 25 && write.value.is_none());
    assert_eq!(deleted.count(), life.len());
    assert_eq!(snapshot.transitions(&key).len(), life.len());
}

#[test]
fn at_the_bound_the_oldest_after_the_first_ones_are_dropped() {
    let (mut world, key) = running();
    let flaps = limits::TRANSITIONS as u32 / 2 + 10;
    for _ in 0..flaps {
        flap(&mut world);
    }
    let newest = 2 + 2 * flaps;
    let last = newest - (limits::TRANSITIONS - limits::FIRST_TRANSITIONS) as u32;
    let expected: Vec<u32> = (1..=10).chain(last + 1..=newest).collect();
    assert_eq!(numbers(&world, &key), expected);
    assert_eq!(stored(&world), expected);
    assert!(world.reloaded() == world.registry);
    // The end leaves the last ones.
    world.update(&key, TaskState::Failed);
    let expected: Vec<u32> = (newest - 18..=newest + 1).collect();
    assert_eq!(expected.len(), limits::ENDED_TRANSITIONS);
    assert_eq!(numbers(&world, &key), expected);
    world.acknowledge(&key);
    assert_eq!(numbers(&world, &key), expected);
    assert_eq!(stored(&world), expected);
    assert!(world.reloaded() == world.registry);
}

#[test]
fn a_task_that_has_stopped_itself_has_a_transition() {
    let mut world = World::new();
    let agent = world.register("cpus:4");
    let framework = world.subscribe("demo");
    let mut task = spec("web", "cpus:1");
    task.stop_after_ms = 1_000;
    let offer = world.offer(framework, agent, "cpus:1");
    world.accept(framework, vec![offer], vec![task]);
    world.mark_unreachable(agent);
    world.pass(60_000);
    let stopped = TasksStopped {
        agent,
        decided_on: world.registry.agent(agent).unwrap().revision,
        silent_ms: 60_000,
        wall_ms: 5,
    };
    let applied = world.apply(Command::TasksStopped(stopped));
    assert!(applied.outcome.is_ok());
    let key = key(framework, "web");
    let unreachable = TaskState::Unreachable;
    assert_eq!(
        kept(&world, &key),
        [(1, TaskState::Staging), (2, unreachable), (3, unreachable)]
    );
    let reason = world.registry.transition(&key, 3).unwrap().reason;
    assert_eq!(reason, Reason::StoppedWithoutLeader);
}

#[test]
fn transitions_count_as_memory_and_do_not_grow_when_it_is_full() {
    let (mut world, key) = running();
    let used = |world: &World| {
        let framework = world.registry.task_bytes_of(key.framework);
        (framework, world.registry.usage()[0].bytes.unwrap().0)
    };
    let before = used(&world);
    assert_eq!(before.0, before.1);
    for _ in 0..10 {
        flap(&mut world);
    }
    let grown = before.0 + 20 * super::super::usage::TRANSITION_BYTES;
    assert_eq!(used(&world), (grown, grown));

    // Two are dropped for each new one, down to the bound of a full registry.
    let mut registry = world.registry.clone();
    registry.index.bytes.tasks += limits::TASK_BYTES;
    let newest = registry.transitions(&key).last().unwrap().1;
    let mut counts = Vec::new();
    for _ in 0..20 {
        registry.add_transition(&key, newest);
        counts.push(registry.transitions(&key).len());
    }
    assert_eq!(counts[..2], [21, 20]);
    assert_eq!(counts[19], limits::TRANSITIONS_WHEN_FULL);
    let first: Vec<u32> = registry.transitions(&key)[..4]
        .iter()
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(first, [1, 2, 3, 4]);
}

/// The records of level 2 are those of release 0.1.0: `tests/release.rs` compares them.
#[test]
fn below_level_3_no_transitions_are_kept() {
    let mut world = World::empty();
    world.level = Level::RELEASE_0_1;
    world.open_epoch(NodeId(1));
    let agent = world.register("cpus:4");
    let framework = world.subscribe("demo");
    let key = world.launch(framework, agent, "web", "cpus:1");
    let other = world.launch(framework, agent, "other", "cpus:1");
    world.update(&key, TaskState::Starting);
    world.update(&other, TaskState::Finished);
    assert_eq!(kept(&world, &key), []);
    assert_eq!(stored(&world), [0; 0]);

    // Since the raise, transitions are kept, before and after its record is split.
    world.level = Level::RELEASE_0_2;
    world.apply(Command::RaiseLevel {
        level: Level::RELEASE_0_2,
    });
    world.update(&key, TaskState::Running);
    world.acknowledge(&other);
    assert_eq!(kept(&world, &key), [(1, TaskState::Running)]);
    assert!(world.reloaded() == world.registry);
    assert!(world.registry.cluster.layout.is_converting());
    world.apply(Command::Sweep(SweepTarget::Layout));
    assert!(!world.registry.cluster.layout.is_converting());
    world.update(&key, TaskState::Finished);
    assert_eq!(
        kept(&world, &key),
        [(1, TaskState::Running), (2, TaskState::Finished)]
    );
    assert_eq!(kept(&world, &other), []);
    assert!(world.reloaded() == world.registry);
}

#[test]
fn stored_transitions_load_in_any_order_and_need_their_task() {
    let (mut world, key) = running();
    flap(&mut world);
    let backwards = world.stored.clone().into_iter().rev();
    let loaded = Registry::load(world.registry.applied(), backwards).unwrap();
    assert!(loaded == world.registry);

    let mut records = world.stored.clone();
    let name = |key: TaskKey| encode::key(&RecordKey::TaskTransition(key, 1));
    let value = records[&name(key.clone())].clone();
    let task = crate::ids::TaskId::new("none").unwrap();
    records.insert(name(TaskKey { task, ..key }), value);
    let error = Registry::load(world.registry.applied(), records).unwrap_err();
    assert!(matches!(error, DecodeError::Invalid { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "the record of a task's transition has no valid task: there is no record of it"
    );
}

/// Returns tasks that have as many transitions as a live task may.
fn flapping(count: usize) -> (World, Vec<TaskKey>) {
    let mut world = World::new();
    let agent = world.register("cpus:1000");
    let framework = world.subscribe("demo");
    let keys: Vec<_> = (0..count)
        .map(|at| world.launch(framework, agent, &format!("t-{at:02}"), "cpus:1"))
        .collect();
    for key in &keys {
        world.update(key, TaskState::Running);
    }
    for _ in 0..limits::TRANSITIONS / 2 {
        flap(&mut world);
    }
    let all = keys.iter().map(|key| world.registry.transitions(key).len());
    assert!(all.into_iter().all(|count| count == limits::TRANSITIONS));
    (world, keys)
}

/// Applies a command; returns the number of records that it has changed.
fn changed(world: &mut World, command: Command) -> usize {
    let ticket = world.ticket();
    let proposed = ProposedCommand {
        ticket,
        actor: Actor::default(),
        command,
    };
    let entry = LogEntry {
        at: world.now,
        commands: vec![proposed],
    };
    let (applied, writes) = world.apply_entry(&entry);
    assert!(applied[0].outcome.is_ok(), "{:?}", applied[0].outcome);
    writes.len()
}

fn ends(world: &World, keys: &[TaskKey]) -> Vec<AgentUpdate> {
    let end = |key: &TaskKey| {
        let task = world.registry.task(key).unwrap();
        AgentUpdate {
            message: "m".repeat(100),
            ..next_update(task, TaskState::Failed)
        }
    };
    keys.iter().map(end).collect()
}

#[test]
fn ends_of_tasks_with_many_transitions_change_at_most_a_thousand_records() {
    let (mut world, keys) = flapping(limits::UPDATES_PER_COMMAND);
    let report = |updates| {
        Command::UpdateTasks(UpdateTasks {
            agent: AGENT,
            updates,
        })
    };
    // In one command they would change several thousand.
    let all = ends(&world, &keys);
    let undivided = changed(&mut world.clone(), report(all.clone()));
    assert!(undivided > 4 * limits::RECORDS_PER_COMMAND, "{undivided}");
    let (mut rest, mut commands) = (all.as_slice(), 0);
    while !rest.is_empty() {
        // As the leader divides them.
        let mut records = 0;
        let part = rest.iter().take_while(|update| {
            records += world.registry.records_of_update(&update.key, update.state);
            records <= limits::CHANGED_RECORDS
        });
        let (part, later) = rest.split_at(part.count());
        let expected: usize = part
            .iter()
            .map(|update| world.registry.records_of_update(&update.key, update.state))
            .sum();
        let found = changed(&mut world, report(part.to_vec()));
        assert!(
            found <= expected && expected < 2 * found,
            "{found} {expected}"
        );
        (rest, commands) = (later, commands + 1);
    }
    assert_eq!(commands, 6);
    for key in &keys {
        assert_eq!(numbers(&world, key).len(), limits::ENDED_TRANSITIONS);
    }
}

#[test]
fn sweeps_over_tasks_with_many_transitions_are_divided() {
    let (world, keys) = flapping(limits::UPDATES_PER_COMMAND);
    let operate = |operation| {
        Command::Operate(Operate {
            request: None,
            hash: 0,
            operations: vec![operation],
            wall_ms: 0,
        })
    };
    let gone = operate(OperatorOperation::MarkGone(AGENT));
    let decided_on = world.registry.agent(AGENT).unwrap().revision;
    let unreachable = Command::AgentUnreachable(AgentDecision {
        agent: AGENT,
        decided_on,
        wall_ms: 0,
    });
    for (command, state, kept, batches) in [
        (
            gone,
            TaskState::GoneByOperator,
            limits::ENDED_TRANSITIONS,
            6,
        ),
        (unreachable, TaskState::Unreachable, limits::TRANSITIONS, 1),
    ] {
        let mut world = world.clone();
        let mut found = vec![changed(&mut world, command)];
        while world.registry.sweeps().count() > 0 {
            let sweep = Command::Sweep(SweepTarget::Agent(AGENT));
            found.push(changed(&mut world, sweep));
        }
        assert!(
            found
                .iter()
                .all(|found| *found <= limits::RECORDS_PER_COMMAND),
            "{found:?}"
        );
        assert_eq!(found.len(), batches, "{found:?}");
        for key in &keys {
            let transitions = world.registry.transitions(key);
            assert_eq!(transitions.len(), kept);
            assert_eq!(transitions.last().unwrap().1.state, state);
        }
    }
}
