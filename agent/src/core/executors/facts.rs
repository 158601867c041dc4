//! What an agent must not forget of executors.

use std::sync::Arc;

use argosy_proto::v1;
use argosy_state::ids::TaskKey;

use crate::core::facts::{ContainerName, Facts, Instance, StartedFact};

/// An executor that this agent has, or had and has not cleared away. Its name on this host is the instance of the task
/// that brought it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorFacts {
    /// Its framework, and its id there.
    pub key: TaskKey,
    /// It as a task with a container of its own, which names the executor as what runs it.
    pub launch: Arc<v1::LaunchOrder>,
    /// The life in which its container was, or is to be, started.
    pub life: u64,
    /// Set once its command was executed.
    pub started: Option<StartedFact>,
    /// Its end is wanted: no task joins it any more.
    pub ending: bool,
}

/// A change of what is remembered of executors.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecutorRecord {
    /// One is to be started; or all that is known of one, in a compacted journal.
    Began {
        /// Its name on this host.
        instance: Instance,
        /// All of it.
        facts: Box<ExecutorFacts>,
    },
    /// Its command was executed.
    Started {
        /// Whose.
        instance: Instance,
        /// Which, when.
        fact: StartedFact,
    },
    /// Its end is wanted.
    Ending {
        /// Whose.
        instance: Instance,
    },
    /// Nothing is left of it.
    Cleared {
        /// Of which.
        instance: Instance,
    },
    /// What an executor said of a task is in an update, or changed nothing.
    Heard {
        /// Of which task.
        instance: Instance,
        /// The executor's number of it.
        serial: u64,
    },
}

impl Facts {
    /// Follows one record.
    pub(in crate::core) fn follow(&mut self, record: &ExecutorRecord) {
        match record {
            ExecutorRecord::Began { instance, facts } => {
                self.executors.insert(*instance, (**facts).clone());
            }
            ExecutorRecord::Started { instance, fact } => {
                if let Some(executor) = self.executors.get_mut(instance) {
                    executor.started = Some(*fact);
                }
            }
            ExecutorRecord::Ending { instance } => {
                if let Some(executor) = self.executors.get_mut(instance) {
                    executor.ending = true;
                }
            }
            ExecutorRecord::Cleared { instance } => drop(self.executors.remove(instance)),
            ExecutorRecord::Heard { instance, serial } => {
                if let Some(task) = self.tasks.get_mut(instance) {
                    task.heard = task.heard.max(*serial);
                }
            }
        }
    }

    /// Records that make what is known of executors out of nothing.
    pub(in crate::core) fn executor_records(&self) -> impl Iterator<Item = ExecutorRecord> {
        let all = self.executors.iter();
        all.map(|(instance, facts)| ExecutorRecord::Began {
            instance: *instance,
            facts: Box::new(facts.clone()),
        })
    }

    /// The container of an executor that is here.
    #[must_use]
    pub fn executor_container(&self, instance: Instance) -> Option<ContainerName> {
        let life = self.executors.get(&instance)?.life;
        Some(ContainerName { instance, life })
    }

    /// The executor of this name; never more than one, as a new one waits until the former is cleared away.
    pub(in crate::core) fn executor_named(
        &self,
        key: &TaskKey,
    ) -> Option<(Instance, &ExecutorFacts)> {
        let mut all = self.executors.iter();
        all.find(|(_, facts)| facts.key == *key)
            .map(|(instance, facts)| (*instance, facts))
    }
}
