//! What can be proposed, and how it is answered.
//!
//! A command carries everything that `apply` needs: ids, times and random bytes come in with it.

mod accept;
mod refusal;
mod rejection;

use std::collections::BTreeMap;

use crate::actor::Actor;
use crate::agent::AgentInfo;
use crate::framework::FrameworkInfo;
use crate::ids::{
    AgentId, ClusterId, Epoch, FrameworkId, NodeId, OrderIndex, Revision, Role, TaskId, TaskKey,
    Ticket, Timestamp,
};
use crate::level::Level;
use crate::task::{Cause, Exit, Limits, LimitsReport, Reason, Source, Standing, TaskState};

pub use accept::{Accept, OfferOperation, Position, Promise, Shape};
pub use refusal::Refusal;
pub use rejection::Rejection;

/// One log entry: commands proposed together, tried in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Cluster time that the leader stamped; `apply` never goes back.
    pub at: Timestamp,
    /// In order.
    pub commands: Vec<Proposed>,
}

/// A command with the reign that proposed it. A ticket of another reign than the present one is
/// refused, except for [`Command::OpenEpoch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Whose it is.
    pub ticket: Ticket,
    /// Who asks for it.
    pub actor: Actor,
    /// What is wanted.
    pub command: Command,
}

/// A change of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A node has won an election, or a leader has started: a new reign begins.
    OpenEpoch(OpenEpoch),
    /// An agent says hello with something new.
    RegisterAgent(RegisterAgent),
    /// The leader has not heard of an agent for too long.
    AgentUnreachable(AgentDecision),
    /// The leader forgets an agent that has been lost for too long, or is one of too many.
    PruneAgent(AgentDecision),
    /// An agent has been unreachable for so long that tasks with `stop_after_ms` have stopped themselves.
    Stopped(Stopped),
    /// A part of what an agent holds, compared with what it should hold.
    ReconcileAgent(ReconcileAgent),
    /// Updates of tasks from their agent.
    UpdateTasks(UpdateTasks),
    /// A scheduler subscribes with something new.
    Subscribe(Subscribe),
    /// The leader has seen no stream of a framework for too long.
    DisconnectFramework(FrameworkDecision),
    /// The leader has seen the deadline of a framework pass.
    ExpireFramework(FrameworkDecision),
    /// A numbered call of a framework.
    Call(Call),
    /// A framework has stored updates.
    Acknowledge(Acknowledge),
    /// A framework was, or is about to be, told UNKNOWN: earlier calls may not start anything any more.
    RaiseLowWater(RaiseLowWater),
    /// Changes by operators.
    Operate(Operate),
    /// A bounded piece of a larger change that is marked in the registry.
    Sweep(SweepTarget),
    /// Moves cluster time and nothing else: a deadline is near and nothing else is proposed.
    Tick,
    /// Very many agents are silent at once: recorded before leadership is handed over for it, and while it lasts.
    MassLoss,
    /// The leader logs the digest of its registry, for every master to compare with its own.
    CompareDigest(CompareDigest),
    /// An operator raises the feature level of the cluster, since all its masters know the next one.
    RaiseLevel {
        /// The new level.
        level: Level,
    },
}

/// See [`Command::CompareDigest`]. It changes no record: each master compares outside of `apply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompareDigest {
    /// The log index after which the digest was taken, below that of this command.
    pub index: u64,
    /// [`crate::Registry::digest`] of the leader after that entry.
    pub digest: u128,
}

/// See [`Command::OpenEpoch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEpoch {
    /// The node that leads.
    pub node: NodeId,
    /// Random, one a process life.
    pub process: u64,
    /// Its raft term.
    pub term: u64,
    /// Random bytes: the cluster's id and first key come from the very first ones.
    pub entropy: [u8; 32],
    /// Milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
    /// The feature level at which it leads. The registry's is at least this from now on. 0 from releases before 0.1.0.
    pub level: Level,
}

/// See [`Command::RegisterAgent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterAgent {
    /// Absent on a first registration.
    pub agent: Option<AgentId>,
    /// Keys a first registration.
    pub nonce: u64,
    /// The last incarnation that a master confirmed to it; 0 for none.
    pub confirmed: u64,
    /// Those tried since; the last one is to become the registered one.
    pub tried: Vec<u64>,
    /// Of its kernel.
    pub boot_id: String,
    /// What it says of itself.
    pub info: AgentInfo,
}

