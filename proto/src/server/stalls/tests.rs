//! Tests of connections whose peers do not read, over streams in memory and in virtual time.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::activity::{ConnectionWatch, WatchedStream};
use super::super::admission::{AdmissionDecision, ConnectionAdmission};
use super::super::{GuardedBody, serve};
use super::*;
use crate::transport::{Connection, Listener, PeerIdentity};

/// Much longer than the limit, in virtual time.
pub(in super::super) const LONG: Duration = Duration::from_secs(3_600);
/// Less than the limit.
const PAUSE: Duration = Duration::from_secs(100);

/// What the routes of a test share.
pub(in super::super) struct TestRoutes {
    /// The slots of answers to `/endless`.
    pub(in super::super) slots: Arc<Semaphore>,
    /// Lets `/quiet` send its second and last part.
    pub(in super::super) more: Arc<Notify>,
}

impl TestRoutes {
    pub(in super::super) fn new() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(1)),
            more: Arc::default(),
        }
    }

    pub(in super::super) fn router(&self) -> Router {
        let (slots, more) = (Arc::clone(&self.slots), Arc::clone(&self.more));
        let endless = async move || {
            let slot = slots.try_acquire_owned().expect("there is one request");
            let bytes = futures::stream::repeat(Bytes::from_static(&[7; 16 << 10]));
            let body = Body::from_stream(bytes.map(Ok::<_, Infallible>));
            Response::new(Body::new(GuardedBody::new(body, slot)))
        };
        let quiet = async move || {
            let first = futures::stream::iter(["first"]);
            let second = futures::stream::once(async move {
                more.notified().await;
                "second"
            });
            Body::from_stream(first.chain(second).map(Ok::<_, Infallible>))
        };
        Router::new()
            .route("/endless", get(endless))
            .route("/quiet", get(quiet))
    }
}

fn limits() -> PortLimits {
    PortLimits::of_descriptors("test", 10_000)
}

/// Reads until the bytes end with this text.
pub(in super::super) async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        bytes.push(stream.read_u8().await.unwrap());
    }
}

/// Returns a client's end of a served connection that holds little, after a request for `path`.
async fn asked(routes: &TestRoutes, path: &str) -> tokio::io::DuplexStream {
    let (mut near, far) = tokio::io::duplex(1 << 10);
    let connection = Ok((Connection::new(far), PeerIdentity::unauthenticated(None)));
    let listener = Listener::new(futures::stream::iter([connection]));
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, routes.router(), limits(), stop));
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    near.write_all(request.as_bytes()).await.unwrap();
    near
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_disconnected_and_a_slow_one_is_not() {
    let routes = TestRoutes::new();
    let mut client = asked(&routes, "/endless").await;
    for _ in 0..10 {
        sleep(PAUSE).await;
        client.read_exact(&mut [0; 100]).await.unwrap();
        assert_eq!(routes.slots.available_permits(), 0);
    }
    let released = timeout(LONG, routes.slots.acquire()).await;
    let _slot = released.expect("its slot is released").unwrap();
    // What was sent before, and then the end.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_output_stays_open() {
    let routes = TestRoutes::new();
    let mut client = asked(&routes, "/quiet").await;
    read_until(&mut client, "first\r\n").await;
    sleep(LONG).await;
    routes.more.notify_one();
    read_until(&mut client, "second\r\n").await;
}

/// Returns the watched end of a connection.
fn watched(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Watched {
    let admission = Arc::new(ConnectionAdmission::new(1, 1));
    let peer = PeerIdentity::unauthenticated(None);
    let AdmissionDecision::Admitted(slot) = admission.admit(&peer).0 else {
        panic!("the first connection is admitted");
    };
    WatchedStream::new(Connection::new(stream), slot, StallLimit::of(&limits()))
}

type Watched = (WatchedStream, ConnectionWatch);

#[tokio::test(start_paused = true)]
async fn writes_of_a_web_socket_may_wait() {
    let (mut near, far) = tokio::io::duplex(4);
    let (mut stream, watch) = watched(far);
    stream.write_all(b"full").await.unwrap();
    watch.activity.detach();
    let writing = tokio::spawn(async move { stream.write_all(b"more").await });
    sleep(LONG).await;
    near.read_exact(&mut [0; 8]).await.unwrap();
    writing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn flushes_between_writes_are_no_progress() {
    let (_near, far) = tokio::io::duplex(4);
    let (mut stream, _watch) = watched(far);
    stream.write_all(b"full").await.unwrap();
    let writing = poll_fn(|context| {
        assert!(Pin::new(&mut stream).poll_flush(context).is_ready());
        Pin::new(&mut stream).poll_write(context, b"more")
    });
    let written = timeout(LONG, writing).await.expect("it is given up");
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

/// A transport that accepts bytes, and sends none of them.
struct Unsent;

impl AsyncRead for Unsent {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Unsent {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn flushes_and_shutdowns_that_do_not_end_are_given_up() {
    let (mut stream, _watch) = watched(Unsent);
    stream.write_all(b"text").await.unwrap();
    let flushed = timeout(LONG, stream.flush()).await.expect("it is given up");
    assert_eq!(flushed.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let closed = timeout(LONG, stream.shutdown()).await;
    let closed = closed.expect("it is given up");
    assert_eq!(closed.unwrap_err().kind(), io::ErrorKind::TimedOut);
}
