//! Tests of task groups: started together, ended one after another, never half.

use argosy_proto::v1;
use argosy_state::task::{Reason, TaskState};

use super::executors::executed;
use super::world::{CoreFixture, ended, instance, spec};
use crate::core::{
    CommandExit, CommandStatus, ContainerName, CreateError, Input, RecoveredContainer, StartedFact,
    StopCause,
};
use crate::wire;

/// Returns a task of the group "pod".
pub(super) fn member(task: &str, index: u32, size: u32) -> v1::TaskSpec {
    v1::TaskSpec {
        group: Some(v1::TaskGroup {
            group_id: "pod".into(),
            place: index,
            size,
        }),
        ..spec(task)
    }
}

/// Returns a fixture with the group a, b, c under the orders 1 to 3, taken and on disk.
fn ordered() -> CoreFixture {
    let mut world = CoreFixture::registered();
    for (place, task) in (0..).zip(["a", "b", "c"]) {
        world.launch_spec(u64::from(place) + 1, member(task, place, 3));
    }
    world.sync();
    world
}

pub(super) fn fetched(world: &mut CoreFixture, order: u64, result: Result<(), &str>) {
    let instance = instance(order);
    let result = result.map_err(|why| CreateError::fetch(why.to_owned()));
    world.feed(Input::Fetched { instance, result });
}

/// Returns a fixture in which the group runs, and the masters know it.
fn running() -> CoreFixture {
    let mut world = ordered();
    (1..=3).for_each(|order| fetched(&mut world, order, Ok(())));
    (1..=3).for_each(|order| world.started(order));
    commit_all(&mut world);
    world.discard_effects();
    world
}

/// Reports and commits all changes.
fn commit_all(world: &mut CoreFixture) {
    world.report();
    for (order, task) in (1..).zip(["a", "b", "c"]) {
        let made = world.core.facts().tasks.get(&instance(order));
        if let Some(made) = made.map(|task| task.newest_update) {
            world.committed(order, task, made, false);
        }
    }
    world.sync();
}

fn stopped(world: &mut CoreFixture, order: u64) {
    let ended = CommandExit {
        stop: Some(StopCause::Ordered),
        ..ended(CommandStatus::Signal(15))
    };
    let instance = instance(order);
    world.feed(Input::Exited {
        instance,
        exit: ended,
    });
    sync(world);
}

/// Syncs until the consequences of synced records are on disk, too.
fn sync(world: &mut CoreFixture) {
    world.sync();
    world.sync();
}

fn last(world: &CoreFixture, order: u64) -> (v1::TaskState, v1::Reason, String) {
    let task = &world.core.facts().tasks[&instance(order)];
    let update = wire::update(task.updates.back().unwrap());
    (update.state(), update.reason(), update.text.clone())
}

fn group_destroyed(world: &mut CoreFixture) {
    let name: ContainerName = "1-1-0".parse().unwrap();
    world.feed(Input::Destroyed { name });
}

#[test]
fn no_task_of_a_group_is_prepared_before_all_its_orders_are_durable() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, member("a", 0, 2));
    world.sync();
    world.expect(&[]);
    world.launch_spec(2, member("b", 1, 2));
    world.expect(&[]);
    world.sync();
    world.expect(&["fetch for 1-1-1", "fetch for 1-2-1"]);
}

#[test]
fn no_task_of_a_group_starts_before_all_are_prepared() {
    let mut world = ordered();
    world.discard_effects();
    fetched(&mut world, 3, Ok(()));
    fetched(&mut world, 1, Ok(()));
    world.expect(&[]);
    fetched(&mut world, 2, Ok(()));
    world.expect(&["start 1-1-1", "start 1-2-1", "start 1-3-1"]);
}