/// A decision of the leader about an agent, void if the record has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentDecision {
    /// The agent.
    pub agent: AgentId,
    /// The revision of its record that was decided on.
    pub decided_on: Revision,
    /// Milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// See [`Command::Stopped`]. Void if the agent's record has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The agent that the tasks were launched on.
    pub agent: AgentId,
    /// The revision of its record that was decided on.
    pub decided_on: Revision,
    /// How long no master has answered the agent, in milliseconds of cluster time; at most since it is UNREACHABLE.
    pub silent_ms: u64,
    /// Milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// A decision of the leader about a framework, void if the record has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameworkDecision {
    /// The framework.
    pub framework: FrameworkId,
    /// The revision of its record that was decided on.
    pub decided_on: Revision,
}

/// One chunk of an agent's list, complete for the keys above `after` up to `through`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcileAgent {
    /// The agent.
    pub agent: AgentId,
    /// Its registered incarnation; another one voids the list.
    pub incarnation: u64,
    /// The floor at which the list was taken.
    pub floor: OrderIndex,
    /// The chunk starts behind this key; `None` from the first.
    pub after: Option<TaskKey>,
    /// The chunk ends with this key; `None` to the last.
    pub through: Option<TaskKey>,
    /// What the agent holds there, ascending; at most [`crate::limits::RECORDS_PER_COMMAND`].
    pub held: Vec<HeldTask>,
    /// Milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

impl ReconcileAgent {
    /// The same list in parts for which the registry knows a bounded number of tasks each: what one
    /// command may touch. The last part ends where this one does.
    #[must_use]
    pub fn parts(self, registry: &crate::Registry) -> Vec<Self> {
        let inside = |key: &TaskKey| {
            self.after.as_ref().is_none_or(|after| key > after)
                && self.through.as_ref().is_none_or(|through| key < through)
        };
        let cuts: Vec<TaskKey> = registry
            .tasks_on(self.agent)
            .map(|task| &task.key)
            .filter(|key| inside(key))
            .skip(crate::limits::TASKS_PER_SWEEP - 1)
            .step_by(crate::limits::TASKS_PER_SWEEP)
            .cloned()
            .collect();
        let mut parts = Vec::with_capacity(cuts.len() + 1);
        let mut rest = self;
        for cut in cuts {
            let held = rest.held.partition_point(|held| held.key <= cut);
            let later = rest.held.split_off(held);
            let mut part = rest.clone();
            part.through = Some(cut.clone());
            rest.held = later;
            rest.after = Some(cut);
            parts.push(part);
        }
        parts.push(rest);
        parts
    }
}

/// A task as its agent holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTask {
    /// Which.
    pub key: TaskKey,
    /// The order that launched it.
    pub order: OrderIndex,
}

/// See [`Command::UpdateTasks`]; at most [`crate::limits::RECORDS_PER_COMMAND`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateTasks {
    /// Whose tasks.
    pub agent: AgentId,
    /// In the order in which the agent made them.
    pub updates: Vec<AgentUpdate>,
}

/// An update as its agent numbered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUpdate {
    /// Which task.
    pub key: TaskKey,
    /// The order that launched it.
    pub order: OrderIndex,
    /// Counts from 1 for each instance.
    pub number: u64,
    /// The new state.
    pub state: TaskState,
    /// Who saw it.
    pub source: Source,
    /// Why.
    pub reason: Reason,
    /// What the agent reports beyond the reason. Below level 3 it is part of the message.
    pub causes: Vec<Cause>,
    /// For people: free text behind the causes.
    pub message: String,
    /// How the process ended.
    pub exit: Option<Exit>,
    /// What the task's checks have found.
    pub standing: Standing,
    /// What became of an order that changes its limits, if this update is the first to tell.
    pub limits: Option<LimitsReport>,
    /// Milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// See [`Command::Subscribe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Absent on the very first subscription, which is keyed by principal and session.
    pub framework: Option<FrameworkId>,
    /// A nonce of the scheduler's life; not 0.
    pub session: u64,
    /// What it says of itself.
    pub info: FrameworkInfo,
}

/// A call that changes state, named so that a repeat changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Whose.
    pub framework: FrameworkId,
    /// The nonce of its session.
    pub session: u64,
    /// Counts from 1 within the session.
    pub number: u64,
    /// The lowest number whose answer the caller still waits for.
    pub lowest_unanswered: u64,
    /// Hash of the request.
    pub hash: u64,
    /// What is wanted.
    pub action: CallAction,
}

