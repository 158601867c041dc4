//! Tests of restarts: the state of the previous run in the next one.

use argosy_proto::v1;
use argosy_state::ids::Timestamp;

use super::world::{CoreFixture, ended, instance};
use crate::core::{CommandExit, CommandStatus, RecoveredContainer, StartedFact, StopCause};
use crate::wire;

const RUNNING: RecoveredContainer = RecoveredContainer::Running(StartedFact {
    pid: 77,
    at: Timestamp(1_000),
});

fn reason(world: &CoreFixture) -> v1::Reason {
    let update = world.core.facts().tasks[&instance(1)]
        .updates
        .back()
        .map(wire::update)
        .unwrap();
    v1::Reason::try_from(update.reason).unwrap()
}

#[test]
fn running_tasks_are_adopted_before_the_agent_contacts_a_master() {
    let mut world = CoreFixture::running().restart("boot-1");
    world.sync();
    world.expect(&["find 1-1-1"]);
    world.found(1, RUNNING);
    world.sync();
    world.expect(&["dial"]);
    world.register(true);
    // The record of the commit was not synced by itself: the update is sent again, and nothing is
    // lost.
    world.report();
    world.expect(&["report web 1 Running"]);
    world.exited(1, CommandStatus::Code(0));
    world.report();
    world.expect(&["report web 2 Finished", "destroy 1-1-1"]);
}

#[test]
fn an_exit_between_two_runs_of_the_agent_is_reported_with_its_status() {
    let mut world = CoreFixture::running().restart("boot-1");
    world.found(1, RecoveredContainer::Exited(ended(CommandStatus::Code(9))));
    world.register(true);
    world.discard_effects();
    world.report();
    world.expect(&["report web 2 Failed", "destroy 1-1-1"]);
    world.check_snapshot();
    assert_eq!(reason(&world), v1::Reason::CommandExited);
    let task = &world.core.facts().tasks[&instance(1)];
    let exit = wire::update(task.updates.back().unwrap()).exit.unwrap();
    assert_eq!(exit.how, Some(v1::exit::How::Code(9)));
}

#[test]
fn a_task_whose_outcome_is_unknown_fails_with_an_explanation() {
    for (boot, why) in [
        ("boot-1", v1::Reason::AgentRestarted),
        ("boot-2", v1::Reason::AgentRebooted),
    ] {
        let mut world = CoreFixture::running().restart(boot);
        world.found(1, RecoveredContainer::Gone);
        world.report();
        assert_eq!(reason(&world), why);
    }
}

#[test]
fn a_task_that_was_to_be_killed_is_killed_if_its_container_is_gone() {
    for boot in ["boot-1", "boot-2"] {
        let mut world = CoreFixture::running();
        world.kill(2, "web", 60_000);
        world.sync();
        let mut world = world.restart(boot);
        world.found(1, RecoveredContainer::Gone);
        world.register(true);
        world.report();
        assert!(
            world
                .take_effects()
                .contains(&"report web 2 Killed".to_owned())
        );
        assert_eq!(reason(&world), v1::Reason::TaskKilled);
    }
}

#[test]
fn a_launch_that_never_started_is_started_after_registration() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    let mut world = world.restart("boot-1");
    world.sync();
    world.expect(&["find 1-1-1"]);
    world.found(1, RecoveredContainer::NeverStarted);
    world.sync();
    world.expect(&["dial"]);
    world.register(true);
    world.sync();
    world.expect(&["start 1-1-2"]);
}

#[test]
fn a_launch_that_may_have_started_before_a_reboot_is_not_started_again() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    let mut world = world.restart("boot-2");
    world.found(1, RecoveredContainer::NeverStarted);
    world.register(true);
    world.report();
    assert_eq!(reason(&world), v1::Reason::AgentRebooted);
}

#[test]
fn a_run_that_ends_before_it_reports_a_reboot_does_not_hide_it() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    let mut world = world.restart("boot-2");
    world.sync();
    let mut world = world.restart("boot-2");
    world.found(1, RecoveredContainer::NeverStarted);
    world.register(true);
    world.report();
    assert_eq!(reason(&world), v1::Reason::AgentRebooted);
    // Containers that this boot's runs start belong to this boot.
    world.launch(2, "db");
    world.sync();
    let mut world = world.restart("boot-2");
    world.found(2, RecoveredContainer::NeverStarted);
    world.register(true);
    world.discard_effects();
    world.sync();
    world.expect(&["start 1-2-4"]);
}

#[test]
fn a_task_that_ran_is_never_started_again_whatever_its_files_contain() {
    let mut world = CoreFixture::running().restart("boot-1");
    world.found(1, RecoveredContainer::NeverStarted);
    world.register(true);
    world.report();
    assert_eq!(reason(&world), v1::Reason::AgentRestarted);
}

