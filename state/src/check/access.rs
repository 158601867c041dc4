//! Invariants of the facts of access.

use super::{InvariantViolation, ensure};
use crate::Registry;
use crate::access::{AccessFacts, Policy, Token, TokenId, TokenPurpose};
use crate::actor::PrincipalKind;
use crate::level::Level;
use crate::limits;

impl Registry {
    /// Checks bounds and the policy. The cost does not grow with the numbers of tokens, keys and
    /// principals.
    pub(super) fn check_access(&self) -> Result<(), InvariantViolation> {
        let what = &"access";
        let AccessFacts {
            policy,
            policy_revision,
            tokens,
            revoked,
            bindings,
            limits: rates,
        } = &self.access;
        ensure(
            self.level() >= Level::RELEASE_0_2 || self.access == AccessFacts::default(),
            what,
            "its facts exist only since level 3",
        )?;
        ensure(
            tokens.len() <= limits::TOKENS
                && revoked.len() <= limits::REVOKED_KEYS
                && bindings.len() <= limits::KEY_BINDINGS
                && rates.len() <= limits::RATE_LIMITS,
            what,
            "its records are bounded",
        )?;
        match policy_revision {
            Some(revision) => ensure(
                self.is_applied(*revision),
                what,
                "the revision of its policy is past",
            )?,
            None => ensure(
                **policy == Policy::initial(),
                what,
                "a policy that was never set is the initial one",
            )?,
        }
        ensure(
            policy.rules.len() <= limits::ACCESS_RULES
                && policy.groups.len() <= limits::ACCESS_GROUPS,
            what,
            "its policy is bounded",
        )
    }

    pub(super) fn check_token(&self, id: TokenId, token: &Token) -> Result<(), InvariantViolation> {
        let is_valid = match &token.purpose {
            TokenPurpose::Bearer(_) => true,
            TokenPurpose::Join { kind, uses_left } => {
                let joins = matches!(kind, PrincipalKind::Agent | PrincipalKind::Master);
                joins && *uses_left <= limits::JOIN_TOKEN_USES
            }
        };
        ensure(is_valid, &id, "its purpose is valid")?;
        ensure(
            token.description.len() <= Token::DESCRIPTION_BYTES,
            &id,
            "its description is bounded",
        )
    }

    /// Checks all tokens and limits of rate, and the members of groups.
    pub(super) fn check_access_records(&self) -> Result<(), InvariantViolation> {
        let policy = &self.access.policy;
        ensure(
            policy.may_be_set() && policy.invalid().is_none(),
            &"access",
            "its policy is valid and can be replaced",
        )?;
        for (id, token) in self.access.tokens.iter() {
            self.check_token(*id, token)?;
        }
        for (subject, limit) in self.access.limits.iter() {
            ensure(limit.is_valid(), subject, "its limit is valid")?;
        }
        Ok(())
    }
}
