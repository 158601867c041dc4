//! Tests of the order in which clients are served, and of its evenness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use argosy_state::command::{CallAction, OfferTerms, OperatorOperation};
use argosy_state::ids::{AgentId, FrameworkId};

use super::fixture::{World, parse, role};
use super::random::TestRng;
use crate::allocator::TurnBudget;

fn counts(offers: &[(FrameworkId, AgentId)]) -> BTreeMap<FrameworkId, usize> {
    let mut counts = BTreeMap::new();
    for (framework, _) in offers {
        *counts.entry(*framework).or_default() += 1;
    }
    counts
}

#[test]
fn the_smallest_dominant_share_is_served_first() {
    let mut world = World::new();
    let first = world.framework(&["a"]);
    let large = world.agent("cpus:8;mem:1024");
    assert_eq!(world.offered(), [(first, large)]);
    let second = world.framework(&["b"]);
    assert_eq!(world.offered(), []);
    let small = world.agent("cpus:1;mem:64");
    assert_eq!(world.offered(), [(second, small)]);
    let next = world.agent("cpus:1;mem:64");
    assert_eq!(world.offered(), [(second, next)], "still below the first");
    let next = world.agent("cpus:16;mem:2048");
    assert_eq!(world.offered(), [(second, next)]);
    let next = world.agent("cpus:1;mem:64");
    assert_eq!(world.offered(), [(first, next)], "now above it");
}

#[test]
fn the_dominant_resource_determines_the_share_and_not_the_sum() {
    let mut world = World::new();
    let ready = |world: &mut World, agent: &str| {
        let id = world.agent(agent);
        world
            .offered()
            .iter()
            .map(|(to, at)| (*to, *at == id))
            .collect::<Vec<_>>()
    };
    let cpu = world.framework(&["cpu"]);
    assert_eq!(ready(&mut world, "cpus:30;mem:100"), [(cpu, true)]);
    let mem = world.framework(&["mem"]);
    assert_eq!(ready(&mut world, "cpus:10;mem:900"), [(mem, true)]);
    // 30 of 40 cpus against 900 of 1,000 MiB.
    assert_eq!(ready(&mut world, "cpus:1;mem:1"), [(cpu, true)]);
}

#[test]
fn a_role_with_twice_the_weight_gets_twice_as_much() {
    let mut world = World::new();
    let (heavy, light) = (world.framework(&["heavy"]), world.framework(&["light"]));
    world.operate(OperatorOperation::SetWeight {
        role: role("heavy"),
        weight_milli: 2_000,
    });
    for _ in 0..30 {
        world.agent("cpus:2;mem:64");
    }
    assert_eq!(counts(&world.offered()), [(heavy, 20), (light, 10)].into());
}

#[test]
fn a_changed_weight_applies_immediately() {
    let mut world = World::new();
    let (a, b) = (world.framework(&["a"]), world.framework(&["b"]));
    for _ in 0..10 {
        world.agent("cpus:2");
    }
    assert_eq!(counts(&world.offered()), [(a, 5), (b, 5)].into());
    world.operate(OperatorOperation::SetWeight {
        role: role("b"),
        weight_milli: 3_000,
    });
    for _ in 0..10 {
        world.agent("cpus:2");
    }
    assert_eq!(counts(&world.offered()), [(b, 10)].into());
}

#[test]
fn the_frameworks_of_a_role_divide_the_share_of_their_role() {
    let mut world = World::new();
    let alone = world.framework(&["alone"]);
    let crowd: Vec<_> = (0..3).map(|_| world.framework(&["crowd"])).collect();
    for _ in 0..12 {
        world.agent("cpus:2");
    }
    let counts = counts(&world.offered());
    assert_eq!(counts[&alone], 6);
    assert!(crowd.iter().all(|framework| counts[framework] == 2));
}

#[test]
fn equal_shares_alternate() {
    let mut world = World::new();
    let (a, b) = (world.framework(&["x"]), world.framework(&["x"]));
    let agent = world.agent("cpus:2;mem:64");
    let mut order = Vec::new();
    for _ in 0..6 {
        let offers = world.offers();
        assert_eq!(offers.len(), 1);
        order.push(offers[0].framework);
        world.decline(&offers[0], Some(0));
    }
    assert_eq!(order, [a, b, a, b, a, b]);
    assert!(world.registry.free(agent) == parse("cpus:2;mem:64"));
}

