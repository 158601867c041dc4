//! The facts of access: the policy (rules and groups), tokens, revoked keys, bindings of principals
//! to keys, limits of rate, and the secrets of tickets.
//!
//! This module holds the facts and their text forms. It makes no decision about a call. Reading
//! order: `action`, `pattern`, `subject`, `group`, `rule`, `policy`, `key_hash`, `token`,
//! `rate_limit`, `operation`, `ticket_secrets`, `stored`.

mod action;
mod group;
mod key_hash;
mod operation;
mod pattern;
mod policy;
mod rate_limit;
mod rule;
mod stored;
mod subject;
mod ticket_secrets;
mod token;

use std::sync::Arc;

use crate::actor::{Actor, Principal};
use crate::collections::persistent::{Map, Table};
use crate::ids::Revision;

pub use action::Action;
pub use group::{Group, GroupName, NamedGroup};
pub use key_hash::KeyHash;
pub use operation::{AccessOperation, NewToken};
pub use pattern::Pattern;
pub use policy::{InvalidPolicy, Policy};
pub use rate_limit::RateLimit;
pub use rule::{Effect, Rule};
pub(crate) use stored::PolicyRecord;
pub use subject::Subject;
pub use ticket_secrets::TicketSecrets;
pub use token::{Token, TokenId, TokenPurpose, TokenSecret};

/// All facts of access. A copy takes constant time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessFacts {
    /// The rules and groups in force: those of [`Policy::initial`] until the first change.
    pub policy: Arc<Policy>,
    /// The revision of the policy; `None` while it is the initial one.
    pub policy_revision: Option<Revision>,
    /// The tokens, including expired ones and join tokens without a remaining use.
    pub tokens: Table<TokenId, Token>,
    /// The revoked keys.
    pub revoked: Map<KeyHash, RevokedKey>,
    /// The key of each principal that has joined by a token. Another key is refused to it, unless
    /// the bound one is revoked.
    pub bindings: Map<Principal, KeyHash>,
    /// The limits of rate, for principals, kinds, groups and anonymous callers.
    pub limits: Map<Subject, RateLimit>,
}

/// A revoked key: no certificate for it is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    /// The wall-clock time of the revocation, in milliseconds since 1970.
    pub revoked_wall_ms: i64,
    /// The actor that revoked it.
    pub revoked_by: Actor,
}
