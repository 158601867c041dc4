//! Conversion of the facts of access and of their changes.

use std::sync::Arc;

use argosy_state::access::{
    AccessFacts, AccessOperation, Group, KeyHash, NewToken, Policy, RateLimit, RevokedKey, Rule,
    Subject, Token, TokenId, TokenPurpose,
};

use argosy_state::ids::Revision;

use super::{InvalidMessage, id, revision};
use crate::v1;

/// Reads rules and groups.
///
/// # Errors
/// Names the first invalid one.
pub fn policy_from(wire: &v1::SetPolicy) -> Result<Policy, InvalidMessage> {
    let rule = |(at, text): (usize, &String)| id::<Rule>(&format!("rules[{at}]"), text);
    let rules = wire.rules.iter().enumerate().map(rule);
    let mut policy = Policy {
        rules: rules.collect::<Result<_, _>>()?,
        groups: [].into(),
    };
    for (at, text) in wire.groups.iter().enumerate() {
        let field = format!("groups[{at}]");
        let Group { name, members } = id(&field, text)?;
        if policy.groups.contains_key(&name) {
            return Err(InvalidMessage::new(field, format!("{name} is there twice")));
        }
        policy.groups.insert(name, members);
    }
    Ok(policy)
}

/// Reads a change of rules and groups.
///
/// # Errors
/// Names the first invalid one.
pub fn set_policy_from(wire: &v1::SetPolicy) -> Result<AccessOperation, InvalidMessage> {
    let policy = Arc::new(policy_from(wire)?);
    let Some(named) = wire.replaces else {
        return Ok(AccessOperation::SetPolicy(policy));
    };
    let replaces = Revision {
        index: named.index,
        position: named.position,
    };
    let replaces = Some(replaces).filter(|named| *named != Revision::default());
    Ok(AccessOperation::ReplacePolicy { policy, replaces })
}

/// Returns the rules and groups on the wire.
#[must_use]
pub fn policy(facts: &AccessFacts) -> v1::Policy {
    v1::Policy {
        rules: facts.policy.rules.iter().map(Rule::to_string).collect(),
        groups: facts
            .policy
            .groups()
            .map(|group| group.to_string())
            .collect(),
        revision: facts.policy_revision.map(revision),
    }
}

/// Reads a token that is to be created.
///
/// # Errors
/// Names the invalid field.
pub fn create_token_from(wire: v1::CreateToken) -> Result<NewToken, InvalidMessage> {
    let purpose = match wire.purpose {
        Some(v1::create_token::Purpose::Principal(principal)) => {
            TokenPurpose::Bearer(id("principal", &principal)?)
        }
        Some(v1::create_token::Purpose::Join(join)) => TokenPurpose::Join {
            kind: id("join.kind", &join.kind)?,
            uses_left: join.uses,
        },
        None => {
            let text = "give principal or join";
            return Err(InvalidMessage::new("purpose", text));
        }
    };
    let KeyHash(hash) = id("secret_hash", &wire.secret_hash)?;
    Ok(NewToken {
        id: id("token_id", &wire.token_id)?,
        purpose,
        hash,
        lifetime_ms: wire.lifetime_ms,
        description: wire.description,
    })
}

/// Returns a token on the wire, without the hash of its secret.
#[must_use]
pub fn token(token_id: TokenId, token: &Token) -> v1::Token {
    let purpose = match &token.purpose {
        TokenPurpose::Bearer(principal) => v1::token::Purpose::Principal(principal.to_string()),
        TokenPurpose::Join { kind, uses_left } => v1::token::Purpose::Join(v1::JoinPurpose {
            kind: kind.to_string(),
            uses: *uses_left,
        }),
    };
    v1::Token {
        token_id: token_id.to_string(),
        purpose: Some(purpose),
        expires_wall_ms: token.expires_wall_ms,
        created_wall_ms: token.created_wall_ms,
        created_by: token.created_by.to_string(),
        description: token.description.clone(),
    }
}

/// Returns a revoked key on the wire.
#[must_use]
pub fn revoked_key(key: KeyHash, revoked: &RevokedKey) -> v1::RevokedKey {
    v1::RevokedKey {
        key_hash: key.to_string(),
        revoked_wall_ms: revoked.revoked_wall_ms,
        revoked_by: revoked.revoked_by.to_string(),
    }
}

/// Returns a limit of rate on the wire.
#[must_use]
pub fn subject_limit(subject: &Subject, limit: RateLimit) -> v1::SubjectLimit {
    v1::SubjectLimit {
        subject: subject.to_string(),
        limit: Some(v1::RateLimit {
            calls_per_second: limit.calls_per_second,
            burst: limit.burst,
        }),
    }
}

