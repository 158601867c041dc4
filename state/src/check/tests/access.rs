//! Damages of the facts of access.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Damage, future, lower_level, newest};
use crate::Registry;
use crate::access::{
    GroupName, KeyHash, Policy, RateLimit, Rule, Subject, Token, TokenId, TokenPurpose,
};
use crate::actor::{Principal, PrincipalKind, PrincipalName};
use crate::limits;

/// The bearer token of the base registry.
const BEARER: TokenId = TokenId(0xa1);
/// The join token of the base registry.
const JOIN: TokenId = TokenId(0xb2);

fn token(registry: &mut Registry, id: TokenId) -> &mut Token {
    registry.access.tokens.get_mut(&id).unwrap()
}

fn set_join(registry: &mut Registry, kind: PrincipalKind, uses_left: u32) {
    token(registry, JOIN).purpose = TokenPurpose::Join { kind, uses_left };
}

fn policy(registry: &mut Registry) -> &mut Policy {
    Arc::make_mut(&mut registry.access.policy)
}

fn set_rules(registry: &mut Registry, count: usize) {
    let rule: Rule = "allow operator/* view-task *".parse().unwrap();
    policy(registry).rules = vec![rule; count];
}

fn add_groups(registry: &mut Registry, count: usize) {
    let groups = &mut policy(registry).groups;
    for at in groups.len()..count {
        let name: GroupName = format!("group-{at}").parse().unwrap();
        groups.insert(name, BTreeSet::new());
    }
}

fn add_tokens(registry: &mut Registry, count: usize) {
    let first = token(registry, BEARER).clone();
    let tokens = &mut registry.access.tokens;
    for at in tokens.len()..count {
        tokens.insert(TokenId((1 << 32) + at as u64), first.clone());
    }
}

/// Returns a number as the hash of a key.
fn hash(number: usize) -> KeyHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    KeyHash(bytes)
}

fn revoke_keys(registry: &mut Registry, count: usize) {
    let revoked = &mut registry.access.revoked;
    let first = revoked.first_key_value().unwrap().1.clone();
    for at in revoked.len()..count {
        revoked.insert(hash(at), first.clone());
    }
}

fn principal(number: usize) -> Principal {
    Principal {
        kind: PrincipalKind::Agent,
        name: PrincipalName::new(&format!("a{number}")).unwrap(),
    }
}

fn bind_keys(registry: &mut Registry, count: usize) {
    let bindings = &mut registry.access.bindings;
    for at in bindings.len()..count {
        bindings.insert(principal(at), hash(at));
    }
}

const LIMIT: RateLimit = RateLimit {
    calls_per_second: 1,
    burst: 1,
};

fn limit_rates(registry: &mut Registry, count: usize) {
    let limits = &mut registry.access.limits;
    for at in limits.len()..count {
        limits.insert(Subject::Principal(principal(at)), LIMIT);
    }
}

pub(super) const DAMAGES: &[Damage] = &[
    ("access: its facts exist only since level 3", |registry| {
        lower_level(registry);
        registry.transitions = Default::default();
    }),
    ("access: its records are bounded", |registry| {
        add_tokens(registry, limits::TOKENS + 1);
    }),
    ("access: its records are bounded", |registry| {
        revoke_keys(registry, limits::REVOKED_KEYS + 1);
    }),
    ("access: its records are bounded", |registry| {
        bind_keys(registry, limits::KEY_BINDINGS + 1);
    }),
    ("access: its records are bounded", |registry| {
        limit_rates(registry, limits::RATE_LIMITS + 1);
    }),
    ("access: the revision of its policy is past", |registry| {
        registry.access.policy_revision = Some(future(registry));
    }),
    (
        "access: a policy that was never set is the initial one",
        |registry| registry.access.policy_revision = None,
    ),
    ("access: its policy is bounded", |registry| {
        set_rules(registry, limits::ACCESS_RULES + 1);
    }),
    ("access: its policy is bounded", |registry| {
        add_groups(registry, limits::ACCESS_GROUPS + 1);
    }),
    (
        "access: its policy is valid and can be replaced",
        |registry| {
            policy(registry).groups.remove(&GroupName::Admin);
        },
    ),
    (
        "access: its policy is valid and can be replaced",
        |registry| {
            let members = policy(registry).groups.get_mut(&GroupName::Admin);
            members.unwrap().insert(Subject::Group(GroupName::Viewer));
        },
    ),
    ("00000000000000b2: its purpose is valid", |registry| {
        set_join(registry, PrincipalKind::Operator, 1);
    }),
    ("00000000000000b2: its purpose is valid", |registry| {
        set_join(registry, PrincipalKind::Framework, 1);
    }),
    ("00000000000000b2: its purpose is valid", |registry| {
        set_join(registry, PrincipalKind::Agent, limits::JOIN_TOKEN_USES + 1);
    }),
    ("00000000000000a1: its description is bounded", |registry| {
        token(registry, BEARER).description = "x".repeat(Token::DESCRIPTION_BYTES + 1);
    }),
    ("operator/alice: its limit is valid", |registry| {
        let alice = registry.access.limits.keys().next().unwrap().clone();
        let limit = RateLimit { burst: 0, ..LIMIT };
        registry.access.limits.insert(alice, limit);
    }),
];

pub(super) const BOUNDS: &[Damage] = &[
    ("its records are bounded", |registry| {
        add_tokens(registry, limits::TOKENS);
        revoke_keys(registry, limits::REVOKED_KEYS);
        bind_keys(registry, limits::KEY_BINDINGS);
        limit_rates(registry, limits::RATE_LIMITS);
    }),
    ("the revision of its policy is past", |registry| {
        registry.access.policy_revision = Some(newest(registry));
    }),
    (
        "a policy that was never set is the initial one",
        |registry| {
            registry.access.policy_revision = None;
            registry.access.policy = Arc::new(Policy::initial());
        },
    ),
    ("its policy is bounded", |registry| {
        set_rules(registry, limits::ACCESS_RULES);
        add_groups(registry, limits::ACCESS_GROUPS);
    }),
    ("its purpose is valid", |registry| {
        set_join(registry, PrincipalKind::Agent, limits::JOIN_TOKEN_USES);
    }),
    ("its purpose is valid", |registry| {
        set_join(registry, PrincipalKind::Master, 0);
    }),
    ("its description is bounded", |registry| {
        token(registry, BEARER).description = "x".repeat(Token::DESCRIPTION_BYTES);
    }),
];
