//! The calls of one HTTP/2 connection, run by the task of the connection.
//!
//! Calls that are answered together wake one task, and their answers are sent in one write. A
//! separate task for each call would cost a wake-up, and usually a write, for each answer.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream as _};

use super::stalls::{BoundedCall, StallLimit};

type CallFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Calls that have arrived and not begun. Bounded by the streams of the connection.
#[derive(Clone, Default)]
pub(super) struct PendingCalls(
    // A lock, since hyper has no executor for a single thread. Only the task of the connection uses
    // it.
    Arc<Mutex<Vec<CallFuture>>>,
);

impl PendingCalls {
    fn push(&self, call: CallFuture) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(call);
    }

    fn take(&self) -> Vec<CallFuture> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for PendingCalls {
    fn execute(&self, call: F) {
        // A call that panics ends alone, as a task does.
        let call = AssertUnwindSafe(call).catch_unwind();
        self.push(Box::pin(call.map(drop)));
    }
}

/// A connection with its calls. It ends when the connection ends, which ends the calls.
pub(super) struct ServedConnection<'a, C> {
    pub(super) connection: Pin<&'a mut C>,
    pending: PendingCalls,
    calls: FuturesUnordered<BoundedCall<CallFuture>>,
    limit: StallLimit,
}

impl<'a, C> ServedConnection<'a, C> {
    /// Creates the future of a connection that passes its calls to `arrived`.
    pub(super) fn new(
        connection: Pin<&'a mut C>,
        arrived: PendingCalls,
        limit: StallLimit,
    ) -> Self {
        Self {
            connection,
            pending: arrived,
            calls: FuturesUnordered::new(),
            limit,
        }
    }
}

impl<C: Future> Future for ServedConnection<'_, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        // The connection is polled first, so that calls that are always ready cannot use up its
        // time. Their answers wake it again, after other ready tasks: by then more calls may have
        // been answered.
        if let Poll::Ready(ended) = self.connection.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        let (arrived, limit) = (self.pending.take(), self.limit);
        let arrived = arrived.into_iter();
        self.calls
            .extend(arrived.map(|call| BoundedCall::new(call, limit)));
        while let Poll::Ready(Some(())) = Pin::new(&mut self.calls).poll_next(context) {}
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
