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
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::*;

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
        let open = |upgrade: WebSocketUpgrade| async move {
            let upgrade = upgrade.protocols([PROTOCOL]);
            let upgrade = upgrade.max_message_size(FRAME_LIMIT_BYTES);
            upgrade.on_upgrade(move |socket| async move { sockets.send(socket).await.unwrap() })
        };
        let router = Router::new().route("/", get(open));
        let listener = ObservedListener { listener, accepted };
        tokio::spawn(async move { axum::serve(listener, router).await });
        let stream = TcpStream::connect(address).await.unwrap();
        let mut request = format!("ws://{address}/").into_client_request().unwrap();
        let (name, protocol) = ("sec-websocket-protocol", PROTOCOL.parse().unwrap());
        request.headers_mut().insert(name, protocol);
        let opening = tokio_tungstenite::client_async(request, stream);
        let (client, _) = opening.await.unwrap();
        Self {
            socket: opened.recv().await.unwrap(),
            client,
            observed: connections.recv().await.unwrap(),
        }
    }
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
