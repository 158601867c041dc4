//! Tests of the effects of one damaged record of the journal: it affects at most its own task,
//! whichever record it is.

use std::collections::BTreeSet;

use argosy_proto::v1;
use argosy_state::digest::DigestKind;
use argosy_state::ids::{OrderIndex, Timestamp};

use super::world::{CoreFixture, instance, spec};
use crate::core::{
    AgentState, CommandStatus, ContainerName, ExecutorEvent, ExecutorRecord, Input, Instance,
    JournalRecord, OrderBody, RecoveredContainer, StartedFact, TaskFacts,
};
use crate::journal::JournalContents;
use crate::journal::testing::{compacted, frames, journal_of, parsed};
use crate::wire;

/// The last order of the scenario.
const LAST: u64 = 12;

/// Every kind of record that a journal may contain.
const KINDS: [&str; 19] = [
    "committed",
    "executor began",
    "executor cleared",
    "executor ending",
    "executor heard",
    "executor started",
    "floor",
    "forgot",
    "identity",
    "released",
    "retried",
    "started",
    "stray",
    "task",
    "took a kill",
    "took a launch",
    "took limits",
    "took nothing",
    "updated",
];

/// Returns the kind of a record. A new kind needs a name here and in [`KINDS`], and an occurrence
/// in [`scenario`].
fn kind(record: &JournalRecord) -> &'static str {
    match record {
        JournalRecord::Identity(_) => "identity",
        JournalRecord::IdentityReset(_) => "forgot",
        JournalRecord::OrderAccepted { body, .. } => match body {
            OrderBody::Launch { .. } => "took a launch",
            OrderBody::Kill { .. } => "took a kill",
            OrderBody::Limits { .. } => "took limits",
            OrderBody::Nothing => "took nothing",
        },
        JournalRecord::Started { .. } => "started",
        JournalRecord::Updated { .. } => "updated",
        JournalRecord::Committed { .. } => "committed",
        JournalRecord::Released { .. } => "released",
        JournalRecord::Orphaned { .. } => "stray",
        JournalRecord::Retried { .. } => "retried",
        JournalRecord::Floor(_) => "floor",
        JournalRecord::Task { .. } => "task",
        JournalRecord::Executor(record) => match record {
            ExecutorRecord::Created { .. } => "executor began",
            ExecutorRecord::Started { .. } => "executor started",
            ExecutorRecord::Ending { .. } => "executor ending",
            ExecutorRecord::Cleared { .. } => "executor cleared",
            ExecutorRecord::UpdateReceived { .. } => "executor heard",
        },
    }
}

const RUNNING: RecoveredContainer = RecoveredContainer::Running(StartedFact {
    pid: 77,
    at: Timestamp(1_000),
});

/// The containers that run at the end of the scenario.
const LIVING: [&str; 6] = ["1-1-2", "1-2-2", "1-4-2", "1-6-2", "1-10-2", "1-12-2"];

fn executed(task: &str, executor: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        executor: Some(v1::ExecutorSpec {
            executor_id: executor.into(),
            shell: "run".into(),
            ..v1::ExecutorSpec::default()
        }),
        ..spec(task)
    }
}

/// Returns two runs of an agent, under two leaders. Its tasks are in all relevant states; the last
/// has just been started.
fn scenario() -> CoreFixture {
    let mut world = CoreFixture::registered();
    world.launch(1, "again");
    world.sync();
    let mut world = world.restart("boot-1");
    world.found(1, RecoveredContainer::NeverStarted);
    world.epoch += 1;
    world.register(true);
    world.sync();
    for (order, task) in [(1, "again"), (2, "runs"), (3, "ended"), (4, "killed")] {
        if order > 1 {
            world.launch(order, task);
            world.sync();
        }
        world.started(order);
        world.report();
        world.committed(order, task, 1, false);
    }
    world.exited(3, CommandStatus::Code(0));
    world.report();
    world.destroyed(3);
    world.kill(5, "killed", 100);
    world.sync();
    host(&mut world, 6, executed("hosted", "e"));
    world.order(
        7,
        v1::order::Order::Limits(v1::LimitsOrder {
            framework_id: "framework-1".into(),
            task_id: "runs".into(),
            limits: Some(v1::Limits {
                pids: Some(9),
                ..v1::Limits::default()
            }),
        }),
    );
    world.sync();
    // For an unknown task: it has no effect.
    world.kill(8, "nobody", 0);
    world.sync();
    release(&mut world, 9);
    orphan(&mut world, 10);
    outlive(&mut world, 11);
    world.launch(LAST, "fresh");
    world.sync();
    assert!(world.effects.contains(&format!("start 1-{LAST}-2")));
    world
}

