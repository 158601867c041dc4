//! Tests of offers: made, used once, withdrawn.

use std::collections::BTreeMap;

use argosy_state::command::CallAction;
use argosy_state::framework::FrameworkInfo;
use argosy_state::task::TaskState;
use argosy_state::testing::{framework_info, spec};
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, OFFER_MS, World, new_agent, new_framework};
use crate::leader::{Input, PRESENTATION_RESULTS};
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
fn presented_offers_are_counted_by_the_reason_for_which_they_are_not_kept() {
    let mut world = World::with_offer();
    world.new_leader();
    world.agent_returns(AGENT);
    let mut forged = world.subscription_of(FRAMEWORK, &["1.1", "1.1"]);
    forged.held[1].1[9] ^= 4;
    world.subscribe_with(LinkId(3), forged);
    let counted = world.take_presented();
    assert_eq!(counted, BTreeMap::from([("kept", 1), ("invalid", 1)]));
    // It is open again here, and counted once for each subscription.
    world.framework_returns(FRAMEWORK, &["1.1"]);
    assert_eq!(world.take_presented(), BTreeMap::from([("kept", 1)]));
    assert_eq!(world.take_presented(), BTreeMap::new());
    world.new_leader();
    world.agent_returns(AGENT);
    world.advance(OFFER_MS);
    world.framework_returns(FRAMEWORK, &["1.1"]);
    assert_eq!(world.take_presented(), BTreeMap::from([("expired", 1)]));
    for result in ["kept", "invalid", "expired"] {
        assert!(PRESENTATION_RESULTS.contains(&result));
    }
    world.clear_lines();
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
            let mut offer = genuine.clone();
            offer.id.serial += 1 + number;
            (offer, token.clone())
        });
        subscription.held.splice(0..0, forged);
        world.subscribe_with(LinkId(3), subscription);
        let output = world.take_lines();
        let is_kept = output[0].contains("kept 1.1,");
        assert_eq!(is_kept, kept, "{:.200}", output[0]);
        let is_offered = output[1..].iter().any(|line| line.contains("<- offers "));
        assert_eq!(is_offered, !kept, "its resources: {:?}", &output[1..]);
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
    let output = world.take_lines();
    let mut answers = output.iter().filter(|line| line.starts_with("call-"));
    assert!(
        answers.any(|line| line.starts_with("call-1: refused offer-expired")),
        "{output:?}"
    );
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
fn slow_reader_gets_offers_after_it_caught_up() {
    let mut world = World::new();
    world.subscribe("slow");
    world.feed(Input::FrameworkBehind {
        link: LinkId(1),
        behind: true,
    });
    world.agent("cpus:4;mem:4096");
    world.advance_with(2_000, &[LinkId(2)]);
    let output = world.take_lines();
    assert!(
        !output.iter().any(|line| line.contains("<- offers")),
        "{output:?}"
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
fn ticks_determine_why_demands_wait_and_a_launch_begins_the_wait_again() {
    let mut world = World::with_offer();
    let wait = |world: &World| {
        let mut waits = world.leader.allocator().waits();
        let wait = waits.next().unwrap();
        (wait.reason.code(), world.now.since_ms(wait.since))
    };
    world.advance(1_000);
    assert_eq!(wait(&world), ("offered", 1_000));
    world.decline(&["1.1"], 3_600_000);
    world.advance(1_000);
    assert_eq!(wait(&world), ("too-small", 2_000));
    world.agent("cpus:1;mem:64");
    world.accept("1.2", &["a"]);
    world.advance(100);
    assert_eq!(wait(&world).1, 100);
    world.clear_lines();
}

#[test]
fn the_filter_of_an_acceptance_ends_with_its_session() {
    for is_late in [false, true] {
        let mut world = World::with_offer();
        let (accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
        let call = world.call_of(CallAction::Accept(accept));
        let mut subscription = world.subscription_of(FRAMEWORK, &[]);
        subscription.session += 1;
        let link = world.link();
        world.slow_log();
        if is_late {
            world.subscribe_with(link, subscription);
            world.send(call, tokens);
        } else {
            world.send(call, tokens);
            world.subscribe_with(link, subscription);
        }
        world.commit();
        let lines = world.take_lines();
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        assert_eq!(has("call-1: refused superseded"), is_late, "{lines:?}");
        let offered = format!("link-{} <- offers", link.0);
        assert!(has(&offered), "{lines:?}");
    }
}

/// Returns a world with four tasks `a` to `d` that use all of the agent, and lets the first of them
/// finish. The resources of each are one offer, 1.2 and 1.3; those of a third one wait.
fn finished(count: usize) -> World {
    let mut world = World::with_offer();
    let tasks = ["a", "b", "c", "d"];
    let specs = tasks.map(|task| spec(task, "cpus:1;mem:1024"));
    world.launch("1.1", specs.into());
    for task in &tasks[..count] {
        world.report(LinkId(2), task, 1, TaskState::Finished);
    }
    world.clear_lines();
    world
}

fn offers_in(lines: &[String]) -> Vec<&String> {
    let offers = lines.iter().filter(|line| line.contains("<- offers "));
    offers.collect()
}

#[test]
fn an_acceptance_filters_no_resources_that_were_never_offered() {
    let mut world = finished(3);
    world.accept("1.2", &["e"]);
    let lines = world.take_lines();
    let offered = "link-1 <- offers 1.4 * agent-1 cpus:1;mem:2048";
    assert_eq!(offers_in(&lines), [offered]);
}

#[test]
fn the_rest_of_an_offer_stays_filtered_when_another_one_of_its_agent_is_used() {
    for is_one_entry in [false, true] {
        let mut world = finished(2);
        if is_one_entry {
            world.slow_log();
        }
        world.accept("1.2", &["e"]);
        world.accept("1.3", &["f"]);
        if is_one_entry {
            world.commit_together();
        }
        let lines = world.take_lines();
        assert!(lines.iter().any(|line| line.ends_with("framework-1/f")));
        assert_eq!(offers_in(&lines), Vec::<&String>::new());
        world.advance_with(7_000, &[LinkId(2)]);
        let lines = world.take_lines();
        let offered = "link-1 <- offers 1.4 * agent-1 mem:2048";
        assert_eq!(offers_in(&lines), [offered]);
    }
}
