//! A master for one test: accepts streams of agents, sends the test's orders, returns the agents'
//! messages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::agents_server::{Agents, AgentsServer};
use argosy_proto::v1::from_agent::Message as FromAgent;
use argosy_proto::v1::leadership_server::{Leadership, LeadershipServer};
use argosy_proto::v1::network::Mode;
use argosy_proto::v1::to_agent::Message as ToAgent;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Timeout of every wait before a test fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// The cluster of every test.
pub(crate) const CLUSTER: &str = "000000000000000000000000000000aa";
/// The framework of every test.
pub(crate) const FRAMEWORK: &str = "framework-1";

#[derive(Clone)]
struct MasterService {
    streams: mpsc::Sender<AgentStream>,
    leadership: watch::Receiver<v1::Reign>,
}

#[tonic::async_trait]
impl Leadership for MasterService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Reign, Status>> + Send>>;

    async fn watch(
        &self,
        _: Request<v1::WatchReigns>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let updates = WatchStream::new(self.leadership.clone());
        Ok(Response::new(Box::pin(updates.map(Ok))))
    }
}

#[tonic::async_trait]
impl Agents for MasterService {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ToAgent, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        // A full queue means that the test no longer reads: it has failed.
        let (sender, receiver) = mpsc::channel(100_000);
        let link = AgentStream {
            inbound: request.into_inner(),
            outbound: sender,
            epoch: 5,
            reported: BTreeMap::new(),
            commits_updates: true,
            pings: 0,
            may_hang_up: false,
        };
        self.streams
            .send(link)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// A master that serves one port.
pub(crate) struct Master {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<AgentStream>,
    /// The leader that it reports.
    pub(crate) leadership: watch::Sender<v1::Reign>,
}

impl Master {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(16);
        let (leadership, reigns_seen) = watch::channel(v1::Reign::default());
        let service = MasterService {
            streams: sender,
            leadership: reigns_seen,
        };
        let server = tonic::transport::Server::builder()
            .add_service(AgentsServer::new(service.clone()))
            .add_service(LeadershipServer::new(service));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self {
            address,
            streams,
            leadership,
        }
    }

    /// Returns the next stream and its hello. A stream that has ended by then is skipped: on a busy
    /// host, an agent gives up its first attempt, after a second, and makes another one.
    pub(crate) async fn link(&mut self) -> (AgentStream, v1::Hello) {
        loop {
            if let Some((link, hello)) = self.try_link().await
                && !link.outbound.is_closed()
            {
                return (link, hello);
            }
        }
    }

    /// Does the same; returns `None` when the agent has disconnected before its hello arrived, as a
    /// crashing one may.
    pub(crate) async fn try_link(&mut self) -> Option<(AgentStream, v1::Hello)> {
        let next = tokio::time::timeout(TIMEOUT, self.streams.recv()).await;
        let mut link = next.expect("no agent connects").unwrap();
        match link.try_next().await? {
            FromAgent::Hello(hello) => Some((link, hello)),
            other => panic!("the first message is {other:?}"),
        }
    }

    /// As `link`, and registers the agent.
    pub(crate) async fn registered(&mut self, equal: bool) -> (AgentStream, v1::Hello) {
        let (mut link, hello) = self.link().await;
        link.register(&hello, equal).await;
        (link, hello)
    }
}

pub(crate) struct AgentStream {
    inbound: Streaming<v1::FromAgent>,
    outbound: mpsc::Sender<Result<v1::ToAgent, Status>>,
    pub(crate) epoch: u64,
    /// Updates by task, in order of arrival.
    reported: BTreeMap<String, Vec<v1::NumberedUpdate>>,
    /// Whether updates are committed, and ended tasks released, on arrival.
    pub(crate) commits_updates: bool,
    /// Number of received heartbeats.
    pub(crate) pings: u32,
    /// Whether the agent may be about to crash.
    pub(crate) may_hang_up: bool,
}

impl AgentStream {
    /// Registers the agent with a heartbeat interval that is long enough for no agent to leave
    /// during other work of a test on a busy host.
    pub(crate) async fn register(&mut self, hello: &v1::Hello, equal: bool) {
        self.register_with(hello, equal, 2_000).await;
    }

    pub(crate) async fn register_with(
        &mut self,
        hello: &v1::Hello,
        equal: bool,
        heartbeat_interval_ms: u64,
    ) {
        let registered = v1::Registered {
            agent_id: "agent-1".into(),
            incarnation: *hello
                .tried_incarnations
                .last()
                .unwrap_or(&hello.confirmed_incarnation),
            heartbeat_interval_ms,
            equal,
            protocol: None,
            ticket_keys: Vec::new(),
        };
        self.send(ToAgent::Registered(registered)).await;
    }

    pub(crate) async fn send(&mut self, message: ToAgent) {
        let envelope = v1::ToAgent {
            epoch: self.epoch,
            cluster_id: CLUSTER.into(),
            message: Some(message),
        };
        let output = self.outbound.send(Ok(envelope)).await;
        assert!(output.is_ok() || self.may_hang_up, "the agent has hung up");
    }

    pub(crate) async fn order(&mut self, index: u64, order: v1::order::Order) {
        let order = v1::Order {
            index,
            order: Some(order),
            ..v1::Order::default()
        };
        self.send(ToAgent::Order(order)).await;
    }

