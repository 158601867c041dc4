//! The activity of one connection: whether it has sent a request, and how many of its requests are
//! open.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::PortLimits;
use super::admission::ConnectionSlot;
use super::stalls::{ConnectionOutput, StallLimit};
use crate::transport::Connection;

/// The preface of HTTP/2.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The value that means that no head of a request has begun.
const NONE: u64 = u64::MAX;

/// The state of one connection, shared by its task, its byte stream, its open requests and the
/// admission.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    /// Whether a request, or the preface of HTTP/2, has arrived.
    has_received: AtomicBool,
    is_http2: AtomicBool,
    /// Whether its task has ended; its byte stream may continue as a WebSocket.
    is_detached: AtomicBool,
    /// The number of requests whose responses have not ended.
    open_requests: AtomicUsize,
    /// The milliseconds from `started` to the moment since which no request is open.
    idle_since: AtomicU64,
    /// The milliseconds from `started` to the first byte of the incoming head, in HTTP/1.1.
    head_since: AtomicU64,
}

/// The required action for a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ActivityAction {
    /// Check again at this time.
    Later(Instant),
    /// Close it, for this reason.
    Close(&'static str),
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            has_received: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            is_detached: AtomicBool::new(false),
            open_requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NONE),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NONE - 1)
    }

    fn at(&self, millis: u64) -> Instant {
        self.started + Duration::from_millis(millis)
    }

    pub(super) fn detach(&self) {
        self.is_detached.store(true, Ordering::Relaxed);
    }

    /// Returns whether its task has ended: nothing evicts it any more.
    pub(super) fn is_detached(&self) -> bool {
        self.is_detached.load(Ordering::Relaxed)
    }

    /// Returns since when it could be closed without interrupting a request; `None` if it could
    /// not.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let is_used = self.open_requests.load(Ordering::Relaxed) > 0 || self.is_detached();
        (!is_used).then(|| self.at(self.idle_since.load(Ordering::Relaxed)))
    }

    /// Checks whether the connection has been silent, idle or slow for too long.
    pub(super) fn check(&self, limits: &PortLimits) -> ActivityAction {
        let now = Instant::now();
        let until = |at: Instant, reason| match at <= now {
            true => ActivityAction::Close(reason),
            false => ActivityAction::Later(at),
        };
        if !self.has_received.load(Ordering::Relaxed) {
            return until(self.started + limits.head_timeout, "silent");
        }
        let is_http2 = self.is_http2.load(Ordering::Relaxed);
        // The first byte of a head wakes no task, so it is polled at this interval.
        let check_at = now
            + if is_http2 {
                limits.idle_timeout
            } else {
                limits.head_timeout
            };
        if self.open_requests.load(Ordering::Relaxed) > 0 {
            return ActivityAction::Later(check_at);
        }
        let head_since = self.head_since.load(Ordering::Relaxed);
        if !is_http2 && head_since != NONE {
            return until(self.at(head_since) + limits.head_timeout, "slow-head");
        }
        match until(
            self.at(self.idle_since.load(Ordering::Relaxed)) + limits.idle_timeout,
            "idle",
        ) {
            ActivityAction::Later(at) => ActivityAction::Later(at.min(check_at)),
            close @ ActivityAction::Close(_) => close,
        }
    }
}

/// Both ends of the state of a connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionWatch {
    pub(super) activity: Arc<Activity>,
    slot: Arc<ConnectionSlot>,
}

impl ConnectionWatch {
    pub(super) fn evicted(&self) -> impl Future<Output = ()> + use<> {
        self.slot.evicted()
    }

    /// Records a request, which is open until the returned value is dropped.
    pub(super) fn open(&self) -> OpenRequest {
        self.record_request();
        self.activity.open_requests.fetch_add(1, Ordering::Relaxed);
        self.activity.head_since.store(NONE, Ordering::Relaxed);
        OpenRequest(Arc::clone(&self.activity))
    }

    fn record_request(&self) {
        if !self.activity.has_received.swap(true, Ordering::Relaxed) {
            self.activity
                .idle_since
                .store(self.activity.now(), Ordering::Relaxed);
            self.slot.record_request();
        }
    }
}

/// An open request.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<Activity>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Relaxed);
        self.0.open_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The byte stream of a connection. It holds the connection's slot: a WebSocket keeps it after the
/// HTTP connection has ended. The WebSocket has a longer limit on output that waits, so that a
/// person may pause it; here the output is not limited any more.
pub(super) struct WatchedStream {
    connection: Connection,
    watch: ConnectionWatch,
    output: ConnectionOutput,
    /// The bytes of the preface seen so far; `None` if the protocol is known.
    preface: Option<usize>,
}

impl WatchedStream {
    pub(super) fn new(
        connection: Connection,
        slot: ConnectionSlot,
        limit: StallLimit,
    ) -> (Self, ConnectionWatch) {
        let watch = ConnectionWatch {
            activity: slot.activity(),
            slot: Arc::new(slot),
        };
        let io = Self {
            connection,
            watch: watch.clone(),
            output: ConnectionOutput::new(limit),
            preface: Some(0),
        };
        (io, watch)
    }

    fn after_write(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match self.watch.activity.is_detached() {
            true => result,
            false => self.output.after_write(context, result),
        }
    }

    fn after_flush(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        match self.watch.activity.is_detached() {
            true => result,
            false => self.output.after_flush(context, result),
        }
    }

    fn inspect(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(seen) = self.preface {
            let wanted = &PREFACE[seen..];
            let length = wanted.len().min(bytes.len());
            if wanted[..length] != bytes[..length] {
                self.preface = None;
            } else if length == wanted.len() {
                self.preface = None;
                self.watch.activity.is_http2.store(true, Ordering::Relaxed);
                self.watch.record_request();
            } else {
                self.preface = Some(seen + length);
            }
        }
        let activity = &self.watch.activity;
        if activity.open_requests.load(Ordering::Relaxed) == 0
            && activity.head_since.load(Ordering::Relaxed) == NONE
        {
            activity.head_since.store(activity.now(), Ordering::Relaxed);
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.connection).poll_read(context, buffer))?;
        self.inspect(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.after_write(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.connection).poll_write_vectored(context, slices);
        self.after_write(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.connection).poll_flush(context);
        self.after_flush(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.connection).poll_shutdown(context);
        self.after_flush(context, result)
    }
}
