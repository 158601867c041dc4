//! Tests of updates, acknowledgements and reconciliation.

use argosy_state::actor::Actor;
use argosy_state::command::Acknowledge;
use argosy_state::ids::{FrameworkId, Revision, TaskId};
use argosy_state::task::TaskState;
use argosy_state::testing::spec;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, World};
use crate::leader::Input;
use crate::links::LinkId;

#[test]
fn update_is_committed_before_it_is_sent() {
    let mut world = World::with_running_task();
    world.slow_log();
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        link-1 <- update a FINISHED at 7.0 (UNSPECIFIED)
        link-2 <- committed framework-1/a@1 #2 released
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn updates_are_resent_on_every_stream_until_acknowledged() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a"]);
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.clear_lines();
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        link-1 closed
        link-3 <- subscribed framework-1 session 101 epoch 1
        link-3 <- update a RUNNING at 5.0 (UNSPECIFIED)
        link-3 <- update a FINISHED at 6.0 (UNSPECIFIED)
        link-3 <- offers 1.3 * agent-1 cpus:4;mem:4096
    "#]]);
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        link-4 <- subscribed framework-1 session 101 epoch 7
        link-4 <- update a RUNNING at 5.0 (UNSPECIFIED)
        link-4 <- update a FINISHED at 6.0 (UNSPECIFIED)
        link-4 <- unmet in *: 1 no-link
    "#]]);
    world.acknowledge(&["a"]);
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        call-2: acknowledged
        link-4 closed
        link-5 <- subscribed framework-1 session 101 epoch 7
    "#]]);
}