#[test]
fn a_kill_that_was_not_executed_is_executed_after_a_restart() {
    let mut world = CoreFixture::running();
    world.kill(2, "web", 100);
    world.sync();
    let mut world = world.restart("boot-1");
    world.discard_effects();
    world.found(1, RUNNING);
    world.sync();
    world.expect(&["kill 1 in 100", "dial"]);
}

#[test]
fn a_kill_of_an_unstarted_task_needs_no_start() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.kill(2, "web", 100);
    world.sync();
    let mut world = world.restart("boot-1");
    world.found(1, RecoveredContainer::NeverStarted);
    world.register(true);
    world.discard_effects();
    world.report();
    world.expect(&["report web 1 Killed", "destroy 1-1-1"]);
}

#[test]
fn orders_that_were_not_durable_are_resent() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    let mut world = world.restart("boot-1");
    assert_eq!(world.core.facts().floor.0, 0);
    world.register(false);
    world.discard_effects();
    world.launch(1, "web");
    world.sync();
    world.expect(&["start 1-1-2"]);
}

#[test]
fn a_recorded_end_is_resent_and_its_container_is_removed() {
    let mut world = CoreFixture::running();
    world.exited(1, CommandStatus::Code(0));
    world.report();
    let mut world = world.restart("boot-1");
    world.sync();
    world.expect(&["destroy 1-1-1", "dial"]);
    world.register(true);
    world.expect(&["report web 2 Finished"]);
}

#[test]
fn orphans_of_the_previous_run_are_killed() {
    let mut world = CoreFixture::running();
    world.receive(v1::to_agent::Message::KillStray(v1::KillStray {
        framework_id: "framework-1".into(),
        task_id: "web".into(),
        order_index: 1,
    }));
    world.sync();
    let mut world = world.restart("boot-1");
    world.discard_effects();
    world.found(1, RUNNING);
    world.sync();
    world.expect(&["kill 1 in 3000", "dial"]);
    world.exited(1, CommandStatus::Signal(9));
    world.report();
    world.expect(&["destroy 1-1-1"]);
}

/// Returns a world in which order 1 runs, and must end within 500 ms.
fn running_with_deadline() -> CoreFixture {
    let mut world = CoreFixture::registered();
    let mut wanted = super::world::spec("web");
    wanted.max_completion_ms = 500;
    world.launch_spec(1, wanted);
    world.sync();
    world.started(1);
    world.report();
    world
}

#[test]
fn downtime_counts_against_the_completion_deadline() {
    let mut world = running_with_deadline().restart("boot-1");
    world.discard_effects();
    world.now = 5_000;
    world.found(1, RUNNING);
    world.wait(0);
    assert!(
        world.effects.contains(&"kill 1 in 3000".to_owned()),
        "{:?}",
        world.effects
    );
}

/// A task may exit with 0 in its grace period, while the agent restarts.
#[test]
fn a_task_that_was_ended_at_its_completion_deadline_has_failed_after_a_restart() {
    let exited = |stop| {
        RecoveredContainer::Exited(CommandExit {
            stop,
            ..ended(CommandStatus::Code(0))
        })
    };
    for (is_late, stop, expected) in [
        (
            true,
            Some(StopCause::Ordered),
            v1::Reason::MaxCompletionTime,
        ),
        (true, None, v1::Reason::CommandExited),
        (false, Some(StopCause::Ordered), v1::Reason::CommandExited),
    ] {
        let mut world = running_with_deadline();
        world.wait(if is_late { 500 } else { 400 });
        let is_killed = world.effects.contains(&"kill 1 in 3000".to_owned());
        assert_eq!(is_killed, is_late, "{:?}", world.effects);
        let now = world.now;
        let mut world = world.restart("boot-1");
        world.now = now;
        world.sync();
        world.found(1, exited(stop));
        world.register(true);
        world.report();
        assert_eq!(reason(&world), expected, "{is_late} {stop:?}");
    }
}

#[test]
fn completion_deadlines_count_from_the_journaled_start() {
    let mut world = CoreFixture::registered();
    world.now = 100_000;
    let wanted = v1::TaskSpec {
        max_completion_ms: 60_000,
        ..super::world::spec("web")
    };
    world.launch_spec(1, wanted);
    world.sync();
    world.started(1);
    world.report();
    let mut world = world.restart("boot-1");
    world.now = 130_000;
    let fact = StartedFact {
        pid: 77,
        at: Timestamp(0),
    };
    world.found(1, RecoveredContainer::Running(fact));
    world.register(true);
    let is_killed = |world: &CoreFixture| world.effects.iter().any(|line| line.starts_with("kill"));
    for at in [130_000, 159_999] {
        world.now = at;
        world.wait(0);
        assert!(!is_killed(&world), "at {at}: {:?}", world.effects);
    }
    world.wait(1);
    assert!(is_killed(&world), "{:?}", world.effects);
}

