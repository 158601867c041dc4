//! Batches of operators' changes.

use super::model::*;

/// The number of expired answers that a named batch removes.
const ANSWERS_REMOVED: usize = 4;

impl Model {
    pub(crate) fn operate(&mut self, operate: &Operate) -> ApplyOutcome {
        if let Some(name) = &operate.request {
            if let Some(answer) = self.operator_answers.get(name) {
                return repeated(answer, operate.hash, &name.1);
            }
            self.remove_expired_answers();
        }
        // The answer names the entry, not the position of the batch in it.
        let (index, position) = (self.next.index, 0);
        let revision = Revision { index, position };
        let apply = |operation| self.operation(operation, operate.wall_ms);
        let outcomes: Vec<_> = operate.operations.iter().map(apply).collect();
        if let Some(name) = &operate.request {
            let (level, keeps) = (self.cluster.level, self.is_level_3());
            let refusals = outcomes.iter().map(|outcome| outcome.as_ref().err());
            let refusals = refusals.map(|why| why.map(|why| StoredRejection::of(why, level)));
            let answer = OperatorAnswer {
                hash: operate.hash,
                at: self.time,
                revision: if keeps { revision } else { Default::default() },
                outcomes: refusals.collect(),
            };
            self.operator_answers.insert(name.clone(), answer);
        }
        Ok(CommandReply::Operate { revision, outcomes })
    }

    /// Removes the oldest answers that have been kept for ten minutes.
    fn remove_expired_answers(&mut self) {
        for _ in 0..ANSWERS_REMOVED {
            let answers = self.operator_answers.iter();
            let answers = answers.map(|(name, answer)| (answer.at, name.clone()));
            match answers.min() {
                Some((at, name)) if self.time.since_ms(at) >= limits::OPERATOR_ANSWER_MS => {
                    self.operator_answers.remove(&name);
                }
                _ => return,
            }
        }
    }

    fn operation(&mut self, operation: &OperatorOperation, wall_ms: i64) -> Checked {
        use OperatorOperation as Change;
        match operation {
            Change::SetAttribute { agent, name, value } => {
                self.set_attribute(*agent, name, value)?;
            }
            Change::KillTask { key, grace_ms } => self.kill(key, *grace_ms)?,
            Change::UpdateLimits { key, limits } => {
                let revision = self.revision();
                self.limit(key, limits, revision)?;
            }
            Change::Teardown(id) => {
                if !self.framework(*id)?.removing {
                    self.tear_down(*id);
                }
            }
            Change::SetWeight { role, weight_milli } => self.set_weight(role, *weight_milli)?,
            Change::Deactivate(id) => self.administer(*id, Administration::Deactivated)?,
            Change::Reactivate(id) => self.administer(*id, Administration::Active)?,
            Change::MarkGone(id) => {
                if self.agent(*id)?.mode() != AgentMode::Gone {
                    let end = (TaskState::GoneByOperator, Reason::AgentRemovedByOperator);
                    self.set_gone(*id, self.time, end, wall_ms);
                }
            }
            Change::Access(operation) => self.change_access(operation, wall_ms)?,
            Change::SetSecret { name, secret } => {
                let present = self.secrets.get(name).map_or(0, |present| present.version);
                refuse(secret.version != present + 1, Rejection::Conflict)?;
                self.secrets.insert(name.clone(), secret.clone());
            }
            Change::ResealSecret {
                name,
                secret,
                replaces,
            } => {
                let present = self.secrets.get_mut(name).ok_or(invalid("secret"))?;
                if present != secret {
                    let replaced = (present.version, &present.nonce);
                    refuse(replaced != (secret.version, replaces), Rejection::Conflict)?;
                }
                present.clone_from(secret);
            }
            Change::RemoveSecret(name) => {
                self.secrets.remove(name).ok_or(invalid("secret"))?;
            }
        }
        Ok(())
    }

    fn set_attribute(&mut self, id: AgentId, name: &str, value: &str) -> Checked {
        let mut attributes = self.agent(id)?.admin.attributes.clone();
        match value {
            "" => drop(attributes.remove(name)),
            _ => drop(attributes.insert(name.to_owned(), value.to_owned())),
        }
        if attributes != self.agents[&id].admin.attributes {
            let agent = self.change_agent(id);
            agent.admin.attributes = attributes;
            agent.admin.revision = agent.revision;
            agent.offer_revision = agent.revision;
        }
        Ok(())
    }

    fn set_weight(&mut self, role: &Role, weight_milli: u64) -> Checked {
        refuse(weight_milli == 0, invalid("weight_milli"))?;
        let former = self.weights.insert(role.clone(), weight_milli);
        if weight_milli == DEFAULT_WEIGHT_MILLI {
            self.weights.remove(role);
        }
        if former.unwrap_or(DEFAULT_WEIGHT_MILLI) != weight_milli {
            self.emit(Event::WeightChanged(role.clone()));
        }
        Ok(())
    }

    fn administer(&mut self, id: AgentId, next: Administration) -> Checked {
        let (agent, since) = (self.agent(id)?, self.time);
        let mode = agent.mode();
        refuse(mode == AgentMode::Gone, Rejection::WrongMode(id, mode))?;
        if agent.admin.administration != next {
            self.set_admin(id, next, since);
        }
        Ok(())
    }