#[test]
fn a_repeated_or_unexpected_acknowledgement_writes_nothing() {
    let mut world = World::with_running_task();
    let entries = world.entries();
    world.acknowledge(&["a", "stranger"]);
    world.expect(&expect![[r#"
        call-3: acknowledged
    "#]]);
    assert_eq!(world.entries(), entries);
}

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
    let request = world.request();
    world.feed(Input::Acknowledge {
        request,
        actor: Actor::default(),
        acknowledge,
    });
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
    for acknowledge in [acknowledge(9, 1), acknowledge(session, 81)] {
        let request = world.request();
        world.feed(Input::Acknowledge {
            request,
            actor: Actor::default(),
            acknowledge,
        });
    }
    let mut nobody = acknowledge(session, 1);
    nobody.framework = FrameworkId(9);
    let request = world.request();
    world.feed(Input::Acknowledge {
        request,
        actor: Actor::default(),
        acknowledge: nobody,
    });
    world.expect(&expect![[r#"
        call-3: refused superseded: another scheduler has taken over framework-1
        call-4: refused invalid: 81 acknowledgements; at most 80 in one command
        call-5: refused unknown-framework: no framework-9 in this cluster: it was removed, or never was
    "#]]);
}

#[test]
fn a_second_end_of_a_task_changes_nothing_before_or_after_the_acknowledgement() {
    let mut world = World::with_running_task();
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.report(LinkId(2), "a", 3, TaskState::Failed);
    world.expect(&expect![[r#"
        link-1 <- update a FINISHED at 7.0 (UNSPECIFIED)
        link-2 <- committed framework-1/a@1 #2 released
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
        link-2 <- committed framework-1/a@1 #3 released
    "#]]);
    world.acknowledge(&["a"]);
    world.report(LinkId(2), "a", 4, TaskState::Failed);
    world.expect(&expect![[r#"
        call-3: acknowledged
        link-2 <- committed framework-1/a@1 #4 released
    "#]]);
}

#[test]
fn resources_of_an_ended_task_are_offered_before_the_acknowledgement() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a", "b", "c", "d"]);
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.advance_with(6_000, &[LinkId(2)]);
    world.clear_lines();
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.expect(&expect![[r#"
        link-1 <- update a FINISHED at 6.0 (UNSPECIFIED)
        link-2 <- committed framework-1/a@1 #2 released
        link-1 <- offers 1.3 * agent-1 cpus:1
    "#]]);
}

#[test]
fn an_unacknowledged_unreachable_update_is_sent_by_the_next_leader() {
    let mut world = World::with_running_task();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.advance(15_000);
    world.expect(&expect![[r#"
        link-2 closed
    "#]]);
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 9
        link-3 <- update a UNREACHABLE at 8.1 (AGENT_UNREACHABLE)
        link-3 <- unmet in *: 1 unreachable
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
    let told = |said: Vec<String>| {
        said.iter()
            .filter(|line| line.starts_with("link-1 <- update"))
            .count()
    };
    assert_eq!(told(world.take_lines()), 1_000);
    // The next ones follow as those are acknowledged.
    world.acknowledge(&["t0003", "t0007"]);
    assert_eq!(told(world.take_lines()), 2);
    // Another update of a task that is already in flight may be sent: the cursor is over tasks.
    world.report(LinkId(2), "t0000", 2, TaskState::Finished);
    assert_eq!(told(world.take_lines()), 1);
    // A new stream starts with the unacknowledged updates.
    world.framework_returns(FRAMEWORK, &[]);
    let said = world.take_lines();
    let third = said
        .iter()
        .filter(|line| line.starts_with("link-3 <- update"))
        .count();
    // t0000 has two of them: RUNNING, and the final state.
    assert_eq!(third, 1_001);
}

#[test]
fn reconciliation_of_known_tasks_is_answered_immediately() {
    let mut world = World::with_running_task();
    let entries = world.entries();
    world.reconcile(&["a"], 5);
    world.reconcile(&[], 5);
    world.expect(&expect![[r#"
        call-3: reconciled [a RUNNING (RECONCILIATION)]
        call-4: reconciled [a RUNNING (RECONCILIATION)]
    "#]]);
    assert_eq!(world.entries(), entries);
}

#[test]
fn unknown_is_answered_only_after_a_confirming_commit() {
    let mut world = World::with_offer();
    let (accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
    let mut slow = world.call_of(argosy_state::command::CallAction::Accept(accept));
    slow.lowest_unanswered = 1;
    world.slow_log();
    world.reconcile(&["a"], 2);
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        call-1: reconciled [a UNKNOWN (TASK_UNKNOWN)]
    "#]]);
    world.send(slow, tokens);
    world.commit();
    world.expect(&expect![[r#"
        call-2: refused late: call 1 is below 2, the lowest number still open
    "#]]);
    // The promise holds: the same answer needs no other entry.
    let entries = world.entries();
    world.reconcile(&["a"], 2);
    world.expect(&expect![[r#"
        call-3: reconciled [a UNKNOWN (TASK_UNKNOWN)]
    "#]]);
    assert_eq!(world.entries(), entries);
}

#[test]
fn a_new_leader_answers_reconciliation_before_any_agent_reconnects() {
    let mut world = World::with_running_task();
    world.new_leader();
    world.reconcile(&["a"], 1);
    world.expect(&expect![[r#"
        call-3: reconciled [a RUNNING (RECONCILIATION)]
    "#]]);
}

#[test]
fn tasks_of_a_lost_agent_are_unreachable_and_those_of_a_gone_one_have_ended() {
    let mut world = World::with_running_task();
    world.advance(15_000);
    world.clear_lines();
    world.reconcile(&["a"], 1);
    world.reconcile(&[], 1);
    world.expect(&expect![[r#"
        call-3: reconciled [a UNREACHABLE (RECONCILIATION)]
        call-4: reconciled [a UNREACHABLE (RECONCILIATION)]
    "#]]);
    world.operate(argosy_state::command::OperatorOperation::MarkGone(AGENT));
    world.clear_lines();
    world.reconcile(&["a"], 1);
    world.reconcile(&[], 1);
    world.expect(&expect![[r#"
        call-6: reconciled [a GONE_BY_OPERATOR (RECONCILIATION)]
        call-7: reconciled []
    "#]]);
    // Once acknowledged, it is history, and the answer stays true as long as that is kept.
    world.acknowledge(&["a"]);
    world.reconcile(&["a"], 1);
    world.expect(&expect![[r#"
        call-8: acknowledged
        call-9: reconciled [a GONE_BY_OPERATOR (RECONCILIATION)]
    "#]]);
}

#[test]
fn ended_tasks_are_reconciled_only_on_explicit_request() {
    let mut world = World::with_running_task();
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.clear_lines();
    world.reconcile(&[], 1);
    world.reconcile(&["a"], 1);
    world.expect(&expect![[r#"
        call-3: reconciled []
        call-4: reconciled [a FINISHED (RECONCILIATION)]
    "#]]);
}

#[test]
fn reconciliation_reports_the_committed_and_not_the_pending_state() {
    let mut world = World::with_running_task();
    world.slow_log();
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.reconcile(&["a"], 1);
    world.expect(&expect![[r#"
        call-3: reconciled [a RUNNING (RECONCILIATION)]
    "#]]);
    world.commit();
    world.clear_lines();
}

#[test]
fn reconciliation_waits_for_a_pending_launch() {
    let mut world = World::with_offer();
    world.slow_log();
    world.accept("1.1", &["a"]);
    // Requested before the launch is committed: the answer is given after it.
    world.reconcile(&["a"], 2);
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        link-2 <- order 1 launch framework-1/a
        call-1: called at 4.0
        call-2: reconciled [a STAGING (RECONCILIATION)]
    "#]]);
}

#[test]
fn reconciliation_of_unknown_frameworks_is_rejected_by_an_entry() {
    let mut world = World::with_offer();
    world.slow_log();
    for (framework, session) in [(FrameworkId(9), 1), (FRAMEWORK, 9)] {
        let request = world.request();
        let reconcile = crate::leader::ReconcileQuery {
            framework,
            session,
            tasks: Vec::new(),
            after: None,
            next_number: 1,
        };
        world.feed(Input::Reconcile {
            request,
            actor: Actor::default(),
            reconcile,
        });
    }
    // Another leader may know them.
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        call-1: refused unknown-framework: no framework-9 in this cluster: it was removed, or never was
        call-2: refused superseded: another scheduler has taken over framework-1
    "#]]);
}

/// Launches tasks `t0000` and so on, running on one agent, with updates sent and not acknowledged.
/// Each call launches 250 tasks, on the offer of the resources that the previous call has left.
fn launch_many(world: &mut World, count: u32) {
    for from in (0..count).step_by(250) {
        let specs = (from..count.min(from + 250)).map(|at| spec(&format!("t{at:04}"), "cpus:1"));
        let offer = format!("1.{}", from / 250 + 1);
        let (accept, tokens) = world.acceptance(&offer, specs.collect());
        let call = world.call_of(argosy_state::command::CallAction::Accept(accept));
        world.send(call, tokens);
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
    let said = world.take_lines();
    assert!(
        said.iter()
            .any(|line| line.contains("update t0500 FINISHED")),
        "{said:?}"
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
    let mut info = world.registry.framework(FRAMEWORK).unwrap().info.clone();
    info.detached = true;
    world.call(argosy_state::command::CallAction::Update(info));
    world.report(LinkId(2), "zebra", 1, TaskState::Running);
    let said = world.take_lines();
    assert!(
        said.iter()
            .any(|line| line.contains("update zebra RUNNING")),
        "{said:?}"
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
    let request = world.request();
    let reconcile = crate::leader::ReconcileQuery {
        framework: FRAMEWORK,
        session: world.registry.framework(FRAMEWORK).unwrap().session,
        tasks: Vec::new(),
        after: Some(TaskId::new("t0999").unwrap()),
        next_number: 9,
    };
    world.feed(Input::Reconcile {
        request,
        actor: Actor::default(),
        reconcile,
    });
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
    let most = argosy_state::limits::ACKNOWLEDGEMENTS_PER_COMMAND;
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
