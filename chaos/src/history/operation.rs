//! What is asked of the cluster, and what it answers: the payloads of invoke and ok.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{AgentId, FrameworkId, NodeId, OfferId, Revision, Role, TaskKey};
use argosy_state::resources::Resources;
use argosy_state::task::TaskState;

use super::text;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Never older than what was true when it was asked.
    Linearizable,
    /// As old as the asked master is.
    Local,
}

/// A numbered call of a framework: with this name it takes effect at most once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallName {
    /// Whose.
    #[serde(with = "text")]
    pub framework: FrameworkId,
    /// The nonce of its session.
    pub session: u64,
    /// Counts within the session.
    pub number: u64,
}

/// A task that an acceptance asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Which.
    #[serde(with = "text")]
    pub task: TaskKey,
    /// What it uses.
    #[serde(with = "text")]
    pub resources: Resources,
}

/// An update by the name that it has to its framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateName {
    /// Of which task.
    #[serde(with = "text")]
    pub task: TaskKey,
    /// When it became true.
    #[serde(with = "text")]
    pub revision: Revision,
}

/// What a client asks for. One that is repeated after a timeout is invoked once: it is one operation
/// until its caller gives up (`info`) or knows (`ok`, `fail`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// Asks for the value of a register: an attribute, or a key of the raft-only simulation.
    Read {
        /// Its name, unique in the cluster, as "attribute/agent-1/zone".
        key: String,
        /// How fresh.
        consistency: Consistency,
    },
    /// Sets a register; `None` deletes it.
    Write {
        /// Its name.
        key: String,
        /// What it is to hold. Values that never repeat make the checker sharp.
        value: Option<String>,
        /// The id under which it may be repeated; empty if it has none.
        request: String,
    },
    /// Sets a register if it holds what is expected; `None` means absent.
    CompareAndSet {
        /// Its name.
        key: String,
        /// What it must hold.
        expected: Option<String>,
        /// What it is to hold then.
        value: Option<String>,
    },
    /// A scheduler subscribes.
    Subscribe {
        /// Absent the first time.
        #[serde(with = "text::option", default)]
        framework: Option<FrameworkId>,
        /// The nonce of its session.
        session: u64,
        /// On whose behalf.
        principal: String,
        /// The offers that it still holds.
        #[serde(with = "text::list", default)]
        held: Vec<OfferId>,
    },
    /// Uses offers.
    Accept {
        /// Its name.
        name: CallName,
        /// The offers, of one agent and role.
        #[serde(with = "text::list")]
        offers: Vec<OfferId>,
        /// What is to run.
        launches: Vec<Launch>,
        /// One refused launch refuses all.
        all_or_nothing: bool,
    },
    /// Gives offers back.
    Decline {
        /// Whose.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// The offers.
        #[serde(with = "text::list")]
        offers: Vec<OfferId>,
    },
    /// Ends a task; `name` is absent if an operator asks.
    Kill {
        /// Its name.
        name: Option<CallName>,
        /// Which task.
        #[serde(with = "text")]
        task: TaskKey,
    },
    /// Says that updates are stored: each covers that one and all before it of its task.
    Acknowledge {
        /// Whose.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// The nonce of its session.
        session: u64,
        /// Which.
        updates: Vec<UpdateName>,
    },
    /// Asks for the states of tasks; an empty list means all that have not ended.
    Reconcile {
        /// Whose.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// Which.
        #[serde(with = "text::list")]
        tasks: Vec<TaskKey>,
    },
    /// Wants no offers in these roles; none means all.
    Suppress {
        /// Its name.
        name: CallName,
        /// Which roles.
        #[serde(with = "text::list")]
        roles: Vec<Role>,
    },
    /// Wants offers again in these roles; none means all.
    Revive {
        /// Its name.
        name: CallName,
        /// Which roles.
        #[serde(with = "text::list")]
        roles: Vec<Role>,
    },
    /// Ends a framework and all its tasks; `name` is absent if an operator asks.
    Teardown {
        /// Its name.
        name: Option<CallName>,
        /// Which framework.
        #[serde(with = "text")]
        framework: FrameworkId,
    },
    /// Offers no more of an agent.
    Deactivate {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// Offers it again.
    Reactivate {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// Declares an agent dead, for ever.
    MarkGone {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// Hands leadership over; `None` to any other voter.
    Transfer {
        /// To whom.
        #[serde(with = "text::option", default)]
        to: Option<NodeId>,
    },
    /// Makes these masters the voters.
    ChangeVoters {
        /// All of them.
        #[serde(with = "text::list")]
        voters: Vec<NodeId>,
    },
}

impl Operation {
    /// The numbered call that it is, if it is one.
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
            | Self::ChangeVoters { .. } => None,
        }
    }
}

/// One launch that was refused within an acceptance that was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Position among the launches.
    pub position: u32,
    /// `Rejection::code`.
    pub code: String,
}

/// A task's state, as an answer tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which task.
    #[serde(with = "text")]
    pub task: TaskKey,
    /// Its state.
    #[serde(with = "text")]
    pub state: TaskState,
}

/// What an operation that took place was answered. A refusal is no outcome: it is a `fail`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Done, or already so.
    Done,
    /// A register holds this; `None` means absent.
    Value {
        /// The value.
        value: Option<String>,
    },
    /// Whether a compare-and-set has set.
    Swapped {
        /// Whether it held what was expected.
        swapped: bool,
    },
    /// A scheduler is subscribed.
    Subscribed {
        /// As whom.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// Held offers that stay good.
        #[serde(with = "text::list")]
        kept: Vec<OfferId>,
        /// Held offers that are void.
        #[serde(with = "text::list")]
        rescinded: Vec<OfferId>,
    },
    /// An acceptance was applied, but for these launches.
    Accepted {
        /// By position.
        refused: Vec<Refusal>,
    },
    /// Answers to a reconciliation.
    Answers {
        /// One a task.
        answers: Vec<Answer>,
    },
}
