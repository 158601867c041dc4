//! Tests of very many agents that fall silent within one timeout.

use argosy_state::agent::AgentMode;
use argosy_state::command::OperatorOperation;
use argosy_state::ids::AgentId;

use super::world::{LIMITS, World};

fn lost(world: &World) -> usize {
    world.registry.agents_in(AgentMode::Unreachable)
}

/// Returns how often leadership was transferred since the last call.
fn handed_over(world: &mut World) -> usize {
    let said = world.take_said();
    said.iter().filter(|line| *line == "hand over").count()
}

fn with_agents(agents: usize) -> World {
    let mut world = World::new();
    for _ in 0..agents {
        world.agent("cpus:1;mem:1024");
    }
    world.forget_said();
    world
}

#[test]
fn agents_that_are_gone_do_not_count_for_those_that_fall_silent() {
    let mut world = with_agents(220);
    for agent in 1..=200 {
        world.operate(OperatorOperation::MarkGone(AgentId(agent)));
    }
    world.forget_said();
    world.pass(LIMITS.agent_timeout_ms);
    // A fifth of 220 would be all twenty.
    assert_eq!(lost(&world), 10);
    assert_eq!(handed_over(&mut world), 1);
}

#[test]
fn the_next_leader_goes_on_slowly_and_does_not_hand_over_again() {
    let mut world = with_agents(60);
    world.pass(LIMITS.agent_timeout_ms);
    assert_eq!((lost(&world), handed_over(&mut world)), (12, 1));
    let mut before = lost(&world);
    for _ in 0..2 {
        world.new_leader();
        world.pass(LIMITS.agent_timeout_ms - 100);
        assert_eq!(lost(&world), before, "every agent has a full grace");
        for _ in 0..10 {
            world.pass(1_000);
            assert!(
                lost(&world) <= before + 1,
                "{} after {before}",
                lost(&world)
            );
            before = lost(&world);
        }
        assert_eq!(handed_over(&mut world), 0);
    }
    assert_eq!(before, 12 + 2 * 10);
}

#[test]
fn a_hand_over_waits_until_the_next_leader_can_know_of_it() {
    let mut world = with_agents(40);
    world.slow_log();
    world.pass(LIMITS.agent_timeout_ms);
    assert_eq!(handed_over(&mut world), 0);
    world.commit();
    assert_eq!(handed_over(&mut world), 1);
}

#[test]
fn another_mass_loss_much_later_is_handed_over_again() {
    let mut world = with_agents(40);
    world.pass(LIMITS.agent_timeout_ms);
    assert_eq!(handed_over(&mut world), 1);
    // Past the end of the loss, and well beyond.
    world.pass(200_000);
    assert_eq!((lost(&world), handed_over(&mut world)), (40, 0));
    world.new_leader();
    for _ in 0..40 {
        world.agent("cpus:1;mem:1024");
    }
    world.forget_said();
    world.pass(LIMITS.agent_timeout_ms);
    assert_eq!(handed_over(&mut world), 1);
}

#[test]
fn the_end_of_a_mass_loss_writes_nothing_more() {
    let mut world = with_agents(40);
    world.pass(200_000);
    world.forget_said();
    let entries = world.entries();
    world.pass(600_000);
    assert_eq!(world.entries(), entries);
}
