//! Tests of which agents and frameworks take part in allocation, and of what frameworks see.

use std::sync::Arc;

use argosy_state::command::OperatorOperation;

use super::fixture::{World, parse, role};
use crate::allocator::{AllocatorSettings, MINIMUM_LABEL, OfferMinimum, StreamState, TurnBudget};

#[test]
fn only_registered_agents_with_a_link_are_offered() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let [far, off, gone, good] = std::array::from_fn(|_| world.agent("cpus:2;mem:64"));
    world.links.unlinked.insert(far);
    world.operate(OperatorOperation::Deactivate(off));
    world.operate(OperatorOperation::MarkGone(gone));
    assert_eq!(world.offered(), [(a, good)]);
    world.links.unlinked.clear();
    world.allocator.agent_changed(far);
    assert_eq!(world.offered(), [(a, far)]);
    world.operate(OperatorOperation::Reactivate(off));
    assert_eq!(world.offered(), [(a, off)]);
}

#[test]
fn missed_change_is_repaired_in_later_rounds() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:2;mem:64");
    world.links.unlinked.insert(agent);
    world.links.streams.insert(a, StreamState::None);
    assert_eq!(world.offered(), []);
    world.links.unlinked.clear();
    world.links.streams.clear();
    assert_eq!(world.offered(), []);
    world.wait_ms(1_000);
    assert_eq!(world.offered(), [(a, agent)]);
}

#[test]
fn only_frameworks_with_an_open_stream_get_offers() {
    let mut world = World::new();
    let [away, slow, good] = std::array::from_fn(|_| world.framework(&["a"]));
    world.links.streams.insert(away, StreamState::None);
    world.links.streams.insert(slow, StreamState::Behind);
    for _ in 0..3 {
        world.agent("cpus:2;mem:64");
    }
    assert!(
        world
            .offered()
            .iter()
            .all(|(framework, _)| *framework == good)
    );
    world.operate(OperatorOperation::Teardown(good));
    world.book.rescind_framework(good);
    assert_eq!(world.offered(), []);
    world.links.streams.insert(slow, StreamState::Open);
    world.allocator.framework_changed(slow);
    assert_eq!(world.offered().len(), 3);
}

#[test]
fn less_than_the_minimum_is_not_offered() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    world.agent("cpus:0.009;mem:31;disk:1000");
    assert_eq!(world.offered(), []);
    let agent = world.agent("cpus:0.01");
    assert_eq!(world.offered(), [(a, agent)]);
}

#[test]
fn a_framework_may_set_its_own_minimum_and_an_empty_one_accepts_anything() {
    let mut world = World::new();
    let picky = world.framework_with(&["a"], &[(MINIMUM_LABEL, "cpus:4")]);
    let modest = world.framework_with(&["b"], &[(MINIMUM_LABEL, "")]);
    let crumb = world.agent("disk:1");
    assert_eq!(world.offered(), [(modest, crumb)]);
    let large = world.agent("cpus:4");
    assert_eq!(world.offered(), [(picky, large)]);
    let small = world.agent("cpus:3");
    assert_eq!(world.offered(), [(modest, small)]);
}

#[test]
fn a_minimum_is_parsed_once_for_all_roles_of_a_framework() {
    let mut world = World::new();
    let names: Vec<String> = (0..64).map(|number| format!("r{number}")).collect();
    let roles: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = world.framework_with(&roles, &[(MINIMUM_LABEL, "cpus:4|mem:64")]);
    let [small, large] = ["cpus:3", "cpus:4"].map(|resources| world.agent(resources));
    assert_eq!(world.offered(), [(id, large)]);
    let minima = |world: &World| -> Vec<Arc<OfferMinimum>> {
        let clients = &world.allocator.clients;
        let clients = clients.frameworks[&id]
            .clients
            .values()
            .map(|at| clients.get(*at));
        clients
            .map(|client| client.minimum.clone().unwrap())
            .collect()
    };
    let first = minima(&world);
    assert_eq!(first.len(), 64);
    assert!(first.iter().all(|minimum| Arc::ptr_eq(minimum, &first[0])));

    let session = world.registry.framework(id).unwrap().session;
    world.subscribe(
        Some(id),
        session,
        World::info(&roles, &[(MINIMUM_LABEL, "cpus:3")]),
    );
    // The next round offers what a lower minimum allows.
    world.wait_ms(1_000);
    assert_eq!(world.offered(), [(id, small)]);
    let next = minima(&world);
    assert!(next.iter().all(|minimum| Arc::ptr_eq(minimum, &next[0])));
    assert_ne!(first[0], next[0]);
}

#[test]
fn a_minimum_beyond_its_bounds_counts_as_unset() {
    let mut world = World::new();
    let items: Vec<String> = (0..7_000)
        .map(|number| format!("a:{{{number:x}}}"))
        .collect();
    let spaces = format!("cpus:4{}", " ".repeat(1_019));
    for (text, is_set) in [
        (["cpus:4"; 16].join("|"), true),
        (["cpus:4"; 17].join("|"), false),
        (spaces[..1_024].to_owned(), true),
        (spaces, false),
        (items.join(";"), false),
    ] {
        assert_eq!(text.parse::<OfferMinimum>().is_ok(), is_set);
        let id = world.framework_with(&["a"], &[(MINIMUM_LABEL, &text)]);
        let agent = world.agent("cpus:0.01");
        let expected = if is_set { vec![] } else { vec![(id, agent)] };
        assert_eq!(world.offered(), expected);
        world.operate(OperatorOperation::Teardown(id));
        world.book.rescind_framework(id);
        world.operate(OperatorOperation::MarkGone(agent));
    }
}

