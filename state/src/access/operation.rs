//! The changes by operators of the facts of access: their fingerprints, samples, and words in
//! scenarios. `apply/access.rs` performs them.

use std::sync::Arc;

use super::{KeyHash, Policy, RateLimit, Subject, TokenId, TokenPurpose};
use crate::actor::Principal;
use crate::codec::canonical::CanonicalWriter;
use crate::ids::Revision;

/// One change of the facts of access. All of them need feature level 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessOperation {
    /// Replaces all rules and groups. Refused if afterwards no operator, or not the caller, could
    /// replace them again.
    SetPolicy(Arc<Policy>),
    /// Does the same to the rules and groups of this revision, so that no change between is lost.
    ReplacePolicy {
        /// The next rules and groups.
        policy: Arc<Policy>,
        /// The revision of the present ones; `None` if they were never set.
        replaces: Option<Revision>,
    },
    /// Creates a token. Its repetition changes nothing.
    CreateToken(NewToken),
    /// Removes a token.
    RevokeToken(TokenId),
    /// Revokes a key. Principals that are bound to it may be bound to another one.
    RevokeKey(KeyHash),
    /// Consumes a use of a join token, and binds a principal to a key. Its repetition changes
    /// nothing.
    UseJoinToken {
        /// The token.
        token: TokenId,
        /// The principal that joins, of the token's kind.
        principal: Principal,
        /// The key of the principal.
        key: KeyHash,
    },
    /// Sets or removes the limit of a subject's rate.
    SetLimit {
        /// The callers to which it applies.
        subject: Subject,
        /// The limit; `None` for none.
        limit: Option<RateLimit>,
    },
}

/// A token that is to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The id: a random number.
    pub id: TokenId,
    /// The use of the token; for a join token with 1 to 10,000 uses.
    pub purpose: TokenPurpose,
    /// The SHA-256 of the 32 bytes of the secret.
    pub hash: [u8; 32],
    /// The time after which it expires, in milliseconds from its creation and not 0; `None` for
    /// never.
    pub lifetime_ms: Option<u64>,
    /// A text for people, of at most 255 bytes.
    pub description: String,
}

impl AccessOperation {
    /// Appends the fields that the fingerprint of a batch covers.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        match self {
            Self::SetPolicy(policy) => out.chosen(1, |out| policy_fields(policy, out)),
            Self::ReplacePolicy { policy, replaces } => out.chosen(7, |out| {
                policy_fields(policy, out);
                if let Some(Revision { index, position }) = replaces {
                    out.number(3, *index);
                    out.number(4, (*position).into());
                }
            }),
            Self::CreateToken(token) => out.chosen(2, |out| {
                out.number(1, token.id.0);
                match &token.purpose {
                    TokenPurpose::Bearer(principal) => out.text(2, &principal.to_string()),
                    TokenPurpose::Join { kind, uses_left } => out.chosen(3, |out| {
                        out.text(1, kind.as_str());
                        out.number(2, (*uses_left).into());
                    }),
                }
                out.text(4, &KeyHash(token.hash).to_string());
                out.optional(5, token.lifetime_ms);
                out.text(6, &token.description);
            }),
            Self::RevokeToken(id) => out.chosen(3, |out| out.number(1, id.0)),
            Self::RevokeKey(key) => out.chosen(4, |out| out.text(1, &key.to_string())),
            Self::UseJoinToken {
                token,
                principal,
                key,
            } => out.chosen(5, |out| {
                out.number(1, token.0);
                out.text(2, &principal.to_string());
                out.text(3, &key.to_string());
            }),
            Self::SetLimit { subject, limit } => out.chosen(6, |out| {
                out.text(1, &subject.to_string());
                if let Some(limit) = limit {
                    out.number(2, limit.calls_per_second.into());
                    out.number(3, limit.burst.into());
                }
            }),
        }
    }
}

fn policy_fields(policy: &Policy, out: &mut CanonicalWriter) {
    out.list(1, &policy.rules, |out, rule| out.text(1, &rule.to_string()));
    out.list(2, policy.groups(), |out, group| {
        out.text(1, &group.to_string());
    });
}

#[cfg(any(test, feature = "builders"))]
fn policy_of_words(lines: &[&str]) -> Option<Arc<Policy>> {
    let lines = lines.join("\n").replace('|', " ").replace(" is ", " = ");
    Some(Arc::new(lines.parse().ok()?))
}

