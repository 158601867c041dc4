//! The changes by operators: for each one its form in the log, its fingerprint, the level that has
//! it, a sample, its words in scenarios, and what it does.
//!
//! All checks come first, then the change and its events. A new operation changes this file only,
//! and those that name it to people: the wire format, the command line and the documents.

use super::CommandContext;
use crate::Registry;
use crate::agent::Administration;
use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;
use crate::command::{Rejection, SweepTarget};
use crate::event::Event;
#[cfg(any(test, feature = "builders"))]
use crate::ids::TaskId;
use crate::ids::{AgentId, FrameworkId, Role, TaskKey};
use crate::level::{self, LevelRequirement};
use crate::limits;
use crate::registry::{DEFAULT_WEIGHT_MILLI, RecordKey};
use crate::task::TaskLimits;

/// One change by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorOperation {
    /// Sets an attribute of an agent; an empty value removes it.
    SetAttribute {
        /// The agent.
        agent: AgentId,
        /// The name of the attribute.
        name: String,
        /// The value of the attribute.
        value: String,
    },
    /// Kills a task.
    KillTask {
        /// The task.
        key: TaskKey,
        /// The grace period between TERM and KILL; `None` for the task's own.
        grace_ms: Option<u64>,
    },
    /// Changes the limits of a task, whether it runs or not.
    UpdateLimits {
        /// The task.
        key: TaskKey,
        /// All new limits, which replace the present ones.
        limits: TaskLimits,
    },
    /// Kills all tasks of a framework and removes it.
    Teardown(FrameworkId),
    /// Sets the weight of a role, in thousandths.
    SetWeight {
        /// The role.
        role: Role,
        /// The weight, 1 to 1,000,000,000.
        weight_milli: u64,
    },
    /// Stops offers of an agent.
    Deactivate(AgentId),
    /// Resumes offers of an agent.
    Reactivate(AgentId),
    /// Declares an agent gone, permanently.
    MarkGone(AgentId),
}

stored!(message OperatorOperation as (operation) {
    1 | 2 | 3 | 4 | 5 | 6 | 7 | 40 operation: OneOf,
});

stored!(oneof OperatorOperation {
    1 SetAttribute {
        1 agent: Number,
        2 name: Text,
        3 value: Text,
    },
    2 KillTask {
        1 key: Part or "task",
        2 grace_ms: MaybeNumber,
    },
    3 Teardown(Number),
    4 SetWeight {
        1 role: Text,
        2 weight_milli: Number,
    },
    5 Deactivate(Number),
    6 Reactivate(Number),
    7 MarkGone(Number),
    40 UpdateLimits {
        1 key: Part or "task",
        2 limits: Part,
    },
});

impl OperatorOperation {
    /// Appends the fields that the fingerprint of a batch covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let key = |out: &mut CanonicalWriter, key: &TaskKey| {
            out.number(1, key.framework.0);
            out.text(2, key.task.as_str());
        };
        match self {
            Self::SetAttribute { agent, name, value } => out.chosen(1, |out| {
                out.number(1, agent.0);
                out.text(2, name);
                out.text(3, value);
            }),
            Self::KillTask {
                key: task,
                grace_ms,
            } => out.chosen(2, |out| {
                key(out, task);
                out.optional(3, *grace_ms);
            }),
            Self::UpdateLimits { key: task, limits } => out.chosen(3, |out| {
                key(out, task);
                out.part(3, |out| limits.fingerprint(out));
            }),
            Self::Teardown(id) => out.chosen(4, |out| out.number(1, id.0)),
            Self::SetWeight { role, weight_milli } => out.chosen(5, |out| {
                out.text(1, role.as_str());
                out.number(2, *weight_milli);
            }),
            Self::Deactivate(id) => out.chosen(6, |out| out.number(1, id.0)),
            Self::Reactivate(id) => out.chosen(7, |out| out.number(1, id.0)),
            Self::MarkGone(id) => out.chosen(8, |out| out.number(1, id.0)),
        }
    }

    /// Returns the level that the operation needs, unless every level has it.
    pub(crate) fn level_requirement(&self) -> Option<LevelRequirement> {
        match self {
            Self::SetWeight { role, .. } => level::role([role]),
            Self::SetAttribute { .. }
            | Self::KillTask { .. }
            | Self::UpdateLimits { .. }
            | Self::Teardown(_)
            | Self::Deactivate(_)
            | Self::Reactivate(_)
            | Self::MarkGone(_) => None,
        }
    }
}

#[cfg(any(test, feature = "builders"))]
impl OperatorOperation {
    /// Returns an operation on these objects, of each kind that was added after the first golden
    /// bytes, by the name of its golden bytes. Random tests propose them, too.
    #[must_use]
    pub fn samples(
        _agent: AgentId,
        task: &TaskKey,
        limits: &TaskLimits,
    ) -> Vec<(&'static str, Self)> {
        let update_limits = Self::UpdateLimits {
            key: task.clone(),
            limits: limits.clone(),
        };
        vec![("operate-limits", update_limits)]
    }

    /// Parses the words of an operation in a scenario, and the values that it may name by pairs.
    /// Returns `None` if they are none.
    #[must_use]
    pub fn from_words(words: &[&str], grace_ms: Option<u64>, limits: &TaskLimits) -> Option<Self> {
        let key = |text: &str| {
            let (framework, task) = text.split_once('/')?;
            Some(TaskKey {
                framework: framework.parse().ok()?,
                task: TaskId::new(task).ok()?,
            })
        };
        Some(match words {
            ["attribute", agent, name] => Self::SetAttribute {
                agent: agent.parse().ok()?,
                name: (*name).to_owned(),
                value: String::new(),
            },
            ["attribute", agent, name, value] => Self::SetAttribute {
                agent: agent.parse().ok()?,
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            },
            ["kill", task] => Self::KillTask {
                key: key(task)?,
                grace_ms,
            },
            ["limits", task] => Self::UpdateLimits {
                key: key(task)?,
                limits: limits.clone(),
            },
            ["teardown", id] => Self::Teardown(id.parse().ok()?),
            ["weight", role, weight] => Self::SetWeight {
                role: Role::new(role).ok()?,
                weight_milli: weight.parse().ok()?,
            },
            ["deactivate", id] => Self::Deactivate(id.parse().ok()?),
            ["reactivate", id] => Self::Reactivate(id.parse().ok()?),
            ["gone", id] => Self::MarkGone(id.parse().ok()?),
            _ => return None,
        })
    }
}

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
