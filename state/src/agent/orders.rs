//! Orders to agents, and their subjects.

use crate::capability::AgentCapability;
use crate::ids::TaskKey;
use crate::subject::Subject;

/// A kind of order: one action on one kind of subject. An agent announces the kinds that it
/// accepts, and is sent no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// Launches a task.
    Launch,
    /// Kills a task.
    Kill,
    /// Changes the limits of a task.
    Limits,
}

impl OrderKind {
    /// Returns the capability that an agent needs for orders of this kind.
    #[must_use]
    pub fn capability(self) -> AgentCapability {
        match self {
            Self::Launch => AgentCapability::LAUNCH,
            Self::Kill => AgentCapability::KILL,
            Self::Limits => AgentCapability::LIMITS,
        }
    }
}

/// An order that is still in effect. Its contents are in the record of its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Launches this task.
    Launch(TaskKey),
    /// Kills this task.
    Kill(TaskKey),
    /// Changes the limits of this task.
    Limits(TaskKey),
}

impl Order {
    /// Returns the kind of the order.
    #[must_use]
    pub fn kind(&self) -> OrderKind {
        match self {
            Self::Launch(_) => OrderKind::Launch,
            Self::Kill(_) => OrderKind::Kill,
            Self::Limits(_) => OrderKind::Limits,
        }
    }

    /// Returns the subject of the order.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::Launch(key) | Self::Kill(key) | Self::Limits(key) => Subject::Task(key.clone()),
        }
    }
}
