//! Tests of orders, task lifecycles and updates.

use argosy_proto::v1;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_state::digest::DigestKind;
use argosy_state::task::Reason;

use super::world::{CoreFixture, ended, file, instance, spec};
use crate::core::{CommandExit, CommandStatus, CreateError, Input, StopCause};
use crate::wire;

pub(super) fn last_update(world: &CoreFixture, order: u64) -> v1::NumberedUpdate {
    world.core.facts().tasks[&instance(order)]
        .updates
        .back()
        .map(wire::update)
        .unwrap()
}

pub(super) fn reason(world: &CoreFixture, order: u64) -> v1::Reason {
    v1::Reason::try_from(last_update(world, order).reason).unwrap()
}

#[test]
fn a_launch_is_durable_before_it_starts() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.expect_all(&["persist order 1: launch web"]);
    world.sync();
    world.expect_all(&["start 1-1-1"]);
}

#[test]
fn starts_without_files_are_prepared_before_the_order_is_durable() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    assert_eq!(world.prepared, ["1-1-1"]);
    // Killed in the same sync: the preparation is removed, without a start.
    world.kill(2, "web", 0);
    world.sync();
    world.report();
    world.expect(&["report web 1 Killed", "destroy 1-1-1"]);
}

#[test]
fn starts_with_files_are_not_prepared() {
    let mut world = CoreFixture::registered();
    let mut fetching = spec("web");
    fetching.uris.push(file());
    world.launch_spec(1, fetching);
    assert_eq!(world.prepared, [""; 0]);
}

#[test]
fn an_update_is_durable_before_it_is_sent() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    world.started(1);
    world.discard_effects();
    world.wait(5);
    world.expect_all(&["persist update 1: Running"]);
    world.sync();
    world.expect_all(&["report web 1 Running"]);
}

#[test]
fn a_quiet_agent_reports_immediately_and_a_busy_one_batches() {
    let mut world = CoreFixture::registered();
    world.launch(1, "one");
    world.launch(2, "other");
    world.sync();
    world.started(1);
    world.discard_effects();
    world.wait(0);
    world.expect_all(&["persist update 1: Running"]);
    world.sync();
    world.discard_effects();
    world.wait(10);
    world.started(2);
    world.discard_effects();
    world.wait(1);
    world.expect_all(&[]);
    world.wait(1);
    world.expect_all(&["persist update 2: Running"]);
}

#[test]
fn ends_are_reported_before_other_changes() {
    let mut world = CoreFixture::registered();
    for order in 1..=3 {
        world.launch(order, &format!("task-{order}"));
    }
    world.sync();
    world.started(1);
    world.wait(0);
    world.sync();
    world.wait(10);
    world.started(2);
    world.exited(1, CommandStatus::Code(0));
    world.discard_effects();
    world.wait(0);
    world.expect_all(&["persist update 1: Finished"]);
    // The next end waits for others within two milliseconds, and the start for as long as any end.
    world.exited(3, CommandStatus::Code(0));
    world.wait(1);
    world.expect_all(&[]);
    world.wait(1);
    world.expect_all(&["persist update 2: Running", "persist update 3: Finished"]);
}

#[test]
fn a_repeated_order_does_nothing() {
    let mut world = CoreFixture::running();
    world.launch(1, "web");
    world.launch(1, "other");
    world.kill(1, "web", 0);
    world.sync();
    world.expect_all(&[]);
}

#[test]
fn an_order_after_a_gap_is_rejected_and_closes_the_link() {
    let mut world = CoreFixture::running();
    world.launch(3, "late");
    world.sync();
    world.expect(&["hang up: order 3 arrived after order 1", "dial"]);
    assert_eq!(world.core.facts().floor.0, 1);
}

#[test]
fn unknown_orders_are_acknowledged_and_later_ones_accepted() {
    let mut world = CoreFixture::running();
    let unknown = v1::Order {
        index: 2,
        ..v1::Order::default()
    };
    world.receive(ToAgent::Order(unknown.clone()));
    world.expect_all(&["persist order 2: nothing", "order 2 is unknown"]);
    // A repeat has no effect, whatever its kind.
    world.receive(ToAgent::Order(unknown));
    world.expect_all(&[]);
    world.launch(3, "next");
    world.sync();
    assert_eq!(world.core.facts().floor.0, 3);
}

