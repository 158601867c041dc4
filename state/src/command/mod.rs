//! Commands that masters propose, and their answers.
//!
//! A command carries all inputs of `apply`, including ids, times and random bytes.

mod accept;
mod operation;
mod stored;

use std::collections::BTreeMap;

use crate::actor::Actor;
use crate::agent::AgentInfo;
use crate::framework::FrameworkInfo;
use crate::ids::{
    AgentId, ClusterId, Epoch, FrameworkId, Level, NodeId, OrderIndex, Revision, Role, TaskId,
    TaskKey, Ticket, Timestamp,
};
use crate::task::{
    Cause, CheckResults, Exit, LimitsReport, Reason, TaskLimits, TaskState, UpdateSource,
};

pub use crate::rejection::{CallShape, Position, Rejection, StoredRejection};
pub use accept::{Accept, OfferOperation, OfferTerms};
pub use operation::OperatorOperation;

/// One entry of the log: commands that are proposed together and applied in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The cluster time that the leader stamped. `apply` never moves time backwards.
    pub at: Timestamp,
    /// The commands, in order.
    pub commands: Vec<ProposedCommand>,
}

/// A command with the ticket of its proposal. A ticket of an epoch other than the current one is
/// refused, except for [`Command::OpenEpoch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposedCommand {
    /// The ticket of the proposal.
    pub ticket: Ticket,
    /// The actor of the command.
    pub actor: Actor,
    /// The command.
    pub command: Command,
}

/// A change of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Opens an epoch: a node has won an election, or a leader has started.
    OpenEpoch(OpenEpoch),
    /// Registers an agent, or changes its registration.
    RegisterAgent(RegisterAgent),
    /// Declares an agent unreachable: the leader has received no heartbeat within the timeout.
    AgentUnreachable(AgentDecision),
    /// Removes an agent that has been lost for too long, or that exceeds the bound on lost agents.
    PruneAgent(AgentDecision),
    /// Records that tasks with `stop_after_ms` have stopped themselves, because their agent has
    /// been unreachable for that time.
    TasksStopped(TasksStopped),
    /// Reconciles a part of the tasks that an agent holds with those that it should hold.
    ReconcileAgent(ReconcileAgent),
    /// Updates of tasks from their agent.
    UpdateTasks(UpdateTasks),
    /// Subscribes a scheduler, or changes its subscription.
    Subscribe(Subscribe),
    /// Disconnects a framework: the leader has seen no stream of it within the timeout.
    DisconnectFramework(FrameworkDecision),
    /// Removes a framework whose deadline has passed.
    ExpireFramework(FrameworkDecision),
    /// A numbered call of a framework.
    Call(Call),
    /// Acknowledges updates that a framework has stored.
    Acknowledge(Acknowledge),
    /// Guarantees an answer of UNKNOWN, given or about to be given to a framework: calls with lower
    /// numbers can no longer start a task.
    RaiseLowWater(RaiseLowWater),
    /// A batch of changes by operators.
    Operate(Operate),
    /// One bounded batch of a larger change whose progress is in the registry.
    Sweep(SweepTarget),
    /// Advances cluster time only: a deadline is near and no other command is proposed.
    Tick,
    /// Records that very many agents are silent simultaneously. It is proposed before leadership is
    /// transferred for that reason, and while the loss lasts.
    MassLoss,
    /// Logs the digest of the leader's registry, with which every master compares its own.
    CompareDigest(CompareDigest),
    /// Raises the feature level of the cluster, on behalf of an operator, when all masters support
    /// the next one.
    RaiseLevel {
        /// The new level.
        level: Level,
    },
}

/// See [`Command::CompareDigest`]. It changes no record: each master compares digests outside of
/// `apply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompareDigest {
    /// The log index after which the digest was computed. It is lower than the index of this
    /// command.
    pub index: u64,
    /// The [`crate::Registry::digest`] of the leader after that entry.
    pub digest: u128,
}

/// See [`Command::OpenEpoch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEpoch {
    /// The node that leads.
    pub node: NodeId,
    /// A random number for each run of a process.
    pub process: u64,
    /// The Raft term of the epoch.
    pub term: u64,
    /// Random bytes. The id and first key of the cluster are derived from those of the first epoch.
    pub entropy: [u8; 32],
    /// The wall-clock time in milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
    /// The feature level at which the leader works. The level of the registry becomes at least this
    /// one. 0 from releases before 0.1.0.
    pub level: Level,
}

