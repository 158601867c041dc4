//! Tests of inputs that arrive while a decision of the leader on the same agent or framework is
//! being committed.

use argosy_state::agent::AgentMode;
use argosy_state::framework::{FrameworkInfo, SchedulerConnection};
use argosy_state::task::TaskState;
use argosy_state::testing::framework_info;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, LIMITS, World, new_framework};
use crate::leader::Input;
use crate::links::LinkId;

fn connection(world: &World) -> SchedulerConnection {
    world.registry.framework(FRAMEWORK).unwrap().connection
}

/// Returns a framework on link-1 whose stream has been gone for its grace period: its disconnection
/// is proposed and not committed.
fn disconnecting(failover_timeout_ms: u64) -> World {
    let mut world = World::new();
    let info = FrameworkInfo {
        failover_timeout_ms,
        ..framework_info("web")
    };
    let link = world.link();
    world.subscribe_with(link, new_framework(7, info));
    world.agent("cpus:4;mem:4096");
    world.accept("1.1", &["a"]);
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.acknowledge(&["a"]);
    world.slow_log();
    world.feed(Input::FrameworkClosed { link });
    world.advance_with(LIMITS.framework_grace_ms, &[LinkId(2)]);
    world.clear_lines();
    assert_eq!(world.proposed_bytes().len(), 1, "the disconnection");
    world
}

#[test]
fn a_framework_that_returns_while_its_disconnection_is_committed_is_connected() {
    let mut world = disconnecting(60_000);
    world.framework_returns(FRAMEWORK, &[]);
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 7 epoch 1
        link-3 <- offers 1.2 * agent-1 cpus:3;mem:4096
    "#]]);
    assert_eq!(connection(&world), SchedulerConnection::Connected);
    world.advance_with(120_000, &[LinkId(2)]);
    world.commit();
    world.clear_lines();
    assert_eq!(world.state_of("a"), TaskState::Running);
    assert_eq!(connection(&world), SchedulerConnection::Connected);
}

#[test]
fn a_framework_being_removed_is_not_subscribed_first() {
    let mut world = disconnecting(0);
    world.framework_returns(FRAMEWORK, &[]);
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        link-2 <- order 2 kill framework-1/a in 3000 ms
        link-3 <- error removed: framework-1 is being removed
        link-3 closed
    "#]]);
}

#[test]
fn a_disconnection_committed_by_the_former_leader_ends_with_the_return() {
    let mut world = disconnecting(60_000);
    world.commit_first(1);
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    world.commit();
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 7 epoch 8
        link-3 <- unmet in *: 1 no-link
    "#]]);
    assert_eq!(connection(&world), SchedulerConnection::Connected);
}

#[test]
fn a_disconnection_that_is_committed_after_the_next_epoch_changes_nothing() {
    for failover_timeout_ms in [0, 60_000] {
        let mut world = disconnecting(failover_timeout_ms);
        world.new_leader_before_proposals();
        world.framework_returns(FRAMEWORK, &[]);
        world.commit();
        world.expect(&expect![[r#"
            link-3 <- subscribed framework-1 session 7 epoch 7
            link-3 <- unmet in *: 1 no-link
        "#]]);
        assert_eq!(connection(&world), SchedulerConnection::Connected);
    }
}

/// The record follows the stream, however the two came to differ. Here a repeated first
/// subscription, which changes nothing, was committed before a disconnection that was decided on
/// the record of the first.
#[test]
fn a_stream_of_a_framework_recorded_as_disconnected_is_closed() {
    let mut world = World::new();
    world.slow_log();
    world.subscribe_with(LinkId(1), new_framework(7, framework_info("web")));
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.subscribe_with(LinkId(2), new_framework(7, framework_info("web")));
    assert!(world.commit_oldest());
    world.advance(LIMITS.framework_grace_ms);
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        link-2 <- subscribed framework-1 session 7 epoch 1
        link-2 closed
    "#]]);
    world.feed(Input::FrameworkClosed { link: LinkId(2) });
    world.subscribe_with(LinkId(3), new_framework(7, framework_info("web")));
    world.commit();
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 7 epoch 1
        link-3 <- unmet in *:
    "#]]);
    assert_eq!(connection(&world), SchedulerConnection::Connected);
}

#[test]
fn agent_that_returns_during_its_removal_registers_again() {
    let mut world = World::with_running_task();
    world.slow_log();
    world.advance(LIMITS.agent_timeout_ms);
    // Nothing is new, so it is admitted immediately; the decision is applied afterwards.
    world.agent_returns(AGENT);
    world.clear_lines();
    world.commit();
    let output = world.take_lines().join("\n");
    assert!(output.contains("link-3 closed"), "{output}");
    let link = world.agent_returns(AGENT);
    world.commit();
    world.list(link, 1, &[("a", 1)]);
    world.commit();
    world.clear_lines();
    let mode = world.registry.agent(AGENT).map(|agent| agent.mode());
    assert_eq!(mode, Some(AgentMode::Registered));
    assert_eq!(world.state_of("a"), TaskState::Running);
}

#[test]
fn repeated_acknowledgement_in_flight_frees_one_slot() {
    let mut world = World::with_running_task();
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.clear_lines();
    world.slow_log();
    world.acknowledge(&["a"]);
    world.acknowledge(&["a"]);
    world.expect_nothing();
    world.commit();
    let output = world.take_lines();
    let answered = output.iter().filter(|line| line.contains("acknowledged"));
    assert_eq!(answered.count(), 2, "{output:?}");
}
