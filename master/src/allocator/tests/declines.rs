//! Tests of declines that wait to be recorded: filters that frameworks present above all.

use argosy_state::command::{CallAction, OfferTerms};
use argosy_state::ids::{AgentId, FrameworkId};

use super::fixture::{World, parse, role};
use crate::allocator::decline_queue::DeclineQueue;
use crate::allocator::{DeclinedResources, ExplainQuery, SkipReason, TurnBudget};

const AGENTS: usize = 40;
/// A turn that records five declines, and makes a few offers.
const SMALL_TURN: TurnBudget = TurnBudget(10);

/// A cluster without free resources, whose agents are free once [`free_all`] is called.
fn occupied(frameworks: &[&str]) -> (World, Vec<FrameworkId>) {
    let mut world = World::new();
    let frameworks = frameworks.iter().map(|role| world.framework(&[role]));
    let frameworks = frameworks.collect();
    for _ in 0..AGENTS {
        world.agent("cpus:4;mem:64");
    }
    assert_eq!(world.offers().len(), AGENTS);
    (world, frameworks)
}

fn held(world: &World) -> Vec<OfferTerms> {
    let held = world.book.iter();
    held.map(|(offer, _)| (**offer).clone()).collect()
}

fn free_all(world: &mut World) {
    let agents: Vec<_> = world.registry.agents().map(|agent| agent.id).collect();
    for agent in agents {
        world.book.rescind_agent(agent);
    }
}

fn filters(
    world: &World,
    framework: FrameworkId,
    named: &str,
    resources: &str,
    agents: impl IntoIterator<Item = AgentId>,
) -> Vec<DeclinedResources> {
    let facts = world.registry.framework(framework).unwrap();
    let filter = |agent| DeclinedResources {
        framework,
        session: facts.session,
        role: role(named),
        agent,
        resources: parse(resources),
        filter_ms: Some(60_000),
        reason: None,
    };
    agents.into_iter().map(filter).collect()
}

/// Presents filters of a framework for these resources of every agent.
fn present(world: &mut World, framework: FrameworkId, named: &str, resources: &str) {
    let agents: Vec<_> = world.registry.agents().map(|agent| agent.id).collect();
    let filters = filters(world, framework, named, resources, agents);
    let (registry, now) = (&world.registry, world.now);
    let allocator = &mut world.allocator;
    allocator.present_filters(registry, framework, filters, now);
}

fn offered_to(world: &mut World, turns: usize) -> Vec<FrameworkId> {
    let turns = (0..turns).flat_map(|_| world.step(SMALL_TURN).offers);
    turns.map(|offer| offer.framework).collect()
}

#[test]
fn a_framework_that_presents_filters_again_and_again_delays_no_other() {
    let (mut world, frameworks) = occupied(&["a", "b"]);
    let [a, b] = frameworks[..] else { panic!() };
    free_all(&mut world);
    let mut offers = Vec::new();
    for _ in 0..60 {
        present(&mut world, a, "a", "cpus:4;mem:64");
        offers.extend(offered_to(&mut world, 1));
    }
    assert_eq!(offers, [b; AGENTS]);
    assert!(world.allocator.declines_due.len() <= AGENTS);
}

#[test]
fn an_agent_is_not_offered_to_a_framework_while_its_filter_waits() {
    let (mut world, frameworks) = occupied(&["a"]);
    free_all(&mut world);
    present(&mut world, frameworks[0], "a", "cpus:4;mem:64");
    assert_eq!(offered_to(&mut world, 2), []);
    assert!(!world.allocator.declines_due.is_empty());
    let explained = world.explain(&ExplainQuery::new(frameworks[0], None));
    let filtered = [(SkipReason::Filtered, AGENTS as u32)];
    assert_eq!(explained.counts.into_iter().collect::<Vec<_>>(), filtered);
    assert_eq!(world.offers(), []);
    assert!(world.allocator.declines_due.is_empty());
}

