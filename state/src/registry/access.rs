//! The facts of access in the registry: how they are read, changed, loaded and counted.

use std::sync::Arc;

use super::{BoundUsage, RecordKey, Registry};
use crate::access::{
    AccessFacts, KeyHash, Policy, PolicyRecord, RateLimit, RevokedKey, Subject, Token, TokenId,
};
use crate::actor::Principal;
use crate::ids::Revision;
use crate::limits;

impl Registry {
    /// Returns the facts of access.
    #[must_use]
    pub fn access(&self) -> &AccessFacts {
        &self.access
    }

    /// Returns usage and bounds of the facts of access.
    pub(super) fn access_usage(&self) -> [BoundUsage; 5] {
        let AccessFacts {
            policy,
            policy_revision: _,
            tokens,
            revoked,
            bindings,
            limits: rates,
        } = &self.access;
        [
            ("access_rules", policy.rules.len(), limits::ACCESS_RULES),
            ("tokens", tokens.len(), limits::TOKENS),
            ("revoked_keys", revoked.len(), limits::REVOKED_KEYS),
            ("key_bindings", bindings.len(), limits::KEY_BINDINGS),
            ("rate_limits", rates.len(), limits::RATE_LIMITS),
        ]
        .map(|(kind, records, most)| BoundUsage::of(kind, records, Some(most), None))
    }

    /// Returns the record of the policy, if it was set.
    pub(crate) fn policy_record(&self) -> Option<PolicyRecord> {
        let revision = self.access.policy_revision?;
        let policy = Arc::clone(&self.access.policy);
        Some(PolicyRecord { policy, revision })
    }

    pub(crate) fn put_policy(&mut self, policy: Arc<Policy>, revision: Revision) {
        self.access.policy = policy;
        self.access.policy_revision = Some(revision);
        self.changed.insert(RecordKey::Policy);
    }

    pub(crate) fn put_token(&mut self, id: TokenId, token: Token) {
        self.access.tokens.insert(id, token);
        self.changed.insert(RecordKey::Token(id));
    }

    pub(crate) fn remove_token(&mut self, id: TokenId) {
        self.access.tokens.remove(&id);
        self.changed.insert(RecordKey::Token(id));
    }

    pub(crate) fn put_revoked_key(&mut self, key: KeyHash, revoked: RevokedKey) {
        self.access.revoked.insert(key, revoked);
        self.changed.insert(RecordKey::RevokedKey(Box::new(key)));
    }

    pub(crate) fn put_key_binding(&mut self, principal: Principal, key: KeyHash) {
        self.access.bindings.insert(principal.clone(), key);
        self.changed.insert(RecordKey::KeyBinding(principal));
    }

    pub(crate) fn put_rate_limit(&mut self, subject: Subject, limit: Option<RateLimit>) {
        match limit {
            Some(limit) => drop(self.access.limits.insert(subject.clone(), limit)),
            None => drop(self.access.limits.remove(&subject)),
        }
        let name = RecordKey::RateLimit(Box::new(subject));
        self.changed.insert(name);
    }
}
