//! Samples of the facts of access.

use std::sync::Arc;

use super::revision;
use crate::access::{AccessFacts, KeyHash, RateLimit, RevokedKey, Token, TokenId, TokenPurpose};
use crate::actor::PrincipalKind;

pub(super) fn facts() -> AccessFacts {
    let mut facts = AccessFacts::default();
    let policy = "group admin = operator/*\n\
                  group framework:eng/web = framework/web\n\
                  group ops =\n\
                  allow agent/* connect-agent *\n\
                  allow group:ops kill-task role:eng/%\n\
                  deny everyone * host-path:/etc\n";
    facts.policy = Arc::new(policy.parse().unwrap());
    facts.policy_revision = Some(revision(31, 2));
    let bearer = Token {
        hash: [0xa1; 32],
        purpose: TokenPurpose::Bearer("operator/ci".parse().unwrap()),
        expires_wall_ms: Some(1_800_000_000_000),
        created_wall_ms: 1_700_000_000_000,
        created_by: "operator/alice".parse().unwrap(),
        description: "nightly".to_owned(),
    };
    let join = Token {
        hash: [0xa2; 32],
        purpose: TokenPurpose::Join {
            kind: PrincipalKind::Agent,
            uses_left: 2,
        },
        expires_wall_ms: None,
        created_wall_ms: -5,
        created_by: "unauthenticated".parse().unwrap(),
        description: String::new(),
    };
    facts.tokens.insert(TokenId(0xa1), bearer);
    facts.tokens.insert(TokenId(0xa2), join);
    let revoked = RevokedKey {
        revoked_wall_ms: 1_700_000_000_001,
        revoked_by: "cluster".parse().unwrap(),
    };
    facts.revoked.insert(KeyHash([0xb1; 32]), revoked);
    let host = "agent/host-1".parse().unwrap();
    facts.bindings.insert(host, KeyHash([0xb2; 32]));
    for (at, subject) in [
        "anonymous",
        "everyone",
        "operator/*",
        "operator/alice",
        "group:admin",
        "group:framework:eng/web",
        "group:ops",
    ]
    .into_iter()
    .enumerate()
    {
        let limit = RateLimit {
            calls_per_second: 100 + at as u32,
            burst: 200,
        };
        facts.limits.insert(subject.parse().unwrap(), limit);
    }
    facts
}
