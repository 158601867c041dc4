//! Tests of declines, suppression and revival.

use argosy_state::command::CallAction;

use super::fixture::{World, parse, role};
use crate::allocator::{AllocatorSettings, DeclinedResources};

#[test]
fn a_decline_hides_the_agent_for_five_seconds_from_that_framework_only() {
    let mut world = World::new();
    let (a, b) = (world.framework(&["a"]), world.framework(&["b"]));
    let agent = world.agent("cpus:2;mem:64");
    let offer = world.offers().remove(0);
    assert_eq!(offer.framework, a);
    world.decline(&offer, None);
    let offer = world.offers().remove(0);
    assert_eq!(offer.framework, b, "at once to the other");
    world.decline(&offer, None);
    assert_eq!(world.offered(), []);
    world.wait_ms(4_999);
    assert_eq!(world.offered(), []);
    assert_eq!(world.allocator.next_wakeup().0, 5_001);
    world.wait_ms(1);
    assert_eq!(world.offered(), [(a, agent)]);
}

#[test]
fn a_short_filter_lasts_one_round_and_zero_is_none() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:2;mem:64");
    let offer = world.offers().remove(0);
    world.decline(&offer, Some(1));
    world.wait_ms(999);
    assert_eq!(world.offered(), []);
    world.wait_ms(1);
    let offer = world.offers().remove(0);
    world.decline(&offer, Some(0));
    assert_eq!(world.offered(), [(a, agent)]);
}

#[test]
fn a_filter_never_lasts_more_than_a_year() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:2;mem:64");
    let offer = world.offers().remove(0);
    world.decline(&offer, Some(u64::MAX));
    world.wait_ms(365 * 24 * 3_600_000);
    assert_eq!(world.offered(), [(a, agent)]);
}

#[test]
fn more_than_the_declined_resources_is_offered_at_once_and_less_is_not() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:4;mem:64");
    let offer = world.offers().remove(0);
    world.accept(&offer, &[("one", "cpus:1"), ("two", "cpus:1")]);
    let rest = world.offers().remove(0);
    assert_eq!(rest.resources, parse("cpus:2;mem:64"));
    world.decline(&rest, Some(60_000));
    assert_eq!(world.offered(), []);
    world.finish(a, "one");
    let more = world.offers().remove(0);
    assert_eq!(more.resources, parse("cpus:3;mem:64"), "3 cpus are new");
    world.accept(&more, &[("three", "cpus:1")]);
    assert_eq!(world.offered(), [], "2 cpus were declined");
    world.finish(a, "two");
    assert_eq!(world.offered(), [(a, agent)]);
}

#[test]
fn rest_of_an_accepted_offer_can_be_filtered() {
    let mut world = World::new();
    let (a, b) = (world.framework(&["a"]), world.framework(&["b"]));
    let agent = world.agent("cpus:4;mem:64");
    let offer = world.offers().remove(0);
    world.accept(&offer, &[("one", "cpus:1")]);
    world.allocator.decline(
        DeclinedResources {
            framework: a,
            session: offer.session,
            role: role("a"),
            agent,
            resources: parse("cpus:3;mem:64"),
            filter_ms: None,
            reason: None,
        },
        world.now,
    );
    assert_eq!(world.offered(), [(b, agent)]);
}

#[test]
fn a_filter_keeps_nothing_that_its_agent_does_not_have() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:4;mem:64");
    let offer = world.offers().remove(0);
    world.decline(&offer, Some(0));
    let names: Vec<String> = (0..2_000).map(|name| format!("n{name}")).collect();
    let presented = |resources: &str| DeclinedResources {
        framework: a,
        session: offer.session,
        role: role("a"),
        agent,
        resources: parse(resources),
        filter_ms: Some(60_000),
        reason: None,
    };
    let large = format!("racks:{{{}}}", names.join(","));
    world.allocator.decline(presented(&large), world.now);
    let offer = world.offers().remove(0);
    assert_eq!(
        (offer.framework, offer.agent),
        (a, agent),
        "nothing is hidden"
    );
    world.decline(&offer, Some(0));
    let all = format!("cpus:9;mem:64;{large}");
    world.allocator.decline(presented(&all), world.now);
    assert_eq!(world.offered(), []);
    let kept: Vec<_> = world.allocator.filters.declined().cloned().collect();
    assert_eq!(kept, [parse("cpus:4;mem:64")]);
}

