//! Tests of checks in the core: schedule, updates, ends, restarts.

use argosy_proto::v1;
use argosy_state::ids::Timestamp;

use super::limits::{limited, order};
use super::world::{CoreFixture, ended, instance, spec};
use crate::core::checks::{CheckPurpose, CheckResult};
use crate::core::{
    CheckTimes, CommandExit, CommandStatus, Input, RecoveredContainer, StartedFact, StopCause,
};
use crate::wire;

const HEALTH: CheckPurpose = CheckPurpose::Health;
const READINESS: CheckPurpose = CheckPurpose::Readiness;

/// Returns a fast check: immediately, each 100 ms, with a timeout of 50 ms.
fn check() -> v1::Check {
    v1::Check {
        kind: Some(v1::check::Kind::Tcp(v1::TcpCheck { port: 80 })),
        delay_ms: Some(0),
        interval_ms: Some(100),
        timeout_ms: Some(50),
    }
}

/// Returns a strict check: two consecutive failures, and no grace period.
fn health() -> v1::HealthCheck {
    v1::HealthCheck {
        check: Some(check()),
        grace_ms: Some(0),
        failures: Some(2),
    }
}

/// Returns a fixture with a task "web" under order 1 that has just started.
fn started(health: Option<v1::HealthCheck>, readiness: Option<v1::Check>) -> CoreFixture {
    let mut world = CoreFixture::registered();
    let wanted = v1::TaskSpec {
        health_check: health,
        readiness_check: readiness,
        ..spec("web")
    };
    world.launch_spec(1, wanted);
    world.sync();
    world.discard_effects();
    world.started(1);
    world
}

/// Returns the same fixture, with the task reported as running, and both checks passed.
fn healthy() -> CoreFixture {
    let mut world = started(Some(health()), Some(check()));
    world.wait(0);
    world.probe_finished(1, HEALTH, 1, CheckResult::Passed);
    world.probe_finished(1, READINESS, 1, CheckResult::Passed);
    world.report();
    world.committed(1, "web", 1, false);
    world.discard_effects();
    world
}

/// Makes the next two health probes fail.
fn fail_probes(world: &mut CoreFixture) {
    for number in [2, 3] {
        world.wait(100);
        // The first result is reported before the second probe.
        world.report();
        world.probe_finished(1, HEALTH, number, CheckResult::Failed("refused".into()));
        world.probe_finished(1, READINESS, number, CheckResult::Passed);
    }
}

fn last(world: &CoreFixture) -> v1::NumberedUpdate {
    let task = &world.core.facts().tasks[&instance(1)];
    wire::update(task.updates.back().unwrap())
}

/// Returns health, readiness, reason and text of its newest update.
fn last_results(world: &CoreFixture) -> (Option<bool>, Option<bool>, v1::Reason, String) {
    let update = last(world);
    (update.healthy, update.ready, update.reason(), update.text)
}

fn found_running(world: &CoreFixture) -> RecoveredContainer {
    RecoveredContainer::Running(StartedFact {
        pid: 77,
        at: Timestamp(world.now),
    })
}

fn killed(how: CommandStatus) -> CommandExit {
    CommandExit {
        stop: Some(StopCause::Ordered),
        ..ended(how)
    }
}

#[test]
fn each_check_result_is_an_update_and_contains_both_checks() {
    use v1::Reason::{HealthCheckStatusUpdated, ReadinessCheckStatusUpdated};
    let mut world = started(Some(health()), Some(check()));
    world.report();
    world.expect(&[
        "probe at 1's health 1",
        "probe at 1's readiness 1",
        "report web 1 Running",
    ]);
    world.probe_finished(1, HEALTH, 1, CheckResult::Passed);
    world.report();
    world.expect(&["report web 2 Running"]);
    let text = "healthy: passed".to_owned();
    let expected = (Some(true), None, HealthCheckStatusUpdated, text);
    assert_eq!(last_results(&world), expected);
    world.probe_finished(1, READINESS, 1, CheckResult::Failed("no".into()));
    world.report();
    let text = "not ready: no".to_owned();
    let expected = (Some(true), Some(false), ReadinessCheckStatusUpdated, text);
    assert_eq!(last_results(&world), expected);
    world.discard_effects();
    // Known results are not reported again.
    world.wait(100);
    world.probe_finished(1, HEALTH, 2, CheckResult::Passed);
    world.probe_finished(1, READINESS, 2, CheckResult::Failed("still".into()));
    world.report();
    world.expect(&["probe at 1's health 2", "probe at 1's readiness 2"]);
}

