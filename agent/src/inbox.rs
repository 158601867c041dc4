//! The inbox of the agent's loop: events, the next link, and queries from the API.

use argosy_proto::v1;
use argosy_state::ids::TaskKey;
use tokio::sync::{mpsc, oneshot};

use crate::core::{ContainerName, ExecutorEvent, Input, Instance};
use crate::executors::ExecutorSender;

/// Capacity of the inbox. When it is full, senders wait: streams are read later, supervisors keep
/// their notices, queries take longer.
pub(crate) const WAITING: usize = 4_096;

/// One event for the loop.
pub(crate) enum Event {
    /// An input for the core.
    Core(Input),
    /// A stream is open.
    LinkOpened {
        link: u64,
        /// The channel into the stream.
        sender: mpsc::Sender<v1::FromAgent>,
        /// The address of the master.
        address: String,
    },
    /// An executor has presented its token on a new stream.
    ExecutorConnected {
        instance: Instance,
        /// The number of the stream, over all executors.
        connection: u64,
        /// The channel into the stream.
        sender: ExecutorSender,
        /// Its first message.
        event: ExecutorEvent,
    },
    /// A query of the API.
    Query(AgentQuery),
}

/// A query; the answer is dropped if the requester no longer waits.
pub(crate) enum AgentQuery {
    /// The location of a task's newest instance, and whether it has ended.
    Task(TaskKey, oneshot::Sender<TaskView>),
    /// All containers.
    Containers(oneshot::Sender<Vec<ContainerView>>),
    /// Whether this agent is registered, and under which id.
    Registration(oneshot::Sender<RegistrationStatus>),
}

/// The loop's state of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskView {
    /// The name of the directory with its sandboxes: its own, or its executor's.
    pub(crate) sandbox_key: TaskKey,
    /// Its container; `None` if it is not held.
    pub(crate) container: Option<ContainerName>,
    /// Whether no more output will follow.
    pub(crate) ended: bool,
}

/// One container, for display.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct ContainerView {
    pub(crate) container: String,
    pub(crate) framework_id: String,
    pub(crate) task_id: String,
    pub(crate) order: u64,
    pub(crate) state: &'static str,
    pub(crate) pid: Option<i32>,
    pub(crate) held: bool,
    /// The last reported results of its checks; empty without checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthy: Option<ReportedCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<ReportedCheck>,
    /// The tasks that it runs, if it is an executor's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tasks: Vec<String>,
    #[serde(skip)]
    pub(crate) name: ContainerName,
    /// The name of the shared resources of its group.
    #[serde(skip)]
    pub(crate) group: Option<ContainerName>,
}

/// The last reported result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ReportedCheck {
    /// Whether the check passed.
    passed: bool,
    /// The time since which this holds, in milliseconds since 1970; `None` if an older release has
    /// reported it.
    since_ms: Option<i64>,
}

impl ReportedCheck {
    /// Returns `None` if nothing is known.
    pub(crate) fn of(passed: Option<bool>, since_ms: Option<i64>) -> Option<Self> {
        passed.map(|passed| Self { passed, since_ms })
    }
}

/// The agent's registration with the masters.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct RegistrationStatus {
    pub(crate) agent_id: Option<String>,
    pub(crate) cluster_id: Option<String>,
    pub(crate) registered: bool,
    pub(crate) epoch: u64,
    pub(crate) floor: u64,
    pub(crate) tasks: usize,
}

/// A sender of queries to the loop.
#[derive(Clone)]
pub(crate) struct QueryHandle(mpsc::Sender<Event>);

impl QueryHandle {
    pub(crate) fn new(inbox: mpsc::Sender<Event>) -> Self {
        Self(inbox)
    }

    /// Returns `None` when the agent stops.
    pub(crate) async fn task(&self, key: TaskKey) -> Option<TaskView> {
        self.query(|answer| AgentQuery::Task(key, answer)).await
    }

    /// Returns `None` when the agent stops.
    pub(crate) async fn containers(&self) -> Option<Vec<ContainerView>> {
        self.query(AgentQuery::Containers).await
    }

    /// Returns `None` when the agent stops.
    pub(crate) async fn registration(&self) -> Option<RegistrationStatus> {
        self.query(AgentQuery::Registration).await
    }

    async fn query<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> AgentQuery) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.0.send(Event::Query(question(sender))).await.ok()?;
        answer.await.ok()
    }
}