/// The kind of subject is one of a later release: its field is not read.
#[test]
fn orders_with_unknown_subjects_are_acknowledged_without_effect() {
    let mut world = CoreFixture::running();
    let kill = v1::KillOrder {
        framework_id: "framework-1".into(),
        task_id: "web".into(),
        grace_ms: 0,
    };
    let unknown = v1::Subject { subject: None };
    world.order_about(2, v1::order::Order::Kill(kill), unknown);
    world.expect_all(&["persist order 2: nothing", "order 2 is unknown"]);
    world.launch(3, "next");
    world.sync();
    assert_eq!(world.core.facts().floor.0, 3);
}

#[test]
fn the_subject_of_an_order_names_its_task() {
    let subject = |task: &str| v1::Subject {
        subject: Some(v1::subject::Subject::Task(v1::TaskSubject {
            framework_id: "framework-1".into(),
            task_id: task.into(),
        })),
    };
    let mut world = CoreFixture::running();
    let kill = v1::order::Order::Kill(v1::KillOrder::default());
    world.order_about(2, kill, subject("web"));
    world.sync();
    world.expect(&["kill 1 in 0"]);
    // A launch that contradicts its subject starts nothing.
    let launch = v1::LaunchOrder {
        framework_id: "framework-1".into(),
        spec: Some(spec("other")),
        ..v1::LaunchOrder::default()
    };
    world.order_about(3, v1::order::Order::Launch(launch), subject("next"));
    world.expect_all(&["persist order 3: nothing"]);
}

#[test]
fn a_void_order_only_raises_the_floor() {
    let mut world = CoreFixture::registered();
    world.order(1, v1::order::Order::Void(v1::Void {}));
    world.expect_all(&["persist order 1: nothing"]);
    // One stands for all numbers up to its own.
    world.order(4, v1::order::Order::Void(v1::Void {}));
    world.expect_all(&["persist order 4: nothing"]);
    world.launch(4, "late");
    world.launch(5, "web");
    world.sync();
    world.expect(&["start 1-5-1"]);
}

#[test]
fn a_task_killed_before_its_launch_is_durable_never_starts() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.kill(2, "web", 0);
    world.sync();
    world.report();
    world.expect(&["report web 1 Killed", "destroy 1-1-1"]);
    assert_eq!(reason(&world, 1), v1::Reason::KilledDuringLaunch);
}

#[test]
fn a_killed_launch_never_starts() {
    let mut world = CoreFixture::registered();
    world.order(
        1,
        v1::order::Order::Launch(v1::LaunchOrder {
            framework_id: "framework-1".into(),
            spec: Some(spec("web")),
            never_start: true,
            ..v1::LaunchOrder::default()
        }),
    );
    world.sync();
    world.report();
    world.expect(&["report web 1 Killed"]);
}

#[test]
fn a_task_killed_while_its_files_are_fetched_never_starts() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.uris.push(file());
    world.launch_spec(1, wanted);
    world.sync();
    world.report();
    world.expect(&["fetch for 1-1-1", "report web 1 Starting"]);
    world.kill(2, "web", 0);
    world.sync();
    world.report();
    world.expect(&[
        "cancel the fetch for 1",
        "report web 2 Killed",
        "destroy 1-1-1",
    ]);
    let instance = instance(1);
    world.feed(Input::Fetched {
        instance,
        result: Ok(()),
    });
    world.expect_all(&[]);
}

#[test]
fn fetch_progress_is_reported_until_the_fetch_ends() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.uris.push(file());
    world.launch_spec(1, wanted);
    world.sync();
    world.report();
    let instance = instance(1);
    let fetching = |text: &str| Input::Fetching {
        instance,
        progress: text.into(),
    };
    world.expect(&["fetch for 1-1-1", "report web 1 Starting"]);
    assert_eq!(last_update(&world, 1).text, "fetching its files");
    world.feed(fetching("fetching x: 1.0 MiB of 9.0 MiB"));
    world.report();
    world.expect(&["report web 2 Starting"]);
    assert_eq!(
        last_update(&world, 1).text,
        "fetching x: 1.0 MiB of 9.0 MiB"
    );
    world.feed(Input::Fetched {
        instance,
        result: Ok(()),
    });
    world.feed(fetching("late"));
    world.report();
    world.expect(&["start 1-1-1"]);
    assert_eq!(last_update(&world, 1).number, 2, "nothing is reported late");
}

