//! Tests of silence and absence, measured in cluster time.

use argosy_state::agent::AgentMode;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::AgentId;
use argosy_state::task::TaskState;
use argosy_state::testing::framework_info;

use super::fixture::{AGENT, LIMITS, World, new_framework};
use crate::leader::Input;
use crate::links::LinkId;

fn mode(world: &World, agent: AgentId) -> AgentMode {
    world.registry.agent(agent).unwrap().mode()
}

#[test]
fn pings_before_a_hello_are_ignored() {
    let mut world = World::with_running_task();
    let link = world.link();
    world.feed(Input::AgentPing { link, serial: 7 });
    world.expect_nothing();
    world.advance_with(LIMITS.agent_timeout_ms, &[link]);
    world.clear_lines();
    assert_eq!(mode(&world, AGENT), AgentMode::Unreachable);
}

#[test]
fn a_new_leader_marks_missing_agents_unreachable_gradually() {
    let mut world = World::new();
    for _ in 0..40 {
        world.agent("cpus:1;mem:1024");
    }
    world.new_leader();
    let lost = |world: &World| world.registry.agents_in(AgentMode::Unreachable);
    world.advance(LIMITS.agent_timeout_ms - 100);
    assert_eq!(lost(&world), 0);
    world.advance(100);
    assert_eq!(lost(&world), 10);
    for second in 1..=30 {
        world.advance(1_000);
        assert_eq!(lost(&world), 10 + second);
    }
    world.clear_lines();
}

#[test]
fn mass_loss_transfers_leadership_once() {
    let mut world = World::new();
    for _ in 0..40 {
        world.agent("cpus:1;mem:1024");
    }
    world.clear_lines();
    world.advance(LIMITS.agent_timeout_ms);
    let handed_over = |world: &mut World| {
        let output = world.take_lines();
        output.iter().filter(|line| *line == "hand over").count()
    };
    assert_eq!(handed_over(&mut world), 1);
    let lost = |world: &World| world.registry.agents_in(AgentMode::Unreachable);
    // A fifth of forty is less than ten, so ten are lost immediately.
    assert_eq!(lost(&world), 10);
    // No other master took over, so one in a hundred follows per second, at least one.
    world.advance(1_000);
    assert_eq!(lost(&world), 11);
    world.advance(5_000);
    assert_eq!(lost(&world), 16);
    assert_eq!(handed_over(&mut world), 0);
}

#[test]
fn many_silent_agents_are_marked_unreachable_at_a_limited_rate() {
    let mut world = World::new();
    for _ in 0..40 {
        world.agent("cpus:1;mem:1024");
    }
    world.advance(LIMITS.agent_timeout_ms);
    world.clear_lines();
    let lost = |world: &World| world.registry.agents_in(AgentMode::Unreachable);
    let mut before = lost(&world);
    for _ in 0..30 {
        world.advance(1_000);
        let now = lost(&world);
        assert!(now <= before + 1, "{now} after {before}");
        before = now;
    }
    assert_eq!(before, 40);
    world.clear_lines();
}

/// One proposal in each pass for each of them, regardless of how long the log takes.
#[test]
fn due_frameworks_are_examined_once_per_pass() {
    let mut world = World::new();
    world.defer_check();
    for number in 0..700 {
        let info = FrameworkInfo {
            failover_timeout_ms: 60_000,
            ..framework_info("web")
        };
        let link = world.link();
        world.subscribe_with(link, new_framework(7 + number, info));
        world.feed(Input::FrameworkClosed { link });
    }
    world.advance(10_000);
    assert_eq!(world.registry.frameworks().len(), 700);
    world.advance(59_500);
    world.slow_log();
    // At most three passes begin in that time.
    world.advance(2_000);
    let mut proposed = 0;
    while world.commit_oldest() {
        proposed += 1;
    }
    // And cluster time.
    assert!((700..=2_101).contains(&proposed), "{proposed}");
    world.registry.check().unwrap();
    assert_eq!(world.registry.frameworks().len(), 0);
    world.clear_lines();
}

/// Launches 300 tasks on each of two agents. Each agent takes two calls; the second uses the
/// resources that the first has left.
fn two_agents_with_300_tasks_each(world: &mut World) {
    for (offer, from) in [("1.1", 0), ("1.2", 150), ("1.3", 300), ("1.4", 450)] {
        if from % 300 == 0 {
            world.agent("cpus:300");
        }
        let tasks: Vec<String> = (from..from + 150).map(|at| format!("t{at}")).collect();
        world.accept(offer, &tasks.iter().map(String::as_str).collect::<Vec<_>>());
        world.advance_with(6_500, &[LinkId(2), LinkId(3)]);
    }
}

#[test]
fn concurrent_sweeps_all_complete() {
    let mut world = World::new();
    world.subscribe("many");
    two_agents_with_300_tasks_each(&mut world);
    world.advance(LIMITS.agent_timeout_ms);
    world.clear_lines();
    assert_eq!(world.registry.sweeps().count(), 0);
    let unreachable = world
        .registry
        .tasks()
        .filter(|task| task.state == TaskState::Unreachable);
    assert_eq!(unreachable.count(), 600);
}

#[test]
fn new_leader_continues_every_sweep() {
    let mut world = World::new();
    world.subscribe("many");
    two_agents_with_300_tasks_each(&mut world);
    world.slow_log();
    world.advance(LIMITS.agent_timeout_ms);
    // Both are marked, and the consequences are lost with the leader.
    world.commit_first(2);
    assert_eq!(world.registry.sweeps().count(), 2);
    world.new_leader();
    world.commit();
    world.clear_lines();
    assert_eq!(world.registry.sweeps().count(), 0);
}
