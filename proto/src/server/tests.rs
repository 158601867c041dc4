//! Tests of a server on real sockets, with short deadlines.

mod floods;
mod full_ports;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use axum::body::Bytes;
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::stalls::tests::{TestRoutes, read_until};
use super::*;
use crate::transport::{Connection, PeerIdentity};

/// Longer than any step here takes on a busy machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// The number of files that a request opens at a time, as a store does.
const FILES: usize = 100;
/// The variable that marks a process started by a test.
const CHILD: &str = "ARGOSY_TEST_SERVES";

fn limits(connections: usize) -> PortLimits {
    PortLimits {
        connections,
        per_peer: connections,
        ..PortLimits::of_descriptors("test", 10_000)
    }
}

async fn files() -> Result<String, String> {
    let opened: Result<Vec<_>, _> = (0..FILES).map(|_| File::open("/dev/null")).collect();
    opened
        .map_err(|why| why.to_string())
        .map(|files| files.len().to_string())
}

async fn started(limits: PortLimits) -> (SocketAddr, CancellationToken) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = Router::new()
        .route("/", get(async || "here"))
        .route("/files", get(files))
        .route(
            "/read",
            post(async |body: Bytes| format!("{} bytes", body.len())),
        )
        .route("/refuse", post(async || http::StatusCode::FORBIDDEN))
        .route("/never", get(std::future::pending::<()>));
    tokio::spawn(serve(Listener::tcp(socket), router, limits, stop.clone()));
    (address, stop)
}

/// Sends one request on a separate connection, and returns the status line and everything after it.
async fn ask(address: SocketAddr, path: &str) -> String {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    timeout(STEP_TIMEOUT, asked)
        .await
        .expect("it answers")
        .unwrap()
}

/// Waits until the peer has closed the connection, and returns the bytes before that.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset closes it as well.
    let _ = timeout(STEP_TIMEOUT, stream.read_to_end(&mut bytes))
        .await
        .expect("it is never closed");
    bytes
}

async fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    streams
}

#[tokio::test]
async fn silent_connections_beyond_the_limit_do_not_block_new_clients() {
    let (address, _stop) = started(limits(10)).await;
    // None of them reaches its deadline here: they are evicted.
    let mut streams = silent(address, 100).await;
    let answer = timeout(Duration::from_secs(8), ask(address, "/")).await;
    assert!(
        answer
            .expect("silent ones make room before their deadline")
            .ends_with("here")
    );
    for stream in &mut streams[..80] {
        closed(stream).await;
    }
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_at_its_deadline() {
    let head = Duration::from_millis(200);
    let (address, _stop) = started(PortLimits {
        head_timeout: head,
        ..limits(100)
    })
    .await;
    let began = Instant::now();
    for stream in &mut silent(address, 20).await {
        assert!(closed(stream).await.is_empty());
    }
    assert!(began.elapsed() >= head);
}

#[tokio::test]
async fn an_incomplete_request_head_is_closed_at_its_deadline() {
    let head = Duration::from_millis(200);
    let (address, _stop) = started(PortLimits {
        head_timeout: head,
        ..limits(100)
    })
    .await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET / HT").await.unwrap();
    closed(&mut first).await;
    let mut later = TcpStream::connect(address).await.unwrap();
    later
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"here") {
        answer.push(later.read_u8().await.unwrap());
    }
    later.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
    let began = Instant::now();
    closed(&mut later).await;
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "that is the idle limit"
    );
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_and_one_with_a_request_stays() {
    let idle = Duration::from_millis(300);
    let (head, second) = (Duration::from_millis(200), Duration::from_secs(1));
    let (address, _stop) = started(PortLimits {
        head_timeout: head,
        idle_timeout: idle,
        ..limits(100)
    })
    .await;
    let mut waiting = TcpStream::connect(address).await.unwrap();
    waiting
        .write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut kept = TcpStream::connect(address).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(closed(&mut kept).await).unwrap();
    assert!(answer.ends_with("here"), "{answer}");
    let more = timeout(second, waiting.read_u8()).await;
    assert!(more.is_err(), "it was closed during its request");
}

