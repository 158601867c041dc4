//! Peers that do not read: the end of connections and calls whose output makes no progress.
//!
//! Only output that waits is limited. A stream that has nothing to send stays open.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use metrics::counter;
use tokio::time::Sleep;
use tracing::debug;

use super::PortLimits;

/// The limit on the time for which output waits, at one port.
#[derive(Debug, Clone, Copy)]
pub(super) struct StallLimit {
    port: &'static str,
    timeout: Duration,
}

impl StallLimit {
    pub(super) fn of(limits: &PortLimits) -> Self {
        Self {
            port: limits.port,
            timeout: limits.stall_timeout,
        }
    }
}

/// The time for which one output has waited.
#[derive(Default)]
struct StallTimer(Option<Pin<Box<Sleep>>>);

impl StallTimer {
    fn stop(&mut self) {
        self.0 = None;
    }

    fn is_running(&self) -> bool {
        self.0.is_some()
    }

    /// Starts the timer if it does not run. Ready, and stopped, when the time has passed.
    fn poll(&mut self, context: &mut Context<'_>, limit: StallLimit) -> Poll<()> {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit.timeout)));
        ready!(sleep.as_mut().poll(context));
        self.stop();
        Poll::Ready(())
    }
}

/// The progress of the output of one connection. It covers all protocols: what a peer does not read
/// fills the buffers of the kernel, and then no byte can be written.
pub(super) struct ConnectionOutput {
    limit: StallLimit,
    writes: StallTimer,
    /// A transport that encrypts accepts bytes before it can send them.
    flushes: StallTimer,
}

impl ConnectionOutput {
    pub(super) fn new(limit: StallLimit) -> Self {
        Self {
            limit,
            writes: StallTimer::default(),
            flushes: StallTimer::default(),
        }
    }

    /// Returns the result of a write, or an error if writes have waited for too long.
    pub(super) fn after_write(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.writes.stop();
            self.flushes.stop();
            return result;
        }
        ready!(self.writes.poll(context, self.limit));
        Poll::Ready(Err(self.stalled()))
    }

    /// Returns the result of a flush or a shutdown, or an error if it has waited for too long. The
    /// end of a flush is no progress of a write: the flush of a socket does nothing.
    pub(super) fn after_flush(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if result.is_ready() {
            self.flushes.stop();
            return result;
        }
        ready!(self.flushes.poll(context, self.limit));
        Poll::Ready(Err(self.stalled()))
    }

    fn stalled(&self) -> io::Error {
        let port = self.limit.port;
        counter!("argosy_connections_closed_total", "port" => port, "reason" => "stalled")
            .increment(1);
        let text = format!("the peer has read nothing for {:?}", self.limit.timeout);
        io::Error::new(io::ErrorKind::TimedOut, text)
    }
}

thread_local! {
    /// The result of the last poll of a body on this thread. hyper polls the body of a call within
    /// the call, and offers no other way to learn whether the call waits for it or for the peer.
    static LAST_BODY: Cell<Option<BodyResult>> = const { Cell::new(None) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyResult {
    /// It has returned output, and is polled again when the peer has taken some.
    Output,
    /// It has no output now, or has ended.
    Nothing,
}

/// The body of an answer whose progress [`BoundedCall`] observes.
pub(super) struct ObservedBody<B>(pub(super) B);

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for ObservedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.0).poll_frame(context);
        LAST_BODY.set(Some(match polled {
            Poll::Ready(Some(_)) => BodyResult::Output,
            Poll::Ready(None) | Poll::Pending => BodyResult::Nothing,
        }));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A call of HTTP/2, of which the peer may read nothing although it reads its connection: it grants
/// no window then. When its answer has waited for too long, the call ends, which resets its stream
/// and no other one. What h2 holds of the answer while its body has nothing more is not limited.
pub(super) struct BoundedCall<F> {
    call: F,
    limit: StallLimit,
    timer: StallTimer,
}

impl<F> BoundedCall<F> {
    pub(super) fn new(call: F, limit: StallLimit) -> Self {
        Self {
            call,
            limit,
            timer: StallTimer::default(),
        }
    }
}

impl<F: Future<Output = ()> + Unpin> Future for BoundedCall<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        LAST_BODY.set(None);
        if Pin::new(&mut this.call).poll(context).is_ready() {
            return Poll::Ready(());
        }
        let body = LAST_BODY.take();
        if body.is_some() {
            this.timer.stop();
        }
        if body != Some(BodyResult::Output) && !this.timer.is_running() {
            return Poll::Pending;
        }
        ready!(this.timer.poll(context, this.limit));
        let port = this.limit.port;
        counter!("argosy_answers_aborted_total", "port" => port).increment(1);
        debug!(port, "aborting an answer of which the peer reads nothing");
        Poll::Ready(())
    }
}

#[cfg(test)]
pub(super) mod tests;
