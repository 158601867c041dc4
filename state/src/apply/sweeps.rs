//! Changes that are larger than a command may be: a mark in the registry, worked off in pieces.

use std::ops::Bound;

use super::Scene;
use super::tasks::Change;
use crate::Registry;
use crate::agent::AgentMode;
use crate::command::{Outcome, Reply, SweepTarget};
use crate::event::Event;
use crate::ids::{AgentId, FrameworkId, TaskKey};
use crate::limits;
use crate::registry::RecordKey;
use crate::task::{Reason, TaskState};

impl Registry {
    /// Marks the work and does its first piece.
    pub(super) fn begin_sweep(&mut self, scene: &mut Scene, target: SweepTarget) {
        self.cluster.sweeps.insert(target, None);
        self.changed.insert(RecordKey::Cluster);
        self.sweep_piece(scene, target);
    }

    pub(super) fn sweep(&mut self, scene: &mut Scene, target: SweepTarget) -> Outcome {
        if self.cluster.sweeps.contains_key(&target) {
            self.sweep_piece(scene, target);
        }
        Ok(Reply::Done)
    }

    fn sweep_piece(&mut self, scene: &mut Scene, target: SweepTarget) {
        let after = self.cluster.sweeps.get(&target).cloned().flatten();
        let keys = match target {
            SweepTarget::Agent(id) => self.agent_keys(id, after),
            SweepTarget::Framework(id) => self.framework_keys(id, after),
        };
        for key in &keys {
            match target {
                SweepTarget::Agent(id) => self.sweep_agent_task(scene, id, key),
                SweepTarget::Framework(_) => self.sweep_framework_task(scene, key),
            }
        }
        let more = keys.len() == limits::RECORDS_PER_COMMAND;
        // The last task may have taken the framework, and its mark, with it.
        if more && self.cluster.sweeps.contains_key(&target) {
            self.cluster.sweeps.insert(target, keys.last().cloned());
            scene.say(Event::SweepNeeded);
        } else {
            self.cluster.sweeps.remove(&target);
        }
        self.changed.insert(RecordKey::Cluster);
    }

    fn agent_keys(&self, id: AgentId, after: Option<TaskKey>) -> Vec<TaskKey> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let tasks = self.index.agents.get(&id).map(|index| &index.tasks);
        let keys = tasks
            .into_iter()
            .flat_map(|tasks| tasks.range((from.clone(), Bound::Unbounded)));
        keys.take(limits::RECORDS_PER_COMMAND).cloned().collect()
    }

    fn framework_keys(&self, framework: FrameworkId, after: Option<TaskKey>) -> Vec<TaskKey> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.task));
        let tasks = self
            .index
            .frameworks
            .get(&framework)
            .map(|index| &index.tasks);
        let names = tasks
            .into_iter()
            .flat_map(|tasks| tasks.range((from.clone(), Bound::Unbounded)));
        names
            .take(limits::RECORDS_PER_COMMAND)
            .map(|task| TaskKey {
                framework,
                task: task.clone(),
            })
            .collect()
    }

    fn sweep_agent_task(&mut self, scene: &mut Scene, id: AgentId, key: &TaskKey) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        let gone = self
            .agents
            .get(&id)
            .is_some_and(|agent| agent.mode == AgentMode::Gone);
        if task.is_terminal() || (!gone && task.state == TaskState::Unreachable) {
            return;
        }
        let change = if gone {
            Change::by_master(
                TaskState::GoneByOperator,
                Reason::AgentRemovedByOperator,
                "an operator declared its agent gone",
                0,
            )
        } else {
            Change::by_master(
                TaskState::Unreachable,
                Reason::AgentUnreachable,
                "its agent is not heard of; it may run",
                0,
            )
        };
        self.set_state(scene, key, change);
    }

    /// An ended task of a removed framework goes at once; a live one when its agent has ended it.
    fn sweep_framework_task(&mut self, scene: &mut Scene, key: &TaskKey) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        if task.is_terminal() {
            self.finish_task(scene, key);
        } else {
            self.want_kill(scene, key, None);
        }
    }
}