/// Starts a task and its executor, which has subscribed.
fn host(world: &mut CoreFixture, order: u64, spec: v1::TaskSpec) {
    world.launch_spec(order, spec);
    world.sync();
    world.sync();
    world.started(order);
    let output = ExecutorEvent::Subscribed {
        tasks: Vec::new(),
        unacknowledged: Vec::new(),
        version: 1,
    };
    executor(world, order, output);
}

fn executor(world: &mut CoreFixture, order: u64, output: ExecutorEvent) {
    world.feed(Input::Executor {
        instance: instance(order),
        connection: 1,
        event: output,
    });
}

/// Releases a task whose end is in the registry.
fn release(world: &mut CoreFixture, order: u64) {
    world.launch(order, "released");
    world.sync();
    world.started(order);
    world.report();
    world.exited(order, CommandStatus::Code(0));
    world.report();
    world.destroyed(order);
    world.committed(order, "released", 2, true);
    world.sync();
    assert!(!world.core.facts().tasks.contains_key(&instance(order)));
}

/// Turns a running task into an orphan.
fn orphan(world: &mut CoreFixture, order: u64) {
    world.launch(order, "stray");
    world.sync();
    world.started(order);
    world.report();
    world.receive(v1::to_agent::Message::KillStray(v1::KillStray {
        framework_id: "framework-1".into(),
        task_id: "stray".into(),
        order_index: order,
    }));
    world.sync();
    assert!(!world.core.facts().tasks[&instance(order)].held);
}

/// Ends a task in its executor, which has ended after it; its end is not in the registry yet.
fn outlive(world: &mut CoreFixture, order: u64) {
    host(world, order, executed("done", "f"));
    for (serial, state) in [(1, v1::TaskState::Running), (2, v1::TaskState::Finished)] {
        let update = wire::executor_update(v1::ExecutorUpdate {
            task_id: "done".into(),
            order_index: order,
            serial,
            state: state.into(),
            ..v1::ExecutorUpdate::default()
        });
        executor(world, order, ExecutorEvent::Update(Box::new(update)));
        world.report();
        world.sync();
    }
    world.exited(order, CommandStatus::Code(0));
    world.sync();
    let name = world.core.facts().executor_container(instance(order));
    world.feed(Input::Destroyed {
        name: name.unwrap(),
    });
    world.sync();
    assert!(!world.core.facts().executors.contains_key(&instance(order)));
}

/// Returns the instance of this record: that of a launch is its order's.
fn owner(record: &JournalRecord) -> Option<Instance> {
    match record {
        JournalRecord::OrderAccepted {
            order,
            body: OrderBody::Launch { .. },
        } => Some(instance(order.0)),
        other => other.instance(),
    }
}

/// Removes the number of the newest update, since numbers may be skipped.
fn unnumbered(task: &TaskFacts) -> TaskFacts {
    TaskFacts {
        newest_update: 0,
        ..task.clone()
    }
}

