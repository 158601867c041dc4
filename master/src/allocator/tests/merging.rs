//! Tests of merging: free resources of one agent become one offer, in whatever order they become
//! free.

use argosy_state::ids::{AgentId, FrameworkId};
use argosy_state::resources::Resources;

use super::fixture::{World, parse};
use crate::offers::OfferState;

/// Returns a framework whose tasks use all of two agents, one processor each.
fn busy() -> (World, FrameworkId, [AgentId; 2]) {
    let mut world = World::new();
    let agents = [
        world.agent("cpus:36;mem:3600"),
        world.agent("cpus:35;mem:3500"),
    ];
    let framework = world.framework(&["*"]);
    for offer in world.offers() {
        let cpus = offer.resources.scalar_milli("cpus") / 1_000;
        let names: Vec<String> = (0..cpus)
            .map(|at| format!("{}-{at}", offer.agent))
            .collect();
        let tasks: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), "cpus:1;mem:100"))
            .collect();
        world.accept(&offer, &tasks);
    }
    assert!(world.offers().is_empty());
    (world, framework, agents)
}

fn open(world: &World, framework: FrameworkId) -> usize {
    world.book.offers_of(framework).count()
}

fn offered(world: &World) -> Resources {
    let all = world.book.iter();
    all.fold(Resources::none(), |sum, (offer, _)| {
        sum.plus(&offer.resources).unwrap()
    })
}

#[test]
fn freed_resources_merge_into_few_offers() {
    let (mut world, framework, agents) = busy();
    let mut made = 0;
    for (agent, tasks) in agents.into_iter().zip([36, 35]) {
        for at in 0..tasks {
            world.finish(framework, &format!("{agent}-{at}"));
            made += world.offers().len();
            assert!(open(&world, framework) <= 4, "{at} on {agent}");
            world.wait_ms(100);
        }
    }
    for _ in 0..3 {
        world.wait_ms(1_000);
        made += world.offers().len();
    }
    assert!(open(&world, framework) <= 4);
    assert_eq!(offered(&world), parse("cpus:71;mem:7100"));
    assert!(made < 30, "{made} offers were made for 71 tasks");
}

#[test]
fn third_offer_waits_a_second_and_expires_with_the_first() {
    let (mut world, framework, [agent, _]) = busy();
    let end = |world: &mut World, at: usize| world.finish(framework, &format!("{agent}-{at}"));
    end(&mut world, 0);
    let first = world.offers().pop().unwrap();
    world.wait_ms(400);
    end(&mut world, 1);
    let second = world.offers().pop().unwrap();
    world.wait_ms(999);
    end(&mut world, 2);
    assert!(world.offers().is_empty());
    assert_eq!(world.book.get(first.id).unwrap().1, OfferState::Open);
    // The next full round comes within a second.
    world.wait_ms(1_000);
    let joined = world.offers();
    let [joined] = &joined[..] else {
        panic!("{joined:?}");
    };
    assert_eq!(joined.resources, parse("cpus:3;mem:300"));
    assert_eq!(joined.expires, first.expires);
    assert!(world.book.get(first.id).is_none() && world.book.get(second.id).is_none());
    assert_eq!(open(&world, framework), 1);
}

#[test]
fn pending_offer_is_never_merged() {
    let (mut world, framework, [agent, _]) = busy();
    let mut taken = Vec::new();
    for at in 0..2 {
        world.finish(framework, &format!("{agent}-{at}"));
        taken.push(world.offers().pop().unwrap().id);
    }
    world.book.take(&taken).unwrap();
    for at in 2..10 {
        world.wait_ms(2_000);
        world.finish(framework, &format!("{agent}-{at}"));
        world.offers();
    }
    for id in taken {
        assert_eq!(world.book.get(id).unwrap().1, OfferState::Pending);
    }
    assert_eq!(open(&world, framework), 2);
    // Once it is settled, all free resources become one offer.
    let settled: Vec<_> = world.book.iter().map(|(offer, _)| offer.id).collect();
    world.book.settle(&settled);
    let offers = world.offers();
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].resources, parse("cpus:10;mem:1000"));
}

#[test]
fn offers_near_expiry_are_not_merged() {
    let (mut world, framework, [agent, _]) = busy();
    for at in 0..2 {
        world.finish(framework, &format!("{agent}-{at}"));
        assert_eq!(world.offers().len(), 1);
    }
    world.wait_ms(59_500);
    world.finish(framework, &format!("{agent}-2"));
    assert!(world.offers().is_empty());
    world.wait_ms(500);
    assert_eq!(world.book.expire(world.now, 10).len(), 2);
    let whole = world.offers();
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0].resources, parse("cpus:3;mem:300"));
}

#[test]
fn deferred_resources_are_offered_to_other_frameworks() {
    let (mut world, framework, [agent, _]) = busy();
    for at in 0..2 {
        world.finish(framework, &format!("{agent}-{at}"));
        world.offers();
    }
    let other = world.framework(&["*"]);
    world.finish(framework, &format!("{agent}-2"));
    let offers = world.offers();
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].framework, other);
}

#[test]
fn role_without_frameworks_is_removed() {
    let mut world = World::new();
    world.agent("cpus:4");
    let kept = world.framework(&["kept"]);
    for at in 0..50 {
        let id = world.framework(&[&format!("role-{at}"), "kept"]);
        world.offers();
        world.call(id, argosy_state::command::CallAction::Teardown);
        world.offers();
    }
    assert_eq!(world.allocator.roles.len(), 1);
    assert!(world.registry.framework(kept).is_some());
    // Its slot is reused by now, and the agent is offered as before.
    let again = world.framework(&["role-7"]);
    world.wait_ms(1_000);
    world.offers();
    assert_eq!(world.allocator.roles.len(), 2);
    assert!(world.registry.framework(again).is_some());
}
