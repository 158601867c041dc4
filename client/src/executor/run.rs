//! The stream of an executor to its agent, opened again whenever it ends.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::executor_client::ExecutorClient;
use argosy_proto::v1::from_executor::Message as FromExecutor;
use argosy_proto::v1::to_executor::Message as ToExecutor;
use argosy_proto::versions::VersionRange;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use super::state::ExecutorState;
use super::{
    AgentEndpoint, Executor, ExecutorDriver, MESSAGES, TaskName, TaskStateChange, UPDATE_CAPACITY,
};

/// Backoff between attempts, doubled up to the maximum: the agent may be down for any length of
/// time.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Timeout of one attempt.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// Capacity for messages to be sent. When it is full, updates wait, and messages are lost.
const OUTBOX: usize = 4_096;
/// Maximum size of a message, in bytes.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The reason for which an executor cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The token cannot be read.
    #[error("cannot read the token file {path} that the agent names")]
    Token {
        /// The token file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The agent does not accept this process as its executor.
    #[error("the agent rejects this executor: {0}")]
    Refused(String),
}

/// Keeps the stream open.
pub struct ExecutorRunner {
    endpoint: AgentEndpoint,
    driver: ExecutorDriver,
    changes: mpsc::Receiver<TaskStateChange>,
    messages: mpsc::Receiver<Vec<u8>>,
    state: ExecutorState,
    /// Set once the agent asks the executor to end.
    end_by: Option<Instant>,
}

struct ExecutorStream {
    outbox: mpsc::Sender<v1::FromExecutor>,
    inbound: Streaming<v1::ToExecutor>,
    /// The next updates to send: those for which the first message has no room, then one new one.
    unsent: VecDeque<v1::ExecutorUpdate>,
}

impl ExecutorRunner {
    /// Creates a runner that will connect to this agent.
    #[must_use]
    pub fn new(meeting: AgentEndpoint) -> Self {
        let (sender, news) = mpsc::channel(UPDATE_CAPACITY);
        let (outgoing, messages) = mpsc::channel(MESSAGES);
        Self {
            endpoint: meeting,
            driver: ExecutorDriver {
                changes: sender,
                messages: outgoing,
            },
            changes: news,
            messages,
            state: ExecutorState::default(),
            end_by: None,
        }
    }

    /// Returns a handle through which work reports its tasks.
    #[must_use]
    pub fn driver(&self) -> ExecutorDriver {
        self.driver.clone()
    }

    /// Runs until the agent asks the executor to end, and every update is acknowledged or the time
    /// for that has passed.
    ///
    /// # Errors
    /// If the agent can never accept it: the token is missing, or belongs to another executor.
    pub async fn run(mut self, executor: &mut impl Executor) -> Result<(), ExecutorError> {
        let mut wait = FIRST_WAIT;
        loop {
            match self.connect().await? {
                Some(stream) => {
                    wait = FIRST_WAIT;
                    self.serve_stream(stream, executor).await?;
                }
                None => wait = MAX_WAIT.min(wait * 2),
            }
            let is_late = self.end_by.is_some_and(|by| by <= Instant::now());
            if is_late || (self.end_by.is_some() && self.state.is_idle()) {
                return Ok(());
            }
            self.pause(wait).await;
        }
    }