/// See [`Command::RegisterAgent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterAgent {
    /// The id of the agent; absent in a first registration.
    pub agent: Option<AgentId>,
    /// The key of a first registration.
    pub nonce: u64,
    /// The last incarnation that a master has confirmed; 0 for none.
    pub confirmed: u64,
    /// The incarnations tried since then. The last one becomes the registered one.
    pub tried: Vec<u64>,
    /// The boot id of the host's kernel.
    pub boot_id: String,
    /// The agent's description.
    pub info: AgentInfo,
    /// The cluster that the agent leaves to follow this one; `None` if it belongs to this one, or
    /// to none.
    pub follows: Option<FormerCluster>,
}

/// The cluster that an agent leaves, as it was when this cluster was restored or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerCluster {
    /// The id, which must be that of an ancestor.
    pub id: ClusterId,
    /// The last order that the agent has accepted there.
    pub floor: OrderIndex,
}

/// A decision of the leader about an agent. It is invalid if the record has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentDecision {
    /// The agent.
    pub agent: AgentId,
    /// The revision of the record on which the decision is based.
    pub decided_on: Revision,
    /// The wall-clock time in milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// See [`Command::TasksStopped`]. It is invalid if the agent's record has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TasksStopped {
    /// The agent on which the tasks were launched.
    pub agent: AgentId,
    /// The revision of the record on which the decision is based.
    pub decided_on: Revision,
    /// The milliseconds of cluster time for which no master has answered the agent; at most the
    /// time since it became UNREACHABLE.
    pub silent_ms: u64,
    /// The wall-clock time in milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// A decision of the leader about a framework. It is invalid if the record has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameworkDecision {
    /// The framework.
    pub framework: FrameworkId,
    /// The revision of the record on which the decision is based.
    pub decided_on: Revision,
}

/// One chunk of an agent's list. It is complete for the keys above `after` up to `through`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcileAgent {
    /// The agent.
    pub agent: AgentId,
    /// The registered incarnation. A different one invalidates the list.
    pub incarnation: u64,
    /// The last applied order of the agent when the list was made.
    pub floor: OrderIndex,
    /// The key after which the chunk starts; `None` for the first chunk.
    pub after: Option<TaskKey>,
    /// The last key of the chunk; `None` for the last chunk.
    pub through: Option<TaskKey>,
    /// The tasks that the agent holds in this range, ascending; at most
    /// [`crate::limits::RECORDS_PER_COMMAND`].
    pub held: Vec<HeldTask>,
    /// The wall-clock time in milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// A task that an agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTask {
    /// The task.
    pub key: TaskKey,
    /// The order that launched it.
    pub order: OrderIndex,
}

/// See [`Command::UpdateTasks`]; at most [`crate::limits::RECORDS_PER_COMMAND`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateTasks {
    /// The agent that runs the tasks.
    pub agent: AgentId,
    /// The updates, in the order in which the agent made them.
    pub updates: Vec<AgentUpdate>,
}

/// An update with the number that its agent gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUpdate {
    /// The task.
    pub key: TaskKey,
    /// The order that launched it.
    pub order: OrderIndex,
    /// The number of the update, from 1 for each instance.
    pub number: u64,
    /// The new state.
    pub state: TaskState,
    /// The origin of the update.
    pub source: UpdateSource,
    /// The reason for the state.
    pub reason: Reason,
    /// The details that the agent reports in addition to the reason. Below level 3 they are part of
    /// the message.
    pub causes: Vec<Cause>,
    /// Free text after the causes, for display.
    pub message: String,
    /// The exit status of the process.
    pub exit: Option<Exit>,
    /// The results of the task's checks.
    pub standing: CheckResults,
    /// The result of an order that changes the limits, if this update is the first to report it.
    pub limits: Option<LimitsReport>,
    /// The wall-clock time in milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// See [`Command::Subscribe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// The id of the framework; absent in the very first subscription, whose key is principal and
    /// session.
    pub framework: Option<FrameworkId>,
    /// A random number for each run of the scheduler; not 0.
    pub session: u64,
    /// The framework's description.
    pub info: FrameworkInfo,
}

