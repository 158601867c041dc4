//! Tests of the end of tasks that exceed their disk limits.

use argosy_proto::v1;
use nix::sys::signal::Signal;
use prost::Message as _;

use super::executors::executed;
use super::groups::{fetched, member};
use super::tasks::{last_update, reason};
use super::world::{CoreFixture, ended, file, instance, spec};
use crate::core::{CommandExit, CommandStatus, Input, RecoveredContainer, StartedFact, StopCause};
use crate::wire;

const MIB: u64 = 1024 * 1024;
const WHY: &str = "out of disk: used 3 MiB of 2 MiB";

fn amount(milli: i64) -> v1::Resource {
    v1::Resource {
        name: "disk".into(),
        value: Some(v1::resource::Value::ScalarMilli(milli)),
        ..v1::Resource::default()
    }
}

/// Returns a fixture in which a task "web" runs with a limit of 2 MiB.
fn limited() -> CoreFixture {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.resources.push(amount(2_000));
    world.launch_spec(1, wanted);
    world.sync();
    world.discard_effects();
    world.started(1);
    world
}

/// Returns the end of a command that the agent has killed.
fn killed() -> CommandExit {
    CommandExit {
        stop: Some(StopCause::Ordered),
        ..ended(CommandStatus::Signal(9))
    }
}

fn over(world: &mut CoreFixture) {
    world.feed(Input::DiskLimitExceeded {
        instance: instance(1),
        why: WHY.into(),
    });
}

#[test]
fn limited_tasks_are_measured_in_every_run_of_the_agent() {
    let mut world = limited();
    let measure = format!("measure 1-1-1 up to {}", 2 * MIB);
    world.expect(&[&measure]);
    world.report();
    world.discard_effects();
    let mut next = world.restart("boot-1");
    next.feed(Input::Begin);
    next.sync();
    next.discard_effects();
    let fact = StartedFact {
        pid: 77,
        at: argosy_state::ids::Timestamp(0),
    };
    next.found(1, RecoveredContainer::Running(fact));
    next.expect(&[&measure]);
}

#[test]
fn tasks_without_a_disk_limit_are_measured() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    world.discard_effects();
    world.started(1);
    let measured = world.effects.iter().any(|line| line == "measure 1-1-1");
    assert!(measured, "{:?}", world.effects);
}

#[test]
fn a_task_over_its_disk_limit_is_killed_and_fails_with_both_sizes() {
    let mut world = limited();
    world.report();
    world.discard_effects();
    over(&mut world);
    world.wait(5);
    // The next run must know the reason.
    world.expect_all(&["persist update 1: Killing"]);
    over(&mut world);
    world.expect(&[]);
    world.sync();
    world.expect(&["report web 2 Killing", "kill 1 in 0"]);
    let instance = instance(1);
    world.feed(Input::Exited {
        instance,
        exit: killed(),
    });
    world.report();
    world.expect(&["report web 3 Failed", "destroy 1-1-1"]);
    assert_eq!(reason(&world, 1), v1::Reason::LimitDisk);
    // A late measurement does not affect a task that has ended.
    over(&mut world);
    world.report();
    world.expect(&[]);
}

#[test]
fn a_task_whose_fetched_files_exceed_its_disk_limit_fails_without_a_start() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.resources.push(amount(2_000));
    wanted.uris.push(file());
    world.launch_spec(1, wanted);
    world.sync();
    world.report();
    let measure = format!("measure 1-1-1 up to {}", 2 * MIB);
    world.expect(&["fetch for 1-1-1", &measure, "report web 1 Starting"]);
    over(&mut world);
    world.report();
    world.expect(&[
        "cancel the fetch for 1",
        "report web 2 Failed",
        "destroy 1-1-1",
    ]);
    assert_eq!(reason(&world, 1), v1::Reason::LimitDisk);
    assert_eq!(last_update(&world, 1).text, WHY);
    let instance = instance(1);
    let result = Ok(());
    world.feed(Input::Fetched { instance, result });
    world.expect_all(&[]);
}

#[test]
fn an_ordered_kill_takes_precedence_over_a_disk_excess() {
    let mut world = limited();
    world.report();
    over(&mut world);
    world.kill(2, "web", 5);
    world.sync();
    world.report();
    world.discard_effects();
    let instance = instance(1);
    world.feed(Input::Exited {
        instance,
        exit: killed(),
    });
    world.report();
    assert_eq!(reason(&world, 1), v1::Reason::TaskKilled);
}

