//! Attacks with frames of HTTP/2: each ends its own connection after a bounded number of bytes, and
//! other clients are served.
//!
//! The attacker's connection is a stream in memory that holds little. So what it can send before
//! the end is what the server has read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::*;
use crate::transport::IdentifiedConnection;

/// What the stream in memory holds in each direction.
const PIPE_BYTES: usize = 16 << 10;
/// An attack that has sent this much was not stopped.
const ENOUGH: usize = 16 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The fields of `GET /` at `x`, of which all but the last are entries of the static table.
const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'x'];
/// The same for `/never`, which is never answered.
const ENDLESS_REQUEST: &[u8] = b"\x82\x86\x04\x06/never\x41\x01x";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// Returns the field `name`, which is as long as the value, without an entry in a table.
fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name.as_bytes(), value] {
        bytes.extend(integer(text.len(), 7));
        bytes.extend(text);
    }
    bytes
}

/// Returns an integer of HPACK whose first byte has this many bits for it.
fn integer(value: usize, bits: u8) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![value as u8];
    }
    let (mut bytes, mut rest) = (vec![most as u8], value - most);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

/// A server with the connections of this test, and how many calls it is processing.
struct TestPort {
    connections: mpsc::UnboundedSender<std::io::Result<IdentifiedConnection>>,
    running: Arc<AtomicUsize>,
    _stop: tokio_util::sync::DropGuard,
}

/// Counts a call while it exists.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TestPort {
    fn start(limits: PortLimits) -> Self {
        let (connections, accepted) = mpsc::unbounded_channel();
        let running = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&running);
        let never = async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let _running = Running(counted);
            std::future::pending::<()>().await;
        };
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/never", get(never));
        let stop = CancellationToken::new();
        let accepted = futures::stream::unfold(accepted, async |mut accepted| {
            Some((accepted.recv().await?, accepted))
        });
        let listener = Listener::new(accepted);
        tokio::spawn(serve(listener, router, limits, stop.clone()));
        Self {
            connections,
            running,
            _stop: stop.drop_guard(),
        }
    }

    fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let peer = PeerIdentity::unauthenticated(None);
        self.connections
            .send(Ok((Connection::new(far), peer)))
            .unwrap();
        near
    }

    /// Returns a connection of HTTP/2, and reads what the server sends until it ends.
    async fn attack(&self) -> Attacker {
        let (received, mut stream) = tokio::io::split(self.connect());
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let bytes = Arc::default();
        let mut attacker = Attacker {
            stream,
            received: Arc::clone(&bytes),
            reading: tokio::spawn(read_all(received, bytes)),
            sent: 0,
        };
        assert!(attacker.send(&frame(SETTINGS, 0, 0, &[])).await);
        attacker
    }

    /// Checks that another client is served.
    async fn serves_others(&self) {
        let mut stream = self.connect();
        let asked = async {
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = timeout(STEP_TIMEOUT, asked).await.unwrap().unwrap();
        assert!(answer.ends_with("here"), "{answer}");
    }
}

async fn read_all(mut stream: ReadHalf<DuplexStream>, bytes: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 4 << 10];
    // A broken stream has ended as well.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        bytes.lock().unwrap().extend_from_slice(&buffer[..count]);
    }
}

struct Attacker {
    stream: WriteHalf<DuplexStream>,
    received: Arc<Mutex<Vec<u8>>>,
    reading: tokio::task::JoinHandle<()>,
    sent: usize,
}

