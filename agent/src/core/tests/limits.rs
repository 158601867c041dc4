//! Tests of limits that are changed after the launch.

use argosy_proto::convert::limits_from;
use argosy_proto::v1;

use super::tasks::{last_update, reason};
use super::world::{CoreFixture, instance, spec};
use crate::core::{CommandStatus, Input, RecoveredContainer, StartedFact, UnappliedLimits};
use argosy_state::ids::{OrderIndex, Timestamp};

pub(super) fn limits(pids: u64) -> v1::Limits {
    v1::Limits {
        pids: Some(pids),
        ..v1::Limits::default()
    }
}

/// Sends order `index`, which gives a task this limit of processes.
pub(super) fn order(world: &mut CoreFixture, index: u64, task: &str, pids: u64) {
    world.order(
        index,
        v1::order::Order::Limits(v1::LimitsOrder {
            framework_id: "framework-1".into(),
            task_id: task.into(),
            limits: Some(limits(pids)),
        }),
    );
}

pub(super) fn limited(world: &mut CoreFixture, order: u64, outcome: Result<(), String>) {
    let held = Some(limits_from(limits(7)));
    world.feed(Input::LimitsApplied {
        instance: instance(1),
        order: OrderIndex(order),
        outcome: outcome.map_err(|why| UnappliedLimits {
            why: why.into(),
            held,
        }),
    });
}

/// Returns the limit that its next start would get.
fn pids(world: &CoreFixture) -> Option<u64> {
    let task = &world.core.facts().tasks[&instance(1)];
    task.launch.spec.limits.as_ref()?.pids
}

fn found_running(world: &mut CoreFixture) {
    let at = Timestamp(world.now);
    world.found(1, RecoveredContainer::Running(StartedFact { pid: 77, at }));
}

#[test]
fn limit_orders_and_results_are_durable_before_use() {
    let mut world = CoreFixture::running();
    order(&mut world, 2, "web", 9);
    world.expect_all(&["persist order 2: limits 1"]);
    world.sync();
    world.expect_all(&["limit 1-1-1 to 9 pids by order 2"]);
    limited(&mut world, 2, Ok(()));
    world.wait(5);
    world.expect_all(&["persist update 1: Running"]);
    assert_eq!(reason(&world, 1), v1::Reason::LimitsUpdated);
    let report = v1::LimitsReport {
        order_index: 2,
        ..v1::LimitsReport::default()
    };
    assert_eq!(last_update(&world, 1).limits, Some(report));
    world.sync();
    world.expect_all(&["report web 2 Running"]);
    world.check_snapshot();
}

#[test]
fn a_repeated_order_changes_nothing() {
    let mut world = CoreFixture::running();
    order(&mut world, 2, "web", 9);
    world.sync();
    world.discard_effects();
    order(&mut world, 2, "web", 4);
    world.sync();
    world.expect_all(&[]);
    assert_eq!(pids(&world), Some(9));
}

#[test]
fn unapplied_limits_are_explained() {
    let mut world = CoreFixture::running();
    order(&mut world, 2, "web", 9);
    world.sync();
    limited(&mut world, 2, Err("too little".into()));
    world.report();
    let update = last_update(&world, 1);
    assert_eq!(update.causes[0].code, "limits-refused");
    let report = update.limits.unwrap();
    assert_eq!(report.refusal.unwrap(), "too little");
    assert_eq!(report.held, Some(limits(7)), "what is in force instead");
    assert!(
        update
            .text
            .contains("not all of its limits are in force: too little")
    );
}

#[test]
fn only_the_newest_limit_order_is_reported() {
    let mut world = CoreFixture::running();
    order(&mut world, 2, "web", 9);
    order(&mut world, 3, "web", 8);
    world.sync();
    world.expect(&["limit 1-1-1 to 8 pids by order 3"]);
    limited(&mut world, 2, Ok(()));
    world.report();
    world.expect(&[]);
    limited(&mut world, 3, Ok(()));
    world.report();
    world.expect(&["report web 2 Running"]);
}