#[test]
fn tasks_and_offers_count_for_the_share_and_unreachable_tasks_do_not() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let far = world.agent("cpus:8");
    let offer = world.offers().remove(0);
    world.accept(&offer, &[("t", "cpus:8")]);
    let b = world.framework(&["b"]);
    let agent = world.agent("cpus:2");
    assert_eq!(world.offered(), [(b, agent)], "the task counts");
    world.mark_unreachable(far);
    let next = world.agent("cpus:2");
    assert_eq!(world.offered(), [(a, next)], "its agent is unreachable");
}

#[test]
fn frameworks_with_equal_demand_differ_by_at_most_one_agent() {
    for seed in 1..=30 {
        let mut dice = TestRng::new(seed * 7_919);
        let mut world = World::new();
        let frameworks: Vec<_> = (0..2 + dice.below(9))
            .map(|_| world.framework(&["*"]))
            .collect();
        let agents = 1 + dice.below(120);
        let mut held: BTreeMap<FrameworkId, usize> = BTreeMap::new();
        for at in 0..agents {
            world.agent("cpus:4;mem:512");
            // Events and rounds are mixed: some agents join alone, some in a crowd.
            if dice.below(3) > 0 && at + 1 < agents {
                continue;
            }
            for offer in world.offers() {
                *held.entry(offer.framework).or_default() += 1;
                if dice.below(2) == 0 {
                    let id = format!("t{at}-{}", offer.id.serial);
                    world.accept(&offer, &[(&id, "cpus:4;mem:512")]);
                }
            }
        }
        let all: Vec<_> = frameworks
            .iter()
            .map(|framework| held.get(framework).copied().unwrap_or(0))
            .collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert_eq!(all.iter().sum::<usize>(), agents, "seed {seed}");
        assert!(most - least <= 1, "seed {seed}: {all:?}");
    }
}

#[test]
fn a_framework_that_can_use_no_resources_does_not_block_the_next() {
    let mut world = World::new();
    let picky = world.framework_with(&["a"], &[(crate::allocator::MINIMUM_LABEL, "cpus:64")]);
    let other = world.framework(&["a"]);
    let agent = world.agent("cpus:2;mem:64");
    assert_eq!(world.offered(), [(other, agent)]);
    assert_eq!(world.unmet, [(picky, role("a"))]);
    world.wait_ms(5_000);
    assert_eq!(world.offered(), []);
    assert_eq!(world.unmet.len(), 1, "reported once");
}

#[test]
fn order_of_arrival_does_not_change_accounts() {
    let mut one = World::new();
    let framework = one.framework(&["a"]);
    let agent = one.agent("cpus:2;mem:64");
    assert_eq!(one.offered(), [(framework, agent)]);
    let mut other = World::new();
    let agent = other.agent("cpus:2;mem:64");
    assert_eq!(other.offered(), []);
    let framework = other.framework(&["a"]);
    assert_eq!(other.offered(), [(framework, agent)]);
    for world in [&one, &other] {
        let at = world.allocator.clients.slot(framework, &role("a")).unwrap();
        let all = world.allocator.kinds.amounts(&parse("cpus:2;mem:64"));
        assert_eq!(world.allocator.tree.own(at), all);
    }
}

/// Returns all permutations of `count` items.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let insert = |order: Vec<usize>| {
        (0..count).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    };
    orders(last).into_iter().flat_map(insert).collect()
}

