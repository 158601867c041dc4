//! The inbox of the agent's loop: events, the next link, and queries from the API.

mod outbox;

use argosy_proto::ticket::TicketKey;
use argosy_proto::v1;
use argosy_state::ids::{AgentId, TaskKey};
use tokio::sync::{mpsc, oneshot};

use crate::core::{ContainerView, ExecutorEvent, Input, Instance, TaskView};

pub(crate) use outbox::{ExecutorMessages, ExecutorSender, outbox};

/// Capacity of the inbox. When it is full, senders wait: streams are read later, supervisors keep
/// their notices, queries take longer.
pub(crate) const WAITING: usize = 4_096;

/// One event for the loop.
pub(crate) enum Event {
    /// An input for the core.
    Core(Input),
    /// A message of a master.
    FromMaster {
        /// The number of the stream.
        link: u64,
        message: Box<v1::ToAgent>,
    },
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
    Containers(oneshot::Sender<Vec<ContainerView>>),
    /// Whether this agent is registered, and under which id.
    Registration(oneshot::Sender<RegistrationStatus>),
    /// The id and the keys with which tickets are verified.
    Tickets(oneshot::Sender<TicketAuthority>),
}

/// The id and the keys with which this agent verifies tickets.
#[derive(Debug, Clone)]
pub(crate) struct TicketAuthority {
    /// The id of this agent, once it has one.
    pub(crate) agent: Option<AgentId>,
    /// The keys that the leader has sent, if TLS authenticated this agent.
    pub(crate) keys: Vec<TicketKey>,
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

    /// Returns `None` when the agent stops.
    pub(crate) async fn tickets(&self) -> Option<TicketAuthority> {
        self.query(AgentQuery::Tickets).await
    }

    async fn query<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> AgentQuery) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.0.send(Event::Query(question(sender))).await.ok()?;
        answer.await.ok()
    }
}