#[tokio::test]
async fn a_peer_without_ping_answers_is_disconnected() {
    let limits = PortLimits {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(200),
        ..limits(100)
    };
    let (address, _stop) = started(limits).await;
    let mut frozen = TcpStream::connect(address).await.unwrap();
    frozen
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    // Empty SETTINGS.
    frozen
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let began = Instant::now();
    closed(&mut frozen).await;
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "that is the idle limit"
    );
}

#[tokio::test]
async fn a_stopped_server_ends_its_connections_and_returns() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = Router::new().route("/", get(async || "here"));
    let serving = tokio::spawn(serve(
        Listener::tcp(socket),
        router,
        limits(10),
        stop.clone(),
    ));
    assert!(ask(address, "/").await.ends_with("here"));
    let mut idle = silent(address, 1).await;
    // It is accepted: a later connection has been answered.
    ask(address, "/").await;
    stop.cancel();
    timeout(STEP_TIMEOUT, serving)
        .await
        .expect("it returns")
        .unwrap();
    closed(&mut idle[0]).await;
}

#[test]
fn some_descriptors_are_reserved() {
    let of = |descriptors| PortLimits::of_descriptors("test", descriptors).connections;
    assert_eq!(of(1_024), 512);
    assert_eq!(of(20_000), 15_000);
    assert_eq!(of(65_536), 49_152);
    assert_eq!(of(100), 64, "a port without connections would be useless");
    assert_eq!(of(u64::MAX), 1 << 20);
}

/// The server with few descriptors, for the next test.
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn a_test_server_runs_until_its_input_ends() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let (address, _stop) = started(PortLimits::of_this_process("test")).await;
    println!("\nserves at {address}");
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_flood_of_connections_leaves_descriptors_for_files() {
    let name = "server::tests::a_test_server_runs_until_its_input_ends";
    let mut child = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 300; exec \"$0\" --exact \"$1\" --ignored --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let address = lines.find_map(|line| line.strip_prefix("serves at ").map(str::to_owned));
    let address: SocketAddr = address.expect("it serves").parse().unwrap();
    let flood = silent(address, 500).await;
    for _ in 0..10 {
        let answer = ask(address, "/files").await;
        assert!(answer.ends_with(&format!("\r\n\r\n{FILES}")), "{answer}");
    }
    drop(flood);
    let mut input = child.stdin.take().unwrap();
    input.flush().unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
}

/// Sends `sent` bytes of a call with a gRPC message of this length, and returns the answer.
async fn part_of_a_message(address: SocketAddr, length: usize, sent: usize) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /read HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/grpc\r\ncontent-length: {}\r\n\r\n",
        length + 5
    );
    let mut bytes = head.into_bytes();
    bytes.push(0);
    bytes.extend((length as u32).to_be_bytes());
    bytes.resize(bytes.len() + sent, 0);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let read = timeout(STEP_TIMEOUT, read).await.expect("it answers");
    read.expect("the answer is not lost to a reset");
    answer
}

#[tokio::test]
async fn incomplete_messages_are_bounded_in_bytes_and_time() {
    let (address, _stop) = started(PortLimits {
        incomplete_bytes_of_connection: 64 << 10,
        message_timeout: Duration::from_millis(500),
        ..limits(100)
    })
    .await;
    let whole = part_of_a_message(address, 20_000, 20_000).await;
    assert!(whole.ends_with("20005 bytes"), "{whole}");
    let began = Instant::now();
    let late = part_of_a_message(address, 20_000, 10_000).await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert!(late.starts_with("HTTP/1.1 400"), "{late}");
    let large = part_of_a_message(address, 1_000_000, 500_000).await;
    assert!(large.starts_with("HTTP/1.1 400"), "{large}");
    let whole = part_of_a_message(address, 20_000, 20_000).await;
    assert!(whole.ends_with("20005 bytes"), "{whole}");
}

