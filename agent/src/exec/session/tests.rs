//! Tests over real connections: how long a session is kept after its client's last message.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use argosy_proto::exec::{FRAME_LIMIT_BYTES, PROTOCOL, SILENCE_LIMIT};
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::routing::get;
use axum::serve::Listener;
use futures::SinkExt as _;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::*;
use crate::exec::negotiate;

/// A listener that keeps a second descriptor of each connection.
struct ObservedListener {
    listener: TcpListener,
    accepted: mpsc::Sender<std::net::TcpStream>,
}

impl Listener for ObservedListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let (stream, peer) = self.listener.accept().await.unwrap();
        let copy = stream.as_fd().try_clone_to_owned().unwrap();
        self.accepted.send(copy.into()).await.unwrap();
        (stream, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Both ends of a session's connection.
struct Connection {
    socket: WebSocket,
    client: WebSocketStream<TcpStream>,
    /// The end of `socket`.
    observed: std::net::TcpStream,
}

impl Connection {
    async fn open() -> Self {
        let (sockets, mut opened) = mpsc::channel(1);
        let (accepted, mut connections) = mpsc::channel(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = ObservedListener { listener, accepted };
        tokio::spawn(async move { axum::serve(listener, upgrading(sockets)).await });
        let stream = TcpStream::connect(address).await.unwrap();
        let client = client_of(stream).await;
        Self {
            socket: opened.recv().await.unwrap(),
            client,
            observed: connections.recv().await.unwrap(),
        }
    }
}

/// Returns a server that passes on its WebSocket.
fn upgrading(sockets: mpsc::Sender<WebSocket>) -> Router {
    let open = |upgrade: WebSocketUpgrade| async move {
        let upgrade = negotiate(Ok(upgrade), PROTOCOL).unwrap();
        upgrade.on_upgrade(move |socket| async move { sockets.send(socket).await.unwrap() })
    };
    Router::new().route("/", get(open))
}

async fn client_of<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    let mut request = "ws://agent/".into_client_request().unwrap();
    let (name, protocol) = ("sec-websocket-protocol", PROTOCOL.parse().unwrap());
    request.headers_mut().insert(name, protocol);
    let opening = tokio_tungstenite::client_async(request, stream);
    opening.await.unwrap().0
}

/// A listener with one connection, in memory.
struct MemoryListener(Option<DuplexStream>);

impl Listener for MemoryListener {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a connection that holds little in each direction. The system's connections drop what is
/// received while the client reads nothing, and retransmit it ever later.
async fn open_in_memory() -> (WebSocket, WebSocketStream<DuplexStream>) {
    let (sockets, mut opened) = mpsc::channel(1);
    let (stream, accepted) = duplex(64 * 1024);
    let listener = MemoryListener(Some(accepted));
    tokio::spawn(async move { axum::serve(listener, upgrading(sockets)).await });
    let client = client_of(stream).await;
    (opened.recv().await.unwrap(), client)
}

/// Waits until this many bytes have arrived.
fn wait_for_bytes(stream: &std::net::TcpStream, bytes: usize) {
    let mut buffer = vec![0; bytes];
    while stream.peek(&mut buffer).unwrap_or_default() < bytes {
        std::thread::yield_now();
    }
}

/// Waits until the other end has closed or reset a connection on which no bytes are unread.
fn wait_for_end(stream: &std::net::TcpStream) {
    let mut watched = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::NONE).unwrap();
}

/// Returns how long a session listens to a client whose command has ended. The clock of the test
/// advances only while there is nothing else to do.
async fn listening_time(socket: WebSocket) -> Duration {
    // The runtime notices what has arrived.
    tokio::task::yield_now().await;
    let receiver = SessionReceiver {
        frames: socket.split().1,
        running: None,
        terminal: None,
        idle_timeout: SILENCE_LIMIT,
    };
    let begin = Instant::now();
    receiver.listen(&InputQueue::default()).await;
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_at_once_when_its_client_closes_the_connection() {
    let Connection {
        socket,
        client,
        observed,
    } = Connection::open().await;
    drop(client);
    wait_for_end(&observed);
    assert_eq!(listening_time(socket).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_at_once_when_its_client_resets_the_connection() {
    let Connection {
        mut socket,
        client,
        observed,
    } = Connection::open().await;
    // A client that closes before it has read all resets the connection.
    let unread = Message::Binary(vec![0; 1_000].into());
    socket.send(unread).await.unwrap();
    let client = client.into_inner().into_std().unwrap();
    wait_for_bytes(&client, 1_000);
    drop(client);
    wait_for_end(&observed);
    assert_eq!(listening_time(socket).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_too_much_can_still_read_the_reason() {
    let Connection {
        socket,
        mut client,
        observed,
    } = Connection::open().await;
    let large = vec![0; FRAME_LIMIT_BYTES + 1];
    let sent = client.send(tungstenite::Message::Binary(large.into()));
    sent.await.unwrap();
    wait_for_bytes(&observed, FRAME_LIMIT_BYTES + 1);
    assert_eq!(listening_time(socket).await, CLOSE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_after_its_client_has_read_nothing_for_an_hour() {
    let (socket, mut client) = open_in_memory().await;
    let (sink, mut frames) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUE_FRAMES);
    let output = async {
        let frame = AgentFrame::Stdout(vec![b'x'; DATA_LIMIT_BYTES].into());
        while queue.send(frame.clone()).await.is_ok() {}
    };
    // It sends something, so that it does not count as silent, and reads nothing.
    let pings = async {
        while client.send(ping()).await.is_ok() {
            frames.next().await.unwrap().unwrap();
            sleep(SILENCE_LIMIT / 4).await;
        }
    };
    let two_hours = sleep(STALL_LIMIT * 2);
    let ended = tokio::select! {
        ended = send(sink, queued, SILENCE_LIMIT) => ended,
        () = output => panic!("its queue was closed"),
        () = pings => panic!("its connection broke"),
        () = two_hours => panic!("it never ends"),
    };
    assert_eq!(ended, Err("it read nothing for 3600 s".to_owned()));
}

fn ping() -> tungstenite::Message {
    tungstenite::Message::Ping(vec![0; 125].into())
}

#[tokio::test]
async fn answers_to_pings_of_a_client_that_reads_nothing_are_bounded() {
    const PINGS: usize = 10_000;
    let (mut socket, mut client) = open_in_memory().await;
    let sent = async {
        for _ in 0..PINGS {
            client.send(ping()).await.unwrap();
        }
    };
    let received = async {
        for _ in 0..PINGS {
            socket.recv().await.unwrap().unwrap();
        }
    };
    tokio::join!(sent, received);
    // Now it reads all answers that are there, up to a last message.
    let rest = async {
        socket.flush().await.unwrap();
        let last = Message::Binary(Bytes::from_static(b"last"));
        socket.send(last).await.unwrap();
    };
    let count = async {
        let mut answers = 0;
        while let tungstenite::Message::Pong(_) = client.next().await.unwrap().unwrap() {
            answers += 1;
        }
        answers
    };
    let ((), answers) = tokio::join!(rest, count);
    assert!(answers < PINGS / 2, "{answers}");
}

#[tokio::test(start_paused = true)]
async fn another_process_cannot_keep_the_session_of_an_ended_command_by_its_output() {
    let (input, _reader) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
    let (output, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
    let (queue, mut frames) = mpsc::channel(QUEUE_FRAMES);
    let forwarder = StreamForwarder {
        stdin: CommandStream::new(input).unwrap(),
        terminal: None,
        outputs: vec![(CommandStream::new(output).unwrap(), AgentFrame::Stdout)],
        queue,
    };
    let (end, ended) = oneshot::channel();
    end.send(ExecResult::Code(7)).unwrap();
    let writes = async {
        loop {
            // Fails once the output is closed.
            let _ = nix::unistd::write(&writer, b"x");
            sleep(DRAIN_LIMIT / 2).await;
        }
    };
    let ends = async {
        loop {
            if let Some(AgentFrame::End(end)) = frames.recv().await {
                return end;
            }
        }
    };
    let nothing = InputQueue::default();
    let end = tokio::select! {
        end = ends => end,
        never = forwarder.run(&nothing, ended) => match never {},
        () = writes => unreachable!("it writes until the session has ended"),
        () = sleep(5 * DRAIN_LIMIT) => panic!("the session is still open"),
    };
    assert!(matches!(end, ExecResult::Code(7)), "{end:?}");
}