#[test]
fn allocated_resources_count_equally_in_every_order_of_arrival() {
    let orders = orders(4);
    assert_eq!(orders.len(), 24);
    for order in orders {
        let mut world = World::new();
        let (mut frameworks, mut launched) = (Vec::new(), BTreeSet::new());
        for arrival in order {
            match arrival {
                0 | 1 => {
                    world.agent("cpus:8;mem:64");
                }
                2 => frameworks.push((world.framework(&["a"]), role("a"))),
                _ => frameworks.push((world.framework(&["b"]), role("b"))),
            }
            // Each framework launches one task on each agent, as soon as there is an offer.
            for _ in 0..4 {
                for offer in world.offers() {
                    if launched.insert((offer.framework, offer.agent)) {
                        let id = format!("on-{}", offer.agent);
                        world.accept(&offer, &[(&id, "cpus:2;mem:8")]);
                    } else {
                        world.decline(&offer, Some(1_000));
                    }
                }
                world.wait_ms(1_000);
            }
        }
        assert_eq!(launched.len(), 4);
        // No more offers are made, so that only the held resources are left.
        loop {
            let offers = world.offers();
            if offers.is_empty() {
                break;
            }
            for offer in offers {
                world.decline(&offer, Some(600_000));
            }
        }
        let both = world.allocator.kinds.amounts(&parse("cpus:4;mem:16"));
        for (framework, role) in &frameworks {
            let at = world.allocator.clients.slot(*framework, role).unwrap();
            assert_eq!(world.allocator.tree.own(at), both);
        }
    }
}

#[test]
fn a_role_at_its_limit_is_offered_nothing_more() {
    let mut world = World::new();
    world
        .allocator
        .set_limit(&role("a"), Some(&parse("cpus:4")));
    let (a, b) = (world.framework(&["a"]), world.framework(&["b"]));
    for _ in 0..6 {
        world.agent("cpus:2;mem:64");
    }
    assert_eq!(counts(&world.offered()), [(a, 2), (b, 4)].into());
    let agent = world.agent("cpus:2;mem:64");
    assert_eq!(world.offered(), [(b, agent)], "regardless of shares");
    world.call(b, CallAction::Suppress(Vec::new()));
    let agent = world.agent("cpus:2;mem:64");
    assert_eq!(world.offered(), []);
    world.allocator.set_limit(&role("a"), None);
    assert_eq!(world.offered(), [(a, agent)]);
}

#[test]
fn a_limit_for_a_new_resource_kind_applies_once_an_agent_has_it() {
    let mut world = World::new();
    world
        .allocator
        .set_limit(&role("a"), Some(&parse("licences:1")));
    let a = world.framework(&["a"]);
    let plain = world.agent("cpus:2;mem:64");
    assert_eq!(world.offered(), [(a, plain)]);
    world.agent("cpus:2;mem:64;licences:2");
    assert_eq!(world.offered(), [], "two licences are above the limit");
    let fits = world.agent("cpus:2;mem:64;licences:1");
    assert_eq!(world.offered(), [(a, fits)]);
}

#[test]
fn resource_kinds_after_the_eighth_count_for_fairness() {
    let mut world = World::new();
    let kinds: String = (0..11).map(|number| format!(";kind-{number}:1")).collect();
    let (a, b) = (world.framework(&["a"]), world.framework(&["b"]));
    world.agent(&format!("cpus:1{kinds};kind-11:10"));
    let [(first, _)] = world.offered()[..] else {
        panic!("one agent is one offer");
    };
    let other = if first == a { b } else { a };
    // After the first of these agents, both frameworks would have the same amount of every other
    // kind.
    for _ in 0..4 {
        world.agent(&format!("cpus:1{kinds};kind-11:1"));
    }
    assert_eq!(counts(&world.offered()), [(other, 4)].into());
}