#[test]
fn a_filter_that_hides_nothing_delays_its_agent_only_until_it_is_recorded() {
    let roles = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let (mut world, frameworks) = occupied(&roles);
    free_all(&mut world);
    let a = frameworks[0];
    present(&mut world, a, "a", "cpus:1");
    // Frameworks take turns, so that the turn of each agent comes while its filters wait.
    for (framework, role) in frameworks.iter().zip(roles).skip(1) {
        present(&mut world, *framework, role, "cpus:4;mem:64");
    }
    let mut offers = offered_to(&mut world, 70);
    assert!(offers.len() < AGENTS && !world.allocator.declines_due.is_empty());
    offers.extend(world.offers().iter().map(|offer| offer.framework));
    assert_eq!(offers, [a; AGENTS], "without another round");
}

#[test]
fn filters_of_unknown_agents_and_other_roles_do_not_wait() {
    let (mut world, frameworks) = occupied(&["a"]);
    let unknown = (1_000..2_000).map(AgentId);
    let mut presented = filters(&world, frameworks[0], "a", "cpus:4", unknown);
    let known = world.registry.agents().map(|agent| agent.id);
    presented.extend(filters(&world, frameworks[0], "other", "cpus:4", known));
    let (registry, now) = (&world.registry, world.now);
    let allocator = &mut world.allocator;
    allocator.present_filters(registry, frameworks[0], presented, now);
    assert_eq!(
        (allocator.declines_due.len(), allocator.agents_due.len()),
        (0, 0)
    );
}

#[test]
fn reviving_removes_the_filters_that_wait() {
    let (mut world, frameworks) = occupied(&["a"]);
    let held = held(&world);
    for offer in &held[..20] {
        world.decline(offer, Some(60_000));
    }
    free_all(&mut world);
    present(&mut world, frameworks[0], "a", "cpus:4;mem:64");
    world.call(frameworks[0], CallAction::Revive(Vec::new()));
    assert_eq!(world.offers().len(), AGENTS);
}

#[test]
fn offers_pause_while_declines_of_offers_fill_the_queue() {
    let (mut world, frameworks) = occupied(&["a", "b"]);
    world.allocator.declines_due = DeclineQueue::new(60);
    present(&mut world, frameworks[0], "a", "cpus:4;mem:64");
    assert_eq!(world.allocator.declines_due.len(), 20);
    let held = held(&world);
    for offer in &held {
        world.decline(offer, Some(60_000));
    }
    assert_eq!(world.allocator.declines_due.len(), AGENTS, "only they");
    while world.allocator.declines_due.is_full() {
        let before = world.allocator.declines_due.len();
        assert_eq!(offered_to(&mut world, 1), []);
        let recorded = before - world.allocator.declines_due.len();
        assert!(recorded > 5, "{recorded}");
    }
    assert!(!offered_to(&mut world, 1).is_empty());
    world.offers();
    assert_eq!(world.book.iter().count(), AGENTS, "to the other");
}

#[test]
fn a_turn_records_fewer_declines_of_an_agent_with_many_bundles() {
    let mut world = World::new();
    let names: Vec<String> = (0..64).map(|number| format!("r{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let framework = world.framework(&names);
    let agent = world.agent("cpus:1000");
    world.offers();
    let waiting_after_a_turn = |world: &mut World, milli: usize| {
        let presented = names.iter().enumerate().flat_map(|(at, role)| {
            let cpus = format!("cpus:{}.{milli}", 1 + at);
            filters(world, framework, role, &cpus, [agent])
        });
        let presented: Vec<_> = presented.collect();
        let (registry, now) = (&world.registry, world.now);
        let allocator = &mut world.allocator;
        allocator.present_filters(registry, framework, presented, now);
        world.step(TurnBudget(40));
        let waiting = world.allocator.declines_due.len();
        world.offers();
        waiting
    };
    let [few, many] = [1, 2].map(|milli| 64 - waiting_after_a_turn(&mut world, milli));
    assert!(
        few > 15 && many < 6,
        "{few} declines, {many} with 64 bundles"
    );
}