#[test]
fn a_failed_fetch_fails_the_task_with_its_explanation() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.uris.push(file());
    world.launch_spec(1, wanted);
    world.sync();
    let instance = instance(1);
    world.feed(Input::Fetched {
        instance,
        result: Err(CreateError::fetch("cannot fetch \"x\"")),
    });
    world.report();
    assert_eq!(reason(&world, 1), v1::Reason::FetchFailed);
    assert_eq!(last_update(&world, 1).text, "cannot fetch \"x\"");
    // Its acquired resources are released.
    world.expect(&["fetch for 1-1-1", "report web 1 Failed", "destroy 1-1-1"]);
}

#[test]
fn a_kill_during_a_start_is_applied_after_the_start() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    world.kill(2, "web", 250);
    world.sync();
    world.expect(&["start 1-1-1", "cancel the start of 1"]);
    world.started(1);
    world.report();
    world.expect(&["kill 1 in 250", "report web 1 Killing"]);
}

#[test]
fn a_kill_during_a_start_waits_for_its_record() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    world.discard_effects();
    world.kill(2, "web", 250);
    world.started(1);
    world.expect(&[]);
    world.sync();
    let effects = world.take_effects();
    assert!(effects.contains(&"kill 1 in 250".to_owned()), "{effects:?}");
}

#[test]
fn a_killed_task_that_exits_with_0_is_reported_as_killed() {
    let mut world = CoreFixture::running();
    world.kill(2, "web", 3_000);
    world.sync();
    world.report();
    world.expect(&["kill 1 in 3000", "report web 2 Killing"]);
    world.exited(1, CommandStatus::Code(0));
    world.report();
    world.expect(&["report web 3 Killed", "destroy 1-1-1"]);
    assert_eq!(
        last_update(&world, 1).exit.unwrap().how,
        Some(v1::exit::How::Code(0))
    );
}

#[test]
fn a_kill_cancels_a_pending_start() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    world.expect(&["start 1-1-1"]);
    world.kill(2, "web", 3_000);
    world.sync();
    world.expect(&["cancel the start of 1"]);
    world.feed(Input::NotStarted {
        instance: instance(1),
        refusal: CreateError {
            reason: Reason::KilledDuringLaunch,
            why: "called off".into(),
        },
    });
    world.report();
    world.expect(&["report web 1 Killed", "destroy 1-1-1"]);
    assert_eq!(reason(&world, 1), v1::Reason::KilledDuringLaunch);
}

#[test]
fn a_second_kill_only_shortens_the_grace_period() {
    let mut world = CoreFixture::running();
    world.kill(2, "web", 3_000);
    world.kill(3, "web", 9_000);
    world.kill(4, "web", 10);
    world.sync();
    let graces: Vec<_> = world
        .effects
        .iter()
        .filter(|line| line.starts_with("kill"))
        .collect();
    assert_eq!(
        graces, ["kill 1 in 10"; 3],
        "each carries the shortest that is known by then"
    );
}

#[test]
fn a_kill_of_an_unknown_task_only_raises_the_floor() {
    let mut world = CoreFixture::running();
    world.kill(2, "nobody", 0);
    world.sync();
    world.expect_all(&["persist order 2: nothing"]);
}

#[test]
fn a_command_that_ends_at_once_is_never_reported_as_running() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    world.started(1);
    world.exited(1, CommandStatus::Code(0));
    world.report();
    world.expect(&["start 1-1-1", "report web 1 Finished", "destroy 1-1-1"]);
}

#[test]
fn simultaneous_changes_share_one_message() {
    let mut world = CoreFixture::registered();
    for (order, task) in [(1, "a"), (2, "b"), (3, "c")] {
        world.launch(order, task);
    }
    world.sync();
    (1..=3).for_each(|order| world.started(order));
    world.discard_effects();
    world.report();
    world.expect(&["report a 1 Running, b 1 Running, c 1 Running"]);
}

#[test]
fn exit_statuses_are_reported_exactly() {
    use CommandStatus::{Code, NotStarted, Signal};
    let stopped = |stop, text: &str| CommandExit {
        stop: Some(stop),
        why: text.into(),
        ..ended(Signal(15))
    };
    let cases = [
        (ended(Code(0)), "Finished", v1::Reason::CommandExited),
        (ended(Code(7)), "Failed", v1::Reason::CommandExited),
        (ended(Signal(11)), "Failed", v1::Reason::CommandExited),
        (ended(NotStarted), "Failed", v1::Reason::CommandNotStarted),
        (
            CommandExit {
                out_of_memory: true,
                ..ended(Signal(9))
            },
            "Failed",
            v1::Reason::LimitMemory,
        ),
        (
            stopped(StopCause::StopAfter, "no leader"),
            "Failed",
            v1::Reason::StoppedWithoutLeader,
        ),
    ];
    for (ended, state, why) in cases {
        let mut world = CoreFixture::running();
        let instance = instance(1);
        world.feed(Input::Exited {
            instance,
            exit: ended,
        });
        world.report();
        world.expect(&[&format!("report web 2 {state}"), "destroy 1-1-1"]);
        assert_eq!(reason(&world, 1), why);
    }
}