    pub(crate) async fn launch(&mut self, index: u64, spec: v1::TaskSpec) {
        self.order(index, launch(spec)).await;
    }

    /// Returns the next message that is not a ping; pings are answered.
    pub(crate) async fn next(&mut self) -> FromAgent {
        self.try_next().await.expect("the agent has hung up")
    }

    /// Does the same; returns `None` when the agent has disconnected.
    pub(crate) async fn try_next(&mut self) -> Option<FromAgent> {
        // Pings do not extend the deadline.
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        loop {
            let next = tokio::time::timeout_at(deadline, self.inbound.message()).await;
            let message = next.expect("the agent sends nothing").ok()??;
            match message.message.expect("a message has a body") {
                FromAgent::Ping(ping) => {
                    self.pings += 1;
                    self.send(ToAgent::Pong(ping)).await;
                }
                other => return Some(other),
            }
        }
    }

    /// Returns the agent's list of held tasks. Short: one chunk.
    pub(crate) async fn list(&mut self) -> v1::TaskList {
        self.try_list().await.expect("the agent has hung up")
    }

    /// Does the same; returns `None` when the agent has disconnected.
    pub(crate) async fn try_list(&mut self) -> Option<v1::TaskList> {
        self.send(ToAgent::ListTasks(v1::ListTasks {})).await;
        loop {
            if let FromAgent::TaskList(list) = self.try_next().await? {
                return Some(list);
            }
        }
    }

    pub(crate) async fn kill_stray(&mut self, task: &str, order_index: u64) {
        self.send(ToAgent::KillStray(v1::KillStray {
            framework_id: FRAMEWORK.into(),
            task_id: task.into(),
            order_index,
        }))
        .await;
    }

    /// Answers the agent, which would otherwise leave a silent master, during another operation.
    pub(crate) async fn answer_during<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                output = self.next() => {
                    if let FromAgent::Report(report) = output {
                        self.take(report).await;
                    }
                }
            }
        }
    }

    /// Reads reports until the task has ended; returns its updates, with merged ones as they
    /// arrived.
    pub(crate) async fn end_of(&mut self, task: &str) -> Vec<v1::NumberedUpdate> {
        self.until(task, is_terminal).await
    }

    /// Reads reports until an update of the task satisfies the condition; returns all of its
    /// updates so far.
    pub(crate) async fn until(
        &mut self,
        task: &str,
        wanted: impl Fn(&v1::NumberedUpdate) -> bool,
    ) -> Vec<v1::NumberedUpdate> {
        loop {
            if let Some(updates) = self
                .reported
                .get(task)
                .filter(|updates| updates.iter().any(&wanted))
            {
                return updates.clone();
            }
            let FromAgent::Report(report) = self.next().await else {
                continue;
            };
            self.take(report).await;
        }
    }

    /// Returns the updates of the next report.
    pub(crate) async fn news(&mut self) -> Vec<v1::NumberedUpdate> {
        loop {
            if let FromAgent::Report(report) = self.next().await {
                let updates = report.updates.clone();
                self.take(report).await;
                return updates;
            }
        }
    }

    /// Records the updates of a report, and commits them if `commits_updates` is set.
    pub(crate) async fn take(&mut self, report: v1::Report) {
        let mut committed = v1::Committed::default();
        for update in report.updates {
            committed.updates.push(v1::CommittedUpdate {
                framework_id: update.framework_id.clone(),
                task_id: update.task_id.clone(),
                order_index: update.order_index,
                number: update.number,
                released: is_terminal(&update),
            });
            self.reported
                .entry(update.task_id.clone())
                .or_default()
                .push(update);
        }
        if self.commits_updates {
            self.send(ToAgent::Committed(committed)).await;
        }
    }
}

pub(crate) fn is_terminal(update: &v1::NumberedUpdate) -> bool {
    argosy_proto::convert::state_from(update.state)
        .unwrap()
        .is_terminal()
}

pub(crate) fn launch(spec: v1::TaskSpec) -> v1::order::Order {
    v1::order::Order::Launch(v1::LaunchOrder {
        framework_id: FRAMEWORK.into(),
        role: "*".into(),
        spec: Some(spec),
        framework_name: "test".into(),
        never_start: false,
    })
}

pub(crate) fn kill(task: &str, grace_ms: u64) -> v1::order::Order {
    v1::order::Order::Kill(v1::KillOrder {
        framework_id: FRAMEWORK.into(),
        task_id: task.into(),
        grace_ms,
    })
}

/// Returns the same task in the network of its host.
pub(crate) fn in_hosts_network(spec: v1::TaskSpec) -> v1::TaskSpec {
    in_network(spec, Mode::Host(v1::HostNetwork {}))
}

/// Returns the same task without a network.
pub(crate) fn in_no_network(spec: v1::TaskSpec) -> v1::TaskSpec {
    in_network(spec, Mode::None(v1::NoNetwork {}))
}

fn in_network(mut spec: v1::TaskSpec, mode: Mode) -> v1::TaskSpec {
    let container = spec.container.get_or_insert_default();
    container.network = Some(v1::Network { mode: Some(mode) });
    spec
}

pub(crate) fn shell(task: &str, line: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: task.into(),
        shell: line.into(),
        ..v1::TaskSpec::default()
    }
}
