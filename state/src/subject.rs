//! Subjects: what a deadline, an order or a digest is about.

use crate::ids::{AgentId, FrameworkId, TaskKey};

/// One thing of the registry, of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// An agent.
    Agent(AgentId),
    /// A framework.
    Framework(FrameworkId),
    /// A task.
    Task(TaskKey),
    /// A batch of operators' changes that was answered.
    Request {
        /// Whose it was.
        principal: String,
        /// How they called it.
        id: String,
    },
}

impl Subject {
    /// At or below all others.
    pub(crate) const FIRST: Self = Self::Agent(AgentId(0));
}
