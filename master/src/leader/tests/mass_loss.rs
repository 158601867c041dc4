//! Tests of very many agents that fall silent within one timeout.

use argosy_state::agent::AgentMode;
use argosy_state::command::OperatorOperation;
use argosy_state::ids::AgentId;

use super::fixture::{LIMITS, World};

fn lost(world: &World) -> usize {
    world.registry.agents_in(AgentMode::Unreachable)
}

/// Returns how often leadership was transferred since the last call.
fn transfers(world: &mut World) -> usize {
    let output = world.take_lines();
    output.iter().filter(|line| *line == "hand over").count()
}

fn with_agents(agents: usize) -> World {
    let mut world = World::new();
    for _ in 0..agents {
        world.agent("cpus:1;mem:1024");
    }
    world.clear_lines();
    world
}

#[test]
fn gone_agents_do_not_count_towards_mass_loss() {
    let mut world = with_agents(220);
    for agent in 1..=200 {
        world.operate(OperatorOperation::MarkGone(AgentId(agent)));
    }
    world.clear_lines();
    world.advance(LIMITS.agent_timeout_ms);
    // A fifth of 220 would be all twenty.
    assert_eq!(lost(&world), 10);
    assert_eq!(transfers(&mut world), 1);
}

#[test]
fn next_leader_marks_slowly_and_does_not_transfer_again() {
    let mut world = with_agents(60);
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!((lost(&world), transfers(&mut world)), (12, 1));
    let mut before = lost(&world);
    for _ in 0..2 {
        world.new_leader();
        world.advance(LIMITS.agent_timeout_ms - 100);
        assert_eq!(lost(&world), before, "every agent has a full grace");
        for _ in 0..10 {
            world.advance(1_000);
            assert!(
                lost(&world) <= before + 1,
                "{} after {before}",
                lost(&world)
            );
            before = lost(&world);
        }
        assert_eq!(transfers(&mut world), 0);
    }
    assert_eq!(before, 12 + 2 * 10);
}

#[test]
fn transfer_waits_until_mass_loss_is_committed() {
    let mut world = with_agents(40);
    world.slow_log();
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!(transfers(&mut world), 0);
    world.commit();
    assert_eq!(transfers(&mut world), 1);
}

#[test]
fn later_mass_loss_transfers_again() {
    let mut world = with_agents(40);
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!(transfers(&mut world), 1);
    // Past the end of the loss, and well beyond.
    world.advance(200_000);
    assert_eq!((lost(&world), transfers(&mut world)), (40, 0));
    world.new_leader();
    for _ in 0..40 {
        world.agent("cpus:1;mem:1024");
    }
    world.clear_lines();
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!(transfers(&mut world), 1);
}

#[test]
fn nothing_is_written_after_the_end_of_a_mass_loss() {
    let mut world = with_agents(40);
    world.advance(200_000);
    world.clear_lines();
    let entries = world.entries();
    world.advance(600_000);
    assert_eq!(world.entries(), entries);
}

#[test]
fn one_agent_in_a_hundred_is_marked_each_second_however_many_there_are() {
    let mut world = with_agents(1_200);
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!(lost(&world), 240);
    // One second for the transfer, then ten.
    world.advance(11_000);
    let slowly = lost(&world) - 240;
    assert!((110..=124).contains(&slowly), "{slowly}");
    world.clear_lines();
}