#[test]
fn a_preparation_failure_fails_the_group() {
    let mut world = ordered();
    fetched(&mut world, 3, Ok(()));
    world.report();
    world.discard_effects();
    fetched(&mut world, 2, Err("no such file"));
    world.expect(&["cancel the fetch for 1"]);
    world.report();
    world.expect(&[
        "report a 2 Failed, b 2 Failed, c 2 Failed",
        "destroy 1-1-1",
        "destroy 1-2-1",
        "destroy 1-3-1",
    ]);
    world.destroyed(1);
    world.destroyed(2);
    world.expect(&[]);
    world.destroyed(3);
    world.expect(&["destroy group 1-1-0"]);
    assert_eq!(last(&world, 2).2, "no such file");
    let words = "its group ended because task b failed: no such file";
    for order in [1, 3] {
        let reported = (
            v1::TaskState::Failed,
            v1::Reason::FetchFailed,
            words.to_owned(),
        );
        assert_eq!(last(&world, order), reported);
    }
}

#[test]
fn nothing_of_a_group_is_started_when_the_time_of_one_task_is_over_already() {
    let mut world = CoreFixture::registered();
    let mut late = member("b", 1, 2);
    late.stop_after_ms = 2_000;
    world.launch_spec(1, member("a", 0, 2));
    world.launch_spec(2, late);
    world.sync();
    world.wait(4_000);
    world.discard_effects();
    fetched(&mut world, 1, Ok(()));
    fetched(&mut world, 2, Ok(()));
    world.expect(&[]);
    world.report();
    for order in [1, 2] {
        let (state, reason, text) = last(&world, order);
        let reported = (state, reason);
        let expected = (v1::TaskState::Failed, v1::Reason::StoppedWithoutLeader);
        assert_eq!(reported, expected, "{text}");
    }
}

#[test]
fn a_failed_task_of_a_group_kills_the_others_in_reverse_order() {
    let mut world = running();
    world.exited(2, CommandStatus::Code(1));
    world.sync();
    world.expect(&["kill 3 in 3000"]);
    stopped(&mut world, 3);
    world.expect(&["kill 1 in 3000"]);
    stopped(&mut world, 1);
    world.report();
    let words = "its group ended because task b failed: it ended; it ended";
    for order in [1, 3] {
        let reported = (
            v1::TaskState::Killed,
            v1::Reason::TaskKilled,
            words.to_owned(),
        );
        assert_eq!(last(&world, order), reported);
    }
    assert_eq!(last(&world, 2).0, v1::TaskState::Failed);
}

#[test]
fn group_kills_continue_after_each_grace_period() {
    let mut world = running();
    world.exited(1, CommandStatus::Code(1));
    world.sync();
    world.expect(&["kill 3 in 3000"]);
    world.report();
    world.discard_effects();
    world.wait(2_000);
    world.discard_effects();
    world.wait(1_000);
    world.sync();
    let output = std::mem::take(&mut world.effects);
    assert!(output.contains(&"kill 2 in 3000".to_owned()), "{output:?}");
    assert!(!output.contains(&"kill 1 in 3000".to_owned()), "{output:?}");
}

#[test]
fn a_kill_of_one_task_kills_its_group_one_task_at_a_time() {
    let mut world = running();
    world.kill(4, "a", 700);
    sync(&mut world);
    world.expect(&["kill 3 in 3000"]);
    stopped(&mut world, 3);
    world.expect(&["kill 2 in 3000"]);
    stopped(&mut world, 2);
    world.expect(&["kill 1 in 700"]);
    stopped(&mut world, 1);
    world.report();
    for order in 1..=3 {
        assert_eq!(last(&world, order).0, v1::TaskState::Killed);
    }
    let words = "its group ended because task a is to end; it ended";
    assert_eq!(last(&world, 2).2, words);
    assert_eq!(last(&world, 1).2, "it ended", "it was meant itself");
}