#[test]
fn concurrent_limit_changes_keep_check_results() {
    let mut world = healthy();
    order(&mut world, 2, "web", 9);
    world.sync();
    world.wait(100);
    world.probe_finished(1, HEALTH, 2, CheckResult::Passed);
    world.probe_finished(1, READINESS, 2, CheckResult::Failed("busy".into()));
    limited(&mut world, 2, Ok(()));
    world.report();
    let text = "not ready: busy; its limits are changed".to_owned();
    let expected = (Some(true), Some(false), v1::Reason::LimitsUpdated, text);
    assert_eq!(last_results(&world), expected);
    assert_eq!(last(&world).limits.unwrap().order_index, 2);
    // It was reported: a later change does not report it again.
    order(&mut world, 3, "web", 8);
    world.sync();
    limited(&mut world, 3, Ok(()));
    world.report();
    assert_eq!(last_results(&world).3, "its limits are changed");
}

#[test]
fn the_time_of_a_check_result_survives_a_restart() {
    let since = |world: &CoreFixture| world.core.facts().tasks[&instance(1)].check_times;
    let mut world = healthy();
    let first = since(&world);
    assert!(first.healthy.is_some() && first.healthy == first.ready);
    world.wait(100);
    world.probe_finished(1, HEALTH, 2, CheckResult::Passed);
    world.probe_finished(1, READINESS, 2, CheckResult::Failed("no".into()));
    world.report();
    let expected = CheckTimes {
        ready: Some(last(&world).wall_ms),
        ..first
    };
    assert!(expected.ready > first.ready, "{expected:?}");
    assert_eq!(since(&world), expected);
    world.check_snapshot();
    let world = world.restart("boot-1");
    assert_eq!(since(&world), expected);
}

#[test]
fn updates_explain_both_checks() {
    let mut world = started(Some(health()), Some(check()));
    world.report();
    world.probe_finished(1, READINESS, 1, CheckResult::Failed("no".into()));
    world.probe_finished(1, HEALTH, 1, CheckResult::Passed);
    world.report();
    let (healthy, ready, _, text) = last_results(&world);
    assert_eq!((healthy, ready), (Some(true), Some(false)));
    assert_eq!(text, "not ready: no; healthy: passed");
    // Reported results are not reported again.
    world.wait(100);
    world.probe_finished(1, READINESS, 2, CheckResult::Passed);
    world.report();
    assert_eq!(last_results(&world).3, "ready: passed");
}

#[test]
fn probes_run_on_schedule_and_time_out_as_failures() {
    let mut world = started(None, Some(check()));
    world.wait(0);
    world.wait(2);
    world.sync();
    assert_eq!(world.core.deadline(), Some(Timestamp(1_050)));
    world.discard_effects();
    world.now = 1_049;
    world.wait(0);
    world.expect(&[]);
    world.wait(1);
    world.expect(&["stop looking at 1's readiness 1"]);
    world.report();
    assert_eq!(
        (last(&world).healthy, last(&world).ready),
        (None, Some(false))
    );
    assert_eq!(last(&world).text, "not ready: no answer within 50 ms");
    world.discard_effects();
    // A late result is ignored.
    world.probe_finished(1, READINESS, 1, CheckResult::Passed);
    world.report();
    world.expect(&[]);
}

