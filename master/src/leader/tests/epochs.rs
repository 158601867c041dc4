//! Tests of offers and declines over a change of leader.

use argosy_state::command::CallAction;
use argosy_state::limits;
use argosy_state::task::TaskState;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, World};
use crate::links::LinkId;

/// Found by the process test of a failover: the offer was rejected as used, and it had not been
/// withdrawn.
#[test]
fn an_offer_of_an_earlier_epoch_is_withdrawn_when_it_may_be_used() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a"]);
    world.call(CallAction::Revive(Vec::new()));
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.new_leader();
    world.framework_returns(FRAMEWORK, &["1.2"]);
    let agent = world.agent_returns(AGENT);
    world.report(agent, "a", 2, TaskState::Finished);
    world.expect(&expect![[r#"
        link-2 <- order 1 launch framework-1/a
        call-1: called at 4.0
        call-2: called at 5.0
        link-1 <- offers 1.2 * agent-1 cpus:3;mem:4096
        link-1 <- update a RUNNING at 6.0 (UNSPECIFIED)
        link-2 <- committed framework-1/a@1 #1
        link-3 <- subscribed framework-1 session 101 epoch 7, kept 1.2
        link-3 <- update a RUNNING at 6.0 (UNSPECIFIED)
        link-4 <- registered agent-1, equal
        link-3 <- update a FINISHED at 8.0 (UNSPECIFIED)
        link-4 <- committed framework-1/a@1 #2 released
        link-3 <- offers 7.1 * agent-1 cpus:1
    "#]]);
    let epoch = world.registry.cluster().epoch.0;
    for number in 1..=limits::USED_OFFERS {
        world.clear_lines();
        world.accept(&format!("{epoch}.{number}"), &[]);
        world.call(CallAction::Revive(Vec::new()));
    }
    // The first offer that was used is dropped from the record now, and the second one next: a
    // later one than what is still held.
    world.expect(&expect![[r#"
        call-129: called at 135.0
        call-130: called at 136.0
        link-3 <- offers 7.65 * agent-1 cpus:1
    "#]]);
    world.accept(&format!("{epoch}.{}", limits::USED_OFFERS + 1), &[]);
    world.expect(&expect![[r#"
        link-3 <- rescind 1.2: many newer ones of its agent were used
        call-131: called at 137.0
        link-3 <- offers 7.66 * agent-1 cpus:4;mem:4096
    "#]]);
    world.accept("1.2", &["b"]);
    world.expect(&expect![[r#"
        call-132: refused offer-used: offer 1.2 is no longer open: used, declined, rescinded or from too long ago; give a newer one
    "#]]);
}

#[test]
fn an_active_decline_is_presented_to_the_next_leader() {
    let mut world = World::with_offer();
    world.new_leader();
    let mut subscription = world.subscription_of(FRAMEWORK, &[]);
    let (offer, _) = world.held("1.1");
    subscription.filters = vec![crate::leader::PresentedFilter {
        agent: AGENT,
        role: offer.role,
        resources: offer.resources,
        remaining_ms: 2_000,
    }];
    world.subscribe_with(LinkId(3), subscription);
    world.agent_returns(AGENT);
    world.advance_with(1_900, &[LinkId(3)]);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 4
        link-3 <- unmet in *: 1 no-link
        link-3 <- registered agent-1, equal
    "#]]);
    world.advance_with(1_200, &[LinkId(3)]);
    world.expect(&expect![[r#"
        link-3 <- offers 4.1 * agent-1 cpus:4;mem:4096
    "#]]);
}