#[test]
fn kills_of_all_group_tasks_stay_in_order() {
    let mut world = running();
    for (order, task) in (4..).zip(["a", "b", "c"]) {
        world.kill(order, task, 500);
    }
    world.sync();
    world.expect(&["kill 3 in 500"]);
    stopped(&mut world, 3);
    world.expect(&["kill 2 in 500"]);
    // The grace period of a task that is already being killed is shortened immediately.
    world.kill(7, "b", 0);
    world.sync();
    world.expect(&["kill 2 in 0"]);
}

#[test]
fn a_finished_task_does_not_end_its_group_and_is_kept_until_the_group_ends() {
    let mut world = running();
    world.exited(1, CommandStatus::Code(0));
    world.report();
    world.committed(1, "a", 2, true);
    world.sync();
    world.destroyed(1);
    world.sync();
    world.expect(&["report a 2 Finished", "destroy 1-1-1"]);
    let kept = &world.core.facts().tasks[&instance(1)];
    assert!(!kept.held, "the masters have forgotten it");
    assert_eq!(kept.state, argosy_state::task::TaskState::Finished);
    for (order, task) in [(2, "b"), (3, "c")] {
        world.exited(order, CommandStatus::Code(0));
        world.report();
        world.committed(order, task, 2, true);
        world.sync();
        world.destroyed(order);
    }
    assert!(world.effects.contains(&"destroy group 1-1-0".to_owned()));
    assert!(world.core.facts().tasks.is_empty(), "the group has ended");
    assert!(!world.core.is_empty(), "what it shared is still there");
    group_destroyed(&mut world);
    assert!(world.core.is_empty());
}

#[test]
fn a_group_with_a_void_order_never_starts() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, member("a", 0, 2));
    world.sync();
    world.order(2, v1::order::Order::Void(v1::Void {}));
    world.sync();
    world.report();
    world.expect(&["report a 1 Failed", "destroy group 1-1-0"]);
    let words = "its group ended because one of its tasks is not on this agent";
    assert_eq!(last(&world, 1).2, words);
}

#[test]
fn a_kill_before_all_orders_arrive_ends_the_later_ones() {
    let mut world = CoreFixture::registered();
    let launch = v1::LaunchOrder {
        framework_id: "framework-1".into(),
        spec: Some(member("a", 0, 2)),
        never_start: true,
        ..v1::LaunchOrder::default()
    };
    world.order(1, v1::order::Order::Launch(launch));
    world.sync();
    world.report();
    world.committed(1, "a", 1, true);
    world.sync();
    world.expect(&["report a 1 Killed"]);
    world.launch_spec(2, member("b", 1, 2));
    world.sync();
    world.report();
    world.expect(&["report b 1 Killed", "destroy group 1-1-0"]);
    assert_eq!(last(&world, 2).1, v1::Reason::KilledDuringLaunch);
    assert_eq!(
        last(&world, 2).2,
        "its group ended because task a was killed"
    );
}

#[test]
fn a_create_failure_in_a_group_kills_its_running_tasks() {
    let mut world = ordered();
    (1..=3).for_each(|order| fetched(&mut world, order, Ok(())));
    world.started(1);
    commit_all(&mut world);
    world.discard_effects();
    let refusal = CreateError {
        reason: Reason::TaskInvalid,
        why: "no such user".into(),
    };
    let instance = instance(2);
    world.feed(Input::NotStarted { instance, refusal });
    world.sync();
    // The third is being started: its start is cancelled, which is too late, and it is killed as
    // soon as it runs.
    world.expect(&["cancel the start of 3"]);
    world.started(3);
    world.sync();
    world.expect(&["kill 3 in 3000"]);
    stopped(&mut world, 3);
    world.expect(&["kill 1 in 3000"]);
}

#[test]
fn an_unstarted_group_starts_completely_after_a_crash() {
    let mut world = ordered().restart("boot-1");
    for order in 1..=3 {
        world.found(order, RecoveredContainer::NeverStarted);
    }
    world.register(true);
    world.sync();
    let output = std::mem::take(&mut world.effects);
    let fetches: Vec<_> = output
        .iter()
        .filter(|line| line.starts_with("fetch"))
        .collect();
    assert_eq!(
        fetches,
        ["fetch for 1-1-2", "fetch for 1-2-2", "fetch for 1-3-2"]
    );
}

