//! Changes by operators, in batches.

use super::Scene;
use crate::Registry;
use crate::agent::AgentMode;
use crate::command::{Operate, Operation, Outcome, Rejection, Reply, SweepTarget};
use crate::event::Event;
use crate::ids::AgentId;
use crate::limits;
use crate::registry::{DEFAULT_WEIGHT_MILLI, OperatorAnswer, RecordKey};

impl Registry {
    pub(super) fn operate(&mut self, scene: &mut Scene, operate: &Operate) -> Outcome {
        if operate.operations.len() > limits::OPERATIONS_PER_BATCH {
            return Err(Rejection::TooManyOperations);
        }
        if let Some(key) = &operate.request {
            if let Some(answer) = self.operator_answers.get(key) {
                return repeated(answer, operate, &key.1);
            }
            self.drop_old_requests(scene);
            if self.operator_answers.len() >= limits::OPERATOR_ANSWERS {
                return Err(Rejection::TooManyRequests);
            }
        }
        let outcomes: Vec<_> = operate
            .operations
            .iter()
            .map(|operation| self.operation(scene, operation))
            .collect();
        if let Some(key) = &operate.request {
            let kept = outcomes.iter().map(|outcome| {
                outcome
                    .as_ref()
                    .err()
                    .map(|why| (why.number(), why.to_string()))
            });
            let answer = OperatorAnswer {
                hash: operate.hash,
                at: scene.at,
                outcomes: kept.collect(),
            };
            self.operator_answers.insert(key.clone(), answer);
            self.changed
                .insert(RecordKey::OperatorAnswer(key.0.clone(), key.1.clone()));
        }
        Ok(Reply::Operated(outcomes))
    }

    /// Only when it is full, and then all at once: the cost is spread over the requests that filled it.
    fn drop_old_requests(&mut self, scene: &Scene) {
        if self.operator_answers.len() < limits::OPERATOR_ANSWERS {
            return;
        }
        let old =
            |answer: &OperatorAnswer| scene.at.since_ms(answer.at) >= limits::OPERATOR_ANSWER_MS;
        let keys: Vec<_> = self
            .operator_answers
            .iter()
            .filter(|(_, answer)| old(answer))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys.into_iter().take(limits::RECORDS_PER_COMMAND) {
            self.operator_answers.remove(&key);
            self.changed.insert(RecordKey::OperatorAnswer(key.0, key.1));
        }
    }

    fn operation(&mut self, scene: &mut Scene, operation: &Operation) -> Result<(), Rejection> {
        match operation {
            Operation::SetAttribute { agent, name, value } => {
                self.set_attribute(scene, *agent, name, value)
            }
            Operation::KillTask { key, grace_ms } => {
                if !self.tasks.contains_key(key) {
                    return Err(Rejection::UnknownTask(key.clone()));
                }
                self.want_kill(scene, key, *grace_ms);
                Ok(())
            }
            Operation::Teardown(id) => {
                let framework = self
                    .frameworks
                    .get(id)
                    .ok_or(Rejection::UnknownFramework(*id))?;
                if !framework.removing {
                    self.begin_removal(scene, *id);
                }
                Ok(())
            }
            Operation::SetWeight { role, weight_milli } => {
                if !(1..=1_000_000_000).contains(weight_milli) {
                    let text =
                        format!("{weight_milli} is not between 1 and 1000000000 thousandths");
                    return Err(Rejection::Invalid {
                        field: "weight_milli".into(),
                        text,
                    });
                }
                if *weight_milli == DEFAULT_WEIGHT_MILLI {
                    self.weights.remove(role);
                } else {
                    self.weights.insert(role.clone(), *weight_milli);
                }
                self.changed.insert(RecordKey::Weight(role.clone()));
                Ok(())
            }
            Operation::Deactivate(id) => {
                self.move_mode(scene, *id, AgentMode::Registered, AgentMode::Deactivated)
            }
            Operation::Reactivate(id) => {
                self.move_mode(scene, *id, AgentMode::Deactivated, AgentMode::Registered)
            }
            Operation::MarkGone(id) => self.mark_gone(scene, *id),
        }
    }

    fn set_attribute(
        &mut self,
        scene: &mut Scene,
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
            && agent.set_attributes.len() >= limits::ATTRIBUTES
            && !agent.set_attributes.contains_key(name)
        {
            return invalid(format!("{id} has {} already", limits::ATTRIBUTES));
        }
        if agent.set_attributes.get(name).map_or("", String::as_str) == value {
            return Ok(());
        }
        let revision = scene.next_revision();
        let agent = self.touch_agent(id);
        if value.is_empty() {
            agent.set_attributes.remove(name);
        } else {
            agent
                .set_attributes
                .insert(name.to_owned(), value.to_owned());
        }
        agent.promise = revision;
        agent.revision = revision;
        scene.say(Event::AgentChanged(id));
        Ok(())
    }

    fn move_mode(
        &mut self,
        scene: &mut Scene,
        id: AgentId,
        from: AgentMode,
        to: AgentMode,
    ) -> Result<(), Rejection> {
        let agent = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        if agent.mode == to {
            return Ok(());
        }
        if agent.mode != from {
            return Err(Rejection::WrongMode(id, agent.mode));
        }
        self.set_mode(scene, id, to);
        Ok(())
    }

    fn mark_gone(&mut self, scene: &mut Scene, id: AgentId) -> Result<(), Rejection> {
        let agent = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        if agent.mode != AgentMode::Gone {
            self.set_mode(scene, id, AgentMode::Gone);
            scene.say(Event::AgentGone(id));
            self.begin_sweep(scene, SweepTarget::Agent(id));
        }
        Ok(())
    }
}

fn repeated(answer: &OperatorAnswer, operate: &Operate, request: &str) -> Outcome {
    if answer.hash != operate.hash {
        return Err(Rejection::RequestReused(request.to_owned()));
    }
    let again = |kept: &Option<(u8, String)>| match kept {
        None => Ok(()),
        Some((_, text)) => Err(Rejection::Invalid {
            field: "as answered before".into(),
            text: text.clone(),
        }),
    };
    Ok(Reply::Operated(answer.outcomes.iter().map(again).collect()))
}
