//! Batches of changes by operators.

use super::CommandContext;
use crate::Registry;
use crate::agent::Administration;
use crate::command::{
    ApplyOutcome, CommandReply, Operate, OperatorOperation, Rejection, StoredRejection, SweepTarget,
};
use crate::event::Event;
use crate::ids::{AgentId, Revision, Role, Timestamp};
use crate::level::Level;
use crate::limits;
use crate::registry::{DEFAULT_WEIGHT_MILLI, OperatorAnswer, RecordKey, usage};

/// More than the single answer that a request adds, so that old answers do not accumulate.
const OLD_REQUESTS_DROPPED: usize = 4;

impl Registry {
    pub(super) fn operate(
        &mut self,
        context: &mut CommandContext,
        operate: &Operate,
    ) -> ApplyOutcome {
        if operate.operations.len() > limits::OPERATIONS_PER_BATCH {
            return Err(Rejection::TooManyOperations);
        }
        if let Some(key) = &operate.request {
            if key.0.len() > limits::NAME_BYTES || key.1.len() > limits::NAME_BYTES {
                return Err(Rejection::Invalid {
                    field: "request_id".into(),
                    text: format!(
                        "it and its principal take {} bytes at most",
                        limits::NAME_BYTES
                    ),
                });
            }
            if let Some(answer) = self.operator_answers.get(key) {
                return answer.repeated(operate);
            }
            self.drop_old_requests(context);
            let bytes = self.index.bytes.operator_answers;
            let most = usage::most_of_answer(operate.operations.len());
            let is_full = self.is_bounded() && bytes + most > limits::OPERATOR_ANSWER_BYTES;
            if self.operator_answers.len() >= limits::OPERATOR_ANSWERS || is_full {
                return Err(Rejection::TooManyRequests);
            }
        }
        let revision = Revision {
            index: context.index,
            position: 0,
        };
        let outcomes: Vec<_> = operate
            .operations
            .iter()
            .map(|operation| self.operation(context, operation, operate.wall_ms))
            .collect();
        if let Some(key) = &operate.request {
            let level = self.level();
            let refusals = outcomes.iter().map(|outcome| outcome.as_ref().err());
            let kept = refusals.map(|why| why.map(|why| StoredRejection::of(why, level)));
            let answer = OperatorAnswer {
                hash: operate.hash,
                at: context.at,
                // Release 0.1.0 did not store it.
                revision: match self.level() >= Level::RELEASE_0_2 {
                    true => revision,
                    false => Revision::default(),
                },
                outcomes: kept.collect(),
            };
            self.put_operator_answer(key.clone(), answer);
        }
        Ok(CommandReply::Operate { revision, outcomes })
    }

    /// Removes a few expired answers with each named request, so that no timer is needed.
    fn drop_old_requests(&mut self, context: &CommandContext) {
        let oldest = context.at.0.checked_sub(limits::OPERATOR_ANSWER_MS);
        let Some(oldest) = oldest.map(|at| Timestamp(at + 1)) else {
            return;
        };
        for _ in 0..OLD_REQUESTS_DROPPED {
            if !self.drop_operator_answer(oldest) {
                return;
            }
        }
    }

    fn operation(
        &mut self,
        context: &mut CommandContext,
        operation: &OperatorOperation,
        wall_ms: i64,
    ) -> Result<(), Rejection> {
        match operation {
            OperatorOperation::SetAttribute { agent, name, value } => {
                self.set_attribute(context, *agent, name, value)
            }
            OperatorOperation::KillTask { key, grace_ms } => {
                if self.tasks.contains_key(key) {
                    self.request_kill(context, key, *grace_ms);
                    Ok(())
                } else if self.index.history.contains_key(key) {
                    Ok(())
                } else {
                    Err(Rejection::UnknownTask(key.clone()))
                }
            }
            OperatorOperation::UpdateLimits { key, limits } => {
                let revision = context.next_revision();
                self.update_limits(context, key, limits, revision)
            }
            OperatorOperation::Teardown(id) => {
                let framework = self
                    .frameworks
                    .get(id)
                    .ok_or(Rejection::UnknownFramework(*id))?;
                if !framework.removing {
                    self.begin_removal(context, *id);
                }
                Ok(())
            }
            OperatorOperation::SetWeight { role, weight_milli } => {
                self.set_weight(context, role, *weight_milli)
            }
            OperatorOperation::Deactivate(id) => self.move_administration(
                context,
                *id,
                Administration::Active,
                Administration::Deactivated,
            ),
            OperatorOperation::Reactivate(id) => self.move_administration(
                context,
                *id,
                Administration::Deactivated,
                Administration::Active,
            ),
            OperatorOperation::MarkGone(id) => self.mark_gone(context, *id, wall_ms),
        }
    }