#[test]
fn a_partly_started_group_ends_after_a_crash() {
    let mut world = ordered();
    (1..=3).for_each(|order| fetched(&mut world, order, Ok(())));
    let mut world = world.restart("boot-1");
    let fact = StartedFact {
        pid: 7,
        at: argosy_state::ids::Timestamp(1_000),
    };
    world.found(1, RecoveredContainer::Running(fact));
    world.found(2, RecoveredContainer::NeverStarted);
    world.discard_effects();
    world.found(3, RecoveredContainer::Running(fact));
    sync(&mut world);
    let output = std::mem::take(&mut world.effects);
    assert!(output.contains(&"kill 3 in 3000".to_owned()), "{output:?}");
    stopped(&mut world, 3);
    assert!(world.effects.contains(&"kill 1 in 3000".to_owned()));
    world.report();
    let (state, reason, _) = last(&world, 2);
    assert_eq!(
        (state, reason),
        (v1::TaskState::Failed, v1::Reason::AgentRestarted)
    );
}

#[test]
fn a_group_ends_if_a_task_finished_before_its_start_was_recorded() {
    let mut world = ordered();
    (1..=3).for_each(|order| fetched(&mut world, order, Ok(())));
    let mut world = world.restart("boot-1");
    world.found(1, RecoveredContainer::Exited(ended(CommandStatus::Code(0))));
    world.found(2, RecoveredContainer::NeverStarted);
    world.found(3, RecoveredContainer::NeverStarted);
    sync(&mut world);
    world.report();
    for order in [2, 3] {
        let (state, reason, _) = last(&world, order);
        let expected = (v1::TaskState::Failed, v1::Reason::AgentRestarted);
        assert_eq!((state, reason), expected, "{order}");
    }
    assert_eq!(last(&world, 1).0, v1::TaskState::Finished);
}

#[test]
fn a_group_kill_continues_after_a_crash() {
    let mut world = running();
    world.exited(2, CommandStatus::Code(1));
    world.report();
    world.discard_effects();
    let mut world = world.restart("boot-1");
    let fact = StartedFact {
        pid: 7,
        at: argosy_state::ids::Timestamp(1_000),
    };
    world.found(1, RecoveredContainer::Running(fact));
    world.found(3, RecoveredContainer::Running(fact));
    sync(&mut world);
    assert!(world.effects.contains(&"kill 3 in 3000".to_owned()));
    assert!(!world.effects.contains(&"kill 1 in 3000".to_owned()));
    stopped(&mut world, 3);
    assert!(world.effects.contains(&"kill 1 in 3000".to_owned()));
}

#[test]
fn a_group_ends_though_a_container_of_it_cannot_be_queried() {
    let mut world = running().restart("boot-1");
    let fact = StartedFact {
        pid: 7,
        at: argosy_state::ids::Timestamp(1_000),
    };
    world.found(1, RecoveredContainer::Running(fact));
    world.found(2, RecoveredContainer::Unknown);
    world.found(3, RecoveredContainer::Running(fact));
    world.register(true);
    world.discard_effects();
    world.kill(4, "a", 100);
    sync(&mut world);
    world.expect(&["kill 3 in 3000"]);
    stopped(&mut world, 3);
    world.expect(&["kill 1 in 100"]);
    stopped(&mut world, 1);
    world.report();
    world.discard_effects();
    world.wait(5_000);
    assert!(world.effects.contains(&"find 1-2-1".to_owned()));
    world.found(2, RecoveredContainer::Unknown);
    world.report();
    assert!(world.effects.contains(&"destroy 1-2-1".to_owned()));
    let (state, _, text) = last(&world, 2);
    assert_eq!(state, v1::TaskState::Killed);
    let words = "its group ended because task a is to end; ";
    assert!(text.starts_with(words), "{text}");
}