#[test]
fn reviving_clears_the_filters_of_a_framework() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:2;mem:64");
    let offer = world.offers().remove(0);
    world.decline(&offer, Some(60_000));
    assert_eq!(world.offered(), []);
    world.call(a, CallAction::Revive(Vec::new()));
    assert_eq!(world.offered(), [(a, agent)]);
}

#[test]
fn reviving_one_role_keeps_the_filters_of_the_other() {
    let mut world = World::new();
    let a = world.framework(&["a", "b"]);
    let agent = world.agent("cpus:2;mem:64");
    for _ in 0..2 {
        let offer = world.offers().remove(0);
        world.decline(&offer, Some(60_000));
    }
    assert_eq!(world.offered(), []);
    world.call(a, CallAction::Revive(vec![role("b")]));
    let offers = world.offers();
    assert_eq!(offers.len(), 1);
    assert_eq!((offers[0].agent, &offers[0].role), (agent, &role("b")));
}

#[test]
fn a_suppressed_role_is_offered_nothing_until_it_is_revived() {
    let mut world = World::new();
    let a = world.framework(&["a", "b"]);
    world.call(a, CallAction::Suppress(vec![role("a")]));
    world.agent("cpus:2;mem:64");
    let offers = world.offers();
    assert_eq!(offers[0].role, role("b"), "the other role continues");
    world.call(a, CallAction::Suppress(Vec::new()));
    world.agent("cpus:2;mem:64");
    assert_eq!(world.offered(), []);
    world.wait_ms(10_000);
    assert_eq!(world.offered(), []);
    world.call(a, CallAction::Revive(vec![role("a")]));
    assert_eq!(world.offers()[0].role, role("a"));
}

#[test]
fn a_change_of_an_agents_resources_removes_its_filters() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:4;mem:64");
    let offer = world.offers().remove(0);
    world.decline(&offer, Some(60_000));
    assert_eq!(world.offered(), []);
    world.resize(agent, "cpus:2;mem:64");
    assert_eq!(world.offered(), [(a, agent)], "even if it is less now");
}

#[test]
fn a_new_session_starts_without_the_filters_of_the_old_one() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:4;mem:64");
    let offer = world.offers().remove(0);
    world.decline(&offer, Some(60_000));
    assert_eq!(world.offered(), []);
    world.subscribe(Some(a), 4_711, World::info(&["a"], &[]));
    assert_eq!(world.offered(), [(a, agent)]);
    assert_eq!(world.book.offers_of(a).next().unwrap().0.session, 4_711);
}

#[test]
fn declines_presented_to_a_new_leader_stay_in_force() {
    let mut world = World::new();
    let (a, b) = (world.framework(&["a"]), world.framework(&["b"]));
    let agent = world.agent("cpus:4;mem:64");
    let session = world.registry.framework(a).unwrap().session;
    world.new_leader(AllocatorSettings::default());
    let bring = |session| DeclinedResources {
        framework: a,
        session,
        role: role("a"),
        agent,
        resources: parse("cpus:4;mem:64"),
        filter_ms: Some(3_000),
        reason: None,
    };
    world.allocator.decline(bring(session), world.now);
    world
        .allocator
        .decline(bring(session + 1), world.now.plus_ms(9_000));
    let offer = world.offers().remove(0);
    assert_eq!(offer.framework, b);
    world.decline(&offer, Some(60_000));
    assert_eq!(world.offered(), []);
    world.wait_ms(3_000);
    assert_eq!(world.offered(), [(a, agent)], "another session's is void");
}

#[test]
fn clients_that_see_the_same_of_an_agent_share_what_they_declined() {
    let mut world = World::new();
    let able = ("argosy.offers/gpus", "true");
    let roles: Vec<String> = (0..20).map(|number| format!("r{number}")).collect();
    for role in &roles {
        world.framework_with(&[role], &[able]);
        world.framework(&[role]);
    }
    let agent = world.agent("cpus:2;mem:64;gpus:1");
    for _ in 0..40 {
        for offer in world.offers() {
            world.decline(&offer, Some(60_000));
        }
    }
    assert_eq!(world.offered(), []);
    let kept: Vec<_> = world.allocator.filters.declined().cloned().collect();
    let expected = ["cpus:2;mem:64;gpus:1", "cpus:2;mem:64"].map(parse);
    assert!(
        kept.len() == 2 && expected.iter().all(|bundle| kept.contains(bundle)),
        "{kept:?}"
    );
    world.resize(agent, "cpus:3;mem:64;gpus:1");
    assert!(!world.offers().is_empty());
}