impl Attacker {
    /// Sends bytes; false if the server has closed the connection.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(STEP_TIMEOUT, self.stream.write_all(bytes)).await;
        self.sent += bytes.len();
        sent.expect("the server reads or closes").is_ok()
    }

    /// Sends what `next` returns until the server closes the connection. Returns the bytes that it
    /// took, and the error code of its last frame.
    async fn until_closed(mut self, mut next: impl FnMut(u32) -> Vec<u8>) -> (usize, Option<u32>) {
        let mut number = 0;
        while self.sent < ENOUGH && self.send(&next(number)).await {
            number += 1;
        }
        assert!(self.sent < ENOUGH, "the attack goes on");
        timeout(STEP_TIMEOUT, self.reading).await.unwrap().unwrap();
        let received = frames(&self.received.lock().unwrap());
        let last = received.into_iter().rev();
        let code = last.filter(|frame| frame.kind == GOAWAY).find_map(|frame| {
            let code = frame.payload.get(4..8)?;
            Some(u32::from_be_bytes(code.try_into().ok()?))
        });
        (self.sent, code)
    }

    /// Waits for a frame of the server that ends a stream, or for the end of the connection.
    /// Returns all frames until then.
    async fn answer(&self, stream: u32) -> Vec<Frame> {
        let answered = async {
            loop {
                let is_over = self.reading.is_finished();
                let all = frames(&self.received.lock().unwrap());
                let ends = |frame: &Frame| {
                    frame.stream == stream
                        && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0)
                };
                if is_over || all.iter().any(ends) {
                    return all;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(STEP_TIMEOUT, answered)
            .await
            .expect("it is answered")
    }
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// Returns the complete frames in these bytes.
fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        frames.push(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    frames
}

/// The number of the stream of a client.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// Rapid reset, CVE-2023-44487.
#[tokio::test]
async fn streams_that_are_reset_at_once_end_their_connection() {
    let port = TestPort::start(limits(10));
    let attacker = port.attack().await;
    let (sent, code) = attacker
        .until_closed(|number| {
            let stream = stream(number);
            let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, ENDLESS_REQUEST);
            let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            [open, reset].concat()
        })
        .await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    assert!(sent < 1 << 20, "{sent}");
    port.serves_others().await;
    let gone = async {
        while port.running.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(STEP_TIMEOUT, gone).await.expect("its calls end");
}

/// The client waits until each call has begun before it cancels it.
#[tokio::test]
async fn cancelled_calls_end_and_do_not_pile_up() {
    let port = TestPort::start(limits(10));
    let mut attacker = port.attack().await;
    for number in 0..2_000 {
        let stream = stream(number);
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, ENDLESS_REQUEST);
        assert!(attacker.send(&open).await);
        let changes = async |wanted: usize| {
            while port.running.load(Ordering::SeqCst) != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(STEP_TIMEOUT, changes(1)).await.expect("it begins");
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        assert!(attacker.send(&reset).await);
        timeout(STEP_TIMEOUT, changes(0)).await.expect("it ends");
    }
    port.serves_others().await;
}

/// More calls than a connection may have.
#[tokio::test]
async fn calls_beyond_the_limit_of_a_connection_are_refused() {
    let most = 50;
    let port = TestPort::start(PortLimits {
        streams: most,
        ..limits(10)
    });
    let attacker = port.attack().await;
    let (_, code) = attacker
        .until_closed(|number| {
            frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                stream(number),
                ENDLESS_REQUEST,
            )
        })
        .await;
    // Each one beyond the limit is reset by the server, which bounds the number of these, too.
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    port.serves_others().await;
    assert!(port.running.load(Ordering::SeqCst) <= most as usize);
}

/// CVE-2024-27316 and others: a head that never ends.
#[tokio::test]
async fn endless_continuations_end_their_connection() {
    for payload in [&b""[..], &field("x", &[b'x'; 1_000])] {
        let port = TestPort::start(limits(10));
        let attacker = port.attack().await;
        let (sent, code) = attacker
            .until_closed(|number| match number {
                0 => frame(HEADERS, END_STREAM, 1, REQUEST),
                _ => frame(CONTINUATION, 0, 1, payload),
            })
            .await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{} bytes", payload.len());
        // No more than a head may have, and what waits in the stream.
        assert!(sent < (128 << 10) + 4 * PIPE_BYTES, "{sent}");
        port.serves_others().await;
    }
}

/// A request whose head is larger than it may be, but has an end.
#[tokio::test]
async fn an_oversized_head_is_refused_and_its_connection_stays() {
    let port = TestPort::start(limits(10));
    let mut attacker = port.attack().await;
    let large = field("x-large", &[b'x'; 15_000]);
    assert!(attacker.send(&frame(HEADERS, END_STREAM, 1, REQUEST)).await);
    for part in 0..9 {
        let flags = if part == 8 { END_HEADERS } else { 0 };
        assert!(attacker.send(&frame(CONTINUATION, flags, 1, &large)).await);
    }
    let next = frame(HEADERS, END_STREAM | END_HEADERS, 3, REQUEST);
    assert!(attacker.send(&next).await);
    let answer = attacker.answer(3).await;
    let is_body = |frame: &Frame| frame.kind == DATA && frame.payload == b"here";
    let bodies = answer.iter().filter(|frame| is_body(frame));
    let streams: Vec<u32> = bodies.map(|frame| frame.stream).collect();
    assert_eq!(streams, [3], "{answer:?}");
    port.serves_others().await;
}

/// A small head that refers to one large entry of the table many times.
#[tokio::test]
async fn a_head_that_grows_when_it_is_decoded_is_refused() {
    let port = TestPort::start(limits(10));
    let mut attacker = port.attack().await;
    // The entry is added to the table as number 62. Each further byte refers to it: 60 MB in all.
    let mut head = REQUEST.to_vec();
    head.push(0x40);
    head.extend(integer(1, 7));
    head.push(b'x');
    head.extend(integer(4_000, 7));
    head.extend([b'x'; 4_000]);
    assert!(attacker.send(&frame(HEADERS, END_STREAM, 1, &head)).await);
    let many = vec![0x80 | 62; 15_000];
    let _ = attacker
        .send(&frame(CONTINUATION, END_HEADERS, 1, &many))
        .await;
    let answer = attacker.answer(1).await;
    assert!(answer.iter().all(|frame| frame.kind != DATA), "{answer:?}");
    port.serves_others().await;
}

/// A malformed request costs the server a frame that resets its stream, or ends the connection.
#[tokio::test]
async fn endless_malformed_requests_end_their_connection() {
    // A field with a capital letter, and a request without a method.
    let capital = [REQUEST, &field("UPPER", b"case")].concat();
    let incomplete = REQUEST[1..].to_vec();
    for (head, expected) in [(capital, PROTOCOL_ERROR), (incomplete, ENHANCE_YOUR_CALM)] {
        let port = TestPort::start(limits(10));
        let attacker = port.attack().await;
        let (sent, code) = attacker
            .until_closed(|number| frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &head))
            .await;
        assert_eq!(code, Some(expected));
        assert!(sent < 1 << 20, "{sent}");
        port.serves_others().await;
    }
}

#[tokio::test]
async fn an_incomplete_preface_is_closed_at_its_deadline() {
    let port = TestPort::start(PortLimits {
        head_timeout: Duration::from_millis(200),
        ..limits(10)
    });
    let mut slow = port.connect();
    slow.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    port.serves_others().await;
    let mut rest = Vec::new();
    let closed = timeout(STEP_TIMEOUT, slow.read_to_end(&mut rest)).await;
    let _ = closed.expect("it is closed");
}