#[test]
fn a_found_container_of_an_ending_group_is_killed() {
    let mut world = running().restart("boot-1");
    let fact = StartedFact {
        pid: 7,
        at: argosy_state::ids::Timestamp(1_000),
    };
    world.found(1, RecoveredContainer::Running(fact));
    world.found(2, RecoveredContainer::Unknown);
    world.found(3, RecoveredContainer::Running(fact));
    world.exited(3, CommandStatus::Code(1));
    sync(&mut world);
    assert!(world.effects.contains(&"kill 1 in 3000".to_owned()));
    world.discard_effects();
    world.found(2, RecoveredContainer::Running(fact));
    sync(&mut world);
    assert!(world.effects.contains(&"kill 2 in 3000".to_owned()));
}

#[test]
fn a_group_kill_waits_four_seconds_for_a_container_that_does_not_answer() {
    let mut world = running();
    world.exited(2, CommandStatus::Code(1));
    world.report();
    let mut world = world.restart("boot-1");
    let fact = StartedFact {
        pid: 7,
        at: argosy_state::ids::Timestamp(1_000),
    };
    world.found(1, RecoveredContainer::Running(fact));
    world.wait(3_900);
    sync(&mut world);
    let kill = "kill 1 in 3000".to_owned();
    assert!(!world.effects.contains(&kill), "{:?}", world.effects);
    world.wait(100);
    sync(&mut world);
    assert!(world.effects.contains(&kill), "{:?}", world.effects);
}

#[test]
fn a_group_ends_if_the_journal_lost_one_of_its_tasks() {
    let world = running();
    let mut facts = world.core.facts().clone();
    facts.tasks.remove(&instance(2));
    facts.by_key.retain(|_, held| *held != instance(2));
    let mut world = CoreFixture::with(facts, "boot-1");
    let fact = StartedFact {
        pid: 7,
        at: argosy_state::ids::Timestamp(1_000),
    };
    world.found(1, RecoveredContainer::Running(fact));
    world.found(3, RecoveredContainer::Running(fact));
    sync(&mut world);
    assert!(world.effects.contains(&"kill 3 in 3000".to_owned()));
}

#[test]
fn a_released_group_is_killed_and_removed() {
    let mut world = running();
    world.receive(v1::to_agent::Message::KillStray(v1::KillStray {
        framework_id: "framework-1".into(),
        task_id: "b".into(),
        order_index: 2,
    }));
    sync(&mut world);
    world.expect(&["kill 3 in 3000"]);
    stopped(&mut world, 3);
    stopped(&mut world, 2);
    stopped(&mut world, 1);
    world.report();
    for (order, task) in [(1, "a"), (3, "c")] {
        let made = world.core.facts().tasks[&instance(order)].newest_update;
        world.committed(order, task, made, true);
    }
    world.sync();
    for order in 1..=3 {
        world.destroyed(order);
    }
    world.sync();
    assert!(world.core.facts().tasks.is_empty());
    world.check_snapshot();
}

#[test]
fn invalid_group_positions_are_rejected() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, member("a", 1, 2));
    world.launch_spec(2, member("b", 2, 2));
    world.launch_spec(3, member("c", 0, 17));
    world.sync();
    world.report();
    for order in 1..=3 {
        let (state, reason, _) = last(&world, order);
        assert_eq!(
            (state, reason),
            (v1::TaskState::Error, v1::Reason::TaskInvalid)
        );
    }
}

