//! What an applied command has changed: the leader turns these into effects, followers drop them.
//!
//! An event carries what the registry can no longer tell.

use crate::ids::{AgentId, Epoch, FrameworkId, OrderIndex, Revision, Role, TaskKey};
use crate::level::Level;
use crate::task::TaskState;

/// A fact that has just become true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A reign began.
    EpochOpened(Epoch),
    /// An agent's record changed: mode, totals, attributes, incarnation or registration.
    AgentChanged(AgentId),
    /// An agent was declared gone.
    AgentGone(AgentId),
    /// The record of a lost agent went.
    AgentForgotten(AgentId),
    /// A session of a framework began, or it is recorded as connected again.
    FrameworkSubscribed(FrameworkId),
    /// A framework's info, suppression or connection changed.
    FrameworkChanged(FrameworkId),
    /// Roles of a framework were revived: its filters there are void.
    FrameworkRevived {
        /// Which framework.
        framework: FrameworkId,
        /// Which roles, by name; never empty.
        roles: Vec<Role>,
    },
    /// The weight of a role was set.
    WeightChanged(Role),
    /// A framework is being removed: its stream ends.
    FrameworkRemoving(FrameworkId),
    /// A framework is gone for good.
    FrameworkRemoved(FrameworkId),
    /// A task was accepted for an agent under an order.
    TaskLaunched {
        /// Which.
        key: TaskKey,
        /// Where.
        agent: AgentId,
        /// The order that carries it.
        order: OrderIndex,
    },
    /// A task is wanted dead under an order.
    TaskKillWanted {
        /// Which.
        key: TaskKey,
        /// Where.
        agent: AgentId,
        /// The order that carries it.
        order: OrderIndex,
    },
    /// A task is to have other limits under an order.
    TaskLimitsWanted {
        /// Which.
        key: TaskKey,
        /// Where.
        agent: AgentId,
        /// The order that carries it.
        order: OrderIndex,
    },
    /// A task has a new update for its framework.
    TaskUpdated {
        /// Which.
        key: TaskKey,
        /// Where.
        agent: AgentId,
        /// Names the update.
        revision: Revision,
        /// The new state.
        state: TaskState,
    },
    /// An agent may forget an update, and with it the task if `released`.
    UpdateSettled {
        /// Which agent.
        agent: AgentId,
        /// Which task.
        key: TaskKey,
        /// The order that launched the instance.
        order: OrderIndex,
        /// The update, and all before it.
        number: u64,
        /// Nothing more is wanted of this instance.
        released: bool,
    },
    /// An agent holds an instance that is not wanted.
    Stray {
        /// Which agent.
        agent: AgentId,
        /// Which task.
        key: TaskKey,
        /// The order that launched the instance.
        order: OrderIndex,
    },
    /// A chunk of an agent's list was compared, the last one if `complete`.
    AgentReconciled {
        /// Which agent.
        agent: AgentId,
        /// Whether it was the last chunk.
        complete: bool,
    },
    /// A task's record was moved to the history.
    TaskForgotten(TaskKey),
    /// Resources of an agent became free or taken.
    AgentUsageChanged(AgentId),
    /// A larger change waits for sweeps.
    SweepNeeded,
    /// The feature level of the cluster was raised.
    LevelRaised(Level),
    /// The leader's digest of the registry after an entry is in the log.
    DigestLogged {
        /// The log index of that entry.
        index: u64,
        /// The leader's digest.
        digest: u128,
    },
}
