//! Tasks of an unreachable agent that have stopped themselves because of `stop_after_ms`.
//!
//! Such a task stays UNREACHABLE: its agent reports how it ended.

use super::CommandContext;
use super::tasks::TaskChange;
use crate::Registry;
use crate::agent::AgentMode;
use crate::command::{ApplyOutcome, CommandReply, Rejection, TasksStopped};
use crate::ids::TaskKey;
use crate::level::Level;
use crate::limits;
use crate::task::{Reason, TaskState};

impl Registry {
    /// Marks a bounded number of tasks whose time has passed. A repeat finds none of them.
    pub(super) fn stopped(
        &mut self,
        context: &mut CommandContext,
        stopped: &TasksStopped,
    ) -> ApplyOutcome {
        let id = stopped.agent;
        let agent = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        if agent.revision != stopped.decided_on {
            return Err(Rejection::Conflict);
        }
        if agent.mode() != AgentMode::Unreachable {
            return Err(Rejection::WrongMode(id, agent.mode()));
        }
        let unreachable_ms = context.at.since_ms(agent.mode_since());
        if stopped.silent_ms > unreachable_ms {
            return Err(Rejection::Invalid {
                field: "silent_ms".to_owned(),
                text: format!("{id} has been unreachable for {unreachable_ms} ms only"),
            });
        }
        let due: Vec<TaskKey> = self
            .index
            .agents
            .get(&id)
            .into_iter()
            .flat_map(|index| &index.stopping)
            .take_while(|(after_ms, _)| *after_ms <= stopped.silent_ms)
            .take(limits::TASKS_PER_SWEEP)
            .map(|(_, key)| key.clone())
            .collect();
        let mut records = 0;
        for key in &due {
            records += self.records_of_decision(key, false);
            if records > limits::CHANGED_RECORDS && self.level() >= Level::RELEASE_0_2 {
                // The next command marks the others.
                break;
            }
            let change = TaskChange::by_master(
                TaskState::Unreachable,
                Reason::StoppedWithoutLeader,
                stopped.wall_ms,
            );
            self.set_state(context, key, change.stopped());
        }
        Ok(CommandReply::Done)
    }
}
