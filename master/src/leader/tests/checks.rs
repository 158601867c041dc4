//! Tests of the delivery of check results to frameworks.

use argosy_state::task::{CheckResults, Reason, TaskState};
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, World};
use crate::leader::Input;
use crate::links::LinkId;

#[test]
fn check_results_are_resent_until_acknowledged_and_return_with_their_agent() {
    let mut world = World::with_running_task();
    let mut update = world.update("a", 2, TaskState::Running);
    update.reason = Reason::ReadinessCheckStatusUpdated;
    update.standing = CheckResults {
        healthy: Some(true),
        ready: Some(false),
    };
    world.feed(Input::AgentReport {
        link: LinkId(2),
        updates: vec![update],
    });
    world.reconcile(&["a"], 5);
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        link-1 <- update a RUNNING at 7.0 (READINESS_CHECK_STATUS_UPDATED) healthy not-ready
        link-2 <- committed framework-1/a@1 #2
        call-3: reconciled [a RUNNING (RECONCILIATION) healthy not-ready]
        link-1 closed
        link-3 <- subscribed framework-1 session 101 epoch 1
        link-3 <- update a RUNNING at 7.0 (READINESS_CHECK_STATUS_UPDATED) healthy not-ready
    "#]]);
    world.acknowledge(&["a"]);
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        call-4: acknowledged
        link-3 closed
        link-4 <- subscribed framework-1 session 101 epoch 1
    "#]]);
    // The result is unknown while its agent is unreachable.
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.advance(15_000);
    world.expect(&expect![[r#"
        link-4 <- unmet in *: 1 no-link
        link-4 <- agent-1 is unreachable
        link-4 <- update a UNREACHABLE at 9.1 (AGENT_UNREACHABLE)
    "#]]);
    let link = world.agent_returns(AGENT);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-5 <- registered agent-1, different
        link-5 <- list your tasks
        link-4 <- update a RUNNING at 11.0 (AGENT_REREGISTERED) healthy not-ready
        link-4 <- offers 1.2 * agent-1 cpus:3;mem:4096
    "#]]);
}
