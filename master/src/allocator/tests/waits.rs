//! Tests of the waits of demands: since when they count, and for which reason.

use argosy_state::command::{CallAction, OperatorOperation};

use super::fixture::World;
use crate::allocator::StreamState;

/// The time between two rounds of offers.
const ROUND_MS: u64 = 10_000;

/// Returns a cluster whose agent has 2 of 8 processors left, and a framework that is offered them.
fn nearly_full() -> World {
    let mut world = World::new();
    let filler = world.framework(&["b"]);
    world.agent("cpus:8;mem:1024");
    let offer = world.offers().remove(0);
    world.accept(&offer, &[("t", "cpus:6")]);
    world.call(filler, CallAction::Suppress(Vec::new()));
    world.offers();
    world.framework(&["a"]);
    world
}

#[test]
fn offers_that_are_too_small_do_not_end_the_wait_and_a_launch_does() {
    let mut world = nearly_full();
    for _ in 0..40 {
        let offer = world.offers().remove(0);
        world.decline_because(&offer, Some(ROUND_MS), "too-small", "it needs 4");
        world.offers();
        world.wait_ms(ROUND_MS);
    }
    assert_eq!(world.waits(), [("too-little", 1, 40 * ROUND_MS)]);
    let offer = world.offers().remove(0);
    world.accept(&offer, &[("small", "cpus:1")]);
    world.wait_ms(7);
    assert_eq!(world.waits()[0].2, 7, "it is not offered more than before");
}

#[test]
fn offers_that_expire_do_not_end_the_wait() {
    let mut world = nearly_full();
    for _ in 0..3 {
        let offer = world.offers().remove(0);
        assert_eq!(world.waits()[0].0, "too-little", "it holds a remainder");
        world.now = offer.expires;
        assert_eq!(world.book.expire(world.now, 10).len(), 1);
    }
    let waits = world.waits();
    assert_eq!((waits.len(), waits[0].0), (1, "ready"));
    assert_eq!(waits[0].2, world.now.0 - 1, "since its subscription");
}

#[test]
fn a_framework_that_states_another_reason_or_declines_whole_agents_waits_by_its_own_choice() {
    for (code, reason) in [
        ("", "too-little"),
        ("too-small", "too-little"),
        ("no-demand", "filtered"),
    ] {
        let mut world = nearly_full();
        let offer = world.offers().remove(0);
        world.decline_because(&offer, Some(ROUND_MS), code, "");
        world.offers();
        assert_eq!(world.waits(), [(reason, 1, 0)], "{code:?}");
        // One empty agent decides, however many others are busy.
        world.agent("cpus:8;mem:1024");
        let offer = world.offers().remove(0);
        assert_eq!(world.waits(), [("offered", 1, 0)], "{code:?}");
        world.decline_because(&offer, Some(ROUND_MS), code, "");
        world.offers();
        let reason = if code == "too-small" {
            "too-little"
        } else {
            "filtered"
        };
        assert_eq!(world.waits(), [(reason, 1, 0)], "{code:?}");
    }
}

#[test]
fn whole_agents_that_are_declined_as_too_small_are_too_small() {
    let mut world = World::new();
    world.framework(&["a"]);
    for _ in 0..3 {
        world.agent("cpus:1;mem:64");
    }
    for offer in world.offers() {
        world.decline_because(&offer, Some(ROUND_MS), "too-small", "");
    }
    world.offers();
    assert_eq!(world.waits(), [("too-small", 1, 0)]);
}

#[test]
fn the_reason_follows_every_agent_of_a_large_cluster_without_those_that_are_gone() {
    let mut world = World::new();
    world.framework(&["a"]);
    world.offers();
    assert_eq!(world.waits(), [("no-agents", 1, 0)]);
    let agents: Vec<_> = (0..280).map(|_| world.agent("cpus:1")).collect();
    for agent in &agents[..210] {
        world.operate(OperatorOperation::MarkGone(*agent));
    }
    assert_eq!(world.registry.agents().len(), 280);
    for agent in &agents[210..] {
        world.operate(OperatorOperation::Deactivate(*agent));
    }
    world.offers();
    // A pass over all agents takes several calls, and the former reason stays until its end.
    let mut calls = 0;
    while world.allocator.waits().next().unwrap().reason.code() == "no-agents" {
        world.update_wait_reasons(100);
        calls += 1;
    }
    assert_eq!(calls, 3);
    assert_eq!(world.waits(), [("deactivated", 1, 0)]);
    for agent in &agents[210..] {
        world.links.unlinked.insert(*agent);
        world.operate(OperatorOperation::Reactivate(*agent));
    }
    world.offers();
    assert_eq!(world.waits(), [("no-link", 1, 0)]);
}

#[test]
fn every_demand_is_evaluated_in_turn_whatever_one_call_covers() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.framework(&[name]);
    }
    world.offers();
    let known = |world: &World| {
        let waits = world.allocator.waits();
        let known = waits.filter(|waits| waits.reason.code() == "no-agents");
        known.map(|waits| waits.demands).sum::<usize>()
    };
    for done in 1..=3 {
        world.update_wait_reasons(1);
        assert_eq!(known(&world), done);
    }
}

#[test]
fn a_demand_begins_when_a_framework_takes_offers_and_ends_when_it_does_not() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    world.offers();
    world.wait_ms(50);
    assert_eq!(world.waits(), [("no-agents", 1, 50)]);
    world.call(a, CallAction::Suppress(Vec::new()));
    world.offers();
    assert_eq!(world.waits(), []);
    world.call(a, CallAction::Revive(Vec::new()));
    world.offers();
    world.wait_ms(30);
    assert_eq!(world.waits(), [("no-agents", 1, 30)]);
    world.links.streams.insert(a, StreamState::None);
    world.allocator.framework_changed(a);
    world.offers();
    assert_eq!(world.waits(), []);
}
