//! Tests of more simultaneous agent hellos than registrations that may be in the log.

use argosy_state::command::{Command, ProposedCommand};

use super::fixture::{AGENT, LIMITS, World, new_agent};
use crate::leader::Input;
use crate::leader::registration_queue::REGISTRATIONS;
use crate::links::LinkId;

/// Returns the links of `agents` agents whose registrations no entry holds yet.
fn hellos(world: &mut World, agents: usize) -> Vec<LinkId> {
    world.slow_log();
    world.defer_check();
    let hello = |nonce| {
        let link = world.link();
        world.hello(link, new_agent(nonce, "cpus:1;mem:1024"));
        link
    };
    (1..=agents as u64).map(hello).collect()
}

/// Returns the nonces of the registrations that are proposed, in the order of the log.
fn proposed(world: &World) -> Vec<u64> {
    let nonce = |proposed: &ProposedCommand| match &proposed.command {
        Command::RegisterAgent(register) => Some(register.nonce),
        _ => None,
    };
    world.queue.iter().filter_map(nonce).collect()
}

#[test]
fn registrations_in_the_log_are_bounded() {
    let mut world = World::new();
    let most = REGISTRATIONS as u64;
    hellos(&mut world, REGISTRATIONS + 3);
    assert_eq!(proposed(&world), (1..=most).collect::<Vec<_>>());
    assert!(world.commit_oldest());
    assert_eq!(proposed(&world), (2..=most + 1).collect::<Vec<_>>());
    world.commit();
    assert_eq!(world.registry.agents().len(), REGISTRATIONS + 3);
    world.registry.check().unwrap();
    world.clear_lines();
}

#[test]
fn agent_that_leaves_the_queue_needs_no_entry() {
    let mut world = World::new();
    let links = hellos(&mut world, REGISTRATIONS + 3);
    for link in &links[REGISTRATIONS..REGISTRATIONS + 2] {
        world.feed(Input::AgentClosed { link: *link });
    }
    world.commit();
    let nonces = world.registry.agents().map(|agent| agent.nonce);
    assert!(nonces.eq((1..=REGISTRATIONS as u64).chain([REGISTRATIONS as u64 + 3])));
    world.registry.check().unwrap();
    world.clear_lines();
}

/// As when many agents return with other attributes.
#[test]
fn an_agent_whose_registration_waits_is_not_lost() {
    let mut world = World::with_offer();
    world.new_leader();
    world.slow_log();
    world.advance(LIMITS.agent_timeout_ms - 100);
    let mut hello = world.hello_of(AGENT);
    hello.info.host_name = "renamed".to_owned();
    let link = world.link();
    world.hello(link, hello);
    let is_lost = |world: &World| {
        let commands = world.queue.iter().map(|proposed| &proposed.command);
        let mut commands =
            commands.filter(|command| matches!(command, Command::AgentUnreachable(_)));
        commands.next().is_some()
    };
    world.advance(LIMITS.agent_timeout_ms - 100);
    assert!(!is_lost(&world));
    world.advance(200);
    assert!(is_lost(&world), "it has sent nothing since");
}