/// Checks that the facts are unchanged, but for the instance whose record was damaged.
fn compare(known: &AgentState, wanted: &AgentState, own: Option<Instance>, case: &str) {
    assert_eq!(known.identity, wanted.identity, "{case}");
    assert_eq!(known.floor, wanted.floor, "{case}");
    let others = |instance: &&Instance| Some(**instance) != own;
    let names = |facts: &AgentState| -> Vec<Instance> {
        facts.tasks.keys().filter(others).copied().collect()
    };
    assert_eq!(names(known), names(wanted), "{case}");
    for instance in &names(wanted) {
        let (is, was) = (&known.tasks[instance], &wanted.tasks[instance]);
        assert!(is.newest_update >= was.newest_update, "{case}");
        assert_eq!(unnumbered(is), unnumbered(was), "{case}");
    }
    for (instance, executor) in wanted.executors.iter().filter(|(name, _)| others(name)) {
        assert_eq!(known.executors.get(instance), Some(executor), "{case}");
    }
}

/// Starts the next run, on a host where containers unknown to the journal have been ended, until a
/// master has registered it.
fn restart_registered(contents: JournalContents, epoch: u64, case: &str) -> CoreFixture {
    let facts = contents.facts;
    let known: BTreeSet<_> = facts
        .known_containers()
        .iter()
        .map(ContainerName::to_string)
        .collect();
    let run = facts.identity.run;
    let mut world = match contents.damage[..] {
        [] => CoreFixture::with(facts, "boot-1"),
        _ => CoreFixture::of_damaged(facts),
    };
    assert_eq!(world.core.facts().identity.run, run + 1, "{case}");
    world.epoch = epoch;
    world.sync();
    let asked: Vec<_> = world
        .effects
        .iter()
        .filter_map(|line| line.strip_prefix("find "))
        .map(str::to_owned)
        .collect();
    for name in asked {
        let is_living = LIVING.contains(&name.as_str()) && known.contains(&name);
        let found = if is_living {
            RUNNING
        } else {
            RecoveredContainer::NeverStarted
        };
        let name: ContainerName = name.parse().unwrap();
        world.found(name.instance.order.0, found);
    }
    world.register(false);
    world.report();
    world
}

/// Damages each byte of each frame in turn.
fn each_damage(bytes: &[u8], wanted: &AgentState, epoch: u64) {
    let frames = frames(bytes);
    for (at, (range, record)) in frames.iter().enumerate() {
        let mut judged_last = None;
        for offset in range.clone() {
            let mut damaged = bytes.to_vec();
            damaged[offset] ^= 0x10;
            let case = format!("record {at} of {}, byte {offset}: {record:?}", frames.len());
            let contents = parsed(&damaged).unwrap_or_else(|error| panic!("{case}: {error}"));
            let is_last = at + 1 == frames.len();
            assert_eq!(contents.damage.len(), usize::from(!is_last), "{case}");
            assert_eq!(contents.torn_bytes > 0, is_last, "{case}");
            let own = owner(record);
            compare(&contents.facts, wanted, own, &case);
            // Nearly all bytes of a record have the same effect, and so the same next run.
            if judged_last.as_ref() != Some(&contents.facts) {
                judged_last = Some(contents.facts.clone());
                check_run(contents, epoch, own, &case);
            }
        }
    }
}

/// Orders that launched nothing, or whose tasks are no longer held.
const NO_TASKS: [u64; 5] = [5, 7, 8, 9, 10];

fn check_run(contents: JournalContents, epoch: u64, own: Option<Instance>, case: &str) {
    let world = restart_registered(contents, epoch, case);
    let output = world.effects.join("\n");
    let starts = world.effects.iter().any(|line| line.starts_with("start "));
    assert!(!starts, "{case}: a second start: {output}");
    if own != Some(instance(3)) {
        assert!(output.contains("ended 2 Finished"), "{case}: {output}");
    }
    if world.core.facts().tasks.contains_key(&instance(4)) {
        assert!(output.contains("kill 4 in 100"), "{case}: {output}");
    }
    for order in (1..=LAST).filter(|order| own != Some(instance(*order))) {
        let is_task = !NO_TASKS.contains(&order);
        let is_held = world
            .core
            .facts()
            .tasks
            .get(&instance(order))
            .is_some_and(|task| task.held);
        assert_eq!(is_held, is_task, "{case}: order {order}");
    }
    // Orders that were taken are not taken again.
    let mut world = world;
    world.discard_effects();
    world.launch(LAST, "fresh");
    world.sync();
    world.expect(&[]);
    assert_eq!(world.core.facts().floor, OrderIndex(LAST), "{case}");
}

