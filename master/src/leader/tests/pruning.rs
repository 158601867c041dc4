//! Tests of the removal of lost agents, and of their tasks, when their time is over.

use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use argosy_state::command::{AgentDecision, Command};
use argosy_state::ids::{AgentId, Timestamp};
use argosy_state::task::TaskState;
use argosy_state::testing::World as Facts;
use expect_test::expect;

use super::super::pruning::PruningPass;
use super::fixture::{AGENT, LIMITS, World, new_agent};

/// Time until an agent that falls silent now is removed, in milliseconds.
const FORGOTTEN_MS: u64 = LIMITS.agent_timeout_ms + LIMITS.lost_agent_ms + 60_000;

#[test]
fn a_lost_agent_is_pruned_after_its_timeout_and_registers_again() {
    let mut world = World::with_offer();
    let hello = world.hello_of(AGENT);
    world.advance(FORGOTTEN_MS - 61_000);
    let mode = world.registry.agent(AGENT).map(|agent| agent.mode());
    assert_eq!(mode, Some(AgentMode::Unreachable));
    world.advance(61_000);
    assert_eq!(world.registry.agent(AGENT), None);
    world.clear_lines();
    let link = world.link();
    world.hello(link, hello);
    world.expect(&expect![[r#"
        link-3 <- shutdown: this agent is not known here, or was declared gone
        link-3 closed
    "#]]);
    let link = world.link();
    world.hello(link, new_agent(1_002, "cpus:4;mem:4096"));
    assert!(world.registry.agent(AgentId(2)).is_some());
    world.clear_lines();
}

#[test]
fn an_agent_that_returns_during_its_pruning_is_kept() {
    let mut world = World::with_offer();
    world.advance(FORGOTTEN_MS - 61_000);
    world.slow_log();
    // The return is written first, then the decision, which cannot know that it is late.
    world.agent_returns(AGENT);
    world.advance(62_000);
    assert_eq!(world.proposed_bytes().len(), 2);
    world.commit();
    world.clear_lines();
    let mode = world.registry.agent(AGENT).map(|agent| agent.mode());
    assert_eq!(mode, Some(AgentMode::Registered));
}

#[test]
fn the_tasks_of_a_pruned_agent_are_gone_before_its_record_is_removed() {
    let mut world = World::with_running_task();
    world.advance(20_000);
    world.acknowledge(&["a"]);
    world.advance(FORGOTTEN_MS - 81_000);
    world.clear_lines();
    world.advance(61_000);
    world.expect(&expect![[r#"
        link-1 <- agent-1 is gone
        link-1 <- update a GONE at 9.1 (AGENT_REMOVED)
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Gone);
    world.advance(120_000);
    assert!(
        world.registry.agent(AGENT).is_some(),
        "no process has stored it"
    );
    world.acknowledge(&["a"]);
    world.clear_lines();
    world.advance(60_000);
    assert_eq!(world.registry.agent(AGENT), None);
}

fn ids(registry: &Registry, now: Timestamp, keep: usize) -> Vec<u64> {
    ids_by(usize::MAX, registry, now, keep)
}

/// Returns the ids to remove, when `most` agents are examined at a time.
fn ids_by(most: usize, registry: &Registry, now: Timestamp, keep: usize) -> Vec<u64> {
    let mut pass = PruningPass::new(registry, keep);
    let mut ids = Vec::new();
    while !pass.is_over() {
        let found = pass.examine(registry, now, 10_000, most);
        assert!(found.len() <= most);
        ids.extend(found.iter().map(|agent| agent.id.0));
    }
    ids
}

/// Returns a registry in which agents 4, 2 and 1 are lost, in this order, a second apart; 2 holds a
/// task.
fn three_lost() -> (Facts, Timestamp) {
    let mut world = Facts::new();
    let agents: Vec<AgentId> = (0..4).map(|_| world.register("cpus:4")).collect();
    let framework = world.subscribe("demo");
    world.launch(framework, agents[1], "a", "cpus:1");
    for place in [3, 1, 0] {
        world.pass(1_000);
        world.mark_unreachable(agents[place]);
    }
    let first = world.registry.agent(agents[3]).unwrap().mode_since();
    (world, first)
}

#[test]
fn lost_agents_are_pruned_by_age_oldest_first_and_idle_ones_by_number() {
    let (world, first) = three_lost();
    assert!(ids(&world.registry, first.plus_ms(9_999), 3).is_empty());
    assert_eq!(ids(&world.registry, first.plus_ms(10_000), 3), [4]);
    assert_eq!(ids(&world.registry, first.plus_ms(11_000), 3), [4, 2]);
    assert_eq!(
        ids(&world.registry, first, 1),
        [4, 1],
        "what runs on 2 is not given up for its number"
    );
    assert_eq!(ids(&world.registry, first, 0), [4, 1]);
    assert_eq!(ids(&world.registry, first.plus_ms(60_000), 3), [4, 2, 1]);
}

#[test]
fn pruning_pass_continues_after_the_last_tick() {
    let (world, first) = three_lost();
    let registry = &world.registry;
    let aged = PruningPass::new(registry, 3)
        .examine(registry, first.plus_ms(60_000), 10_000, 2)
        .len();
    assert_eq!(aged, 2, "no more than were to be examined");
    for (now, kept) in [
        (first, 0),
        (first, 1),
        (first.plus_ms(11_000), 3),
        (first.plus_ms(60_000), 3),
    ] {
        assert_eq!(ids_by(1, registry, now, kept), ids(registry, now, kept));
    }
}

#[test]
fn agent_with_unacknowledged_updates_is_pruned_later() {
    let (mut world, first) = three_lost();
    let agent = AgentId(2);
    let decided_on = world.registry.agent(agent).unwrap().revision;
    world.pass(60_000);
    world.apply(Command::PruneAgent(AgentDecision {
        agent,
        decided_on,
        wall_ms: 0,
    }));
    assert_eq!(
        ids(&world.registry, first, 1),
        [4],
        "it would be the second"
    );
    assert_eq!(
        world.registry.agent(agent).unwrap().mode_since(),
        first.plus_ms(1_000)
    );
}