#[test]
fn a_disk_excess_keeps_its_reason_over_a_restart_before_the_exit() {
    let over_limit = || {
        let mut world = limited();
        world.report();
        over(&mut world);
        world.report();
        // The record is compacted after the registry has the update.
        world.committed(1, "web", 2, false);
        world.sync();
        world.check_snapshot();
        let mut next = world.restart("boot-1");
        next.discard_effects();
        next
    };
    let mut world = over_limit();
    let fact = StartedFact {
        pid: 77,
        at: argosy_state::ids::Timestamp(0),
    };
    world.found(1, RecoveredContainer::Running(fact));
    assert!(world.take_effects().contains(&"kill 1 in 0".to_owned()));
    world.feed(Input::Exited {
        instance: instance(1),
        exit: killed(),
    });
    world.report();
    let mut exited = over_limit();
    exited.found(1, RecoveredContainer::Exited(killed()));
    exited.report();
    for world in [world, exited] {
        assert_eq!(reason(&world, 1), v1::Reason::LimitDisk);
        let text = last_update(&world, 1).text;
        assert_eq!(text, format!("{WHY}; it ended"));
    }
}

#[test]
fn a_disk_excess_of_an_executor_keeps_its_reason_over_a_restart_before_the_exit() {
    let over_limit = || {
        let mut world = CoreFixture::with_executor();
        world.executor_update("a", 1, 1, v1::TaskState::Running);
        world.report();
        world.discard_effects();
        over(&mut world);
        world.expect(&["kill 1 in 0"]);
        world.sync();
        world.check_snapshot();
        let mut next = world.restart("boot-1");
        next.sync();
        next.discard_effects();
        next
    };
    let mut running = over_limit();
    let fact = StartedFact {
        pid: 77,
        at: argosy_state::ids::Timestamp(0),
    };
    running.found(1, RecoveredContainer::Running(fact));
    assert!(running.take_effects().contains(&"kill 1 in 0".to_owned()));
    running.exited(1, CommandStatus::Signal(9));
    let mut exited = over_limit();
    exited.found(1, RecoveredContainer::Exited(killed()));
    for mut world in [running, exited] {
        world.report();
        assert_eq!(reason(&world, 1), v1::Reason::LimitDisk);
        assert_eq!(last_update(&world, 1).text, format!("its executor: {WHY}"));
    }
}

#[test]
fn tasks_of_an_executor_over_its_limit_are_not_started_again_after_a_restart() {
    let mut world = CoreFixture::with_executor();
    over(&mut world);
    world.launch_spec(3, executed("c"));
    world.sync();
    world.check_snapshot();
    let mut world = world.restart("boot-1");
    world.sync();
    world.found(1, RecoveredContainer::Gone);
    world.register(true);
    world.sync();
    for order in [1, 2] {
        assert_eq!(reason(&world, order), v1::Reason::LimitDisk);
    }
    let name = world.core.facts().executor_container(instance(1)).unwrap();
    world.discard_effects();
    world.feed(Input::Destroyed { name });
    world.sync();
    // It waited for the end of the executor, which never received it.
    assert!(world.take_effects().contains(&"start 1-3-2".to_owned()));
}

#[test]
fn a_disk_excess_keeps_its_reason_if_the_supervisor_is_lost_at_the_end() {
    let lost = || Input::Lost {
        instance: instance(1),
        why: "its supervisor is gone".into(),
    };
    let mut task = limited();
    task.report();
    over(&mut task);
    task.feed(lost());
    let mut hosted = CoreFixture::with_executor();
    hosted.executor_update("a", 1, 1, v1::TaskState::Running);
    hosted.report();
    over(&mut hosted);
    hosted.feed(lost());
    let mut rebooted = limited();
    rebooted.report();
    over(&mut rebooted);
    rebooted.report();
    let mut rebooted = rebooted.restart_synced("boot-2");
    rebooted.found(1, RecoveredContainer::Gone);
    for mut world in [task, hosted, rebooted] {
        world.report();
        assert_eq!(reason(&world, 1), v1::Reason::LimitDisk);
        let text = last_update(&world, 1).text;
        assert!(text.contains(WHY), "{text}");
    }
}

#[test]
fn a_disk_excess_ends_the_grace_period_of_a_kill_for_another_reason() {
    let mut killed = limited();
    killed.report();
    killed.kill(2, "web", 5_000);
    killed.sync();
    killed.discard_effects();
    over(&mut killed);
    killed.expect(&["kill 1 in 0"]);
    // An order that follows the excess has no grace period either.
    let mut world = limited();
    world.report();
    world.discard_effects();
    over(&mut world);
    world.kill(2, "web", 5_000);
    world.sync();
    world.expect(&["kill 1 in 0"]);
}

