//! Tests of the revoked keys that agents receive.

use argosy_state::access::{AccessOperation, KeyHash};
use argosy_state::command::{Operate, OperatorOperation};
use argosy_state::ids::AgentId;

use super::fixture::{World, new_agent};

fn revoke(world: &mut World, key: u8) {
    let revoke = AccessOperation::RevokeKey(KeyHash([key; 32]));
    world.act_as("operator/root");
    world.operate(OperatorOperation::Access(revoke));
}

fn revoke_all(world: &mut World, keys: std::ops::Range<u8>) {
    world.act_as("operator/root");
    let revoke = |key| OperatorOperation::Access(AccessOperation::RevokeKey(KeyHash([key; 32])));
    world.send_batch(Operate {
        request: None,
        hash: 0,
        operations: keys.map(revoke).collect(),
        wall_ms: 0,
    });
}

/// Registers an agent that TLS has authenticated as this, or not.
fn register(world: &mut World, nonce: u64, actor: &str) {
    world.actor = actor.parse().unwrap();
    let link = world.link();
    world.hello(link, new_agent(nonce, "cpus:1"));
}

fn sent(world: &mut World) -> Vec<String> {
    let mut lines = world.take_lines();
    lines.retain(|line| line.contains("revoked keys"));
    lines
}

#[test]
fn agents_receive_the_keys_that_are_revoked() {
    let mut world = World::new();
    register(&mut world, 1, "agent/host-1");
    // There is none yet.
    assert_eq!(sent(&mut world), [""; 0]);
    revoke(&mut world, 7);
    let first = sent(&mut world);
    assert!(
        first.len() == 1 && first[0].ends_with("revoked keys [7]"),
        "{first:?}"
    );
    // A repetition is not sent.
    revoke(&mut world, 7);
    assert_eq!(sent(&mut world), [""; 0]);
    revoke(&mut world, 8);
    assert_eq!(sent(&mut world).len(), 1);
    // All of them to one that registers, also at the next leader.
    register(&mut world, 2, "agent/host-2");
    let all = sent(&mut world);
    assert!(
        all.len() == 1 && all[0].ends_with("revoked keys [7, 8]"),
        "{all:?}"
    );
    world.new_leader();
    world.actor = "agent/host-1".parse().unwrap();
    world.agent_returns(AgentId(1));
    assert_eq!(sent(&mut world).len(), 1);
    // One without a certificate has no callers with one.
    register(&mut world, 3, "unauthenticated");
    assert_eq!(sent(&mut world), [""; 0]);
}

#[test]
fn keys_that_are_revoked_together_reach_each_agent_in_one_message() {
    let mut world = World::new();
    register(&mut world, 1, "agent/host-1");
    register(&mut world, 2, "agent/host-2");
    revoke_all(&mut world, 1..101);
    let lines = sent(&mut world);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert!(line.ends_with(", 99, 100]"), "{line}");
    }
}