/// What a framework may call for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallAction {
    /// Use offers.
    Accept(Accept),
    /// End a task.
    Kill {
        /// Which.
        task: TaskId,
        /// From TERM to KILL; `None` takes the task's own.
        grace_ms: Option<u64>,
    },
    /// Change what a task may use at most, running or not.
    UpdateLimits {
        /// Which.
        task: TaskId,
        /// All of them, in the place of those that it has.
        limits: Limits,
    },
    /// No offers in these roles; an empty list means all.
    Suppress(Vec<Role>),
    /// Offers again in these roles; an empty list means all.
    Revive(Vec<Role>),
    /// Change what it says of itself.
    Update(FrameworkInfo),
    /// End all its tasks and forget it.
    Teardown,
}

/// See [`Command::Acknowledge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledge {
    /// Whose.
    pub framework: FrameworkId,
    /// The nonce of its session.
    pub session: u64,
    /// Each covers that update and all before it; at most [`crate::limits::RECORDS_PER_COMMAND`].
    pub updates: Vec<(TaskId, Revision)>,
}

/// See [`Command::RaiseLowWater`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaiseLowWater {
    /// Whose.
    pub framework: FrameworkId,
    /// The nonce of its session.
    pub session: u64,
    /// Calls below are refused from now on.
    pub to: u64,
}

/// Changes by operators, tried in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operate {
    /// Principal and request id; `None` is not remembered.
    pub request: Option<(String, String)>,
    /// Hash of the operations.
    pub hash: u64,
    /// At most [`crate::limits::OPERATIONS_PER_BATCH`].
    pub operations: Vec<Operation>,
    /// Milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// One change by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets an attribute of an agent; an empty value removes it.
    SetAttribute {
        /// Which agent.
        agent: AgentId,
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
    /// Ends a task.
    KillTask {
        /// Which.
        key: TaskKey,
        /// From TERM to KILL; `None` takes the task's own.
        grace_ms: Option<u64>,
    },
    /// Changes what a task may use at most, running or not.
    UpdateLimits {
        /// Which.
        key: TaskKey,
        /// All of them, in the place of those that it has.
        limits: Limits,
    },
    /// Ends a framework and all its tasks.
    Teardown(FrameworkId),
    /// Sets the weight of a role, in thousandths.
    SetWeight {
        /// Which role.
        role: Role,
        /// 1 to 1,000,000,000.
        weight_milli: u64,
    },
    /// Offers no more of an agent.
    Deactivate(AgentId),
    /// Offers it again.
    Reactivate(AgentId),
    /// Declares it dead, for ever.
    MarkGone(AgentId),
}

/// What a sweep works off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SweepTarget {
    /// Tasks of an agent that became unreachable or gone.
    Agent(AgentId),
    /// Tasks of a framework that is being removed.
    Framework(FrameworkId),
    /// Tasks of an agent that is being forgotten.
    PrunedAgent(AgentId),
    /// Records that are to be split, since the level of the cluster was raised: see
    /// [`Layout`](crate::registry::Layout).
    Layout,
}

/// How a command was answered.
pub type Outcome = Result<Reply, Rejection>;

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done, or already so.
    Done,
    /// The new reign.
    Epoch(Epoch),
    /// An agent is registered.
    Agent(AgentId),
    /// A framework is subscribed.
    Framework(FrameworkId),
    /// A numbered call was applied, but for these parts.
    Called {
        /// When.
        revision: Revision,
        /// Which parts, ascending, and why.
        refused: Vec<(Position, Rejection)>,
    },
    /// A numbered call was applied before, with this outcome.
    Repeated(crate::framework::Answer),
    /// Operators' changes.
    Operated {
        /// When they were applied, which for a repeat is earlier than now.
        revision: Revision,
        /// One each.
        outcomes: Vec<Result<(), Rejection>>,
    },
}

/// What the registry is called and sealed with; kept with the first epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterFacts {
    /// Its id.
    pub id: ClusterId,
    /// Integrity key of offers. `apply` never trusts it.
    pub offer_key: [u8; 32],
    /// The key before, still honoured.
    pub former_offer_key: Option<[u8; 32]>,
}

/// Free text by name, as labels and attributes.
pub type Labels = BTreeMap<String, String>;
