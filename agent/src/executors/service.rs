//! The service `argosy.v1.Executor` on the socket of one executor. It decides only about
//! authentication.

use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::executor_server::{Executor, ExecutorServer};
use argosy_proto::v1::from_executor::Message as FromExecutor;
use argosy_proto::versions::{NoCommonVersion, VersionRange};
use argosy_state::limits::{EXECUTOR_MESSAGE_BYTES, NAME_BYTES};
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::directory::is_same_token;
use crate::broker_client::BrokerClient;
use crate::core::{ContainerName, ExecutorEvent, Input, Instance};
use crate::inbox::{Event, ExecutorMessages, outbox};
use crate::wire::{executor_task, executor_update};

/// Maximum number of connections of one executor; more wait in the kernel.
const CONNECTIONS: usize = 8;
/// Maximum number of streams on a connection; more wait in its client. An executor has one, and for
/// a moment another one that replaces it.
const STREAMS: u32 = 2;
/// Bytes of a stream that are accepted before the agent reads them.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Timeout for the executor's token.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of messages to a framework: at most a hundred a second from one executor, and a
/// mebibyte.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(10);
/// The interval of updates: at most a thousand a second, so that no executor monopolizes the agent.
const UPDATE_INTERVAL: Duration = Duration::from_millis(1);
const INTERVAL_PER_BYTE: Duration = Duration::from_nanos(1_000_000_000 / (1024 * 1024));
/// Maximum number of tasks and updates in a Subscribe: the core handles all of them in one step.
const SUBSCRIBE_ENTRIES: usize = 10_000;
/// The shortest interval of Subscribes, since the agent answers one with all missing tasks.
const SUBSCRIBE_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum size of a message of an executor, in bytes.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The agent's end of one socket.
#[derive(Clone)]
pub(super) struct ExecutorSocket {
    pub(super) instance: Instance,
    pub(super) connections: Arc<AtomicU64>,
    /// The channel to the agent's loop. While it is full, the executor is not read.
    pub(super) inbox: mpsc::Sender<Event>,
    pub(super) stop: CancellationToken,
}

struct ConnectService {
    service: ExecutorSocket,
    token: Vec<u8>,
    /// The permit to subscribe. Each Subscribe keeps it for a time that its size determines, so
    /// that streams in parallel are not faster. Further ones are refused, so that none is stored.
    turn: Arc<Semaphore>,
}

impl ExecutorSocket {
    /// Serves until it is stopped.
    pub(super) async fn run(self, name: ContainerName, broker: BrokerClient) -> io::Result<()> {
        let listening = tokio::task::spawn_blocking(move || broker.listen_executor(name));
        let listening = listening.await.expect("listening never panics");
        let (listener, peers, token) = listening.map_err(io::Error::other)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let stop = self.stop.clone();
        let service = self;
        let server = ExecutorServer::new(ConnectService::new(service, token))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let served = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * STREAMS)
            .add_service(server)
            .serve_with_incoming_shutdown(incoming(listener, peers), stop.cancelled_owned());
        served.await.map_err(io::Error::other)
    }

    async fn report(
        &self,
        connection: u64,
        event: ExecutorEvent,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let instance = self.instance;
        let input = Input::Executor {
            instance,
            connection,
            event,
        };
        self.inbox.send(Event::Core(input)).await
    }
}

