//! The names of stored records, and their writes.

use crate::access::{KeyHash, Subject, TokenId};
use crate::actor::Principal;
use crate::command::SweepTarget;
use crate::ids::{AgentId, FrameworkId, Role, TaskKey};
use crate::secret::SecretName;

/// The name of a stored record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// The cluster time.
    Time,
    /// The singletons and counters of the cluster.
    Cluster,
    /// An agent whose record is not split.
    Agent(AgentId),
    /// The weight of a role.
    Weight(Role),
    /// A framework.
    Framework(FrameworkId),
    /// A task whose record is not split.
    Task(TaskKey),
    /// An answer to a numbered call: framework, session, number.
    CallAnswer(FrameworkId, u64, u64),
    /// An answer to operators: principal, request id. Boxed, because two keys of each task are kept
    /// and no variant should be larger than those.
    OperatorAnswer(Box<(String, String)>),
    /// A finished task, by serial.
    FinishedTask(u64),
    /// A removed framework, by serial.
    FinishedFramework(u64),
    /// The facts of a task that never change, and the part of its description that the history
    /// keeps.
    TaskFacts(TaskKey),
    /// The description of a task that has not ended, if the history does not keep all of it.
    TaskSpec(TaskKey),
    /// The facts of a task that updates and acknowledgements change.
    TaskStatus(TaskKey),
    /// The message of a task's newest non-terminal update, if it is long.
    TaskMessage(TaskKey),
    /// The message of a task's end, if it is long.
    TaskEndMessage(TaskKey),
    /// The limits of a task.
    TaskLimits(TaskKey),
    /// The newest change of a task's limits.
    LimitsChange(TaskKey),
    /// The order counter and used offers of an agent.
    AgentCounters(AgentId),
    /// The progress of a sweep.
    Sweep(SweepTarget),
    /// The counter of the histories.
    History,
    /// The facts that an agent reports.
    AgentReport(AgentId),
    /// The administrative state of an agent.
    AgentAdministration(AgentId),
    /// The reachability of an agent, and its revisions.
    AgentStatus(AgentId),
    /// The second limits of a task: see
    /// [`LimitsChange::is_second`](crate::task::LimitsChange::is_second).
    SecondLimits(TaskKey),
    /// A transition of a task, by its number.
    TaskTransition(TaskKey, u32),
    /// The rules and groups of access, once they are set.
    Policy,
    /// A token.
    Token(TokenId),
    /// A revoked key. Boxed, because no variant should be larger than the keys of tasks.
    RevokedKey(Box<KeyHash>),
    /// The key to which a principal is bound.
    KeyBinding(Principal),
    /// The limit of a subject's rate. Boxed for the same reason.
    RateLimit(Box<Subject>),
    /// A sealed secret.
    Secret(SecretName),
}

/// A stored record. A write without a value deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWrite {
    /// The encoded [`RecordKey`]. Ascending keys of one kind are adjacent.
    pub key: Vec<u8>,
    /// The encoded record.
    pub value: Option<Vec<u8>>,
}
