//! Tests of offers: made, used once, withdrawn.

use argosy_state::command::{CallAction, OperatorOperation};
use argosy_state::framework::FrameworkInfo;
use argosy_state::task::TaskState;
use argosy_state::testing::{framework_info, spec};
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, OFFER_MS, World, new_agent, new_framework};
use crate::leader::Input;
use crate::links::LinkId;

#[test]
fn an_offer_with_a_flipped_bit_is_refused() {
    let mut world = World::with_offer();
    for bit in [0, 77, 255] {
        let (accept, mut tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
        tokens[0][bit / 8] ^= 1 << (bit % 8);
        let call = world.call_of(CallAction::Accept(accept));
        world.send(call, tokens);
    }
    let (mut accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
    accept.offers[0].expires = accept.offers[0].expires.plus_ms(1);
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call, tokens);
    world.expect(&expect![[r#"
        call-1: refused offer-forged: offer 1.1 carries no valid token of this cluster; give it back as it came
        call-2: refused offer-forged: offer 1.1 carries no valid token of this cluster; give it back as it came
        call-3: refused offer-forged: offer 1.1 carries no valid token of this cluster; give it back as it came
        call-4: refused offer-forged: offer 1.1 carries no valid token of this cluster; give it back as it came
    "#]]);
}

#[test]
fn a_forged_presented_offer_is_rescinded() {
    let mut world = World::with_offer();
    world.new_leader();
    let mut subscription = world.subscription_of(FRAMEWORK, &["1.1"]);
    subscription.held[0].1[9] ^= 4;
    world.subscribe_with(LinkId(3), subscription);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 4, rescinded 1.1
        link-3 <- unmet in *: 1 no-link
    "#]]);
}

#[test]
fn first_thousand_presented_offers_are_validated_others_rescinded() {
    for (before, kept) in [(999, true), (1_000, false)] {
        let mut world = World::with_offer();
        world.new_leader();
        world.agent_returns(AGENT);
        world.clear_lines();
        let mut subscription = world.subscription_of(FRAMEWORK, &["1.1"]);
        let (genuine, token) = subscription.held[0].clone();
        let forged = (0..before).map(|number| {
            let mut promise = genuine.clone();
            promise.id.serial += 1 + number;
            (promise, token.clone())
        });
        subscription.held.splice(0..0, forged);
        world.subscribe_with(LinkId(3), subscription);
        let said = world.take_lines();
        let is_kept = said[0].contains("kept 1.1,");
        assert_eq!(is_kept, kept, "{:.200}", said[0]);
        let is_offered = said[1..].iter().any(|line| line.contains("<- offers "));
        assert_eq!(is_offered, !kept, "its resources: {:?}", &said[1..]);
    }
}

#[test]
fn the_offer_of_another_framework_is_refused() {
    let mut world = World::with_offer();
    world.decline(&["1.1"], 3_600_000);
    world.subscribe("other");
    world.clear_lines();
    let (mut accept, tokens) = world.acceptance("1.2", vec![spec("a", "cpus:1")]);
    let call = world.call_of(CallAction::Accept(accept.clone()));
    world.send(call, tokens.clone());
    // Claiming that the offer is its own does not help.
    accept.offers[0].framework = FRAMEWORK;
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call, tokens);
    world.expect(&expect![[r#"
        call-2: refused offer-foreign: offer 1.2 was made to another framework or session; give those of this session
        call-3: refused offer-forged: offer 1.2 carries no valid token of this cluster; give it back as it came
    "#]]);
}

#[test]
fn an_offer_can_be_used_once_even_across_a_failover() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a"]);
    world.accept("1.1", &["b"]);
    world.expect(&expect![[r#"
        link-2 <- order 1 launch framework-1/a
        call-1: called at 4.0
        call-2: refused offer-used: offer 1.1 is no longer open: used, declined, rescinded or from too long ago; give a newer one
    "#]]);
    world.new_leader();
    world.framework_returns(FRAMEWORK, &["1.1"]);
    world.accept("1.1", &["b"]);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 6, rescinded 1.1
        link-3 <- unmet in *: 1 no-link
        call-3: refused offer-used: offer 1.1 is no longer open: used, declined, rescinded or from too long ago; give a newer one
    "#]]);
}

/// Found by simulation seed 2000028: the caller received that the offer was used, and concluded
/// that its task would not run.
#[test]
fn a_repeat_is_not_told_that_its_own_offer_is_used_once_its_answer_is_forgotten() {
    let mut world = World::with_offer();
    let (accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call.clone(), tokens.clone());
    world.operate(OperatorOperation::Teardown(FRAMEWORK));
    world.clear_lines();
    world.send(call, tokens);
    world.expect(&expect![[r#"
        call-3: refused framework-removed: framework-1 is being removed
    "#]]);
}

#[test]
fn repeat_of_an_older_session_gets_a_generic_rejection() {
    let mut world = World::with_offer();
    let (accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call.clone(), tokens.clone());
    for session in [777, 778] {
        let mut next = world.subscription_of(FRAMEWORK, &[]);
        next.session = session;
        let link = world.link();
        world.subscribe_with(link, next);
    }
    world.clear_lines();
    world.send(call, tokens);
    world.expect(&expect![[r#"
        call-2: refused superseded: another scheduler has taken over framework-1
    "#]]);
}

#[test]
fn pending_offer_is_not_used_again() {
    let mut world = World::with_offer();
    world.slow_log();
    world.accept("1.1", &["a"]);
    world.accept("1.1", &["b"]);
    // Another master may lead by now, and may have answered this call.
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        link-2 <- order 1 launch framework-1/a
        call-1: called at 4.0
        call-2: refused offer-used: offer 1.1 is no longer open: used, declined, rescinded or from too long ago; give a newer one
    "#]]);
}

#[test]
fn deposed_leader_rejects_no_call_based_on_its_own_offers_or_clock() {
    let mut world = World::with_offer();
    world.slow_log();
    let (accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
    let call = world.call_of(CallAction::Accept(accept));
    world.advance_with(OFFER_MS, &[LinkId(2)]);
    world.clear_lines();
    // The offer has expired by the clock of this leader. Another one may have accepted it in time.
    world.send(call, tokens);
    world.expect_nothing();
    world.commit();
    let said = world.take_lines();
    let mut answers = said.iter().filter(|line| line.starts_with("call-"));
    assert!(
        answers.any(|line| line.starts_with("call-1: refused offer-expired")),
        "{said:?}"
    );
}

#[test]
fn repeated_offers_and_offers_of_several_agents_in_a_call_are_rejected() {
    let mut world = World::with_offer();
    world.agent("cpus:1;mem:1024");
    world.clear_lines();
    world.accept("1.1 1.1", &["a"]);
    world.accept("1.1 1.2", &["a"]);
    // Both offers are as valid as before.
    world.accept("1.2", &["a"]);
    world.expect(&expect![[r#"
        call-1: refused offer-twice: offer 1.1 is given twice; give each offer once
        call-2: refused offer-mixed: offer 1.2 is of another agent or role than the first one; give it to a call of its own
        link-3 <- order 1 launch framework-1/a
        call-3: called at 5.0
    "#]]);
}

#[test]
fn the_unused_part_of_an_offer_is_offered_again_after_its_filter() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a"]);
    world.clear_lines();
    world.advance_with(4_900, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-1 <- unmet in *: 1 filtered
    "#]]);
    world.advance_with(1_500, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-1 <- offers 1.2 * agent-1 cpus:3;mem:4096
    "#]]);
}

#[test]
fn resources_of_a_rejected_task_are_offered_again() {
    let mut world = World::with_offer();
    let (accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:99")]);
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call, tokens);
    world.advance_with(6_500, &[LinkId(2)]);
    world.expect(&expect![[r#"
        call-1: called at 4.0, task 0.0 refused too-large
        link-1 <- unmet in *: 1 filtered
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn unused_offers_expire_and_used_or_declined_ones_are_not_rescinded() {
    let mut world = World::with_offer();
    world.advance_with(OFFER_MS - 100, &[LinkId(2)]);
    world.expect_nothing();
    world.advance_with(1_200, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-1 <- rescind 1.1: it has expired
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
    world.accept("1.2", &["a"]);
    world.advance_with(6_500, &[LinkId(2)]);
    world.clear_lines();
    world.decline(&["1.3"], 3_600_000);
    world.advance_with(2 * OFFER_MS, &[LinkId(2)]);
    world.expect(&expect![[r#"
        call-2: declined
        link-1 <- unmet in *: 1 filtered
    "#]]);
}

#[test]
fn offer_timeout_is_set_by_the_framework() {
    let mut world = World::new();
    let info = FrameworkInfo {
        offer_timeout_ms: 2_000,
        ..framework_info("hasty")
    };
    world.subscribe_with(LinkId(1), new_framework(7, info));
    world.agent("cpus:4;mem:4096");
    world.clear_lines();
    world.advance(2_000);
    assert!(
        world
            .take_lines()
            .contains(&"link-1 <- rescind 1.1: it has expired".to_owned())
    );
}

#[test]
fn declined_resources_are_not_offered_until_the_filter_expires_or_a_revive() {
    let mut world = World::with_offer();
    world.decline(&["1.1"], 3_000);
    world.advance_with(2_900, &[LinkId(2)]);
    world.expect(&expect![[r#"
        call-1: declined
        link-1 <- unmet in *: 1 filtered
    "#]]);
    world.advance_with(1_200, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
    world.decline(&["1.2"], 3_600_000);
    world.call(CallAction::Revive(Vec::new()));
    world.expect(&expect![[r#"
        call-2: declined
        call-3: called at 4.0
        link-1 <- offers 1.3 * agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn an_agent_without_a_link_gets_no_new_offers_and_keeps_the_open_ones() {
    let mut world = World::with_offer();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.advance(2_000);
    world.expect_nothing();
    world.decline(&["1.1"], 0);
    world.advance(2_000);
    world.expect(&expect![[r#"
        call-1: declined
        link-1 <- unmet in *: 1 no-link
    "#]]);
    world.agent_returns(AGENT);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, equal
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn offers_of_a_lost_or_changed_agent_are_rescinded() {
    let mut world = World::with_offer();
    world.operate(OperatorOperation::SetAttribute {
        agent: AGENT,
        name: "rack".to_owned(),
        value: "r1".to_owned(),
    });
    world.expect(&expect![[r#"
        link-1 <- rescind 1.1: its agent has changed
        call-1: operated: done
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
    world.operate(OperatorOperation::Deactivate(AGENT));
    world.expect(&expect![[r#"
        link-1 <- rescind 1.2: its agent has changed
        call-2: operated: done
    "#]]);
    world.operate(OperatorOperation::Reactivate(AGENT));
    world.expect(&expect![[r#"
        call-3: operated: done
        link-1 <- offers 1.3 * agent-1 cpus:4;mem:4096
    "#]]);
    world.advance(15_000);
    world.expect(&expect![[r#"
        link-1 <- rescind 1.3: its agent has changed
        link-2 closed
        link-1 <- agent-1 is unreachable
        link-1 <- unmet in *: 1 unreachable
    "#]]);
}

#[test]
fn offers_lost_with_a_stream_are_offered_again() {
    let mut world = World::with_offer();
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        link-1 closed
        link-3 <- subscribed framework-1 session 101 epoch 1
        link-3 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
    world.accept("1.1", &["a"]);
    world.expect(&expect![[r#"
        call-1: refused offer-used: offer 1.1 is no longer open: used, declined, rescinded or from too long ago; give a newer one
    "#]]);
}

#[test]
fn slow_reader_gets_offers_after_it_caught_up() {
    let mut world = World::new();
    world.subscribe("slow");
    world.feed(Input::FrameworkBehind {
        link: LinkId(1),
        behind: true,
    });
    world.agent("cpus:4;mem:4096");
    world.advance_with(2_000, &[LinkId(2)]);
    let said = world.take_lines();
    assert!(
        !said.iter().any(|line| line.contains("<- offers")),
        "{said:?}"
    );
    world.feed(Input::FrameworkBehind {
        link: LinkId(1),
        behind: false,
    });
    world.expect(&expect![[r#"
        link-1 <- offers 1.1 * agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn large_offers_are_split_over_several_events() {
    let mut world = World::new();
    for nonce in 1..=3 {
        let mut hello = new_agent(nonce, "cpus:1;mem:64");
        let long = (0..100).map(|at| (format!("name-{at}"), "x".repeat(4_000)));
        hello.info.attributes = long.collect();
        let link = world.link();
        world.hello(link, hello);
    }
    world.clear_lines();
    world.subscribe("web");
    world.expect(&expect![[r#"
        link-4 <- subscribed framework-1 session 104 epoch 1
        link-4 <- offers 1.1 * agent-1 cpus:1;mem:64 1.2 * agent-2 cpus:1;mem:64
        link-4 <- offers 1.3 * agent-3 cpus:1;mem:64
    "#]]);
}

#[test]
fn accepts_in_one_entry_do_not_rescind_other_offers_of_their_agent() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a", "b", "c"]);
    world.advance_with(6_000, &[LinkId(2)]);
    world.report(LinkId(2), "a", 1, TaskState::Finished);
    world.subscribe("other");
    world.report(LinkId(2), "b", 1, TaskState::Finished);
    let said = world.take_lines();
    assert!(
        said.iter().any(|line| line.contains("offers 1.4")),
        "{said:?}"
    );
    world.slow_log();
    world.accept("1.2", &["d"]);
    world.accept("1.3", &["e"]);
    world.commit_together();
    world.expect(&expect![[r#"
        link-2 <- order 4 launch framework-1/d
        link-2 <- order 5 launch framework-1/e
        call-2: called at 8.0
        call-3: called at 8.2
        link-3 <- offers 1.5 * agent-1 mem:4096
    "#]]);
}

#[test]
fn offers_are_rescinded_before_a_larger_one_that_contains_them() {
    let mut world = World::with_offer();
    let specs = ["a", "b", "c", "d"].map(|name| spec(name, "cpus:1;mem:1024"));
    let (accept, tokens) = world.acceptance("1.1", specs.to_vec());
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call, tokens);
    world.clear_lines();
    for task in ["a", "b", "c"] {
        world.report(LinkId(2), task, 1, TaskState::Finished);
    }
    world.acknowledge(&["a", "b", "c"]);
    world.advance_with(2_000, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-1 <- update a FINISHED at 5.0 (UNSPECIFIED)
        link-2 <- committed framework-1/a@1 #1 released
        link-1 <- offers 1.2 * agent-1 cpus:1;mem:1024
        link-1 <- update b FINISHED at 6.0 (UNSPECIFIED)
        link-2 <- committed framework-1/b@2 #1 released
        link-1 <- offers 1.3 * agent-1 cpus:1;mem:1024
        link-1 <- update c FINISHED at 7.0 (UNSPECIFIED)
        link-2 <- committed framework-1/c@3 #1 released
        call-2: acknowledged
        link-1 <- rescind 1.2: it is part of a larger offer of its agent
        link-1 <- rescind 1.3: it is part of a larger offer of its agent
        link-1 <- offers 1.4 * agent-1 cpus:3;mem:3072
    "#]]);
}