impl ConnectService {
    fn new(service: ExecutorSocket, token: Vec<u8>) -> Self {
        Self {
            service,
            token,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Refuses a Subscribe that is too large, or that follows the last one too soon.
    fn admit(&self, subscribe: &v1::ExecutorSubscribe) -> Result<(), Status> {
        let count = subscribe.tasks.len() + subscribe.unacknowledged.len();
        if count > SUBSCRIBE_ENTRIES {
            return Err(Status::invalid_argument(format!(
                "tasks, unacknowledged: {count} entries are too many, at most {SUBSCRIBE_ENTRIES}"
            )));
        }
        let updated = subscribe.unacknowledged.iter();
        let updated = updated.map(|update| &update.task_id);
        let mut named = subscribe
            .tasks
            .iter()
            .map(|task| &task.task_id)
            .chain(updated);
        if named.any(|task_id| task_id.len() > NAME_BYTES) {
            return Err(Status::invalid_argument(format!(
                "tasks, unacknowledged: a task_id has at most {NAME_BYTES} bytes"
            )));
        }
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let turn = turn.map_err(|_| {
            Status::resource_exhausted("this executor has just subscribed; try again later")
        })?;
        let texts = subscribe.unacknowledged.iter();
        let bytes = texts.map(|update| update.text.len()).sum();
        let pace = (UPDATE_INTERVAL * size(count)).max(INTERVAL_PER_BYTE * size(bytes));
        let pace = pace.max(SUBSCRIBE_INTERVAL);
        // One asynchronous task for each socket, which ends after this time.
        tokio::spawn(async move {
            tokio::time::sleep(pace).await;
            drop(turn);
        });
        Ok(())
    }
}

#[tonic::async_trait]
impl Executor for ConnectService {
    type ConnectStream = ExecutorMessages;

    async fn connect(
        &self,
        request: Request<Streaming<v1::FromExecutor>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(SUBSCRIBE_TIMEOUT, inbound.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("subscribe first"))??;
        let Some(FromExecutor::Subscribe(subscribe)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("message: subscribe first"));
        };
        if !is_same_token(&self.token, &subscribe.token) {
            let text = "token: it is not this executor's; read the file that ARGOSY_EXECUTOR_TOKEN_FILE names";
            return Err(Status::unauthenticated(text));
        }
        let agreed = negotiated(subscribe.protocol.as_ref());
        let version = agreed.map_err(|why| Status::failed_precondition(why.to_string()))?;
        self.admit(&subscribe)?;
        let service = self.service.clone();
        let connection = service.connections.fetch_add(1, Ordering::Relaxed);
        let dropped = CancellationToken::new();
        let (sender, messages) = outbox(dropped.clone().drop_guard());
        let unacknowledged = subscribe.unacknowledged.into_iter();
        let linked = Event::ExecutorConnected {
            instance: service.instance,
            connection,
            sender,
            event: ExecutorEvent::Subscribed {
                tasks: subscribe.tasks.into_iter().map(executor_task).collect(),
                unacknowledged: unacknowledged.map(executor_update).collect(),
                version,
            },
        };
        let stopping = |_| Status::unavailable("the agent is stopping; try again");
        service.inbox.send(linked).await.map_err(stopping)?;
        // One asynchronous task per stream reads it, while another one writes. It ends with the
        // peer, the service, or when the loop drops the stream: another one replaces it, or its
        // queue is full.
        tokio::spawn(async move {
            tokio::select! {
                () = service.stop.cancelled() => return,
                () = dropped.cancelled() => {}
                () = read(&service, connection, inbound) => {}
            }
            // The loop ends only when the agent stops.
            let _ = service.report(connection, ExecutorEvent::Closed).await;
        });
        Ok(Response::new(messages))
    }
}

/// Returns the negotiated version of the protocol. An executor that names none uses the first one.
fn negotiated(range: Option<&v1::Protocol>) -> Result<u32, NoCommonVersion> {
    let first = v1::Protocol {
        version: 1,
        ..v1::Protocol::default()
    };
    VersionRange::OWN.negotiate("the executor", range.unwrap_or(&first))
}

/// Reports the messages of a stream until it ends or sends something invalid.
async fn read(service: &ExecutorSocket, connection: u64, mut inbound: Streaming<v1::FromExecutor>) {
    while let Ok(Some(message)) = inbound.message().await {
        let event = match message.message {
            // Such a task does not exist, and the acknowledgement would repeat its id.
            Some(FromExecutor::Update(update)) if update.task_id.len() > NAME_BYTES => break,
            Some(FromExecutor::Update(update)) => {
                tokio::time::sleep(
                    UPDATE_INTERVAL.max(INTERVAL_PER_BYTE * size(update.text.len())),
                )
                .await;
                ExecutorEvent::Update(Box::new(executor_update(update)))
            }
            Some(FromExecutor::FrameworkMessage(data)) if data.len() > EXECUTOR_MESSAGE_BYTES => {
                break;
            }
            Some(FromExecutor::FrameworkMessage(data)) => {
                // Throttles a flood of messages, and only its sender.
                tokio::time::sleep(MESSAGE_INTERVAL.max(INTERVAL_PER_BYTE * size(data.len())))
                    .await;
                ExecutorEvent::Message(data)
            }
            // From a newer release: it is repeated where that matters.
            None => continue,
            Some(FromExecutor::Subscribe(_)) => break,
        };
        if service.report(connection, event).await.is_err() {
            return;
        }
    }
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Returns the connections of these host users; others are closed.
fn incoming(
    listener: UnixListener,
    peers: RangeInclusive<u32>,
) -> impl Stream<Item = io::Result<CountedConnection>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    futures::stream::unfold(
        (listener, peers, places),
        |(listener, peers, places)| async move {
            loop {
                let permit = places.clone().acquire_owned().await.ok()?;
                let accepted = listener.accept().await;
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => return Some((Err(error), (listener, peers, places))),
                };
                let is_known = stream
                    .peer_cred()
                    .is_ok_and(|peer| peers.contains(&peer.uid()));
                if is_known {
                    let guarded = CountedConnection {
                        stream,
                        _permit: permit,
                    };
                    return Some((Ok(guarded), (listener, peers, places)));
                }
            }
        },
    )
}