#[test]
fn a_create_failure_is_an_error_only_for_invalid_tasks() {
    for (why, state) in [
        (Reason::TaskInvalid, "Error"),
        (Reason::ContainerLaunchFailed, "Failed"),
    ] {
        let mut world = CoreFixture::registered();
        world.launch(1, "web");
        world.sync();
        world.discard_effects();
        world.feed(Input::NotStarted {
            instance: instance(1),
            refusal: CreateError {
                reason: why,
                why: "no".into(),
            },
        });
        world.report();
        world.expect(&[&format!("report web 1 {state}"), "destroy 1-1-1"]);
    }
}

#[test]
fn a_task_past_its_deadline_is_killed_and_fails() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.max_completion_ms = 500;
    world.launch_spec(1, wanted);
    world.sync();
    world.started(1);
    world.wait(499);
    world.discard_effects();
    world.wait(1);
    world.expect(&["kill 1 in 3000"]);
    world.feed(Input::Exited {
        instance: instance(1),
        exit: CommandExit {
            stop: Some(StopCause::Ordered),
            ..ended(CommandStatus::Signal(15))
        },
    });
    world.report();
    assert_eq!(reason(&world, 1), v1::Reason::MaxCompletionTime);
}

#[test]
fn an_update_is_sent_again_on_every_link_until_it_is_committed() {
    let mut world = CoreFixture::running();
    world.exited(1, CommandStatus::Code(0));
    world.report();
    for _ in 0..2 {
        world.feed(Input::Disconnected {
            link: world.link,
            why: "gone".into(),
        });
        world.discard_effects();
        world.register(true);
        world.expect(&["report web 2 Finished"]);
    }
    world.committed(1, "web", 2, false);
    world.feed(Input::Disconnected {
        link: world.link,
        why: "gone".into(),
    });
    world.discard_effects();
    world.register(true);
    world.expect(&[]);
}

#[test]
fn a_late_or_repeated_commit_changes_nothing() {
    let mut world = CoreFixture::running();
    let before = world.core.facts().clone();
    world.committed(1, "web", 1, false);
    world.committed(1, "web", 0, false);
    world.committed(9, "web", 9, true);
    assert_eq!(world.core.facts(), &before);
}

#[test]
fn released_tasks_are_removed_from_facts_and_digest() {
    let mut world = CoreFixture::running();
    world.exited(1, CommandStatus::Code(0));
    world.report();
    world.discard_effects();
    world.committed(1, "web", 2, true);
    assert_eq!(world.core.facts().digests.of(DigestKind::Task), 0);
    assert!(world.core.facts().by_key.is_empty());
    world.destroyed(1);
    assert!(world.core.facts().tasks.is_empty() && world.core.is_empty());
    world.expect_all(&[
        "persist commit 1: 2",
        "persist stray 1",
        "persist release 1",
    ]);
}

#[test]
fn a_released_running_task_is_killed_without_updates() {
    let mut world = CoreFixture::running();
    world.committed(1, "web", 1, true);
    world.sync();
    world.expect(&["kill 1 in 3000"]);
    world.exited(1, CommandStatus::Signal(15));
    world.wait(10);
    world.expect(&["destroy 1-1-1"]);
    world.destroyed(1);
    assert!(world.core.facts().tasks.is_empty());
}

#[test]
fn relaunching_a_name_kills_the_previous_instance() {
    let mut world = CoreFixture::running();
    world.launch(2, "web");
    world.sync();
    world.expect(&["kill 1 in 3000", "start 1-2-1"]);
    world.started(2);
    world.report();
    world.expect(&["report web 1 Running"]);
    world.exited(1, CommandStatus::Signal(15));
    world.destroyed(1);
    assert_eq!(world.core.facts().tasks.len(), 1);
}

#[test]
fn a_task_fails_when_its_supervisor_is_lost() {
    let mut world = CoreFixture::running();
    world.feed(Input::Lost {
        instance: instance(1),
        why: "its supervisor is gone".into(),
    });
    world.report();
    world.expect(&["report web 2 Failed", "destroy 1-1-1"]);
}
