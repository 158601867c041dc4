//! Subjects: the objects of deadlines, orders and digests.

use crate::ids::{AgentId, FrameworkId, TaskKey};

/// An object in the registry, of any kind.
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
        /// The principal that sent the batch.
        principal: String,
        /// The request id, chosen by the principal.
        id: String,
    },
}

impl Subject {
    /// The smallest subject.
    pub(crate) const FIRST: Self = Self::Agent(AgentId(0));
}
