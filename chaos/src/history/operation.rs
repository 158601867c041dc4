//! Requests to the cluster and their responses: the payloads of `Invoke` and `Ok`.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{AgentId, FrameworkId, NodeId, OfferId, Revision, Role, TaskKey};
use argosy_state::resources::Resources;
use argosy_state::task::TaskState;

use super::text;

/// The required freshness of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Not older than the state at the time of the request.
    Linearizable,
    /// The state of the master that is asked.
    Local,
}

/// What decides about a call of a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The leader, a master with the newest facts, or the agent that a ticket is for.
    Leader,
    /// The master that is asked, with the facts that it has applied.
    Master {
        /// The log index that the caller demands at least.
        min_index: u64,
    },
}

/// The name of a numbered call of a framework. A call with this name takes effect at most once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallName {
    #[serde(with = "text")]
    pub framework: FrameworkId,
    /// The nonce of the session.
    pub session: u64,
    /// The number within the session.
    pub number: u64,
}

/// A task that an acceptance launches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchedTask {
    #[serde(with = "text")]
    pub task: TaskKey,
    /// The resources of the task.
    #[serde(with = "text")]
    pub resources: Resources,
}

/// The name of an update, as its framework knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateName {
    #[serde(with = "text")]
    pub task: TaskKey,
    /// The revision at which it became true.
    #[serde(with = "text")]
    pub revision: Revision,
}