#[test]
fn a_restart_applies_recorded_limits() {
    let mut world = CoreFixture::running();
    order(&mut world, 2, "web", 9);
    let mut next = world.restart_synced("boot-1");
    next.sync();
    found_running(&mut next);
    assert!(
        next.effects
            .contains(&"limit 1-1-1 to 9 pids by order 2".to_owned())
    );
    limited(&mut next, 2, Ok(()));
    next.report();
    let mut third = next.restart_synced("boot-1");
    third.sync();
    found_running(&mut third);
    let again = third.effects.iter().any(|line| line.starts_with("limit"));
    assert!(
        !again,
        "it was reported, and so it was done: {:?}",
        third.effects
    );
}

#[test]
fn limit_orders_that_were_not_durable_are_resent() {
    let mut world = CoreFixture::running();
    order(&mut world, 2, "web", 9);
    let next = world.restart("boot-1");
    assert_eq!(next.core.facts().floor, OrderIndex(1));
    assert_eq!(pids(&next), None);
}

#[test]
fn an_unstarted_task_starts_with_new_limits_and_reports_them() {
    let mut world = CoreFixture::registered();
    let uri = v1::Uri {
        value: "http://host/a".into(),
        ..v1::Uri::default()
    };
    world.launch_spec(
        1,
        v1::TaskSpec {
            uris: vec![uri],
            ..spec("web")
        },
    );
    order(&mut world, 2, "web", 9);
    world.sync();
    world.report();
    world.expect(&["fetch for 1-1-1", "report web 1 Starting"]);
    world.feed(Input::Fetched {
        instance: instance(1),
        result: Ok(()),
    });
    world.expect(&["start 1-1-1"]);
    assert_eq!(pids(&world), Some(9));
    world.started(1);
    world.expect(&["limit 1-1-1 to 9 pids by order 2"]);
}

#[test]
fn limits_ordered_during_a_start_are_applied_after_it() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    world.sync();
    order(&mut world, 2, "web", 9);
    world.sync();
    world.expect(&["start 1-1-1"]);
    world.started(1);
    world.expect(&["limit 1-1-1 to 9 pids by order 2"]);
}

#[test]
fn limits_of_unknown_and_ended_tasks_are_ignored() {
    let mut world = CoreFixture::running();
    order(&mut world, 2, "other", 9);
    world.expect_all(&["persist order 2: nothing"]);
    order(&mut world, 3, "web", 9);
    world.exited(1, CommandStatus::Code(0));
    world.sync();
    limited(&mut world, 3, Ok(()));
    world.report();
    assert_eq!(last_update(&world, 1).limits, None);
    let changed = world.effects.iter().any(|line| line.starts_with("limit"));
    assert!(!changed, "{:?}", world.effects);
}

#[test]
fn a_pending_kill_does_not_hide_limit_results() {
    let mut world = CoreFixture::running();
    order(&mut world, 2, "web", 9);
    world.kill(3, "web", 100);
    world.sync();
    limited(&mut world, 2, Ok(()));
    world.report();
    let update = last_update(&world, 1);
    assert_eq!(update.state(), v1::TaskState::Killing);
    assert_eq!(update.limits.unwrap().order_index, 2);
}

#[test]
fn limit_results_wait_for_space_in_the_update_queue() {
    let mut world = CoreFixture::running();
    for index in 2..20 {
        order(&mut world, index, "web", index);
        world.sync();
        limited(&mut world, index, Ok(()));
        world.report();
    }
    let task = &world.core.facts().tasks[&instance(1)];
    assert!(task.updates.len() <= 8, "{}", task.updates.len());
    let made = task.newest_update;
    world.committed(1, "web", made, false);
    world.report();
    let reported = last_update(&world, 1).limits.unwrap();
    assert_eq!(reported.order_index, 19);
}