    /// Connects to the agent; `None` if the attempt is to be repeated.
    async fn connect(&self) -> Result<Option<ExecutorStream>, ExecutorError> {
        let path = &self.endpoint.token_file;
        let token = tokio::fs::read(path)
            .await
            .map_err(|source| ExecutorError::Token {
                path: path.clone(),
                source,
            })?;
        let (subscribe, unsent) = self.state.subscribe(token);
        let first = v1::FromExecutor {
            message: Some(FromExecutor::Subscribe(subscribe)),
        };
        match tokio::time::timeout(TRY_LIMIT, self.open(first, unsent)).await {
            Ok(Ok(stream)) => Ok(Some(stream)),
            Ok(Err(status))
                if matches!(
                    status.code(),
                    Code::Unauthenticated | Code::FailedPrecondition
                ) =>
            {
                Err(ExecutorError::Refused(status.message().to_owned()))
            }
            Ok(Err(status)) => {
                tracing::debug!(why = status.message(), "the agent is not reachable yet");
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    async fn open(
        &self,
        first: v1::FromExecutor,
        unsent: VecDeque<v1::ExecutorUpdate>,
    ) -> Result<ExecutorStream, Status> {
        let address = format!("unix://{}", self.endpoint.socket.display());
        let endpoint = Endpoint::from_shared(address);
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let (outbox, outbound) = mpsc::channel(OUTBOX);
        outbox
            .try_send(first)
            .expect("the outbox is new and has room for one");
        let mut client = ExecutorClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let response = client.connect(ReceiverStream::new(outbound)).await?;
        let inbound = response.into_inner();
        Ok(ExecutorStream {
            outbox,
            inbound,
            unsent,
        })
    }

    /// Serves the stream until it ends, or the executor may end.
    async fn serve_stream(
        &mut self,
        mut stream: ExecutorStream,
        executor: &mut impl Executor,
    ) -> Result<(), ExecutorError> {
        loop {
            if self.end_by.is_some() && self.state.is_idle() {
                return Ok(());
            }
            let late = sleep_until(self.end_by);
            tokio::select! {
                () = late => return Ok(()),
                message = stream.inbound.message() => match message {
                    Ok(Some(message)) => self.handle_message(message, executor)?,
                    Ok(None) | Err(_) => return Ok(()),
                },
                Some(data) = self.messages.recv() => {
                    let message = Some(FromExecutor::FrameworkMessage(data));
                    // Delivery is not guaranteed.
                    let _ = stream.outbox.try_send(v1::FromExecutor { message });
                }
                Ok(place) = stream.outbox.reserve(), if !stream.unsent.is_empty() => {
                    let message = stream.unsent.pop_front().map(FromExecutor::Update);
                    place.send(v1::FromExecutor { message });
                }
                // The runner itself holds a sender, so the channel never ends.
                Some(news) = self.changes.recv(), if stream.unsent.is_empty() => {
                    stream.unsent.extend(self.state.update(news));
                }
            }
        }
    }

    fn handle_message(
        &mut self,
        message: v1::ToExecutor,
        executor: &mut impl Executor,
    ) -> Result<(), ExecutorError> {
        match message.message {
            Some(ToExecutor::Launch(launch)) => {
                let Some(spec) = launch.spec else {
                    return Ok(());
                };
                let name = TaskName {
                    task_id: spec.task_id.clone(),
                    order: launch.order_index,
                };
                if self.state.add(&name) {
                    executor.launch(name, spec, &self.driver);
                }
            }
            Some(ToExecutor::Kill(kill)) => {
                let name = TaskName {
                    task_id: kill.task_id,
                    order: kill.order_index,
                };
                if self.state.is_live(&name) {
                    let grace = Duration::from_millis(kill.grace_ms);
                    executor.kill(&name, grace, &self.driver);
                }
            }
            Some(ToExecutor::Acknowledged(acknowledged)) => {
                let name = TaskName {
                    task_id: acknowledged.task_id,
                    order: acknowledged.order_index,
                };
                self.state.acknowledged(&name, acknowledged.serial);
            }
            Some(ToExecutor::FrameworkMessage(data)) => executor.message(data, &self.driver),
            Some(ToExecutor::Shutdown(shutdown)) => {
                let grace = Duration::from_millis(shutdown.grace_ms);
                self.end_by = Some(Instant::now() + grace);
                executor.shutdown(grace);
            }
            Some(ToExecutor::Subscribed(subscribed)) => {
                let protocol = subscribed.protocol.as_ref();
                let agreed =
                    protocol.map(|output| VersionRange::OWN.negotiate("the agent", output));
                if let Some(Err(why)) = agreed {
                    return Err(ExecutorError::Refused(why.to_string()));
                }
            }
            // Messages that only a newer release knows need no answer.
            None => {}
        }
        Ok(())
    }

    /// Waits, and records events during the wait.
    async fn pause(&mut self, wait: Duration) {
        let over = Instant::now() + wait;
        while let Ok(Some(news)) = tokio::time::timeout_at(over, self.changes.recv()).await {
            self.state.update(news);
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1::executor_server::{Executor as Service, ExecutorServer};
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response};

    use super::*;

    /// An agent that passes on what an executor sends, and answers nothing.
    struct SilentAgent(mpsc::Sender<v1::FromExecutor>);

    #[tonic::async_trait]
    impl Service for SilentAgent {
        type ConnectStream = ReceiverStream<Result<v1::ToExecutor, Status>>;

        async fn connect(
            &self,
            request: Request<Streaming<v1::FromExecutor>>,
        ) -> Result<Response<Self::ConnectStream>, Status> {
            let (open, outbound) = mpsc::channel(1);
            let (mut inbound, sent) = (request.into_inner(), self.0.clone());
            tokio::spawn(async move {
                while let Ok(Some(message)) = inbound.message().await {
                    sent.send(message).await.unwrap();
                }
                drop(open);
            });
            Ok(Response::new(ReceiverStream::new(outbound)))
        }
    }

    struct Idle;

    impl Executor for Idle {
        fn launch(&mut self, _: TaskName, _: v1::TaskSpec, _: &ExecutorDriver) {}
        fn kill(&mut self, _: &TaskName, _: Duration, _: &ExecutorDriver) {}
    }

    fn running(order: u64) -> TaskStateChange {
        TaskStateChange {
            name: TaskName {
                task_id: "t".to_owned(),
                order,
            },
            state: v1::TaskState::Running,
            text: "x".repeat(1_024),
            exit: None,
        }
    }

    #[tokio::test]
    async fn updates_beyond_the_first_message_follow_it_before_newer_ones() {
        let place = std::env::temp_dir().join(format!("argosy-executor-{}", std::process::id()));
        std::fs::create_dir(&place).unwrap();
        let (socket, token_file) = (place.join("socket"), place.join("token"));
        std::fs::write(&token_file, "token").unwrap();
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let (sender, mut sent) = mpsc::channel(64);
        let agent = ExecutorServer::new(SilentAgent(sender)).max_decoding_message_size(4 << 20);
        let server = tonic::transport::Server::builder().add_service(agent);
        tokio::spawn(server.serve_with_incoming(incoming));

        let mut runner = ExecutorRunner::new(AgentEndpoint { socket, token_file });
        let mut made = Vec::new();
        for order in 1..=1_000 {
            runner.state.add(&running(order).name);
            made.extend((0..16).map(|_| runner.state.update(running(order)).unwrap()));
        }
        // As many as may wait.
        for _ in 0..UPDATE_CAPACITY {
            runner.driver().report(running(1_000)).await;
        }
        let run = tokio::spawn(async move { runner.run(&mut Idle).await });
        let first = sent.recv().await.unwrap().message;
        let Some(FromExecutor::Subscribe(first)) = first else {
            panic!("not a Subscribe")
        };
        let mut updates = first.unacknowledged;
        assert!(updates.len() < made.len());
        // The queue of the stream is full when the agent begins to read.
        tokio::time::sleep(Duration::from_millis(100)).await;
        while updates.len() < made.len() + UPDATE_CAPACITY {
            match sent.recv().await.unwrap().message {
                Some(FromExecutor::Update(update)) => updates.push(update),
                _ => panic!("not an update"),
            }
        }
        let newer = updates.split_off(made.len());
        assert!(updates == made, "all of them, in their order");
        let newer = newer
            .iter()
            .map(|update| (update.order_index, update.serial));
        assert!(newer.eq((17..).take(UPDATE_CAPACITY).map(|serial| (1_000, serial))));
        run.abort();
        std::fs::remove_dir_all(&place).unwrap();
    }
}