#[test]
fn rounds_refresh_roles_in_parts() {
    let mut world = World::new();
    let names: Vec<String> = (0..700).map(|at| format!("r{at:03}")).collect();
    for name in &names {
        world.framework(&[name]);
    }
    world.step(TurnBudget::UNBOUNDED);
    let mut round = || {
        world
            .allocator
            .next_roles()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let (first, second, third) = (round(), round(), round());
    // The first round was a part of the step.
    assert_eq!(second.len(), 512);
    assert_eq!(first, third);
    assert_eq!([second, first].concat(), names);
}

/// Returns the names of as many roles as a framework may have.
fn many_roles() -> Vec<String> {
    (0..64).map(|at| format!("r{at:02}")).collect()
}

#[test]
fn a_refreshed_framework_costs_a_turn_as_many_steps_as_it_has_roles() {
    let names = many_roles();
    let roles: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new();
    let frameworks: Vec<_> = (0..4).map(|_| world.framework(&roles)).collect();
    assert_eq!(world.offered(), []);
    for framework in frameworks {
        world.allocator.framework_changed(framework);
    }
    for left in [2, 0] {
        let round = world.step(TurnBudget(2 * names.len()));
        assert_eq!(world.allocator.frameworks_due.len(), left);
        assert_eq!(round.more, left > 0);
    }
}

/// A framework keeps tasks in roles that it has left, so that it may use any number of roles.
#[test]
fn a_role_in_which_a_framework_has_tasks_costs_one_step() {
    let mut world = World::new();
    let framework = world.framework(&["r00"]);
    let names = many_roles();
    for name in &names {
        let info = World::info(&[name], &[]);
        world.call(framework, CallAction::Update(info));
        world.agent("cpus:2;mem:64");
        let offer = world.offers().remove(0);
        world.accept(&offer, &[(&format!("in-{name}"), "cpus:2;mem:64")]);
    }
    world.offers();
    let accounts = &world.allocator.clients.frameworks[&framework].accounts;
    assert_eq!(accounts.len(), names.len(), "each role once");
    let other = world.framework(&["r00"]);
    world.offers();
    world.allocator.framework_changed(framework);
    world.allocator.framework_changed(other);
    assert!(world.step(TurnBudget(names.len())).more);
    assert_eq!(world.allocator.frameworks_due.len(), 1);
    assert!(!world.step(TurnBudget(names.len())).more);
}

#[test]
fn a_framework_with_more_roles_than_a_turn_has_steps_leaves_some_for_offers() {
    let names = many_roles();
    let roles: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new();
    let framework = world.framework(&roles);
    assert_eq!(world.offered(), []);
    world.agent("cpus:2;mem:64");
    let mut offers = 0;
    for _ in 0..50 {
        world.allocator.framework_changed(framework);
        offers += world.step(TurnBudget(32)).offers.len();
    }
    assert_eq!(offers, 1);
}

#[test]
fn weight_change_applies_at_once_among_many_roles() {
    let mut world = World::new();
    let heavy = world.framework(&["a"]);
    for at in 0..600 {
        world.framework(&[&format!("b{at:03}")]);
    }
    world.agent("cpus:2");
    // The round of these steps refreshes the first 512, the next one the rest.
    while world.step(TurnBudget::UNBOUNDED).more {}
    world.operate(OperatorOperation::SetWeight {
        role: role("a"),
        weight_milli: 3_000_000,
    });
    for _ in 0..700 {
        world.agent("cpus:2");
    }
    let round = world.step(TurnBudget::UNBOUNDED);
    let to_heavy = |offer: &&Arc<OfferTerms>| offer.framework == heavy;
    let count = round.offers.iter().filter(to_heavy).count();
    assert!(count > 10, "{count}");
}

/// Runs turns with this budget until nothing is left to do. Returns the number of offers.
fn offers_of_a_pass(world: &mut World, budget: TurnBudget) -> usize {
    let mut offers = 0;
    for _ in 0..20_000 {
        let round = world.step(budget);
        offers += round.offers.len();
        if !round.more {
            return offers;
        }
    }
    panic!("the pass does not end");
}

#[test]
fn a_pass_ends_although_ordering_its_clients_costs_more_than_a_turn() {
    let names: Vec<String> = (0..64).map(|at| format!("r{at:02}")).collect();
    let roles: Vec<&str> = names.iter().map(String::as_str).collect();
    let cases = [
        (2, TurnBudget(7)),
        (251, TurnBudget::TURN),
        // More clients than one turn orders.
        (520, TurnBudget::TURN),
    ];
    for (frameworks, budget) in cases {
        let mut world = World::new();
        for _ in 0..frameworks {
            world.framework(&roles);
        }
        world.agent("cpus:4;mem:4096");
        assert_eq!(offers_of_a_pass(&mut world, budget), 1, "{frameworks}");
    }
}