#[cfg(any(test, feature = "builders"))]
fn revision_of_word(text: &str) -> Option<Revision> {
    let (index, position) = text.split_once('.')?;
    let (index, position) = (index.parse().ok()?, position.parse().ok()?);
    Some(Revision { index, position })
}

#[cfg(any(test, feature = "builders"))]
impl AccessOperation {
    /// Returns an operation of each kind, by the name of its golden bytes.
    #[must_use]
    pub fn samples() -> Vec<(&'static str, Self)> {
        let words = |words: &[&str]| Self::from_words(words).expect("it is an operation");
        let set = [
            "acl",
            "group|admin|is|operator/*",
            "group|ops|is|operator/bob",
            "allow|agent/*|connect-agent|*",
            "allow|group:ops|kill-task|role:eng/%",
            "deny|operator/bob|exec|*",
        ];
        vec![
            ("operate-set-policy", words(&set)),
            (
                "operate-replace-policy",
                words(&["replace-acl", "4.1", "group|admin|is|operator/*"]),
            ),
            (
                "operate-create-token",
                words(&["token", "a1", "operator/ci", "86400000", "nightly"]),
            ),
            (
                "operate-create-join-token",
                words(&["join-token", "a2", "agent", "2"]),
            ),
            ("operate-revoke-token", words(&["revoke-token", "a1"])),
            ("operate-revoke-key", words(&["revoke-key", "b1"])),
            (
                "operate-use-join-token",
                words(&["join", "a2", "agent/host-1", "b2"]),
            ),
            (
                "operate-set-limit",
                words(&["limit", "operator/*", "100", "200"]),
            ),
            ("operate-remove-limit", words(&["limit", "operator/*"])),
        ]
    }

    /// Parses the words of an operation in a scenario. There, `|` stands for a space in a rule or
    /// group, `is` for `=`, and `initial` for the revision of a policy that was never set. Ids of
    /// tokens and keys are hexadecimal numbers of one byte, and each byte of a hash is this number.
    #[must_use]
    pub fn from_words(words: &[&str]) -> Option<Self> {
        let id = |text: &str| u64::from_str_radix(text, 16).ok().map(TokenId);
        let key = |text: &str| u8::from_str_radix(text, 16).ok().map(|byte| [byte; 32]);
        let new_token = |text: &str, purpose, lifetime: Option<&str>, description: &str| {
            let lifetime_ms = lifetime.map(str::parse).transpose().ok()?;
            Some(Self::CreateToken(NewToken {
                id: id(text)?,
                purpose,
                hash: key(text)?,
                lifetime_ms,
                description: description.to_owned(),
            }))
        };
        Some(match words {
            ["acl", lines @ ..] => Self::SetPolicy(policy_of_words(lines)?),
            ["replace-acl", replaces, lines @ ..] => Self::ReplacePolicy {
                policy: policy_of_words(lines)?,
                replaces: match *replaces {
                    "initial" => None,
                    text => Some(revision_of_word(text)?),
                },
            },
            ["token", id, principal, rest @ ..] => {
                let purpose = TokenPurpose::Bearer(principal.parse().ok()?);
                let description = rest.get(1).copied().unwrap_or_default();
                new_token(id, purpose, rest.first().copied(), description)?
            }
            ["join-token", id, kind, uses, rest @ ..] => {
                let purpose = TokenPurpose::Join {
                    kind: kind.parse().ok()?,
                    uses_left: uses.parse().ok()?,
                };
                new_token(id, purpose, rest.first().copied(), "")?
            }
            ["revoke-token", token] => Self::RevokeToken(id(token)?),
            ["revoke-key", hash] => Self::RevokeKey(KeyHash(key(hash)?)),
            ["join", token, principal, hash] => Self::UseJoinToken {
                token: id(token)?,
                principal: principal.parse().ok()?,
                key: KeyHash(key(hash)?),
            },
            ["limit", subject] => Self::SetLimit {
                subject: subject.parse().ok()?,
                limit: None,
            },
            ["limit", subject, rate, burst] => Self::SetLimit {
                subject: subject.parse().ok()?,
                limit: Some(RateLimit {
                    calls_per_second: rate.parse().ok()?,
                    burst: burst.parse().ok()?,
                }),
            },
            _ => return None,
        })
    }
}
