//! Which records an entry has changed, for storage and for the digest.

use super::Registry;
use crate::command::SweepTarget;
use crate::digest::record_mark;
use crate::ids::{AgentId, FrameworkId, Role, TaskKey};

/// Names a stored record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// Cluster time.
    Time,
    /// Singletons and counters.
    Cluster,
    /// One agent that is not split.
    Agent(AgentId),
    /// The weight of one role.
    Weight(Role),
    /// One framework.
    Framework(FrameworkId),
    /// One task that is not split.
    Task(TaskKey),
    /// One answer: framework, session, number.
    Answer(FrameworkId, u64, u64),
    /// One answer to operators: principal, request id. Boxed: two names of each task are kept, and none is to be larger than that.
    OperatorAnswer(Box<(String, String)>),
    /// One finished task, by serial.
    FinishedTask(u64),
    /// One removed framework, by serial.
    FinishedFramework(u64),
    /// What never changes of a task, and what its history keeps of its description.
    TaskFacts(TaskKey),
    /// The description of a task that has not ended, if its history does not keep all of it.
    TaskSpec(TaskKey),
    /// What updates and acknowledgements change of a task.
    TaskStatus(TaskKey),
    /// The message of its newest update but its end, if it is long.
    TaskMessage(TaskKey),
    /// The message of its end, if it is long.
    TaskEndMessage(TaskKey),
    /// The limits of a task.
    TaskLimits(TaskKey),
    /// The newest change of its limits.
    LimitsChange(TaskKey),
    /// Orders and used offers of an agent.
    AgentCounters(AgentId),
    /// How far a sweep has come.
    Sweep(SweepTarget),
    /// The counter of the histories.
    History,
    /// What an agent reports.
    AgentReported(AgentId),
    /// What the masters have agreed on about an agent.
    AgentAgreed(AgentId),
    /// Whether masters hear of an agent, and its revisions.
    AgentStatus(AgentId),
    /// The other limits of a task: see [`LimitsChange::is_second`](crate::task::LimitsChange::is_second).
    SecondLimits(TaskKey),
}

/// A record as it is stored. No value deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWrite {
    /// Encoded [`RecordKey`]; ascending keys of one kind are neighbours.
    pub key: Vec<u8>,
    /// Encoded record.
    pub value: Option<Vec<u8>>,
}

impl Registry {
    /// Everything that changed since the last call, encoded; the digest follows. To be called after
    /// every entry.
    pub fn take_changes(&mut self) -> Vec<RecordWrite> {
        let changed = std::mem::take(&mut self.changed);
        let mut writes = Vec::with_capacity(changed.len());
        for name in changed {
            let key = crate::encode::key(&name);
            let value = crate::encode::record(self, &name);
            let former = match &value {
                Some(value) => {
                    let mark = record_mark(&key, value);
                    self.digest = self.digest.wrapping_add(mark);
                    self.marks.insert(name, mark)
                }
                None => self.marks.remove(&name),
            };
            self.digest = self.digest.wrapping_sub(former.unwrap_or(0));
            writes.push(RecordWrite { key, value });
        }
        writes
    }
}