#[test]
fn an_unhealthy_task_is_killed_after_the_record_is_durable() {
    let mut world = healthy();
    fail_probes(&mut world);
    world.discard_effects();
    world.wait(5);
    world.expect_all(&["persist update 1: Killing"]);
    let why = "its health check failed 2 times in a row, at last: refused";
    let expected = (Some(false), Some(true), v1::Reason::HealthCheckFailed);
    let (healthy, ready, reason, text) = last_results(&world);
    assert_eq!((healthy, ready, reason), expected);
    assert_eq!(text, why);
    world.sync();
    world.expect(&["report web 4 Killing", "kill 1 in 3000"]);
    // It is not probed any more, and does not become healthy again.
    world.probe_finished(1, HEALTH, 3, CheckResult::Passed);
    world.wait(500);
    world.expect(&[]);
    world.feed(Input::Exited {
        instance: instance(1),
        exit: killed(CommandStatus::Signal(15)),
    });
    world.report();
    world.expect(&["report web 5 Failed", "destroy 1-1-1"]);
    let (healthy, ready, reason, text) = last_results(&world);
    assert_eq!((healthy, ready, reason), expected);
    assert_eq!(text, format!("{why}; it ended"));
}

#[test]
fn an_exit_before_the_health_kill_keeps_its_status() {
    let mut world = healthy();
    fail_probes(&mut world);
    world.exited(1, CommandStatus::Code(0));
    world.report();
    assert_eq!(last(&world).state(), v1::TaskState::Finished);
    assert_eq!(last(&world).reason(), v1::Reason::CommandExited);
    assert_eq!(last(&world).healthy, Some(false));
}

#[test]
fn an_ordered_kill_stops_the_checks_and_takes_precedence() {
    let mut world = healthy();
    world.wait(100);
    world.discard_effects();
    world.kill(2, "web", 20);
    world.sync();
    world.expect(&[
        "stop looking at 1's health 2",
        "stop looking at 1's readiness 2",
        "kill 1 in 20",
    ]);
    world.wait(1_000);
    assert!(!world.effects.iter().any(|line| line.starts_with("probe")));
    // It was unhealthy before it was killed.
    let mut world = healthy();
    fail_probes(&mut world);
    world.kill(2, "web", 20);
    world.report();
    world.feed(Input::Exited {
        instance: instance(1),
        exit: killed(CommandStatus::Signal(15)),
    });
    world.report();
    assert_eq!(last(&world).state(), v1::TaskState::Killed);
    assert_eq!(last(&world).reason(), v1::Reason::TaskKilled);
}

#[test]
fn a_task_past_its_deadline_is_not_probed() {
    let mut world = CoreFixture::registered();
    let wanted = v1::TaskSpec {
        max_completion_ms: 150,
        readiness_check: Some(check()),
        ..spec("web")
    };
    world.launch_spec(1, wanted);
    world.sync();
    world.started(1);
    world.report();
    world.probe_finished(1, READINESS, 1, CheckResult::Passed);
    world.wait(100);
    world.discard_effects();
    world.wait(45);
    world.expect(&["stop looking at 1's readiness 2", "kill 1 in 3000"]);
}

#[test]
fn a_restart_probes_within_an_interval_and_repeats_no_result() {
    let world = healthy();
    let now = world.now;
    let mut world = world.restart("boot-1");
    world.now = now + 10_000;
    world.found(1, found_running(&world));
    world.register(true);
    let due = world.core.deadline().unwrap();
    assert!(due <= Timestamp(now + 10_100), "{due:?}");
    world.discard_effects();
    world.wait(100);
    let probes: Vec<_> = world
        .effects
        .iter()
        .filter(|line| line.starts_with("probe"))
        .collect();
    assert_eq!(probes.len(), 2, "{probes:?}");
    world.probe_finished(1, HEALTH, 1, CheckResult::Passed);
    world.probe_finished(1, READINESS, 1, CheckResult::Passed);
    world.discard_effects();
    world.report();
    world.expect(&[]);
    let reported = world.core.facts().tasks[&instance(1)].check_results;
    assert_eq!((reported.healthy, reported.ready), (Some(true), Some(true)));
    world.check_snapshot();
}