/// A connection that is counted while it is open.
struct CountedConnection {
    stream: UnixStream,
    _permit: OwnedSemaphorePermit,
}

impl Connected for CountedConnection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for CountedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CountedConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1::executor_client::ExecutorClient;
    use futures::StreamExt;
    use tonic::Code;
    use tonic::transport::{Channel, Endpoint};

    use super::*;
    use crate::broker_client::request::{BrokerReply, BrokerRequest};

    /// Serves the socket of an executor whose token is empty; returns a client and the inbox.
    async fn served(
        directory: &std::path::Path,
    ) -> (ExecutorClient<Channel>, mpsc::Receiver<Event>) {
        let path = directory.join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let broker = BrokerClient::Local(Arc::new(move |request, _| {
            assert!(matches!(request, BrokerRequest::ListenForExecutor(_)));
            let reply = BrokerReply::Listening {
                first_peer: 0,
                last_peer: u32::MAX,
                token: Vec::new(),
            };
            Ok((reply, vec![listener.try_clone().unwrap().into()]))
        }));
        let (inbox, events) = mpsc::channel(8);
        let name: ContainerName = "1-1-1".parse().unwrap();
        let socket = ExecutorSocket {
            instance: name.instance,
            connections: Arc::default(),
            inbox,
            stop: CancellationToken::new(),
        };
        tokio::spawn(socket.run(name, broker));
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        (ExecutorClient::new(channel), events)
    }

    async fn subscribe(
        client: &mut ExecutorClient<Channel>,
        tasks: usize,
        updates: usize,
    ) -> Result<(), Status> {
        let subscribe = v1::ExecutorSubscribe {
            tasks: vec![v1::ExecutorTask::default(); tasks],
            unacknowledged: vec![v1::ExecutorUpdate::default(); updates],
            ..v1::ExecutorSubscribe::default()
        };
        let message = Some(FromExecutor::Subscribe(subscribe));
        let first = futures::stream::iter([v1::FromExecutor { message }]);
        client.connect(first).await.map(drop)
    }

    #[tokio::test]
    async fn a_subscribe_with_too_many_entries_is_refused_before_the_core_gets_it() {
        let directory = tempfile::tempdir().unwrap();
        let (mut client, mut events) = served(directory.path()).await;
        let refused = subscribe(&mut client, 5_000, 5_001).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(events.try_recv().is_err(), "the core got it");
        subscribe(&mut client, 5_000, 5_000).await.unwrap();
        let event = events.try_recv();
        assert!(matches!(event, Ok(Event::ExecutorConnected { .. })));
    }

    #[tokio::test]
    async fn a_large_subscribe_cannot_be_repeated_immediately() {
        let directory = tempfile::tempdir().unwrap();
        let (mut client, mut events) = served(directory.path()).await;
        subscribe(&mut client, 10_000, 0).await.unwrap();
        assert!(events.try_recv().is_ok());
        let early = subscribe(&mut client, 0, 0).await.unwrap_err();
        assert_eq!(early.code(), Code::ResourceExhausted, "{early}");
        assert!(!matches!(
            events.try_recv(),
            Ok(Event::ExecutorConnected { .. })
        ));
    }

    /// Opens a stream that sends these messages and stays open.
    async fn open(
        mut client: ExecutorClient<Channel>,
        messages: Vec<v1::FromExecutor>,
    ) -> Result<Streaming<v1::ToExecutor>, Status> {
        let stream = futures::stream::iter(messages).chain(futures::stream::pending());
        client.connect(stream).await.map(Response::into_inner)
    }

    #[tokio::test]
    async fn task_ids_that_no_task_can_have_do_not_reach_the_core() {
        let directory = tempfile::tempdir().unwrap();
        let (client, mut events) = served(directory.path()).await;
        let long = v1::ExecutorUpdate {
            task_id: "x".repeat(NAME_BYTES + 1),
            ..v1::ExecutorUpdate::default()
        };
        let subscribe = |unacknowledged| {
            FromExecutor::Subscribe(v1::ExecutorSubscribe {
                unacknowledged,
                ..v1::ExecutorSubscribe::default()
            })
        };
        let message = |message| v1::FromExecutor {
            message: Some(message),
        };
        let first = vec![message(subscribe(vec![long.clone()]))];
        let refused = open(client.clone(), first).await.map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(events.try_recv().is_err(), "the core got it");
        let messages = [subscribe(Vec::new()), FromExecutor::Update(long)].map(message);
        let _stream = open(client, messages.to_vec()).await.unwrap();
        let subscribed = events.recv().await;
        assert!(matches!(subscribed, Some(Event::ExecutorConnected { .. })));
        let ended = events.recv().await;
        let Some(Event::Core(Input::Executor { event, .. })) = ended else {
            panic!("the stream ends");
        };
        assert!(matches!(event, ExecutorEvent::Closed), "{event:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn streams_beyond_the_limit_of_a_connection_wait() {
        let directory = tempfile::tempdir().unwrap();
        let (mut client, _events) = served(directory.path()).await;
        // With its answer the client knows the limit.
        subscribe(&mut client, 0, 0).await.unwrap();
        let start = tokio::time::Instant::now();
        let silent = (0..=STREAMS).map(|_| {
            let stream = open(client.clone(), Vec::new());
            async move { (stream.await.map(drop), start.elapsed()) }
        });
        let ends = futures::future::join_all(silent).await;
        for (end, _) in &ends {
            let code = end.as_ref().unwrap_err().code();
            assert_eq!(code, Code::DeadlineExceeded);
        }
        // The last stream was admitted at the end of another one.
        let last = ends.iter().map(|(_, elapsed)| *elapsed).max();
        assert!(last >= Some(SUBSCRIBE_TIMEOUT * 2), "{last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_stream_is_no_longer_read() {
        let directory = tempfile::tempdir().unwrap();
        let (client, mut events) = served(directory.path()).await;
        let mut streams = Vec::new();
        // That of the agent's loop, which drops the sender of a replaced stream.
        let mut present = None;
        for number in 0..20 {
            let message = Some(FromExecutor::Subscribe(v1::ExecutorSubscribe::default()));
            let stream = open(client.clone(), vec![v1::FromExecutor { message }]).await;
            streams.push(stream.unwrap());
            let Some(Event::ExecutorConnected {
                connection, sender, ..
            }) = events.recv().await
            else {
                panic!("it has subscribed");
            };
            assert_eq!(connection, number);
            if present.replace(sender).is_some() {
                let ended = tokio::time::timeout(SUBSCRIBE_TIMEOUT, events.recv()).await;
                let Ok(Some(Event::Core(Input::Executor {
                    connection, event, ..
                }))) = ended
                else {
                    panic!("stream {} is still read", number - 1);
                };
                assert_eq!(connection, number - 1);
                assert!(matches!(event, ExecutorEvent::Closed), "{event:?}");
            }
            tokio::time::sleep(SUBSCRIBE_INTERVAL).await;
        }
    }
}