    fn set_weight(
        &mut self,
        context: &mut CommandContext,
        role: &Role,
        weight_milli: u64,
    ) -> Result<(), Rejection> {
        if !(1..=1_000_000_000).contains(&weight_milli) {
            let text = format!("{weight_milli} is not between 1 and 1000000000 thousandths");
            return Err(Rejection::Invalid {
                field: "weight_milli".into(),
                text,
            });
        }
        if self.weight_milli(role) == weight_milli {
            return Ok(());
        }
        let is_new = weight_milli != DEFAULT_WEIGHT_MILLI && !self.weights.contains_key(role);
        if is_new && self.is_bounded() && self.weights.len() >= limits::WEIGHTS {
            return Err(Rejection::Full(format!(
                "{} roles have a weight, which is the most: set one of them to the default of {DEFAULT_WEIGHT_MILLI}",
                limits::WEIGHTS
            )));
        }
        if weight_milli == DEFAULT_WEIGHT_MILLI {
            self.weights.remove(role);
        } else {
            self.weights.insert(role.clone(), weight_milli);
        }
        self.changed.insert(RecordKey::Weight(role.clone()));
        context.emit(Event::WeightChanged(role.clone()));
        Ok(())
    }

    fn set_attribute(
        &mut self,
        context: &mut CommandContext,
        id: AgentId,
        name: &str,
        value: &str,
    ) -> Result<(), Rejection> {
        let agent = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        let invalid = |text: String| {
            Err(Rejection::Invalid {
                field: "attribute".into(),
                text,
            })
        };
        if name.is_empty() || name.len() > limits::NAME_BYTES {
            return invalid(format!("its name takes 1 to {} bytes", limits::NAME_BYTES));
        }
        if value.len() > limits::ATTRIBUTE_BYTES {
            return invalid(format!(
                "{name:?} takes {} bytes; at most {}",
                value.len(),
                limits::ATTRIBUTE_BYTES
            ));
        }
        if !value.is_empty()
            && agent.admin.attributes.len() >= limits::ATTRIBUTES
            && !agent.admin.attributes.contains_key(name)
        {
            return invalid(format!("{id} has {} already", limits::ATTRIBUTES));
        }
        if agent.admin.attributes.get(name).map_or("", String::as_str) == value {
            return Ok(());
        }
        let mut agent = agent.clone();
        let revision = context.next_revision();
        if value.is_empty() {
            agent.admin.attributes.remove(name);
        } else {
            agent
                .admin
                .attributes
                .insert(name.to_owned(), value.to_owned());
        }
        agent.promise = revision;
        agent.admin.revision = revision;
        agent.revision = revision;
        self.check_agent_bytes(&agent)?;
        self.put_agent(agent);
        context.emit(Event::AgentChanged(id));
        Ok(())
    }

    /// Changes the administrative state of an agent. Reachability does not matter: the state takes
    /// effect when the agent returns.
    fn move_administration(
        &mut self,
        context: &mut CommandContext,
        id: AgentId,
        from: Administration,
        to: Administration,
    ) -> Result<(), Rejection> {
        let agent = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        let present = agent.admin.administration;
        if present == to {
            return Ok(());
        }
        if present != from {
            return Err(Rejection::WrongMode(id, agent.mode()));
        }
        self.set_administration(context, id, to, context.at);
        Ok(())
    }

    fn mark_gone(
        &mut self,
        context: &mut CommandContext,
        id: AgentId,
        wall_ms: i64,
    ) -> Result<(), Rejection> {
        let agent = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        if agent.admin.administration != Administration::Gone {
            self.set_administration(context, id, Administration::Gone, context.at);
            context.emit(Event::AgentGone(id));
            self.begin_sweep(context, SweepTarget::Agent(id), wall_ms);
        }
        Ok(())
    }
}

impl OperatorAnswer {
    /// Returns the remembered outcome of a repeated request. A different request with the same name
    /// is rejected.
    ///
    /// # Errors
    /// [`Rejection::RequestReused`].
    pub fn repeated(&self, operate: &Operate) -> ApplyOutcome {
        if self.hash != operate.hash {
            let request = operate.request.as_ref().map(|(_, id)| id.clone());
            return Err(Rejection::RequestReused(request.unwrap_or_default()));
        }
        let again = |kept: &Option<StoredRejection>| match kept {
            None => Ok(()),
            Some(refusal) => Err(Rejection::Repeated {
                code: refusal.code,
                text: refusal.message_text(),
            }),
        };
        Ok(CommandReply::Operate {
            revision: self.revision,
            outcomes: self.outcomes.iter().map(again).collect(),
        })
    }
}