#[test]
fn an_unhealthy_kill_continues_after_a_restart() {
    let ill = || {
        let mut world = healthy();
        fail_probes(&mut world);
        world.wait(5);
        world.sync();
        world.check_snapshot();
        world.restart("boot-1")
    };
    let mut world = ill();
    world.discard_effects();
    world.found(1, found_running(&world));
    assert!(world.effects.contains(&"kill 1 in 3000".to_owned()));
    world.wait(1_000);
    assert!(!world.effects.iter().any(|line| line.starts_with("probe")));
    world.feed(Input::Exited {
        instance: instance(1),
        exit: killed(CommandStatus::Code(0)),
    });
    world.report();
    assert_eq!(last(&world).state(), v1::TaskState::Failed);
    assert_eq!(last(&world).reason(), v1::Reason::HealthCheckFailed);
    assert_eq!(
        (last(&world).healthy, last(&world).ready),
        (Some(false), Some(true))
    );
    // The same if it ended while the agent was down.
    let mut world = ill();
    world.found(
        1,
        RecoveredContainer::Exited(killed(CommandStatus::Signal(15))),
    );
    world.report();
    assert_eq!(last(&world).reason(), v1::Reason::HealthCheckFailed);
}

#[test]
fn an_exit_that_was_not_durable_is_recovered() {
    let mut world = healthy();
    fail_probes(&mut world);
    world.wait(5);
    let mut world = world.restart("boot-1");
    world.found(1, found_running(&world));
    world.register(true);
    world.discard_effects();
    for number in [1, 2] {
        world.wait(100);
        world.probe_finished(1, HEALTH, number, CheckResult::Failed("refused".into()));
    }
    world.report();
    assert!(
        world.effects.contains(&"kill 1 in 3000".to_owned()),
        "{:?}",
        world.effects
    );
}

#[test]
fn check_results_without_a_master_are_merged_into_few_updates() {
    let mut world = started(None, Some(check()));
    world.report();
    let mut number = 0;
    let mut find = |world: &mut CoreFixture, answer: CheckResult| {
        number += 1;
        world.probe_finished(1, READINESS, number, answer);
        world.wait(100);
    };
    for _ in 0..10 {
        find(&mut world, CheckResult::Passed);
        find(&mut world, CheckResult::Failed("no".into()));
    }
    find(&mut world, CheckResult::Passed);
    world.sync();
    let waiting = |world: &CoreFixture| world.core.facts().tasks[&instance(1)].updates.len();
    assert_eq!(waiting(&world), 8);
    assert_eq!(last(&world).ready, Some(true));
    find(&mut world, CheckResult::Failed("no".into()));
    world.committed(1, "web", 8, false);
    world.report();
    assert_eq!((waiting(&world), last(&world).ready), (1, Some(false)));
    assert_eq!(last(&world).text, "not ready: no");
    // An end is reported however many updates wait.
    for _ in 0..10 {
        find(&mut world, CheckResult::Passed);
        find(&mut world, CheckResult::Failed("no".into()));
    }
    world.exited(1, CommandStatus::Code(0));
    world.report();
    assert_eq!(last(&world).state(), v1::TaskState::Finished);
}

#[test]
fn an_impossible_check_is_an_error_and_never_starts() {
    let mut world = CoreFixture::registered();
    let wanted = v1::TaskSpec {
        readiness_check: Some(v1::Check::default()),
        ..spec("web")
    };
    world.launch_spec(1, wanted);
    world.sync();
    world.report();
    world.expect(&["report web 1 Error"]);
    assert_eq!(last(&world).reason(), v1::Reason::TaskInvalid);
    assert!(last(&world).text.starts_with("readiness_check.kind: "));
}

#[test]
fn check_grace_counts_from_the_journaled_start_after_adoption() {
    let health = v1::HealthCheck {
        grace_ms: Some(60_000),
        failures: Some(1),
        ..health()
    };
    let world = started(Some(health), None);
    let begun = world.now;
    let mut world = world.restart_synced("boot-1");
    // Within the grace period since the start, not since the adoption.
    world.now = begun + 59_500;
    let fact = StartedFact {
        pid: 77,
        at: Timestamp(0),
    };
    world.found(1, RecoveredContainer::Running(fact));
    world.register(true);
    world.wait(100);
    world.probe_finished(1, HEALTH, 1, CheckResult::Failed("refused".into()));
    world.report();
    let task = &world.core.facts().tasks[&instance(1)];
    assert_eq!(task.failure, None);
}