/// A call that changes state. Because of its number, a repeat changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The framework.
    pub framework: FrameworkId,
    /// The nonce of the caller's session.
    pub session: u64,
    /// The number of the call, from 1 within the session.
    pub number: u64,
    /// The lowest number whose answer the caller still awaits.
    pub lowest_unanswered: u64,
    /// The hash of the request.
    pub hash: u64,
    /// The requested action.
    pub action: CallAction,
}

/// An action that a framework requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallAction {
    /// Accepts offers.
    Accept(Accept),
    /// Kills a task.
    Kill {
        /// The task.
        task: TaskId,
        /// The grace period between TERM and KILL; `None` for the task's own.
        grace_ms: Option<u64>,
    },
    /// Changes the limits of a task, whether it runs or not.
    UpdateLimits {
        /// The task.
        task: TaskId,
        /// All new limits, which replace the present ones.
        limits: TaskLimits,
    },
    /// Stops offers in these roles; an empty list means all.
    Suppress(Vec<Role>),
    /// Resumes offers in these roles; an empty list means all.
    Revive(Vec<Role>),
    /// Changes the framework's description.
    Update(FrameworkInfo),
    /// Kills all tasks of the framework and removes it.
    Teardown,
}

/// See [`Command::Acknowledge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledge {
    /// The framework.
    pub framework: FrameworkId,
    /// The nonce of the caller's session.
    pub session: u64,
    /// The acknowledged updates. Each entry covers that update and all before it; at most
    /// [`crate::limits::RECORDS_PER_COMMAND`].
    pub updates: Vec<(TaskId, Revision)>,
}

/// See [`Command::RaiseLowWater`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaiseLowWater {
    /// The framework.
    pub framework: FrameworkId,
    /// The nonce of the caller's session.
    pub session: u64,
    /// The number below which calls are refused from now on.
    pub to: u64,
}

/// A batch of changes by operators, applied in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operate {
    /// The principal and request id; the answer to `None` is not remembered.
    pub request: Option<(String, String)>,
    /// The hash of the operations.
    pub hash: u64,
    /// The operations, at most [`crate::limits::OPERATIONS_PER_BATCH`].
    pub operations: Vec<OperatorOperation>,
    /// The wall-clock time in milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// The object of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SweepTarget {
    /// The tasks of an agent that became unreachable or gone.
    Agent(AgentId),
    /// The tasks of a framework that is being removed.
    Framework(FrameworkId),
    /// The tasks of an agent that is being removed.
    PrunedAgent(AgentId),
    /// The records that are to be split, since the level of the cluster was raised: see
    /// [`Layout`](crate::registry::Layout).
    Layout,
}

/// The answer to a command.
pub type ApplyOutcome = Result<CommandReply, Rejection>;

/// The result of an applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandReply {
    /// The change was applied, or was already in effect.
    Done,
    /// The new epoch.
    Epoch(Epoch),
    /// The agent is registered.
    Agent(AgentId),
    /// The framework is subscribed.
    Framework(FrameworkId),
    /// A numbered call was applied, except for the refused parts.
    Call {
        /// The revision at which it was applied.
        revision: Revision,
        /// The refused positions, ascending, with the reasons.
        refused: Vec<(Position, Rejection)>,
    },
    /// A numbered call was applied before, with this outcome.
    Repeated(crate::framework::CallAnswer),
    /// A batch of changes by operators was applied.
    Operate {
        /// The revision at which it was applied; earlier than the present one for a repeat.
        revision: Revision,
        /// The outcome of each operation.
        outcomes: Vec<Result<(), Rejection>>,
    },
}

/// The identity and keys of the cluster, created with the first epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterFacts {
    /// The id of the cluster.
    pub id: ClusterId,
    /// The integrity key of offers. `apply` never relies on it.
    pub offer_key: [u8; 32],
    /// The previous key, which is still accepted.
    pub former_offer_key: Option<[u8; 32]>,
}

/// Free text by name, such as labels and attributes.
pub type Labels = BTreeMap<String, String>;
