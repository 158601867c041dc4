//! Changes of the facts of access by operators. Nothing here decides about a call.

use std::sync::Arc;

use super::CommandContext;
use crate::Registry;
use crate::access::{
    AccessOperation, KeyHash, NewToken, Policy, RateLimit, RevokedKey, Subject, Token, TokenId,
    TokenPurpose,
};
use crate::actor::{Actor, Principal, PrincipalKind};
use crate::command::Rejection;
use crate::event::{AccessChange, Event};
use crate::limits;

impl Registry {
    /// Applies one change of access. `wall_ms` is the leader's wall-clock time, by which tokens
    /// expire.
    pub(super) fn change_access(
        &mut self,
        context: &mut CommandContext,
        operation: &AccessOperation,
        wall_ms: i64,
    ) -> Result<(), Rejection> {
        match operation {
            AccessOperation::SetPolicy(policy) => self.set_policy(context, policy),
            AccessOperation::ReplacePolicy { policy, replaces } => {
                if self.access.policy_revision != *replaces {
                    return Err(Rejection::PolicyChanged);
                }
                self.set_policy(context, policy)
            }
            AccessOperation::CreateToken(new) => self.create_token(context, new, wall_ms),
            AccessOperation::RevokeToken(id) => self.revoke_token(context, *id),
            AccessOperation::RevokeKey(key) => self.revoke_key(context, *key, wall_ms),
            AccessOperation::UseJoinToken {
                token,
                principal,
                key,
            } => self.use_join_token(context, *token, principal, *key, wall_ms),
            AccessOperation::SetLimit { subject, limit } => {
                self.set_rate_limit(context, subject, *limit)
            }
        }
    }

    fn set_policy(
        &mut self,
        context: &mut CommandContext,
        policy: &Arc<Policy>,
    ) -> Result<(), Rejection> {
        if let Some(text) = policy.invalid() {
            return Err(invalid("policy", text));
        }
        if !policy.may_be_set() {
            return Err(Rejection::WouldLockOut(None));
        }
        // A cluster without authentication has no principals.
        if let Actor::Principal(principal) = &context.actor
            && !policy.may_be_set_by(&context.actor)
        {
            return Err(Rejection::WouldLockOut(Some(principal.clone())));
        }
        let is_set = self.access.policy_revision.is_some();
        if is_set && self.access.policy == *policy {
            return Ok(());
        }
        let revision = context.next_revision();
        self.put_policy(Arc::clone(policy), revision);
        context.emit(Event::AccessChanged(AccessChange::Policy));
        Ok(())
    }

    fn create_token(
        &mut self,
        context: &mut CommandContext,
        new: &NewToken,
        wall_ms: i64,
    ) -> Result<(), Rejection> {
        check_token(new)?;
        let NewToken {
            id,
            purpose,
            hash,
            lifetime_ms,
            description,
        } = new;
        if let Some(known) = self.access.tokens.get(id) {
            if known.hash == *hash && is_same_purpose(&known.purpose, purpose) {
                return Ok(());
            }
            return Err(invalid("id", format!("token {id} exists already")));
        }
        if self.access.tokens.len() >= limits::TOKENS {
            self.drop_expired_tokens(context, wall_ms)?;
        }
        let lifetime = lifetime_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        let token = Token {
            hash: *hash,
            purpose: purpose.clone(),
            expires_wall_ms: lifetime.map(|ms| wall_ms.saturating_add(ms)),
            created_wall_ms: wall_ms,
            created_by: context.actor.clone(),
            description: description.clone(),
        };
        self.put_token(*id, token);
        context.emit(Event::AccessChanged(AccessChange::TokenCreated(*id)));
        Ok(())
    }

    /// Removes some expired tokens, or refuses if there are none.
    fn drop_expired_tokens(
        &mut self,
        context: &mut CommandContext,
        wall_ms: i64,
    ) -> Result<(), Rejection> {
        let tokens = self.access.tokens.iter();
        let expired = tokens.filter(|(_, token)| token.is_expired(wall_ms));
        let expired: Vec<_> = expired
            .map(|(id, _)| *id)
            .take(limits::EXPIRED_TOKENS_DROPPED)
            .collect();
        if expired.is_empty() {
            return Err(Rejection::Full(format!(
                "{} tokens exist, which is the most: revoke one of them",
                limits::TOKENS
            )));
        }
        for id in expired {
            self.remove_token(id);
            context.emit(Event::AccessChanged(AccessChange::TokenRemoved(id)));
        }
        Ok(())
    }

    fn revoke_token(&mut self, context: &mut CommandContext, id: TokenId) -> Result<(), Rejection> {
        if self.access.tokens.get(&id).is_none() {
            return Err(Rejection::UnknownToken(id));
        }
        self.remove_token(id);
        context.emit(Event::AccessChanged(AccessChange::TokenRemoved(id)));
        Ok(())
    }

    fn revoke_key(
        &mut self,
        context: &mut CommandContext,
        key: KeyHash,
        wall_ms: i64,
    ) -> Result<(), Rejection> {
        if self.access.revoked.contains_key(&key) {
            return Ok(());
        }
        if self.access.revoked.len() >= limits::REVOKED_KEYS {
            return Err(Rejection::Full(format!(
                "{} keys are revoked, which is the most: replace the certificate authority",
                limits::REVOKED_KEYS
            )));
        }
        let revoked = RevokedKey {
            revoked_wall_ms: wall_ms,
            revoked_by: context.actor.clone(),
        };
        self.put_revoked_key(key, revoked);
        context.emit(Event::AccessChanged(AccessChange::KeyRevoked(key)));
        Ok(())
    }

