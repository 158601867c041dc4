//! Tests of changes of rules, tokens, revocations and limits while access is not enforced: they
//! remain when it is.

use std::sync::Arc;

use argosy_state::access::{AccessOperation, KeyHash, NewToken, RateLimit, TokenId, TokenPurpose};
use argosy_state::command::{Operate, OperatorOperation};
use argosy_state::ids::Role;

use super::fixture::World;

/// Returns one change of each kind that an attacker could leave behind.
fn changes() -> Vec<AccessOperation> {
    let policy = "group admin = operator/root operator/mallory";
    let bearer = TokenPurpose::Bearer("operator/root".parse().unwrap());
    vec![
        AccessOperation::SetPolicy(Arc::new(policy.parse().unwrap())),
        AccessOperation::CreateToken(NewToken {
            id: TokenId(7),
            purpose: bearer,
            hash: [7; 32],
            lifetime_ms: None,
            description: String::new(),
        }),
        AccessOperation::RevokeToken(TokenId(7)),
        AccessOperation::RevokeKey(KeyHash([7; 32])),
        AccessOperation::SetLimit {
            subject: "operator/*".parse().unwrap(),
            limit: Some(RateLimit {
                calls_per_second: 1,
                burst: 1,
            }),
        },
    ]
}

#[test]
fn a_caller_without_the_right_changes_no_access_also_without_enforcement() {
    let mut world = World::new();
    for (actor, code) in [
        ("unauthenticated", "unauthenticated"),
        ("framework/web", "access-denied"),
        ("agent/host-1", "access-denied"),
    ] {
        world.act_as(actor);
        for change in changes() {
            let entries = world.entries();
            let shown = format!("{actor}: {change:?}");
            world.operate(OperatorOperation::Access(change));
            let lines = world.take_lines();
            assert_eq!(lines.len(), 1, "{shown}: {lines:?}");
            assert!(lines[0].contains(code), "{shown}: {lines:?}");
            assert_eq!(world.entries(), entries, "{shown}");
        }
    }
    assert_eq!(world.registry.access().policy_revision, None);
}

#[test]
fn an_operator_changes_access_before_it_is_enforced_and_anyone_other_facts() {
    let mut world = World::new();
    world.act_as("operator/alice");
    for change in changes() {
        world.operate(OperatorOperation::Access(change));
        let lines = world.take_lines();
        let refused = ["access-denied", "unauthenticated"];
        let is_refused = |line: &String| refused.iter().any(|code| line.contains(code));
        assert!(!lines.iter().any(is_refused), "{lines:?}");
    }
    world.act_as("unauthenticated");
    let entries = world.entries();
    world.operate(OperatorOperation::SetWeight {
        role: Role::new("eng").unwrap(),
        weight_milli: 2_000,
    });
    assert_eq!(world.entries(), entries + 1);
    world.clear_lines();
}

#[test]
fn an_empty_batch_is_no_entry_of_the_log() {
    let mut world = World::new();
    world.enforce("");
    for (actor, code) in [
        ("unauthenticated", "unauthenticated"),
        ("framework/web", "invalid"),
        ("operator/root", "invalid"),
    ] {
        world.act_as(actor);
        let entries = world.entries();
        world.send_batch(Operate {
            request: None,
            hash: 0,
            operations: Vec::new(),
            wall_ms: 0,
        });
        let lines = world.take_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(code), "{actor}: {lines:?}");
        assert_eq!(world.entries(), entries, "{actor}");
    }
}