#[test]
fn a_damaged_record_of_any_kind_affects_at_most_its_own_task() {
    let world = scenario();
    let bytes = journal_of(&world.written);
    let wanted = world.core.facts();
    assert_eq!(&parsed(&bytes).unwrap().facts, wanted);
    check_run(parsed(&bytes).unwrap(), world.epoch, None, "no damage");
    each_damage(&bytes, wanted, world.epoch);
}

#[test]
fn a_damaged_record_of_a_compacted_journal_affects_at_most_its_own_task() {
    let world = scenario();
    let bytes = compacted(world.core.facts());
    let wanted = world.core.facts();
    assert_eq!(&parsed(&bytes).unwrap().facts, wanted);
    each_damage(&bytes, wanted, world.epoch);
}

/// Returns the scenario with its end: the registry no longer knows the agent.
fn reset_scenario() -> CoreFixture {
    let mut world = scenario();
    world.receive(v1::to_agent::Message::Shutdown(v1::Shutdown {
        reason: "unknown".into(),
    }));
    world.sync();
    world
}

#[test]
fn the_scenarios_contain_every_record_kind() {
    let journals = [
        journal_of(&scenario().written),
        compacted(scenario().core.facts()),
        journal_of(&reset_scenario().written),
    ];
    let frames = journals.iter().flat_map(|bytes| frames(bytes));
    let found: BTreeSet<_> = frames.map(|(_, record)| kind(&record)).collect();
    assert_eq!(found, BTreeSet::from(KINDS));
}

#[test]
fn a_retired_agent_id_stays_retired_without_its_record() {
    let world = reset_scenario();
    let wanted = world.core.facts().clone();
    assert_eq!(wanted.identity.agent, None);
    let bytes = journal_of(&world.written);
    let frames = frames(&bytes);
    let forgot = |record: &JournalRecord| matches!(record, JournalRecord::IdentityReset(_));
    let (range, _) = frames.iter().find(|(_, record)| forgot(record)).unwrap();
    for offset in range.clone() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x10;
        let contents = parsed(&damaged).unwrap();
        assert_eq!(contents.damage.len(), 1, "byte {offset}");
        let facts = contents.facts;
        assert_eq!(facts.identity, wanted.identity, "byte {offset}");
        assert_eq!(
            (
                facts.floor,
                facts.by_key.len(),
                facts.digests.of(DigestKind::Task)
            ),
            (OrderIndex(0), 0, 0),
            "byte {offset}"
        );
    }
}

#[test]
fn lost_ends_are_explained_by_journal_damage() {
    let world = scenario();
    let bytes = journal_of(&world.written);
    let frames = frames(&bytes);
    let is_end = |record: &JournalRecord| match record {
        JournalRecord::Updated { instance, update } => instance.order.0 == 3 && update.number == 2,
        _ => false,
    };
    let (range, _) = frames.iter().find(|(_, record)| is_end(record)).unwrap();
    let mut damaged = bytes.clone();
    damaged[range.end - 1] ^= 0x10;
    let mut world = CoreFixture::of_damaged(parsed(&damaged).unwrap().facts);
    world.found(3, RecoveredContainer::NeverStarted);
    world.report();
    let task = &world.core.facts().tasks[&instance(3)];
    let update = wire::update(task.updates.back().unwrap());
    // The registry may have the lost update already, and ignores its number.
    assert!(update.number > 2, "{update:?}");
    assert_eq!(update.reason, i32::from(v1::Reason::AgentRestarted));
    assert!(update.text.contains("journal"), "{update:?}");
}