    fn use_join_token(
        &mut self,
        context: &mut CommandContext,
        id: TokenId,
        principal: &Principal,
        key: KeyHash,
        wall_ms: i64,
    ) -> Result<(), Rejection> {
        let token = self.access.tokens.get(&id);
        let token = token.ok_or(Rejection::UnknownToken(id))?;
        let refused = |text: String| Err(Rejection::TokenRefused { token: id, text });
        let TokenPurpose::Join { kind, uses_left } = token.purpose else {
            return refused("it is not a join token".to_owned());
        };
        if token.is_expired(wall_ms) {
            return refused("it is expired: create another one".to_owned());
        }
        if kind != principal.kind {
            return refused(format!("it is for principals of the kind {kind}"));
        }
        if self.access.revoked.contains_key(&key) {
            return Err(Rejection::KeyRevoked(key));
        }
        match self.access.bindings.get(principal) {
            // A repetition, such as after a lost answer.
            Some(bound) if *bound == key => return Ok(()),
            Some(bound) if !self.access.revoked.contains_key(bound) => {
                return Err(Rejection::KeyBound(principal.clone()));
            }
            Some(_) => {}
            None => self.check_unbound(principal)?,
        }
        let Some(uses_left) = uses_left.checked_sub(1) else {
            return refused("it has no use left: create another one".to_owned());
        };
        let mut token = token.clone();
        token.purpose = TokenPurpose::Join { kind, uses_left };
        self.put_token(id, token);
        self.put_key_binding(principal.clone(), key);
        let change = AccessChange::KeyBound(principal.clone());
        context.emit(Event::AccessChanged(change));
        Ok(())
    }

    /// Checks that a principal without a bound key may get one. A token must not give the name of
    /// an agent with another certificate to the key of another host.
    fn check_unbound(&self, principal: &Principal) -> Result<(), Rejection> {
        if let Some(agent) = self.agent_of_principal(principal) {
            return Err(Rejection::AgentBound(agent, principal.clone()));
        }
        if self.access.bindings.len() >= limits::KEY_BINDINGS {
            return Err(Rejection::Full(format!(
                "{} principals are bound to keys, which is the most",
                limits::KEY_BINDINGS
            )));
        }
        Ok(())
    }

    fn set_rate_limit(
        &mut self,
        context: &mut CommandContext,
        subject: &Subject,
        limit: Option<RateLimit>,
    ) -> Result<(), Rejection> {
        if limit.is_some_and(|limit| !limit.is_valid()) {
            let text = format!("rate and burst are 1 to {}", RateLimit::MOST);
            return Err(invalid("limit", text));
        }
        let known = self.access.limits.get(subject).copied();
        if known == limit {
            return Ok(());
        }
        if known.is_none() && self.access.limits.len() >= limits::RATE_LIMITS {
            return Err(Rejection::Full(format!(
                "{} subjects have a limit of rate, which is the most: remove one of them",
                limits::RATE_LIMITS
            )));
        }
        self.put_rate_limit(subject.clone(), limit);
        context.emit(Event::AccessChanged(AccessChange::Limit(subject.clone())));
        Ok(())
    }
}

/// Returns whether both are the same, whatever number of uses is left.
fn is_same_purpose(known: &TokenPurpose, new: &TokenPurpose) -> bool {
    match (known, new) {
        (TokenPurpose::Bearer(known), TokenPurpose::Bearer(new)) => known == new,
        (TokenPurpose::Join { kind: known, .. }, TokenPurpose::Join { kind: new, .. }) => {
            known == new
        }
        (TokenPurpose::Bearer(_), TokenPurpose::Join { .. })
        | (TokenPurpose::Join { .. }, TokenPurpose::Bearer(_)) => false,
    }
}

fn check_token(new: &NewToken) -> Result<(), Rejection> {
    match &new.purpose {
        TokenPurpose::Bearer(principal) => match principal.kind {
            PrincipalKind::Framework | PrincipalKind::Operator => {}
            PrincipalKind::Agent | PrincipalKind::Master => {
                let text = format!(
                    "only a certificate proves that a process is {principal}: create a join token with --for {}",
                    principal.kind
                );
                return Err(invalid("principal", text));
            }
        },
        TokenPurpose::Join { kind, uses_left } => {
            match kind {
                PrincipalKind::Agent | PrincipalKind::Master => {}
                PrincipalKind::Framework | PrincipalKind::Operator => {
                    let text = "a join token is for agents or masters".to_owned();
                    return Err(invalid("kind", text));
                }
            }
            if !(1..=limits::JOIN_TOKEN_USES).contains(uses_left) {
                let text = format!("it has 1 to {} uses", limits::JOIN_TOKEN_USES);
                return Err(invalid("uses", text));
            }
        }
    }
    if new.lifetime_ms == Some(0) {
        return Err(invalid("lifetime_ms", "it is not 0".to_owned()));
    }
    let most = Token::DESCRIPTION_BYTES;
    if new.description.len() > most || new.description.contains(char::is_control) {
        let text = format!("it takes {most} bytes at most, without control characters");
        return Err(invalid("description", text));
    }
    Ok(())
}

fn invalid(field: &str, text: String) -> Rejection {
    Rejection::Invalid {
        field: field.to_owned(),
        text,
    }
}