#[tokio::test]
async fn a_client_gets_the_refusal_of_a_request_that_it_sends_to_its_end() {
    let (address, _stop) = started(limits(100)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = vec![b'x'; 2 << 20];
    let length = body.len();
    let head = format!("POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    let asked = async {
        for _ in 0..3 {
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
            read_until(&mut stream, "HTTP/1.1 403 Forbidden\r\n").await;
            read_until(&mut stream, "\r\n\r\n").await;
        }
    };
    timeout(STEP_TIMEOUT, asked).await.expect("it answers");
}

#[tokio::test]
async fn a_client_that_waits_for_permission_gets_the_refusal_of_a_large_body() {
    let (address, _stop) = started(limits(100)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // More than a handler reads by default.
    let body = vec![b'x'; 4 << 20];
    let length = body.len();
    let head = format!(
        "POST /read HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    let asked = async {
        stream.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
        stream.write_all(&body).await.unwrap();
        read_until(&mut stream, "HTTP/1.1 413 Payload Too Large\r\n").await;
    };
    timeout(STEP_TIMEOUT, asked).await.expect("it answers");
}

#[tokio::test]
async fn a_refused_request_without_end_is_cut_off() {
    let (address, _stop) = started(limits(100)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /refuse HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let part = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    let endless = async {
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut parts = 0;
        while stream.write_all(part.as_bytes()).await.is_ok() {
            parts += 1;
        }
        parts
    };
    let parts = timeout(STEP_TIMEOUT, endless).await.expect("it is cut off");
    assert!(parts >= (16 << 20) >> 16, "{parts}");
}

/// Returns the answers of a router that shows the peer, to two requests on one connection.
async fn seen(listener: Listener, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<String> {
    let show = async |Extension(peer): Extension<PeerIdentity>| peer.to_string();
    let router = Router::new().route("/", get(show));
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, router, limits(1), stop.clone()));
    let request =
        "GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answers = String::new();
    let read = stream.read_to_string(&mut answers);
    timeout(STEP_TIMEOUT, read)
        .await
        .expect("it answers")
        .unwrap();
    let bodies = answers.split("HTTP/1.1 200 OK").skip(1);
    let body = |answer: &str| Some(answer.split_once("\r\n\r\n")?.1.to_owned());
    bodies.filter_map(body).collect()
}

#[tokio::test]
async fn each_request_has_the_identity_of_its_peer() {
    let (near, far) = tokio::io::duplex(1 << 10);
    let alice = PeerIdentity::authenticated("operator/alice".parse().unwrap(), None);
    let connection = Ok((Connection::new(far), alice));
    let listener = Listener::new(futures::stream::iter([connection]));
    assert_eq!(seen(listener, near).await, ["operator/alice"; 2]);

    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(socket.local_addr().unwrap())
        .await
        .unwrap();
    let own = stream.local_addr().unwrap();
    let seen = seen(Listener::tcp(socket), stream).await;
    let plain = format!("an unauthenticated peer at {own}");
    assert_eq!(seen, [plain.clone(), plain]);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected_and_a_quiet_stream_is_not() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (routes, stop) = (TestRoutes::new(), CancellationToken::new());
    let limits = PortLimits {
        stall_timeout: Duration::from_millis(200),
        ..limits(10)
    };
    let serving = serve(Listener::tcp(socket), routes.router(), limits, stop.clone());
    tokio::spawn(serving);
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let steps = async {
        let mut quiet = ask("/quiet").await;
        read_until(&mut quiet, "first\r\n").await;
        let mut unread = ask("/endless").await;
        read_until(&mut unread, "\r\n\r\n").await;
        let _slot = routes.slots.acquire().await.unwrap();
        closed(&mut unread).await;
        routes.more.notify_one();
        read_until(&mut quiet, "second\r\n").await;
    };
    timeout(STEP_TIMEOUT, steps)
        .await
        .expect("its slot is released");
    stop.cancel();
}