#[test]
fn the_completion_deadline_of_an_ended_task_is_removed() {
    for restarts in [false, true] {
        let mut world = CoreFixture::registered();
        let wanted = v1::TaskSpec {
            max_completion_ms: 86_400_000,
            ..super::world::spec("web")
        };
        world.launch_spec(1, wanted);
        world.sync();
        world.started(1);
        world.sync();
        if restarts {
            world = world.restart("boot-1");
            let fact = StartedFact {
                pid: 77,
                at: Timestamp(0),
            };
            world.found(1, RecoveredContainer::Running(fact));
        }
        assert!(world.core.completions.next().is_some());
        world.exited(1, CommandStatus::Code(0));
        assert_eq!(world.core.completions.next(), None, "{restarts}");
    }
}

#[test]
fn a_failed_container_query_is_retried_while_the_task_runs() {
    let mut world = CoreFixture::running().restart("boot-1");
    world.sync();
    world.found(1, RecoveredContainer::Unknown);
    world.sync();
    world.expect(&["find 1-1-1", "dial"]);
    world.register(true);
    world.report();
    world.expect(&["report web 1 Running"]);
    for _ in 0..3 {
        world.wait(4_000);
        let asked = world.effects.iter().any(|line| line.starts_with("find"));
        assert!(!asked, "{:?}", world.effects);
        world.wait(1_000);
        world.effects.retain(|line| line.starts_with("find"));
        world.expect(&["find 1-1-1"]);
        world.found(1, RecoveredContainer::Unknown);
        world.report();
        world.expect(&[]);
    }
    // Another run of the agent knows no more, and queries too.
    let mut world = world.restart("boot-1");
    world.sync();
    world.expect(&["find 1-1-1"]);
    world.found(1, RecoveredContainer::Unknown);
    world.register(true);
    world.found(1, RUNNING);
    world.discard_effects();
    world.exited(1, CommandStatus::Code(0));
    world.report();
    world.expect(&["report web 2 Finished", "destroy 1-1-1"]);
    world.check_snapshot();
}

/// An agent that is silent for its timeout is considered lost, with all of its tasks.
#[test]
fn masters_do_not_wait_for_containers_that_do_not_answer() {
    let mut world = CoreFixture::running();
    for order in 2..=16 {
        world.launch(order, &format!("t{order}"));
        world.sync();
        world.started(order);
    }
    world.report();
    let mut world = world.restart("boot-1");
    let asked_at = world.now;
    world.sync();
    world.found(1, RUNNING);
    world.discard_effects();
    while !world.effects.contains(&"dial".to_owned()) {
        assert!(world.now - asked_at <= 4_000, "{:?}", world.effects);
        world.wait(500);
        world.sync();
    }
    world.register(true);
    world.report();
    world.discard_effects();
    // A pending query is not repeated.
    world.wait(8_000);
    let asked = world.effects.iter().any(|line| line.starts_with("find"));
    assert!(!asked, "{:?}", world.effects);
    world.register(true);
    world.report();
    world.discard_effects();
    world.found(2, RUNNING);
    world.found(3, RecoveredContainer::Exited(ended(CommandStatus::Code(0))));
    world.report();
    world.expect(&["report t3 2 Finished", "destroy 1-3-1"]);
    world.found(4, RecoveredContainer::Unknown);
    world.wait(5_000);
    world.effects.retain(|line| line.starts_with("find"));
    world.expect(&["find 1-4-1"]);
    world.found(4, RUNNING);
    world.register(true);
    world.report();
    world.discard_effects();
    world.exited(2, CommandStatus::Code(0));
    world.report();
    world.expect(&["report t2 2 Finished", "destroy 1-2-1"]);
    world.check_snapshot();
}

#[test]
fn a_kill_of_an_unresponsive_container_waits_until_it_responds() {
    let killed = || {
        let mut world = CoreFixture::running().restart("boot-1");
        world.found(1, RecoveredContainer::Unknown);
        world.register(true);
        world.kill(2, "web", 100);
        world.sync();
        world.discard_effects();
        world
    };
    let mut world = killed();
    world.found(1, RUNNING);
    world.expect(&["kill 1 in 100"]);
    let mut world = killed();
    world.found(1, RecoveredContainer::Unknown);
    world.report();
    world.expect(&["report web 2 Killed", "destroy 1-1-1"]);
}

#[test]
fn a_late_recovered_unstarted_launch_starts_without_registering_again() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    let mut world = world.restart("boot-1");
    world.found(1, RecoveredContainer::Unknown);
    world.register(true);
    world.discard_effects();
    world.found(1, RecoveredContainer::NeverStarted);
    world.sync();
    world.expect(&["start 1-1-2"]);
}

#[test]
fn unreachable_containers_of_an_earlier_boot_have_ended() {
    let mut world = CoreFixture::running().restart("boot-2");
    world.found(1, RecoveredContainer::Unknown);
    world.report();
    assert_eq!(reason(&world), v1::Reason::AgentRebooted);
}
