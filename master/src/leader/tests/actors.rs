//! Tests of the actors that a leader's proposals name.

use argosy_state::actor::Actor;
use argosy_state::command::{Command, OperatorOperation};
use argosy_state::ids::Role;
use argosy_state::task::TaskState;

use super::fixture::World;
use crate::leader::Input;
use crate::links::LinkId;

/// Returns the actors and the kinds of the proposals that wait.
fn proposed(world: &World) -> Vec<(String, &'static str)> {
    let kind = |command: &Command| match command {
        Command::RegisterAgent(_) => "register",
        Command::ReconcileAgent(_) => "list",
        Command::UpdateTasks(_) => "update",
        Command::Subscribe(_) => "subscribe",
        Command::Call(_) => "call",
        Command::Acknowledge(_) => "acknowledge",
        Command::RaiseLowWater(_) => "raise",
        Command::Operate(_) => "operate",
        Command::AgentUnreachable(_) => "unreachable",
        Command::DisconnectFramework(_) => "disconnect",
        Command::Sweep(_) => "sweep",
        Command::Tick => "tick",
        other => panic!("not part of this test: {other:?}"),
    };
    let all = world.queue.iter();
    all.map(|one| (one.actor.to_string(), kind(&one.command)))
        .collect()
}

fn set_actor(world: &mut World, actor: &str) {
    world.actor = actor.parse().unwrap();
}

/// Commits the waiting proposals and compares them.
fn expect(world: &mut World, expected: &[(&str, &str)]) {
    let found = proposed(world);
    let found: Vec<_> = found
        .iter()
        .map(|(who, what)| (who.as_str(), *what))
        .collect();
    assert_eq!(found, expected);
    world.commit();
    world.clear_lines();
}

#[test]
fn requests_are_proposed_for_their_actor() {
    let mut world = World::new();
    world.slow_log();
    set_actor(&mut world, "framework/web");
    world.subscribe("web");
    expect(&mut world, &[("framework/web", "subscribe")]);
    set_actor(&mut world, "agent/host-1");
    world.agent("cpus:4;mem:4096");
    expect(&mut world, &[("agent/host-1", "register")]);
    set_actor(&mut world, "framework/web");
    world.accept("1.1", &["a"]);
    expect(&mut world, &[("framework/web", "call")]);
    // Its link was opened by the agent, regardless of the actor of the current call.
    world.report(LinkId(2), "a", 1, TaskState::Running);
    expect(&mut world, &[("agent/host-1", "update")]);
    world.acknowledge(&["a"]);
    expect(&mut world, &[("framework/web", "acknowledge")]);
    set_actor(&mut world, "operator/alice");
    let role = Role::new("eng").unwrap();
    world.operate(OperatorOperation::SetWeight {
        role,
        weight_milli: 2_000,
    });
    expect(&mut world, &[("operator/alice", "operate")]);
    set_actor(&mut world, "unauthenticated");
    world.kill("a");
    expect(&mut world, &[("unauthenticated", "call")]);
}

#[test]
fn decisions_of_the_leader_are_proposed_for_the_cluster() {
    let mut world = World::with_running_task();
    world.slow_log();
    set_actor(&mut world, "framework/web");
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.advance(30_000);
    let found = proposed(&world);
    assert!(found.iter().any(|(_, what)| *what == "disconnect"));
    assert!(found.iter().any(|(_, what)| *what == "unreachable"));
    let cluster = Actor::Cluster.to_string();
    assert!(found.iter().all(|(who, _)| *who == cluster), "{found:?}");
    world.commit();
    world.clear_lines();
}