/// A request of a client. One that is repeated after a timeout is invoked once: it is one operation
/// until its caller gives up (`info`) or knows the outcome (`ok`, `fail`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// Reads a register: an attribute, or a key of the simulation of Raft alone.
    Read {
        /// The name of the register, unique in the cluster, such as "attribute/agent-1/zone".
        key: String,
        /// The required freshness.
        consistency: Consistency,
    },
    /// Sets a register. `None` deletes it.
    Write {
        /// The name of the register.
        key: String,
        /// The new value. Values that never repeat make the checker precise.
        value: Option<String>,
        /// The request id under which the write may be repeated; empty if it has none.
        request: String,
    },
    /// Sets a register if it has the expected value. `None` means absent.
    CompareAndSet {
        /// The name of the register.
        key: String,
        /// The expected value.
        expected: Option<String>,
        /// The new value.
        value: Option<String>,
    },
    /// Subscribes a scheduler.
    Subscribe {
        /// The framework's id; absent for the first subscription.
        #[serde(with = "text::option", default)]
        framework: Option<FrameworkId>,
        /// The nonce of the session.
        session: u64,
        /// The principal of the scheduler.
        principal: String,
        /// The offers that the scheduler still holds.
        #[serde(with = "text::list", default)]
        held: Vec<OfferId>,
    },
    /// Accepts offers.
    Accept {
        name: CallName,
        /// The offers, all of one agent and role.
        #[serde(with = "text::list")]
        offers: Vec<OfferId>,
        /// The tasks to launch.
        launches: Vec<LaunchedTask>,
        /// Whether one rejected launch rejects all.
        all_or_nothing: bool,
    },
    /// Declines offers.
    Decline {
        #[serde(with = "text")]
        framework: FrameworkId,
        #[serde(with = "text::list")]
        offers: Vec<OfferId>,
    },
    /// Kills a task. `name` is absent for an operator's request.
    Kill {
        name: Option<CallName>,
        #[serde(with = "text")]
        task: TaskKey,
    },
    /// Acknowledges that updates are stored. Each acknowledgement covers that update and all
    /// earlier ones of its task.
    Acknowledge {
        #[serde(with = "text")]
        framework: FrameworkId,
        /// The nonce of the session.
        session: u64,
        updates: Vec<UpdateName>,
    },
    /// Asks for the states of tasks. An empty list means all that have not ended.
    Reconcile {
        #[serde(with = "text")]
        framework: FrameworkId,
        #[serde(with = "text::list")]
        tasks: Vec<TaskKey>,
    },
    /// Stops offers for these roles; an empty list means all.
    Suppress {
        name: CallName,
        #[serde(with = "text::list")]
        roles: Vec<Role>,
    },
    /// Resumes offers for these roles; an empty list means all.
    Revive {
        name: CallName,
        #[serde(with = "text::list")]
        roles: Vec<Role>,
    },
    /// Removes a framework with all its tasks. `name` is absent for an operator's request.
    Teardown {
        name: Option<CallName>,
        #[serde(with = "text")]
        framework: FrameworkId,
    },
    /// Stops offers of an agent.
    Deactivate {
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// Resumes offers of an agent.
    Reactivate {
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// Declares an agent permanently gone.
    MarkGone {
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// Transfers leadership. `None` means to any other voter.
    Transfer {
        /// The new leader.
        #[serde(with = "text::option", default)]
        to: Option<NodeId>,
    },
    /// Makes these masters the voters.
    ChangeVoters {
        /// The complete list.
        #[serde(with = "text::list")]
        voters: Vec<NodeId>,
    },
    /// Gives or takes a right: by a rule, or by the creation or revocation of a token. Repeated
    /// until it is acknowledged.
    SetRight {
        /// The name of the right, such as "operator/prober view-agent" or "token-3".
        right: String,
        /// Whether it is given.
        is_allowed: bool,
    },
    /// Makes a call that needs a right. It fails with "access-denied" if it was refused because of
    /// its caller.
    UseRight {
        right: String,
        /// What decides about it.
        decided_by: DecidedBy,
    },
}

impl Operation {
    /// Returns the name of the call, if the operation is a numbered call.
    #[must_use]
    pub fn call_name(&self) -> Option<&CallName> {
        match self {
            Self::Accept { name, .. } | Self::Suppress { name, .. } | Self::Revive { name, .. } => {
                Some(name)
            }
            Self::Kill { name, .. } | Self::Teardown { name, .. } => name.as_ref(),
            Self::Read { .. }
            | Self::Write { .. }
            | Self::CompareAndSet { .. }
            | Self::Subscribe { .. }
            | Self::Decline { .. }
            | Self::Acknowledge { .. }
            | Self::Reconcile { .. }
            | Self::Deactivate { .. }
            | Self::Reactivate { .. }
            | Self::MarkGone { .. }
            | Self::Transfer { .. }
            | Self::ChangeVoters { .. }
            | Self::SetRight { .. }
            | Self::UseRight { .. } => None,
        }
    }
}

/// A launch that was rejected within an accepted acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedLaunch {
    /// The position among the launches.
    pub position: u32,
    /// `Rejection::code`.
    pub code: String,
}

/// The state of a task in a reconciliation response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconciledTask {
    #[serde(with = "text")]
    pub task: TaskKey,
    #[serde(with = "text")]
    pub state: TaskState,
}

/// The response to an operation that took place. A rejection is not an outcome: it is a `fail`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum OperationResponse {
    /// Done, or already in that state.
    Done,
    /// The value of a register. `None` means absent.
    Value { value: Option<String> },
    /// The result of a compare-and-set.
    Swapped {
        /// Whether the register had the expected value.
        swapped: bool,
    },
    /// A scheduler is subscribed.
    Subscribed {
        #[serde(with = "text")]
        framework: FrameworkId,
        /// Held offers that remain valid.
        #[serde(with = "text::list")]
        kept: Vec<OfferId>,
        /// Held offers that are rescinded.
        #[serde(with = "text::list")]
        rescinded: Vec<OfferId>,
    },
    /// An acceptance was applied, except for these launches.
    Accepted {
        /// The rejected launches, by position.
        refused: Vec<RejectedLaunch>,
    },
    /// The response to a reconciliation.
    #[serde(rename = "answers")]
    Reconciled {
        /// One entry for each task.
        answers: Vec<ReconciledTask>,
    },
}
