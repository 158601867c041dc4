//! Tests of the bounds of one turn, and of the completion of the rest.

use argosy_state::command::{
    Accept, Call, CallAction, OfferOperation, OperatorOperation, SweepTarget,
};
use argosy_state::digest::DigestKind;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{FrameworkId, OrderIndex};
use argosy_state::limits;
use argosy_state::testing::spec;

use super::fixture::{AGENT, FRAMEWORK, LIMITS, World};
use crate::links::LinkId;

/// Returns a world with `framework-1` and `count` tasks on the agent of link-2, which is sent their
/// orders.
fn launched(count: u32) -> World {
    let mut world = World::new();
    world.subscribe("many");
    world.agent("cpus:2000;mem:2000000");
    for from in (0..count).step_by(250) {
        let specs = (from..count.min(from + 250)).map(|at| spec(&format!("t{at:04}"), "cpus:1"));
        let offer = format!("1.{}", from / 250 + 1);
        world.launch(&offer, specs.collect());
        world.advance_with(6_500, &[LinkId(2)]);
    }
    world
}

#[test]
fn missing_orders_are_sent_over_several_turns() {
    let mut world = launched(1_000);
    world.clear_lines();
    let link = world.link();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(0);
    hello.digests.insert(DigestKind::Task, 0);
    world.hello(link, hello);
    // No turn of it sends more than 256, which `World::perform` checks.
    world.list(link, 0, &[]);
    let orders = world.take_lines();
    let orders: Vec<_> = orders
        .iter()
        .filter_map(|line| line.strip_prefix("link-3 <- order "))
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .collect();
    assert_eq!(orders, (1..=1_000).collect::<Vec<u64>>());
}

#[test]
fn an_oversized_accept_is_rejected_and_its_offer_stays_valid() {
    let mut world = World::with_offer();
    let most = limits::TASKS_PER_CALL;
    let specs: Vec<_> = (0..=most)
        .map(|at| spec(&format!("t{at:04}"), "cpus:0.01"))
        .collect();
    let (accept, tokens) = world.acceptance("1.1", specs);
    let fewer = Accept {
        operations: vec![OfferOperation::Launch(
            accept.tasks().take(most).cloned().collect(),
        )],
        ..accept.clone()
    };
    let entries = world.entries();
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call, tokens.clone());
    let output = world.take_lines();
    assert!(
        output[0].contains("refused invalid: operations: 257 tasks; at most 256"),
        "{output:?}"
    );
    assert_eq!(world.entries(), entries);
    let call = world.call_of(CallAction::Accept(fewer));
    world.send(call, tokens);
    let output = world.take_lines();
    assert!(
        output.iter().any(|line| line.contains("called at")),
        "{output:?}"
    );
    assert_eq!(world.registry.tasks().len(), most);
}

#[test]
fn heartbeats_beyond_one_turn_arrive_within_their_interval() {
    let mut world = World::new();
    let streams = 1_200;
    world.defer_check();
    for at in 0..streams {
        world.subscribe(&format!("f{at}"));
    }
    world.clear_lines();
    world.shows_heartbeats = true;
    for second in 1..=3 {
        // No turn of it sends more than 512, which `World::perform` checks.
        world.advance(1_000);
        let mut beaten = world.take_lines();
        beaten.retain(|line| line.ends_with("<- heartbeat"));
        beaten.sort();
        beaten.dedup();
        assert_eq!(beaten.len(), streams, "in second {second}");
    }
}

#[test]
fn expired_frameworks_are_removed_over_several_turns() {
    let mut world = World::new();
    world.defer_check();
    for at in 0..1_200 {
        world.subscribe(&format!("f{at}"));
    }
    world.new_leader();
    world.clear_lines();
    world.slow_log();
    // No turn of it proposes more than 700, which `World::perform` checks.
    world.advance(LIMITS.framework_grace_ms);
    assert_eq!(world.proposed_bytes().len(), 1_200);
}

fn set_detached(world: &mut World, detached: bool) {
    let info = (*world.registry.framework(FRAMEWORK).unwrap().info).clone();
    world.call(CallAction::Update(FrameworkInfo { detached, ..info }));
}

#[test]
fn a_framework_that_restarts_its_sweep_does_not_delay_the_teardown_of_another() {
    let mut world = launched(120);
    world.decline(&["1.2"], 3_600_000);
    world.subscribe("other");
    let other = FrameworkId(2);
    let specs = (0..60).map(|at| spec(&format!("t{at:04}"), "cpus:1"));
    let (accept, tokens) = world.acceptance("1.3", specs.collect());
    let call = Call {
        framework: other,
        session: world.registry.framework(other).unwrap().session,
        ..world.call_of(CallAction::Accept(accept))
    };
    world.send(call, tokens);
    assert_eq!(world.registry.tasks().len(), 180);
    world.slow_log();
    set_detached(&mut world, true);
    world.operate(OperatorOperation::Teardown(other));
    let both = [FRAMEWORK, other].map(SweepTarget::Framework);
    assert!(world.commit_oldest() && world.commit_oldest());
    assert_eq!(world.registry.sweeps().collect::<Vec<_>>(), both);
    // A piece has 50 tasks, so the sweep of the first framework needs three without a restart.
    for _ in 0..4 {
        set_detached(&mut world, false);
        set_detached(&mut world, true);
        for _ in 0..3 {
            assert!(world.commit_oldest());
        }
    }
    assert_eq!(world.registry.sweeps().collect::<Vec<_>>(), [both[0]]);
    world.commit();
    assert_eq!(world.registry.sweeps().count(), 0);
    world.clear_lines();
}
