//! Messages between this agent and its executors, as the core works on them.

use std::sync::Arc;

use argosy_state::ids::{OrderIndex, TaskKey};
use argosy_state::task::{Exit, TaskState};

use crate::core::launch::LaunchOrder;

/// A message from the socket of an executor.
#[derive(Debug, Clone)]
pub enum ExecutorEvent {
    /// The executor has presented its token on a new stream.
    Subscribed {
        /// The tasks that the executor holds.
        tasks: Vec<ExecutorTask>,
        /// Updates that the agent has not acknowledged yet.
        unacknowledged: Vec<ExecutorUpdate>,
        /// The negotiated version of the protocol.
        version: u32,
    },
    /// One of its tasks is in a new state.
    Update(Box<ExecutorUpdate>),
    /// A message for its framework.
    Message(Vec<u8>),
    /// The stream has ended.
    Closed,
}

/// A task, as its executor names it.
#[derive(Debug, Clone)]
pub struct ExecutorTask {
    /// The id of the task; it may be invalid.
    pub task: String,
    pub order: OrderIndex,
}

/// A new state of a task, as its executor reports it.
#[derive(Debug, Clone)]
pub struct ExecutorUpdate {
    /// The id of the task; it may be invalid.
    pub task: String,
    pub order: OrderIndex,
    /// Counts from 1 for each task.
    pub serial: u64,
    /// The state; UNKNOWN if this release does not know it.
    pub state: TaskState,
    pub text: String,
    pub exit: Option<Exit>,
}

#[derive(Debug, Clone)]
pub enum ExecutorMessage {
    Subscribed {
        /// The negotiated version of the protocol.
        version: u32,
        /// The framework of the executor, and its id there.
        key: TaskKey,
    },
    /// Run this task.
    Launch {
        order: OrderIndex,
        launch: Arc<LaunchOrder>,
    },
    /// End this task.
    Kill {
        task: String,
        order: OrderIndex,
        grace_ms: u64,
    },
    /// The update, and all earlier ones of its task, are on disk.
    Acknowledged {
        task: String,
        order: OrderIndex,
        serial: u64,
    },
    /// Exit within this time.
    Shutdown {
        grace_ms: u64,
    },
    FrameworkMessage(Vec<u8>),
}
