//! What reaches the agent's loop: happenings, the next link, and questions from the API.

use argosy_proto::v1;
use argosy_state::ids::TaskKey;
use tokio::sync::{mpsc, oneshot};

use crate::core::{ContainerName, ExecutorSaid, Input, Instance};
use crate::executors::ExecutorSender;

/// Events that may wait for the loop. When full, whoever sends waits: streams are read later,
/// supervisors keep what they have to say, questions take longer.
pub(crate) const WAITING: usize = 4_096;

/// One thing for the loop to look at.
pub(crate) enum Event {
    /// For the core.
    Core(Input),
    /// A stream is open.
    Linked {
        /// Its number.
        link: u64,
        /// Into it.
        sender: mpsc::Sender<v1::FromAgent>,
        /// The master at the other end.
        address: String,
    },
    /// An executor has shown its token on a new stream.
    ExecutorLinked {
        /// Which executor.
        instance: Instance,
        /// Counts the streams of all executors.
        connection: u64,
        /// Into it.
        sender: ExecutorSender,
        /// What it said first.
        said: ExecutorSaid,
    },
    /// Somebody wants to know something.
    Ask(Question),
}

/// A question; the answer is dropped if nobody waits any more.
pub(crate) enum Question {
    /// Where a task's newest instance is, and whether it has ended.
    Task(TaskKey, oneshot::Sender<TaskView>),
    /// All containers.
    Containers(oneshot::Sender<Vec<ContainerView>>),
    /// Whether this agent is registered, and as what.
    Standing(oneshot::Sender<Standing>),
}

/// What the loop knows of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskView {
    /// Under whose name its sandboxes are: its own, or its executor's.
    pub(crate) home: TaskKey,
    /// Where it is; `None` if it is not held.
    pub(crate) container: Option<ContainerName>,
    /// Whether no more output will come.
    pub(crate) ended: bool,
}

/// One container, for people.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct ContainerView {
    pub(crate) container: String,
    pub(crate) framework_id: String,
    pub(crate) task_id: String,
    pub(crate) order: u64,
    pub(crate) state: &'static str,
    pub(crate) pid: Option<i32>,
    pub(crate) held: bool,
    /// What its checks have told last; nothing without checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthy: Option<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<Told>,
    /// Whom it runs, if it is an executor's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tasks: Vec<String>,
    #[serde(skip)]
    pub(crate) name: ContainerName,
    /// The name of what it has in common with others.
    #[serde(skip)]
    pub(crate) group: Option<ContainerName>,
}

/// What a check has told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Told {
    /// Whether all is well.
    passed: bool,
    /// Since when that is so, in milliseconds since 1970; `None` if an older release has told it.
    since_ms: Option<i64>,
}

impl Told {
    /// `None` if nothing is known.
    pub(crate) fn of(passed: Option<bool>, since_ms: Option<i64>) -> Option<Self> {
        passed.map(|passed| Self { passed, since_ms })
    }
}

/// How the agent stands with the masters.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Standing {
    pub(crate) agent_id: Option<String>,
    pub(crate) cluster_id: Option<String>,
    pub(crate) registered: bool,
    pub(crate) epoch: u64,
    pub(crate) floor: u64,
    pub(crate) tasks: usize,
}

/// How to ask the loop.
#[derive(Clone)]
pub(crate) struct Asker(mpsc::Sender<Event>);

impl Asker {
    pub(crate) fn new(inbox: mpsc::Sender<Event>) -> Self {
        Self(inbox)
    }

    /// `None` when the agent stops.
    pub(crate) async fn task(&self, key: TaskKey) -> Option<TaskView> {
        self.ask(|answer| Question::Task(key, answer)).await
    }

    /// `None` when the agent stops.
    pub(crate) async fn containers(&self) -> Option<Vec<ContainerView>> {
        self.ask(Question::Containers).await
    }

    /// `None` when the agent stops.
    pub(crate) async fn standing(&self) -> Option<Standing> {
        self.ask(Question::Standing).await
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.0.send(Event::Ask(question(sender))).await.ok()?;
        answer.await.ok()
    }
}
