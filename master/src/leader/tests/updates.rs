//! Tests of updates, acknowledgements and reconciliation.

use argosy_state::command::Acknowledge;
use argosy_state::ids::{FrameworkId, Revision, TaskId};
use argosy_state::task::TaskState;
use argosy_state::testing::spec;
use expect_test::expect;

use super::fixture::{FRAMEWORK, World};
use crate::leader::Input;
use crate::links::LinkId;

#[test]
fn an_acknowledgement_of_an_update_that_is_not_known_here_waits_for_a_commit() {
    let mut world = World::with_running_task();
    let entries = world.entries();
    // Another master leads by now, and this one has not noticed yet.
    let later = Revision {
        index: world.registry.applied() + 1,
        position: 0,
    };
    let acknowledge = Acknowledge {
        framework: FRAMEWORK,
        session: world.registry.framework(FRAMEWORK).unwrap().session,
        updates: vec![(TaskId::new("a").unwrap(), later)],
    };
    world.send_acknowledge(acknowledge);
    world.expect(&expect![[r#"
        call-3: acknowledged
    "#]]);
    assert_eq!(world.entries(), entries + 1);
}

#[test]
fn acknowledgements_of_another_session_or_too_many_are_rejected() {
    let mut world = World::with_running_task();
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.clear_lines();
    let all = Revision {
        index: u64::MAX,
        position: 0,
    };
    let acknowledge = |session, count: usize| Acknowledge {
        framework: FRAMEWORK,
        session,
        updates: vec![(TaskId::new("a").unwrap(), all); count],
    };
    let session = world.registry.framework(FRAMEWORK).unwrap().session;
    for acknowledge in [acknowledge(9, 1), acknowledge(session, 31)] {
        world.send_acknowledge(acknowledge);
    }
    let mut nobody = acknowledge(session, 1);
    nobody.framework = FrameworkId(9);
    world.send_acknowledge(nobody);
    world.expect(&expect![[r#"
        call-3: refused superseded: another scheduler has taken over framework-1
        call-4: refused invalid: 31 acknowledgements; at most 30 in one command
        call-5: refused unknown-framework: no framework-9 in this cluster: it was removed, or never was
    "#]]);
}

#[test]
fn at_most_a_thousand_tasks_of_a_stream_have_unacknowledged_updates() {
    let mut world = World::new();
    world.subscribe("many");
    world.agent("cpus:2000;mem:2000000");
    launch_many(&mut world, 1_005);
    let updates = (0..1_005).map(|at| world.update(&format!("t{at:04}"), 1, TaskState::Running));
    let updates = updates.collect();
    world.feed(Input::AgentReport {
        link: LinkId(2),
        updates,
    });
    let reported = |output: Vec<String>| {
        output
            .iter()
            .filter(|line| line.starts_with("link-1 <- update"))
            .count()
    };
    assert_eq!(reported(world.take_lines()), 1_000);
    // The next ones follow as those are acknowledged.
    world.acknowledge(&["t0003", "t0007"]);
    assert_eq!(reported(world.take_lines()), 2);
    // Another update of a task that is already in flight may be sent: the cursor is over tasks.
    world.report(LinkId(2), "t0000", 2, TaskState::Finished);
    assert_eq!(reported(world.take_lines()), 1);
    // A new stream starts with the unacknowledged updates.
    world.framework_returns(FRAMEWORK, &[]);
    let output = world.take_lines();
    let third = output
        .iter()
        .filter(|line| line.starts_with("link-3 <- update"))
        .count();
    // t0000 has two of them: RUNNING, and the final state.
    assert_eq!(third, 1_001);
}

/// Launches tasks `t0000` and so on, running on one agent, with updates sent and not acknowledged.
/// Each call launches 250 tasks, on the offer of the resources that the previous call has left.
fn launch_many(world: &mut World, count: u32) {
    for from in (0..count).step_by(250) {
        let specs = (from..count.min(from + 250)).map(|at| spec(&format!("t{at:04}"), "cpus:1"));
        let offer = format!("1.{}", from / 250 + 1);
        world.launch(&offer, specs.collect());
        world.advance_with(6_500, &[LinkId(2)]);
    }
    world.clear_lines();
}

fn many_tasks(world: &mut World, count: u32) {
    world.subscribe("many");
    world.agent("cpus:2000;mem:2000000");
    launch_many(world, count);
    let updates = (0..count).map(|at| world.update(&format!("t{at:04}"), 1, TaskState::Running));
    let updates = updates.collect();
    world.feed(Input::AgentReport {
        link: LinkId(2),
        updates,
    });
    world.advance_with(6_500, &[LinkId(2)]);
    world.clear_lines();
}

#[test]
fn the_end_of_a_task_in_flight_does_not_wait_for_other_tasks() {
    let mut world = World::new();
    many_tasks(&mut world, 1_000);
    // The first of all by name, and no room for it.
    world.accept("1.5", &["first"]);
    world.report(LinkId(2), "first", 1, TaskState::Running);
    world.clear_lines();
    world.report(LinkId(2), "t0500", 2, TaskState::Finished);
    let output = world.take_lines();
    assert!(
        output
            .iter()
            .any(|line| line.contains("update t0500 FINISHED")),
        "{output:?}"
    );
}

#[test]
fn removing_a_task_frees_its_slot_in_flight() {
    let mut world = World::new();
    many_tasks(&mut world, 1_000);
    world.accept("1.5", &["zebra"]);
    world.report(LinkId(2), "t0000", 2, TaskState::Finished);
    world.clear_lines();
    // From now on ended tasks move to the history without an acknowledgement.
    let mut info = (*world.registry.framework(FRAMEWORK).unwrap().info).clone();
    info.detached = true;
    world.call(argosy_state::command::CallAction::Update(info));
    world.report(LinkId(2), "zebra", 1, TaskState::Running);
    let output = world.take_lines();
    assert!(
        output
            .iter()
            .any(|line| line.contains("update zebra RUNNING")),
        "{output:?}"
    );
}

#[test]
fn reconciliation_of_all_tasks_is_answered_in_bounded_parts() {
    let mut world = World::new();
    many_tasks(&mut world, 1_000);
    world.accept("1.5", &["zebra"]);
    world.clear_lines();
    world.reconcile(&[], 9);
    let first = world.take_lines().remove(0);
    assert!(first.ends_with("], more behind t0999"), "{first}");
    assert_eq!(first.matches("RUNNING").count(), 1_000);
    let mut next = world.query(&[], 9);
    next.after = Some(TaskId::new("t0999").unwrap());
    world.send_query(next);
    world.expect(&expect![[r#"
        call-7: reconciled [zebra STAGING (RECONCILIATION)]
    "#]]);
    let names = vec!["t0000"; 1_001];
    world.reconcile(&names, 9);
    world.expect(&expect![[r#"
        call-8: refused invalid: 1001 tasks in one question; at most 1000
    "#]]);
}

#[test]
fn agent_reports_of_any_size_are_split_into_commands_that_fit() {
    let mut world = World::with_running_task();
    world.slow_log();
    let mut update = world.update("a", 2, TaskState::Running);
    update.message = "ü".repeat(10_000);
    let updates = vec![update; 1_000];
    world.feed(Input::AgentReport {
        link: LinkId(2),
        updates,
    });
    let bytes = world.proposed_bytes();
    let most = argosy_state::limits::UPDATES_PER_COMMAND;
    assert_eq!(bytes.len(), 1_000_usize.div_ceil(most));
    assert!(
        bytes
            .iter()
            .all(|bytes| *bytes <= argosy_raft::ENTRY_LIMIT_BYTES),
        "{bytes:?}"
    );
    world.commit();
    world.clear_lines();
}
