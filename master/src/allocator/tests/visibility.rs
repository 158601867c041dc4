//! Tests of which agents and frameworks take part in allocation, and of what frameworks see.

use argosy_state::command::OperatorOperation;

use super::fixture::{World, parse, role};
use crate::allocator::{AllocatorSettings, MINIMUM_LABEL, StreamState};

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
