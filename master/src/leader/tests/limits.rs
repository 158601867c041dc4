//! Tests of limit changes of a running task: the way to its agent and back.

use argosy_state::command::{AgentUpdate, CallAction, OperatorOperation};
use argosy_state::ids::{OrderIndex, TaskId};
use argosy_state::task::{LimitsReport, Reason, TaskLimits, TaskState};
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, World, task_key};
use crate::leader::Input;
use crate::links::LinkId;

fn limits(pids: u64) -> TaskLimits {
    TaskLimits {
        pids: Some(pids),
        ..TaskLimits::default()
    }
}

fn change(task: &str, pids: u64) -> CallAction {
    CallAction::UpdateLimits {
        task: TaskId::new(task).unwrap(),
        limits: limits(pids),
    }
}

/// Sends the outcome of an order, as the agent of "a" reports it.
fn confirm(world: &mut World, link: LinkId, number: u64, order: u64, outcome: Result<(), String>) {
    let update = AgentUpdate {
        reason: Reason::LimitsUpdated,
        limits: Some(LimitsReport {
            order: OrderIndex(order),
            outcome,
            held: None,
            causes: Vec::new(),
        }),
        ..world.update("a", number, TaskState::Running)
    };
    let updates = vec![update];
    world.feed(Input::AgentReport { link, updates });
}

#[test]
fn limit_change_is_ordered_and_its_outcome_reported() {
    let mut world = World::with_running_task();
    world.call(change("a", 9));
    confirm(&mut world, LinkId(2), 2, 2, Ok(()));
    world.call(change("a", 8));
    confirm(&mut world, LinkId(2), 3, 3, Err("too little".to_owned()));
    world.expect(&expect![[r#"
        link-2 <- order 2 limits of framework-1/a, 9 pids
        call-3: called at 7.0
        link-1 <- update a RUNNING at 8.0 (LIMITS_UPDATED), limits of 7.0 in force
        link-2 <- committed framework-1/a@1 #2
        link-2 <- order 3 limits of framework-1/a, 8 pids
        call-4: called at 9.0
        link-1 <- update a RUNNING at 10.0 (LIMITS_UPDATED), limits of 9.0 refused: too little
        link-2 <- committed framework-1/a@1 #3
    "#]]);
    // The next leader has the same state.
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 11
        link-3 <- update a RUNNING at 10.0 (LIMITS_UPDATED), limits of 9.0 refused: too little
        link-3 <- unmet in *: 1 no-link
    "#]]);
}

#[test]
fn unconfirmed_limits_are_resent_and_earlier_ones_void() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.call(change("a", 9));
    world.operate(OperatorOperation::UpdateLimits {
        key: task_key("a"),
        limits: limits(8),
    });
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(1);
    let link = world.link();
    world.hello(link, hello);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, equal
        link-3 <- order 2 void
        link-3 <- order 3 limits of framework-1/a, 8 pids
    "#]]);
}

#[test]
fn an_undelivered_launch_has_the_new_limits_and_their_order_follows() {
    let mut world = World::with_offer();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.accept("1.1", &["a"]);
    world.call(change("a", 9));
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(0);
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 0, &[]);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-3 <- order 1 launch framework-1/a, 9 pids
        link-3 <- order 2 limits of framework-1/a, 9 pids
    "#]]);
}

#[test]
fn an_order_is_sent_to_an_agent_that_announces_its_kind() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(1);
    hello.info.changes_limits = false;
    hello.info.capabilities = ["limits", "of-a-later-release"]
        .map(ToOwned::to_owned)
        .into();
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 1, &[("a", 1)]);
    world.clear_lines();
    world.call(change("a", 9));
    world.expect(&expect![[r#"
        link-3 <- order 2 limits of framework-1/a, 9 pids
        call-3: called at 8.0
    "#]]);
}

#[test]
fn downgraded_agent_gets_a_void_order() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.call(change("a", 9));
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(1);
    hello.info.changes_limits = false;
    hello.info.capabilities.clear();
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-1 <- update a RUNNING at 9.0 (LIMITS_UPDATED), limits of 7.0 refused: its agent is of a release that cannot change limits of a task: upgrade it, and ask again
        link-3 <- order 2 void
    "#]]);
    world.call(change("a", 8));
    world.expect(&expect![[r#"
        call-4: refused agent-incapable: agent-1 does not announce the capability limits, which a change of limits needs: leave that out, use another agent, or upgrade this one
    "#]]);
}
