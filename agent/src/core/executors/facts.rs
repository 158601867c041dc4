//! Durable facts of executors.

use std::sync::Arc;

use argosy_state::ids::TaskKey;
use argosy_state::task::Explanation;

use crate::core::facts::{AgentState, ContainerName, Instance, StartedFact, TaskFacts};
use crate::core::launch::LaunchOrder;

/// An executor of this agent that is not cleaned up. Its name on this host is the instance of the
/// task that started it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorInfo {
    /// Its framework, and its id there.
    pub key: TaskKey,
    /// The executor as a task with its container, with the executor named as what runs it.
    pub launch: Arc<LaunchOrder>,
    /// The run in which its container is started.
    pub run: u64,
    /// Set once its command was executed.
    pub started: Option<StartedFact>,
    /// Whether it is to end: no task joins it any more.
    pub ending: bool,
    /// The newest of its tasks when it was to end: later ones were never delivered to it.
    pub last_task: Option<Instance>,
    /// The explanation, if it exceeds its disk limit.
    pub disk_excess: Option<Explanation>,
}

/// A change of the durable facts of executors.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecutorRecord {
    /// An executor is to be started; or all facts of one, in a compacted journal.
    Created {
        /// Its name on this host.
        instance: Instance,
        facts: Box<ExecutorInfo>,
    },
    /// Its command was executed.
    Started {
        instance: Instance,
        /// The process and the time.
        fact: StartedFact,
    },
    /// It is to end.
    Ending {
        instance: Instance,
        /// The explanation, if it exceeds its disk limit.
        disk_excess: Option<Explanation>,
    },
    /// It is removed.
    Cleared { instance: Instance },
    /// An executor's report of a task is in an update, or changed nothing.
    UpdateReceived {
        /// The task.
        instance: Instance,
        /// The executor's serial number of the report.
        serial: u64,
    },
}

impl ExecutorInfo {
    /// Whether the executor may have received a task of its name.
    pub(super) fn may_have(&self, task: Instance) -> bool {
        !self.ending || self.last_task.is_some_and(|last| task <= last)
    }
}

impl AgentState {
    /// Applies one record.
    pub(in crate::core) fn follow(&mut self, record: &ExecutorRecord) {
        match record {
            ExecutorRecord::Created { instance, facts } => {
                self.executors.insert(*instance, (**facts).clone());
            }
            ExecutorRecord::Started { instance, fact } => {
                if let Some(executor) = self.executors.get_mut(instance) {
                    executor.started = Some(*fact);
                }
            }
            ExecutorRecord::Ending {
                instance,
                disk_excess,
            } => {
                let last_task = self.newest_task_of(*instance);
                if let Some(executor) = self.executors.get_mut(instance) {
                    if !std::mem::replace(&mut executor.ending, true) {
                        executor.last_task = last_task;
                    }
                    if executor.disk_excess.is_none() {
                        executor.disk_excess.clone_from(disk_excess);
                    }
                }
            }
            ExecutorRecord::Cleared { instance } => drop(self.executors.remove(instance)),
            ExecutorRecord::UpdateReceived { instance, serial } => {
                if let Some(task) = self.tasks.get_mut(instance) {
                    task.executor_serial = task.executor_serial.max(*serial);
                }
            }
        }
    }

    fn newest_task_of(&self, executor: Instance) -> Option<Instance> {
        let key = &self.executors.get(&executor)?.key;
        let is_member = |task: &TaskFacts| {
            task.key.framework == key.framework
                && (task.executor()).is_some_and(|spec| spec.executor == key.task)
        };
        let members = self.tasks.iter().filter(|(_, task)| is_member(task));
        members.map(|(instance, _)| *instance).max()
    }

    /// Returns records that rebuild all facts of executors from nothing.
    pub(in crate::core) fn executor_records(&self) -> impl Iterator<Item = ExecutorRecord> {
        let all = self.executors.iter();
        all.map(|(instance, facts)| ExecutorRecord::Created {
            instance: *instance,
            facts: Box::new(facts.clone()),
        })
    }

    /// Returns the container of a known executor.
    #[must_use]
    pub fn executor_container(&self, instance: Instance) -> Option<ContainerName> {
        let run = self.executors.get(&instance)?.run;
        Some(ContainerName { instance, run })
    }

    /// Returns the executor of this name; never more than one exists, as a new one waits until the
    /// former is removed.
    pub(in crate::core) fn executor_named(
        &self,
        key: &TaskKey,
    ) -> Option<(Instance, &ExecutorInfo)> {
        let mut all = self.executors.iter();
        all.find(|(_, facts)| facts.key == *key)
            .map(|(instance, facts)| (*instance, facts))
    }
}
