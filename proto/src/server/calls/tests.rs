//! Tests of the calls of one HTTP/2 connection on a real server, over a stream in memory that
//! counts writes.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use argosy_state::actor::PrincipalKind;
use axum::Router;
use axum::routing::get;
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt as _;

use crate::server::stalls::tests::{LONG, TestRoutes};
use crate::server::{PortLimits, serve};
use crate::transport::{Connection, Dialer, ExpectedPeer, Listener, PeerIdentity};

/// Longer than any step here takes on a busy machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const CALLS: usize = 64;

/// The server's end, with the number of its writes.
struct CountingStream(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for CountingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for CountingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(context, bytes));
        self.1.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// A server in this process, and a channel to it over one connection.
struct TestServer {
    channel: Channel,
    writes: Arc<AtomicUsize>,
    stop: CancellationToken,
}

fn served(router: Router) -> TestServer {
    let writes = Arc::new(AtomicUsize::new(0));
    let (dialed, accepted) = mpsc::channel(1);
    let counted = Arc::clone(&writes);
    let dialer = Dialer::new(move |_, _| {
        let (dialed, writes) = (dialed.clone(), Arc::clone(&counted));
        async move {
            let (near, far) = tokio::io::duplex(1 << 20);
            dialed
                .send(CountingStream(far, writes))
                .await
                .map_err(io::Error::other)?;
            let peer = PeerIdentity::unauthenticated(None);
            Ok((Connection::new(near), peer))
        }
    });
    let accepted = futures::stream::unfold(accepted, async |mut accepted| {
        let connection = accepted.recv().await?;
        Some((connection, accepted))
    });
    let listener = Listener::new(accepted.map(|connection| {
        let peer = PeerIdentity::unauthenticated(None);
        Ok((Connection::new(connection), peer))
    }));
    let stop = CancellationToken::new();
    let limits = PortLimits::of_descriptors("test", 10_000);
    tokio::spawn(serve(listener, router, limits, stop.clone()));
    let connector = dialer.connector(STEP_TIMEOUT, ExpectedPeer::any(PrincipalKind::Master));
    let channel = Endpoint::from_static("http://server").connect_with_connector_lazy(connector);
    TestServer {
        channel,
        writes,
        stop,
    }
}

async fn ask(channel: Channel, path: &'static str) -> Option<http::StatusCode> {
    let request = http::Request::get(path).body(tonic::body::Body::empty());
    let asked = channel.oneshot(request.unwrap());
    let answer = timeout(STEP_TIMEOUT, asked).await.expect("it is answered");
    answer.ok().map(|answer| answer.status())
}

/// Returns a router whose calls wait for the gate, and counts the waiting calls.
fn gated(gate: &Arc<Semaphore>, waiting: &Arc<AtomicUsize>) -> Router {
    let (gate, waiting) = (Arc::clone(gate), Arc::clone(waiting));
    let wait = async move || {
        waiting.fetch_add(1, Ordering::SeqCst);
        gate.acquire().await.expect("it is never closed").forget();
        Ok::<_, Infallible>("here")
    };
    Router::new().route("/gated", get(wait))
}

async fn wait_for_all(waiting: &AtomicUsize, count: usize) {
    let all = async {
        while waiting.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(STEP_TIMEOUT, all).await.expect("all calls come");
    // Frames that precede the answers, such as window updates, are written.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn simultaneous_answers_are_sent_in_one_write() {
    let (gate, waiting) = (Arc::new(Semaphore::new(0)), Arc::default());
    let served = served(gated(&gate, &waiting));
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        asked.spawn(ask(served.channel.clone(), "/gated"));
    }
    wait_for_all(&waiting, CALLS).await;
    let before = served.writes.load(Ordering::SeqCst);
    // The only worker thread waits until all permits exist. Otherwise a busy machine may run it
    // after each of them, and the answers are not ready together.
    let (entered, is_held) = std::sync::mpsc::channel();
    let (release, is_released) = std::sync::mpsc::channel();
    tokio::spawn(async move {
        entered.send(()).unwrap();
        is_released.recv().unwrap();
    });
    is_held.recv().unwrap();
    gate.add_permits(CALLS);
    release.send(()).unwrap();
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap(), Some(http::StatusCode::OK));
    }
    let writes = served.writes.load(Ordering::SeqCst) - before;
    assert!(writes <= CALLS / 4, "{writes} writes for {CALLS} answers");
    served.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_panic_in_a_call_ends_only_that_call() {
    let (gate, waiting) = (Arc::new(Semaphore::new(0)), Arc::default());
    let panics = get(async || -> &'static str { panic!("a defect, as this test plants it") });
    let served = served(gated(&gate, &waiting).route("/panics", panics));
    let other = tokio::spawn(ask(served.channel.clone(), "/gated"));
    wait_for_all(&waiting, 1).await;
    assert_eq!(ask(served.channel.clone(), "/panics").await, None);
    gate.add_permits(1);
    assert_eq!(other.await.unwrap(), Some(http::StatusCode::OK));
    served.stop.cancel();
}

/// Returns the parts of an answer. They are read only when they are taken.
async fn parts(channel: &Channel, path: &'static str) -> axum::body::BodyDataStream {
    let request = http::Request::get(path).body(tonic::body::Body::empty());
    let answer = channel.clone().oneshot(request.unwrap()).await.unwrap();
    axum::body::Body::new(answer.into_body()).into_data_stream()
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_answer_is_not_read_is_reset_and_others_continue() {
    let routes = TestRoutes::new();
    let served = served(routes.router());
    let mut quiet = parts(&served.channel, "/quiet").await;
    assert_eq!(quiet.next().await.unwrap().unwrap(), "first");
    let mut unread = parts(&served.channel, "/endless").await;
    let released = timeout(LONG, routes.slots.acquire()).await;
    let _slot = released.expect("its slot is released").unwrap();
    routes.more.notify_one();
    assert_eq!(quiet.next().await.unwrap().unwrap(), "second");
    // What was sent before, and then the reset.
    let mut last = unread.next().await;
    while let Some(Ok(_)) = last {
        last = unread.next().await;
    }
    last.expect("its answer has no end").unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_answer_is_read_in_parts_continues() {
    let routes = TestRoutes::new();
    let served = served(routes.router());
    let mut slow = parts(&served.channel, "/endless").await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(100)).await;
        // More than the window of this client.
        let mut taken = 0;
        while taken < 4 << 20 {
            taken += slow.next().await.unwrap().unwrap().len();
        }
        assert_eq!(routes.slots.available_permits(), 0);
    }
}