    fn change_access(&mut self, operation: &AccessOperation, wall_ms: i64) -> Checked {
        let change = match operation {
            AccessOperation::ReplacePolicy { policy, replaces } => {
                let present = self.policy.as_ref().map(|(_, revision)| *revision);
                refuse(present != *replaces, Rejection::PolicyChanged)?;
                let set = AccessOperation::SetPolicy(Arc::clone(policy));
                return self.change_access(&set, wall_ms);
            }
            AccessOperation::SetPolicy(policy) => {
                refuse(!policy.may_be_set(), Rejection::WouldLockOut(None))?;
                if let Actor::Principal(principal) = &self.actor {
                    let is_out = !policy.may_be_set_by(&self.actor);
                    refuse(is_out, Rejection::WouldLockOut(Some(principal.clone())))?;
                }
                let present = self.policy.as_ref().map(|(present, _)| present);
                if present == Some(policy) {
                    return Ok(());
                }
                self.policy = Some((Arc::clone(policy), self.revision()));
                AccessChange::Policy
            }
            AccessOperation::CreateToken(token) => return self.create_token(token, wall_ms),
            AccessOperation::RevokeToken(id) => {
                let removed = self.tokens.remove(id);
                removed.ok_or(Rejection::UnknownToken(*id))?;
                AccessChange::TokenRemoved(*id)
            }
            AccessOperation::RevokeKey(key) => {
                if self.revoked.contains_key(key) {
                    return Ok(());
                }
                let revoked = RevokedKey {
                    revoked_wall_ms: wall_ms,
                    revoked_by: self.actor.clone(),
                };
                self.revoked.insert(*key, revoked);
                AccessChange::KeyRevoked(*key)
            }
            AccessOperation::UseJoinToken {
                token,
                principal,
                key,
            } => return self.use_join_token(*token, principal, *key, wall_ms),
            AccessOperation::SetLimit { subject, limit } => {
                let former = match limit {
                    Some(limit) => self.limits.insert(subject.clone(), *limit),
                    None => self.limits.remove(subject),
                };
                if former == *limit {
                    return Ok(());
                }
                AccessChange::Limit(subject.clone())
            }
        };
        self.emit(Event::AccessChanged(change));
        Ok(())
    }

    fn create_token(&mut self, new: &NewToken, wall_ms: i64) -> Checked {
        if let Some(present) = self.tokens.get(&new.id) {
            // Neither the uses that are left nor the description count.
            let is_same = match (&present.purpose, &new.purpose) {
                (TokenPurpose::Bearer(one), TokenPurpose::Bearer(other)) => one == other,
                (TokenPurpose::Join { kind: one, .. }, TokenPurpose::Join { kind: other, .. }) => {
                    one == other
                }
                _ => false,
            };
            return refuse(present.hash != new.hash || !is_same, invalid("id"));
        }
        let lifetime_ms = new.lifetime_ms.map(i64::try_from);
        let token = Token {
            hash: new.hash,
            purpose: new.purpose.clone(),
            expires_wall_ms: lifetime_ms.map(|ms| wall_ms + ms.expect("it is short")),
            created_wall_ms: wall_ms,
            created_by: self.actor.clone(),
            description: new.description.clone(),
        };
        self.tokens.insert(new.id, token);
        let created = AccessChange::TokenCreated(new.id);
        self.emit(Event::AccessChanged(created));
        Ok(())
    }

    /// Binds a principal to a key by a join token. A repetition consumes no use.
    fn use_join_token(&mut self, id: TokenId, who: &Principal, key: KeyHash, now: i64) -> Checked {
        let text = String::new();
        let refused = Err(Rejection::TokenRefused { token: id, text });
        let token = self.tokens.get_mut(&id);
        let token = token.ok_or(Rejection::UnknownToken(id))?;
        let is_expired = token.expires_wall_ms.is_some_and(|at| now >= at);
        let uses_left = match &mut token.purpose {
            TokenPurpose::Join { kind, uses_left } if *kind == who.kind => uses_left,
            _ => return refused,
        };
        if is_expired {
            return refused;
        }
        refuse(self.revoked.contains_key(&key), Rejection::KeyRevoked(key))?;
        match self.bindings.get(who) {
            Some(bound) if *bound == key => return Ok(()),
            Some(bound) if !self.revoked.contains_key(bound) => {
                return Err(Rejection::KeyBound(who.clone()));
            }
            _ if *uses_left == 0 => return refused,
            _ => *uses_left -= 1,
        }
        self.bindings.insert(who.clone(), key);
        let bound = AccessChange::KeyBound(who.clone());
        self.emit(Event::AccessChanged(bound));
        Ok(())
    }
}

/// Returns the answer to the repetition of a batch.
fn repeated(answer: &OperatorAnswer, hash: u64, id: &str) -> ApplyOutcome {
    refuse(answer.hash != hash, Rejection::RequestReused(id.to_owned()))?;
    let outcomes = answer.outcomes.iter().map(|outcome| match outcome {
        None => Ok(()),
        Some(why) => Err(Rejection::Repeated {
            code: why.code,
            text: String::new(),
        }),
    });
    Ok(CommandReply::Operate {
        revision: answer.revision,
        outcomes: outcomes.collect(),
    })
}
