//! The executor SDK: for a program that runs tasks of its framework on an agent's host.
//!
//! It reconnects, repeats updates that its agent has not acknowledged, and knows which tasks it has
//! already received. Reading order: `state` (tasks and unacknowledged updates), `run` (the stream).

mod run;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use argosy_proto::v1;
use tokio::sync::mpsc;

pub use run::ExecutorRunner;
pub use state::ExecutorState;

/// Capacity for messages that wait for the stream. When it is full, further ones are lost.
const MESSAGES: usize = 64;
/// Capacity for updates that wait for the stream. When it is full, callers wait.
const UPDATE_CAPACITY: usize = 1_024;

/// One instance of a task: an id may be reused for another instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskName {
    /// Id of the task within its framework.
    pub task_id: String,
    /// Index of the order that launched it.
    pub order: u64,
}

/// Callbacks of an executor, called on requests of its agent. No callback may block: work belongs
/// in separate tasks, which report it through the [`ExecutorDriver`].
pub trait Executor: Send {
    /// Runs a task; called once for each. The executor reports an update as soon as it has accepted
    /// the task.
    fn launch(&mut self, name: TaskName, spec: v1::TaskSpec, driver: &ExecutorDriver);

    /// Ends a task within the grace period. The end is reported by an update, unless the task has
    /// already ended.
    fn kill(&mut self, name: &TaskName, grace: Duration, driver: &ExecutorDriver);

    /// Receives a message of its framework. A message may arrive twice; one that was sent while a
    /// link was down never arrives.
    fn message(&mut self, _data: Vec<u8>, _driver: &ExecutorDriver) {}

    /// Asks the executor, which has no task left, to end within the grace period.
    /// [`ExecutorRunner::run`] returns when all updates are acknowledged.
    fn shutdown(&mut self, _grace: Duration) {}
}

/// Location and credentials of an executor's agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEndpoint {
    /// Path of the agent's socket.
    pub socket: PathBuf,
    /// Path of the file with the token that identifies the executor to the agent.
    pub token_file: PathBuf,
}

/// A variable that names the agent's socket or token file is missing in the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not set: have an agent start this program, as the executor of a task")]
pub struct NotAnExecutor(&'static str);

impl AgentEndpoint {
    /// Reads the location from the environment that the agent has set; pass `std::env::vars()`.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn from_environment(
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, NotAnExecutor> {
        let (mut socket, mut token_file) = (None, None);
        for (name, value) in environment {
            match name.as_str() {
                SOCKET => socket = Some(PathBuf::from(value)),
                TOKEN_FILE => token_file = Some(PathBuf::from(value)),
                _ => {}
            }
        }
        Ok(Self {
            socket: socket.ok_or(NotAnExecutor(SOCKET))?,
            token_file: token_file.ok_or(NotAnExecutor(TOKEN_FILE))?,
        })
    }
}

const SOCKET: &str = "ARGOSY_EXECUTOR_SOCKET";
const TOKEN_FILE: &str = "ARGOSY_EXECUTOR_TOKEN_FILE";

/// A handle through which the work of an executor reports its tasks to the agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ExecutorDriver {
    changes: mpsc::Sender<TaskStateChange>,
    messages: mpsc::Sender<Vec<u8>>,
}

/// A new state of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskStateChange {
    /// The task.
    pub name: TaskName,
    /// STARTING, RUNNING, or a final state: FINISHED, FAILED, KILLED or ERROR.
    pub state: v1::TaskState,
    /// A human-readable message; truncated to 1,024 bytes.
    pub text: String,
    /// The exit of its process, if it had one.
    pub exit: Option<v1::Exit>,
}

impl ExecutorDriver {
    /// Reports a state of a task. The report is kept, and repeated if necessary, until the agent
    /// has stored it on its disk. Waits while too many updates are unsent; does nothing once the
    /// executor has ended.
    pub async fn report(&self, change: TaskStateChange) {
        // The receiver is gone: the process is about to end.
        let _ = self.changes.send(change).await;
    }

    /// Sends the framework up to 65,536 bytes, if it can be reached now. A longer message is lost,
    /// and so is one that exceeds the capacity of the queue. Does not wait.
    pub fn message(&self, data: Vec<u8>) {
        if data.len() <= argosy_state::limits::EXECUTOR_MESSAGE_BYTES {
            // Delivery is not guaranteed.
            let _ = self.messages.try_send(data);
        }
    }

    /// Reports that a task runs.
    pub async fn running(&self, name: TaskName) {
        self.report(TaskStateChange {
            name,
            state: v1::TaskState::Running,
            text: String::new(),
            exit: None,
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_an_agent_gets_an_error() {
        let pair = |name: &str| (name.to_owned(), "/x".to_owned());
        let endpoint =
            AgentEndpoint::from_environment([pair(SOCKET), pair(TOKEN_FILE), pair("OTHER")])
                .unwrap();
        assert_eq!(endpoint.socket, PathBuf::from("/x"));
        let refused = AgentEndpoint::from_environment([pair(SOCKET)]).unwrap_err();
        assert!(refused.to_string().contains(TOKEN_FILE), "{refused}");
    }
}
