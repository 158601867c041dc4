//! Events: the changes of an applied command. The leader turns them into effects; followers discard
//! them.
//!
//! An event carries the facts that the registry no longer holds.

use crate::access::{KeyHash, Subject, TokenId};
use crate::actor::Principal;
use crate::ids::{AgentId, Epoch, FrameworkId, OrderIndex, Revision, Role, TaskKey};
use crate::level::Level;
use crate::task::TaskState;

/// A fact that has just become true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An epoch was opened.
    EpochOpened(Epoch),
    /// The record of an agent changed: mode, totals, attributes, incarnation or registration.
    AgentChanged(AgentId),
    /// An agent was declared gone.
    AgentGone(AgentId),
    /// The record of a lost agent was removed.
    AgentForgotten(AgentId),
    /// A session of a framework began, or the framework is recorded as connected again.
    FrameworkSubscribed(FrameworkId),
    /// The info, suppression or connection of a framework changed.
    FrameworkChanged(FrameworkId),
    /// Roles of a framework were revived: its filters in them are cancelled.
    FrameworkRevived {
        /// The framework.
        framework: FrameworkId,
        /// The roles by name; never empty.
        roles: Vec<Role>,
    },
    /// The weight of a role was set.
    WeightChanged(Role),
    /// A fact of access changed.
    AccessChanged(AccessChange),
    /// A framework is being removed: its stream ends.
    FrameworkRemoving(FrameworkId),
    /// A framework was removed permanently.
    FrameworkRemoved(FrameworkId),
    /// A task was launched on an agent by an order.
    TaskLaunched {
        /// The task.
        key: TaskKey,
        /// The agent.
        agent: AgentId,
        /// The order that launches the task.
        order: OrderIndex,
    },
    /// The kill of a task was requested by an order.
    TaskKillRequested {
        /// The task.
        key: TaskKey,
        /// The agent.
        agent: AgentId,
        /// The order that kills the task.
        order: OrderIndex,
    },
    /// A change of a task's limits was requested by an order.
    TaskLimitsRequested {
        /// The task.
        key: TaskKey,
        /// The agent.
        agent: AgentId,
        /// The order that changes the limits.
        order: OrderIndex,
    },
    /// A task has a new update for its framework.
    TaskUpdated {
        /// The task.
        key: TaskKey,
        /// The agent.
        agent: AgentId,
        /// The revision that identifies the update.
        revision: Revision,
        /// The new state.
        state: TaskState,
    },
    /// An agent may remove an update, and the task too if `released`.
    UpdateReleased {
        /// The agent.
        agent: AgentId,
        /// The task.
        key: TaskKey,
        /// The order that launched the instance.
        order: OrderIndex,
        /// The number of the update; it covers all before it.
        number: u64,
        /// Whether nothing more of this instance is needed.
        released: bool,
    },
    /// An agent holds an orphan: an instance that is unknown, has ended, or belongs to another
    /// agent.
    OrphanFound {
        /// The agent.
        agent: AgentId,
        /// The task.
        key: TaskKey,
        /// The order that launched the instance.
        order: OrderIndex,
    },
    /// A chunk of an agent's list was reconciled.
    AgentReconciled {
        /// The agent.
        agent: AgentId,
        /// Whether it was the last chunk.
        complete: bool,
    },
    /// The record of a task was moved to the history.
    TaskForgotten(TaskKey),
    /// Resources of an agent became free or used.
    AgentUsageChanged(AgentId),
    /// A larger change has a pending sweep.
    SweepNeeded,
    /// The feature level of the cluster was raised.
    LevelRaised(Level),
    /// The log holds the leader's digest of the registry after an entry.
    DigestLogged {
        /// The log index of that entry.
        index: u64,
        /// The leader's digest.
        digest: u128,
    },
}

/// A fact of access that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessChange {
    /// The rules and groups were replaced.
    Policy,
    /// A token was created.
    TokenCreated(TokenId),
    /// A token was revoked, or was removed because it is expired: streams that it authenticated
    /// end.
    TokenRemoved(TokenId),
    /// A key was revoked: streams that it authenticated end.
    KeyRevoked(KeyHash),
    /// A principal was bound to its key.
    KeyBound(Principal),
    /// The limit of a subject's rate was set or removed.
    Limit(Subject),
}
