//! The executor SDK: a program that runs tasks of its framework in the place of an agent.
//!
//! Reconnects, repeats what its agent has not acknowledged, and knows which tasks it was handed before. Reading order:
//! `book` (what is held and not acknowledged), `run` (the stream).

mod run;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use argosy_proto::v1;
use tokio::sync::mpsc;

pub use run::Runner;
pub use state::Book;

/// Messages that may wait for the stream. When full, further ones are lost.
const MESSAGES: usize = 64;
/// Updates that may wait for the stream. When full, whoever makes one waits.
const WAITING: usize = 1_024;

/// One instance of a task: an id may be used again for another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskName {
    /// Its id in the framework.
    pub task_id: String,
    /// The order that launched it.
    pub order: u64,
}

/// What an executor does when its agent asks for it. No call may block: work belongs into tasks of its own, which tell
/// of it by the [`Driver`].
pub trait Executor: Send {
    /// Runs a task: called once for each. An update is due as soon as it is taken.
    fn launch(&mut self, name: TaskName, spec: v1::TaskSpec, driver: &Driver);

    /// Ends a task, in this time. Its end is an update like any other; none is due if it has ended.
    fn kill(&mut self, name: &TaskName, grace: Duration, driver: &Driver);

    /// Something of its framework. It may come twice; what was sent while a link was down never does.
    fn message(&mut self, _data: Vec<u8>, _driver: &Driver) {}

    /// It has no task left, and this time to end: [`Runner::run`] returns when all updates are acknowledged.
    fn shutdown(&mut self, _grace: Duration) {}
}

/// Where an executor meets its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The file that holds what the agent knows it by.
    pub token_file: PathBuf,
}

/// What names where an executor meets its agent is not in its environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not set: have an agent start this program, as the executor of a task")]
pub struct NotAnExecutor(&'static str);

impl Meeting {
    /// Where the agent has said by the environment of a process; give it `std::env::vars()`.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn named_in(
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

/// How the work of an executor tells its agent of its tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Driver {
    news: mpsc::Sender<News>,
    messages: mpsc::Sender<Vec<u8>>,
}

/// A new state of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// Of which task.
    pub name: TaskName,
    /// STARTING, RUNNING, or an end: FINISHED, FAILED, KILLED or ERROR.
    pub state: v1::TaskState,
    /// For people; cut at 1,024 bytes.
    pub text: String,
    /// How its process ended, if it had one.
    pub exit: Option<v1::Exit>,
}

impl Driver {
    /// Tells of a task. It is kept, and repeated if need be, until the agent has it on its disk. Waits while very much is
    /// not sent yet; does nothing once the executor has ended.
    pub async fn tell(&self, news: News) {
        // Nobody is left to tell: the process is about to end.
        let _ = self.news.send(news).await;
    }

    /// Sends the framework up to 65,536 bytes, if it can be reached now; a longer one is lost, and so is one for which there
    /// is no room. Waits for nothing.
    pub fn message(&self, data: Vec<u8>) {
        if data.len() <= argosy_state::limits::EXECUTOR_MESSAGE_BYTES {
            // Nobody has promised more.
            let _ = self.messages.try_send(data);
        }
    }

    /// Tells that a task runs.
    pub async fn running(&self, name: TaskName) {
        self.tell(News {
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
    fn a_program_that_no_agent_started_is_told_so() {
        let pair = |name: &str| (name.to_owned(), "/x".to_owned());
        let meeting = Meeting::named_in([pair(SOCKET), pair(TOKEN_FILE), pair("OTHER")]).unwrap();
        assert_eq!(meeting.socket, PathBuf::from("/x"));
        let refused = Meeting::named_in([pair(SOCKET)]).unwrap_err();
        assert!(refused.to_string().contains(TOKEN_FILE), "{refused}");
    }
}