#[test]
fn group_tasks_with_an_executor_are_rejected() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, member("a", 0, 3));
    let executor = v1::ExecutorSpec {
        executor_id: "e".into(),
        shell: "run".into(),
        ..v1::ExecutorSpec::default()
    };
    world.launch_spec(
        2,
        v1::TaskSpec {
            executor: Some(executor),
            ..member("b", 1, 3)
        },
    );
    world.launch_spec(3, member("c", 2, 3));
    sync(&mut world);
    world.report();
    let (state, reason, text) = last(&world, 2);
    assert_eq!(
        (state, reason),
        (v1::TaskState::Error, v1::Reason::TaskInvalid)
    );
    assert!(text.contains("executor \"e\" is to run it"), "{text}");
    let words = "its group ended because b has its place, and is to be none of it";
    for order in [1, 3] {
        let reported = (
            v1::TaskState::Failed,
            v1::Reason::TaskInvalid,
            words.to_owned(),
        );
        assert_eq!(last(&world, order), reported);
    }
    let is_started = |line: &&String| line.starts_with("start") || line.starts_with("fetch");
    assert_eq!(world.effects.iter().find(is_started), None);
}

#[test]
fn a_group_with_contradictory_orders_ends_and_others_continue() {
    let other = |task: &str, place, size| v1::TaskSpec {
        group: Some(v1::TaskGroup {
            group_id: "other".into(),
            place,
            size,
        }),
        ..spec(task)
    };
    let contradictions = [
        // An invalid position, and tasks of another size, of another name, and of no group.
        (member("b", 5, 2), TaskState::Error),
        (member("b", 1, 3), TaskState::Failed),
        (other("b", 1, 2), TaskState::Failed),
        (spec("b"), TaskState::Staging),
    ];
    for (contradiction, becomes) in contradictions {
        let mut world = CoreFixture::registered();
        world.launch_spec(1, member("a", 0, 2));
        world.launch_spec(2, contradiction.clone());
        // A task of another group, which ends no wait.
        world.launch_spec(3, spec("c"));
        sync(&mut world);
        world.report();
        assert_eq!(
            last(&world, 1).0,
            v1::TaskState::Failed,
            "{contradiction:?}"
        );
        let state = |order| world.core.facts().tasks[&instance(order)].state;
        assert_eq!(state(2), becomes, "{contradiction:?}");
        assert_eq!(state(3), TaskState::Staging);
        let starts = world
            .effects
            .iter()
            .filter(|line| line.starts_with("start"));
        let ungrouped = if contradiction.group.is_none() { 2 } else { 1 };
        assert_eq!(starts.count(), ungrouped, "{contradiction:?}");
        world.destroyed(1);
        world.committed(1, "a", 1, true);
        world.sync();
        assert!(!world.core.facts().tasks.contains_key(&instance(1)));
    }
}

/// The orders of a group contradict that of an executor's task.
#[test]
fn a_group_with_the_order_of_an_executor_is_released() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, executed("a"));
    world.launch_spec(2, member("b", 1, 2));
    sync(&mut world);
    world.report();
    assert!(!world.core.executors.is_empty());
    assert!(world.effects.contains(&"destroy group 1-1-0".to_owned()));
    group_destroyed(&mut world);
    assert!(world.core.groups.are_released());
}

#[test]
fn updates_contain_cause_codes_and_the_length_of_external_text() {
    let mut world = running();
    world.exited(2, CommandStatus::Code(1));
    world.sync();
    stopped(&mut world, 3);
    stopped(&mut world, 1);
    world.report();
    let tasks = &world.core.facts().tasks;
    let updates = tasks.values().flat_map(|task| &task.updates);
    let updates = updates.map(wire::update);
    let named: Vec<_> = updates
        .filter(|update| !update.causes.is_empty())
        .map(|update| {
            let cause = &update.causes[0];
            let detail = &update.text[update.text.len() - update.detail_bytes as usize..];
            (
                cause.code.clone(),
                cause.arguments.clone(),
                detail.to_owned(),
            )
        })
        .collect();
    let wanted = ("group-task-failed".to_owned(), vec!["b".to_owned()]);
    assert!(!named.is_empty());
    for (code, arguments, detail) in named {
        assert_eq!((code, arguments), wanted);
        assert!(detail.contains("it ended"), "{detail}");
    }
}
