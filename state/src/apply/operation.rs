//! The changes by operators: what each one does. `command/operation.rs` defines them.
//!
//! All checks come first, then the change and its events.

use super::CommandContext;
use crate::Registry;
use crate::agent::Administration;
use crate::command::{OperatorOperation, Rejection, SweepTarget};
use crate::event::Event;
use crate::ids::{AgentId, Role};
use crate::limits;
use crate::registry::{DEFAULT_WEIGHT_MILLI, RecordKey};

impl Registry {
    /// Applies one operation.
    pub(super) fn operation(
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
            OperatorOperation::Access(operation) => self.change_access(context, operation, wall_ms),
            OperatorOperation::SetSecret { name, secret } => self.set_secret(name, secret),
            OperatorOperation::ResealSecret {
                name,
                secret,
                replaces,
            } => self.reseal_secret(name, secret, replaces),
            OperatorOperation::RemoveSecret(name) => self.remove_secret(name),
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
        agent.offer_revision = revision;
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
