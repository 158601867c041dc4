//! Tests of silence and absence, measured in cluster time.

use argosy_state::agent::AgentMode;
use argosy_state::framework::{FrameworkInfo, SchedulerConnection};
use argosy_state::ids::AgentId;
use argosy_state::task::TaskState;
use argosy_state::testing::framework_info;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, LIMITS, World, new_framework};
use crate::leader::Input;
use crate::links::LinkId;

fn mode(world: &World, agent: AgentId) -> AgentMode {
    world.registry.agent(agent).unwrap().mode()
}

#[test]
fn an_agent_that_times_out_is_unreachable_and_its_frameworks_are_notified() {
    let mut world = World::with_running_task();
    world.advance_with(20_000, &[LinkId(2)]);
    world.clear_lines();
    world.advance(14_900);
    world.expect_nothing();
    world.advance(100);
    world.expect(&expect![[r#"
        link-1 <- rescind 1.2: its agent has changed
        link-2 closed
        link-1 <- agent-1 is unreachable
        link-1 <- update a UNREACHABLE at 7.1 (AGENT_UNREACHABLE)
        link-1 <- unmet in *: 1 unreachable
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Unreachable);
}

#[test]
fn any_message_of_an_agent_counts_as_a_heartbeat() {
    let mut world = World::with_running_task();
    world.advance(14_000);
    world.report(LinkId(2), "a", 2, TaskState::Running);
    world.advance(14_000);
    world.clear_lines();
    assert_eq!(mode(&world, AGENT), AgentMode::Registered);
    world.advance(1_000);
    world.clear_lines();
    assert_eq!(mode(&world, AGENT), AgentMode::Unreachable);
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
fn a_new_leader_restarts_the_timeout_of_every_agent_until_it_returns() {
    let mut world = World::with_offer();
    world.agent("cpus:1;mem:1024");
    world.advance(10_000);
    world.clear_lines();
    world.new_leader();
    world.advance(14_900);
    world.clear_lines();
    world.agent_returns(AGENT);
    world.expect(&expect![[r#"
        link-4 <- registered agent-1, equal
    "#]]);
    world.advance(100);
    world.expect_nothing();
    assert_eq!(mode(&world, AGENT), AgentMode::Registered);
    assert_eq!(mode(&world, AgentId(2)), AgentMode::Unreachable);
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
fn an_agent_whose_return_is_being_committed_is_not_marked_unreachable() {
    let mut world = World::with_running_task();
    world.new_leader();
    world.slow_log();
    world.advance(14_000);
    // Its boot id is new, so its registration is an entry; the deadline passes before that is
    // applied.
    let mut hello = world.hello_of(AGENT);
    hello.boot_id = "another boot".to_owned();
    let link = world.link();
    world.hello(link, hello);
    world.advance(1_000);
    world.commit();
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, equal
    "#]]);
    assert_eq!(mode(&world, AGENT), AgentMode::Registered);
}

#[test]
fn leader_pause_does_not_count_as_agent_silence() {
    let mut world = World::with_running_task();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.advance(9_500);
    world.pause();
    world.advance(9_900);
    assert_eq!(mode(&world, AGENT), AgentMode::Registered);
    let connection = |world: &World| world.registry.framework(FRAMEWORK).unwrap().connection;
    assert_eq!(connection(&world), SchedulerConnection::Connected);
    world.advance(100);
    assert_ne!(connection(&world), SchedulerConnection::Connected);
    world.advance(5_000);
    assert_eq!(mode(&world, AGENT), AgentMode::Unreachable);
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
        let said = world.take_lines();
        said.iter().filter(|line| *line == "hand over").count()
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

#[test]
fn disconnected_time_continues_across_leaders() {
    let mut world = World::new();
    let info = FrameworkInfo {
        failover_timeout_ms: 60_000,
        ..framework_info("web")
    };
    let link = world.link();
    world.subscribe_with(link, new_framework(7, info));
    world.feed(Input::FrameworkClosed { link });
    world.advance(10_000);
    world.clear_lines();
    world.advance(40_000);
    // The remaining time continues under the next leader.
    world.new_leader();
    world.advance(19_900);
    assert!(world.registry.framework(FRAMEWORK).is_some());
    world.advance(100);
    assert!(world.registry.framework(FRAMEWORK).is_none());
    world.expect_nothing();
}

#[test]
fn a_framework_that_returns_in_time_is_not_removed() {
    let mut world = World::with_running_task();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.advance_with(30_000, &[LinkId(2)]);
    world.framework_returns(FRAMEWORK, &[]);
    world.clear_lines();
    world.advance_with(8 * 24 * 3_600, &[LinkId(2)]);
    world.clear_lines();
    assert_eq!(world.state_of("a"), TaskState::Running);
}

#[test]
fn a_connected_framework_has_ten_seconds_to_find_the_new_leader() {
    let mut world = World::with_running_task();
    world.new_leader();
    world.advance(9_900);
    let connection = |world: &World| world.registry.framework(FRAMEWORK).unwrap().connection;
    assert_eq!(connection(&world), SchedulerConnection::Connected);
    world.advance(100);
    assert_ne!(connection(&world), SchedulerConnection::Connected);
    world.expect_nothing();
}

#[test]
fn an_idle_cluster_writes_nothing() {
    let mut world = World::with_running_task();
    world.advance_with(6_500, &[LinkId(2)]);
    let entries = world.entries();
    world.advance_with(600_000, &[LinkId(2)]);
    world.clear_lines();
    assert_eq!(world.entries(), entries);
}

/// A lost agent is removed eventually; the exact time does not matter.
#[test]
fn an_idle_cluster_with_a_lost_agent_writes_nothing_until_it_is_pruned() {
    let mut world = World::new();
    world.agent("cpus:1");
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!(mode(&world, AGENT), AgentMode::Unreachable);
    let entries = world.entries();
    world.advance(LIMITS.lost_agent_ms - 1_000);
    assert_eq!(world.entries(), entries);
    world.advance(61_000);
    assert_eq!(world.registry.agent(AGENT), None);
    assert_eq!(world.entries(), entries + 1);
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

#[test]
fn time_is_committed_periodically_while_a_deadline_runs() {
    let mut world = World::with_running_task();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.advance_with(10_000, &[LinkId(2)]);
    let entries = world.entries();
    // A hundredth of what is left of a week.
    world.advance_with(6_000_000, &[LinkId(2)]);
    assert_eq!(world.entries(), entries);
    world.advance_with(100_000, &[LinkId(2)]);
    assert_eq!(world.entries(), entries + 1);
    world.clear_lines();
}

#[test]
fn every_stream_gets_a_heartbeat_each_second() {
    let mut world = World::with_offer();
    world.shows_heartbeats = true;
    world.advance_with(3_000, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-1 <- heartbeat
        link-1 <- heartbeat
        link-1 <- heartbeat
    "#]]);
}

#[test]
fn a_second_timeout_while_the_first_is_being_committed_changes_nothing() {
    let mut world = World::with_running_task();
    world.slow_log();
    world.advance(45_000);
    world.clear_lines();
    world.commit();
    world.expect(&expect![[r#"
        link-1 <- rescind 1.2: its agent has changed
        link-2 closed
        link-1 <- agent-1 is unreachable
        link-1 <- update a UNREACHABLE at 7.1 (AGENT_UNREACHABLE)
    "#]]);
}

#[test]
fn no_time_is_committed_after_a_framework_has_returned() {
    let mut world = World::new();
    let info = FrameworkInfo {
        failover_timeout_ms: 200_000,
        ..framework_info("web")
    };
    let link = world.link();
    world.subscribe_with(link, new_framework(7, info));
    world.feed(Input::FrameworkClosed { link });
    world.advance(10_000);
    world.framework_returns(FRAMEWORK, &[]);
    world.clear_lines();
    let entries = world.entries();
    world.advance(300_000);
    assert_eq!(world.entries(), entries);
    world.clear_lines();
}

#[test]
fn a_framework_being_removed_whose_agent_is_away_writes_nothing() {
    let mut world = World::with_running_task();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.operate(argosy_state::command::OperatorOperation::Teardown(
        FRAMEWORK,
    ));
    world.advance(30_000);
    world.clear_lines();
    let entries = world.entries();
    world.advance(60_000);
    assert!(world.registry.framework(FRAMEWORK).unwrap().removing);
    assert_eq!(world.entries(), entries);
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