#[test]
fn a_disk_excess_on_a_full_disk_does_not_wait_for_the_journal() {
    let mut world = limited();
    world.report();
    world.feed(Input::JournalFull(true));
    world.discard_effects();
    over(&mut world);
    world.expect(&["kill 1 in 0"]);
}

#[test]
fn a_file_at_the_size_limit_ends_the_task_with_disk_exhausted() {
    let mut world = limited();
    world.report();
    world.exited(1, CommandStatus::Signal(Signal::SIGXFSZ as i32));
    world.report();
    assert_eq!(reason(&world, 1), v1::Reason::LimitDisk);
    let mut free = CoreFixture::running();
    free.exited(1, CommandStatus::Signal(Signal::SIGXFSZ as i32));
    free.report();
    assert_eq!(reason(&free, 1), v1::Reason::CommandExited);
}

/// Returns a fixture in which the group "pod" of two runs, with a limit of 2 MiB for the first.
fn grouped() -> CoreFixture {
    let mut world = CoreFixture::registered();
    for (place, task) in (0..).zip(["a", "b"]) {
        let mut wanted = member(task, place, 2);
        if place == 0 {
            wanted.resources.push(amount(2_000));
        }
        world.launch_spec(u64::from(place) + 1, wanted);
    }
    world.sync();
    (1..=2).for_each(|order| fetched(&mut world, order, Ok(())));
    world.discard_effects();
    world
}

#[test]
fn group_directories_are_measured_with_the_first_task() {
    let mut world = grouped();
    world.started(2);
    world.expect(&[]);
    world.started(1);
    world.expect(&[&format!("measure 1-1-1 with pod 1-1-0 up to {}", 2 * MIB)]);
}

/// Returns a fixture in which the first task of the group has finished, and the other one continues
/// to run.
fn without_its_first() -> CoreFixture {
    let mut world = grouped();
    (1..=2).for_each(|order| world.started(order));
    world.report();
    world.exited(1, CommandStatus::Code(0));
    world.report();
    world.discard_effects();
    world
}

#[test]
fn a_group_directory_over_its_limit_kills_the_next_running_task() {
    let mut world = without_its_first();
    over(&mut world);
    world.report();
    assert!(world.take_effects().contains(&"kill 2 in 0".to_owned()));
    let instance = instance(2);
    world.feed(Input::Exited {
        instance,
        exit: killed(),
    });
    world.report();
    assert_eq!(reason(&world, 2), v1::Reason::LimitDisk);
    let task = &world.core.facts().tasks[&instance];
    let text = wire::update(task.updates.back().unwrap()).text;
    assert!(
        text.contains("the disk of a, which has ended") && text.contains(WHY),
        "{text}"
    );
}

#[test]
fn a_restart_measures_group_directories_without_the_first_task() {
    let world = without_its_first();
    let mut next = world.restart("boot-1");
    next.feed(Input::Begin);
    next.sync();
    next.discard_effects();
    let fact = StartedFact {
        pid: 77,
        at: argosy_state::ids::Timestamp(0),
    };
    next.found(2, RecoveredContainer::Running(fact));
    next.expect(&[&format!("measure 1-1-1 with pod 1-1-0 up to {}", 2 * MIB)]);
}

#[test]
fn a_full_journal_disk_fails_launches_and_records_kills() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    world.started(1);
    world.feed(Input::JournalFull(true));
    let mut large = spec("large");
    let value = "x".repeat(100_000);
    large.environment.insert("V".into(), value);
    world.launch_spec(2, large);
    world.discard_effects();
    world.sync();
    world.expect(&[]);
    world.report();
    let task = &world.core.facts().tasks[&instance(2)];
    let update = wire::update(task.updates.back().unwrap());
    let reported = (update.state(), update.reason());
    let expected = (v1::TaskState::Failed, v1::Reason::ContainerLaunchFailed);
    assert_eq!(reported, expected);
    assert!(wire::launch(&task.launch).encoded_len() < 1_000);
    world.discard_effects();
    world.kill(3, "web", 0);
    world.sync();
    world.expect(&["kill 1 in 0"]);
}

#[test]
fn a_launch_without_disk_space_fails_after_a_restart() {
    let mut world = CoreFixture::registered();
    world.feed(Input::JournalFull(true));
    world.launch(1, "web");
    // Before its end is reported: only the launch is on disk.
    let mut next = world.restart_synced("boot-1");
    next.feed(Input::JournalFull(true));
    next.found(1, RecoveredContainer::NeverStarted);
    next.register(true);
    next.sync();
    next.report();
    let task = &next.core.facts().tasks[&instance(1)];
    let update = wire::update(task.updates.back().unwrap());
    assert_eq!(update.reason(), v1::Reason::ContainerLaunchFailed);
    assert!(update.text.contains("disk of this agent is full"));
}