/// Reads a limit of rate. Its numbers are checked when it is set.
///
/// # Errors
/// Names the invalid field.
pub fn set_rate_limit_from(wire: &v1::SetRateLimit) -> Result<AccessOperation, InvalidMessage> {
    Ok(AccessOperation::SetLimit {
        subject: id::<Subject>("subject", &wire.subject)?,
        limit: wire.limit.as_ref().map(|limit| RateLimit {
            calls_per_second: limit.calls_per_second,
            burst: limit.burst,
        }),
    })
}

#[cfg(test)]
mod tests {
    use argosy_state::actor::Actor;

    use super::*;

    #[test]
    fn a_policy_round_trips_and_errors_name_the_rule() {
        let policy_text = "group admin = operator/*\nallow agent/* connect-agent *\n";
        let facts = AccessFacts {
            policy: std::sync::Arc::new(policy_text.parse().unwrap()),
            ..AccessFacts::default()
        };
        let v1::Policy {
            rules,
            groups,
            revision,
        } = policy(&facts);
        assert_eq!(revision, None);
        let mut set = v1::SetPolicy {
            rules,
            groups,
            replaces: None,
        };
        assert_eq!(policy_from(&set), Ok((*facts.policy).clone()));
        let any = AccessOperation::SetPolicy(facts.policy.clone());
        assert_eq!(set_policy_from(&set), Ok(any));
        for (index, replaces) in [
            (0, None),
            (
                7,
                Some(Revision {
                    index: 7,
                    position: 2,
                }),
            ),
        ] {
            let position = if index == 0 { 0 } else { 2 };
            set.replaces = Some(v1::Revision { index, position });
            let policy = facts.policy.clone();
            let one = AccessOperation::ReplacePolicy { policy, replaces };
            assert_eq!(set_policy_from(&set), Ok(one));
        }
        for (rules, groups, wanted) in [
            (vec!["allow x"], vec![], "rules[0]: "),
            (
                vec![],
                vec!["group a =", "group a ="],
                "groups[1]: a is there twice",
            ),
        ] {
            let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
            let (rules, groups) = (owned(rules), owned(groups));
            let set = v1::SetPolicy {
                rules,
                groups,
                replaces: None,
            };
            let wrong = policy_from(&set).unwrap_err();
            assert!(wrong.to_string().starts_with(wanted), "{wrong}");
        }
    }

    #[test]
    fn the_largest_policy_fits_a_call() {
        let most = argosy_state::limits::ACCESS_RULES;
        let bytes = argosy_state::limits::ACCESS_BYTES / most - 1;
        let head = "deny everyone use-image image:";
        let rule = format!("{head}{}", "x".repeat(bytes - head.len()));
        let set = v1::SetPolicy {
            rules: vec![rule; most],
            ..v1::SetPolicy::default()
        };
        assert_eq!(policy_from(&set).unwrap().invalid(), None);
        assert!(prost::Message::encoded_len(&set) < (1 << 20) - 1_024);
    }

    #[test]
    fn a_token_on_the_wire_has_no_hash() {
        let create = v1::CreateToken {
            token_id: "00000000000000a1".to_owned(),
            secret_hash: "5e".repeat(32),
            purpose: Some(v1::create_token::Purpose::Principal(
                "operator/ci".to_owned(),
            )),
            lifetime_ms: Some(5),
            description: "nightly".to_owned(),
        };
        let new = create_token_from(create.clone()).unwrap();
        assert_eq!((new.id, new.hash), (TokenId(0xa1), [0x5e; 32]));
        let stored = Token {
            hash: new.hash,
            purpose: new.purpose,
            expires_wall_ms: Some(9),
            created_wall_ms: 4,
            created_by: Actor::Unauthenticated,
            description: new.description,
        };
        let shown = serde_json::to_string(&token(new.id, &stored)).unwrap();
        assert!(
            shown.contains("operator/ci") && !shown.contains("5e5e"),
            "{shown}"
        );
        let without = |change: fn(&mut v1::CreateToken)| {
            let mut create = create.clone();
            change(&mut create);
            create_token_from(create).unwrap_err().field
        };
        assert_eq!(without(|create| create.purpose = None), "purpose");
        assert_eq!(without(|create| create.token_id.clear()), "token_id");
        assert_eq!(
            without(|create| create.secret_hash.push('0')),
            "secret_hash"
        );
    }
}