#[test]
fn a_scan_for_one_client_ends_with_its_turn_and_continues_in_the_next() {
    let mut world = World::new();
    for _ in 0..1_000 {
        world.agent("cpus:2");
    }
    let last = world.agent("cpus:4");
    assert_eq!(world.offered(), []);
    let picky = world.framework_with(&["a"], &[(MINIMUM_LABEL, "cpus:4")]);
    let mut turns = 0;
    let offers = loop {
        let round = world.step(TurnBudget(100));
        turns += 1;
        if !round.offers.is_empty() {
            break round.offers;
        }
        assert!(round.more);
    };
    assert!(turns >= 10, "1,000 agents in {turns} turns of 100");
    assert_eq!((offers[0].framework, offers[0].agent), (picky, last));
    assert_eq!(world.offered(), []);
}

#[test]
fn gpus_are_offered_only_with_the_gpu_capability() {
    let mut world = World::new();
    let plain = world.framework(&["a"]);
    world.agent("cpus:2;mem:64;gpus:1");
    let offer = world.offers().remove(0);
    assert_eq!(offer.resources, parse("cpus:2;mem:64"));
    world.decline(&offer, Some(60_000));
    assert_eq!(world.offered(), [], "the gpu does not make it more");
    let wants = world.framework_with(
        &["b"],
        &[("argosy.offers/gpus", "true"), (MINIMUM_LABEL, "gpus:1")],
    );
    let offer = world.offers().remove(0);
    assert_eq!(
        (offer.framework, &offer.resources),
        (wants, &parse("cpus:2;mem:64;gpus:1"))
    );
    assert_ne!(plain, wants);
}

#[test]
fn an_offer_contains_session_revision_and_expiry() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:2;mem:64;ports:[1-9]");
    let offer = world.offers().remove(0);
    let facts = world.registry.framework(a).unwrap();
    assert_eq!(offer.session, facts.session);
    assert_eq!(
        offer.offer_revision,
        world.registry.agent(agent).unwrap().offer_revision
    );
    assert_eq!(offer.expires, world.now.plus_ms(60_000));
    assert_eq!(offer.resources, parse("cpus:2;mem:64;ports:[1-9]"));
    assert_eq!(offer.id.epoch, world.registry.epoch());

    let mut info = World::info(&["a"], &[]);
    info.offer_timeout_ms = 250;
    world.subscribe(Some(a), facts.session, info);
    world.agent("cpus:2");
    assert_eq!(world.offers()[0].expires, world.now.plus_ms(250));
}

#[test]
fn offers_follow_the_roles_of_a_framework() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    world.agent("cpus:2");
    assert_eq!(world.offers()[0].role, role("a"));
    let session = world.registry.framework(a).unwrap().session;
    world.subscribe(Some(a), session, World::info(&["b"], &[]));
    world.book.rescind_role(a, &role("a"));
    assert_eq!(world.offers()[0].role, role("b"));
}

#[test]
fn a_new_leader_offers_everything_that_is_free_again() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    for at in 0..5 {
        world.agent("cpus:2;mem:64");
        let offer = world.offers().remove(0);
        if at < 2 {
            world.accept(&offer, &[(&format!("t{at}"), "cpus:2;mem:64")]);
        }
    }
    world.new_leader(AllocatorSettings::default());
    assert_eq!(world.offered().len(), 3);
    assert_eq!(world.book.offers_of(a).count(), 3);
}

#[test]
fn many_agents_freed_at_once_are_offered_without_waiting_for_a_round() {
    let mut world = World::new();
    let frameworks = [world.framework(&["a"]), world.framework(&["b"])];
    let agents: Vec<_> = (0..300).map(|_| world.agent("cpus:2;mem:64")).collect();
    assert_eq!(world.offers().len(), agents.len());
    let rounds = world.allocator.rounds();
    for framework in frameworks {
        assert_eq!(world.book.rescind_framework(framework).len(), 150);
    }
    assert_eq!(world.offers().len(), agents.len());
    assert_eq!(world.allocator.rounds(), rounds);
}

#[test]
fn unmet_demand_is_reported_once_until_the_next_offer() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    world.agent("cpus:2;mem:64");
    for turn in 1..=2 {
        let offer = world.offers().remove(0);
        let id = format!("t{turn}");
        world.accept(&offer, &[(&id, "cpus:2;mem:64")]);
        for _ in 0..3 {
            world.wait_ms(1_000);
            assert_eq!(world.offered(), []);
        }
        assert_eq!(world.unmet, vec![(a, role("a")); turn]);
        world.finish(a, &id);
    }
}

#[test]
fn unmet_demands_are_reported_a_few_per_turn() {
    let mut world = World::new();
    for _ in 0..50 {
        world.framework(&["a"]);
    }
    let mut turns = 0;
    loop {
        let round = world.step(crate::allocator::TurnBudget::TURN);
        turns += 1;
        assert!(round.unmet.len() <= 8);
        if !round.more {
            break;
        }
    }
    assert_eq!(world.unmet.len(), 50);
    assert!(turns >= 7);
}
