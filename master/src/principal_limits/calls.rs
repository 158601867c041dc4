//! The queue of the owner: calls of all principals, and messages of links.
//!
//! Messages of agents' streams, probes of the owner's lag and other messages of the cluster itself
//! have a separate queue, which calls cannot fill.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_proto::server::call_rate::ConnectionCalls;
use argosy_state::access::{AccessFacts, RateLimit};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::fair_queue::{CallPlace, EntryKind, FairQueue, QueueBounds};
use super::rates::{CallRates, MAX_ACCOUNTS, RateLimits};
use super::{Account, LimitReached, RATE_LIMITED};
use crate::leader_reply::LeaderReply;

/// The bounds of the queue. A connection has 1,000 calls at most, so an account that fills its
/// queue uses nine of them.
const BOUNDS: QueueBounds = QueueBounds {
    of_account: 8_192,
    total: 32_768,
    bytes_of_account: 64 << 20,
    bytes_total: 256 << 20,
};

/// The limit of requests of a principal for which no limit is set: many times the number that a
/// group of masters commits (docs/performance.md, P1).
const DEFAULT_LIMIT: RateLimit = RateLimit {
    calls_per_second: 100_000,
    burst: 100_000,
};
/// The limit of requests of one connection.
const CONNECTION_LIMIT: RateLimit = RateLimit {
    calls_per_second: 50_000,
    burst: 50_000,
};
/// The cost of a message that begins or ends a stream, as `turns::input_work` returns it.
const STREAM_COST: u32 = 16;

/// Returns the limits of calls to the leader. By default there is none: the queue is enough.
fn call_limits(facts: &AccessFacts) -> RateLimits {
    RateLimits::new(facts, None)
}

/// Returns the limits of requests to one master.
fn request_limits(facts: &AccessFacts) -> RateLimits {
    RateLimits::new(facts, Some(DEFAULT_LIMIT))
}

/// A caller that waits for its answer. Dropping it reports that this master does not lead.
#[derive(Debug)]
pub(crate) struct CallWaiter {
    sender: oneshot::Sender<LeaderReply>,
    /// Released with the answer.
    place: Option<CallPlace>,
}

impl CallWaiter {
    /// Returns a waiter, and the answer that it waits for.
    pub(crate) fn new() -> (Self, oneshot::Receiver<LeaderReply>) {
        let (sender, answer) = oneshot::channel();
        let place = None;
        (Self { sender, place }, answer)
    }

    /// Sends the answer. A caller that has disconnected needs none.
    pub(crate) fn answer(self, answer: LeaderReply) {
        let _ = self.sender.send(answer);
    }
}

/// A message of the queue.
pub(crate) trait QueuedMessage {
    /// Returns the waiter of a call; `None` for other messages.
    fn waiter(&mut self) -> Option<&mut CallWaiter>;

    /// The same, without the message.
    fn into_waiter(self) -> Option<CallWaiter>;
}

/// The waiting calls. Cheap to clone; clones share them.
pub(crate) struct CallQueue<M>(Arc<SharedQueue<M>>);

impl<M> Clone for CallQueue<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct SharedQueue<M> {
    // Held for a look-up, or to take a batch; nothing is awaited under it.
    state: Mutex<QueueState<M>>,
    /// Notified when a call was added.
    added: Notify,
    /// The rates of all requests to this master, of which those to the owner are a part.
    requests: Mutex<CallRates>,
    /// The start of the clock of rates.
    started: Instant,
}

struct QueueState<M> {
    queue: FairQueue<Account, M>,
    rates: CallRates,
}

impl<M: QueuedMessage> CallQueue<M> {
    /// Returns an empty queue, without limits that operators have set.
    pub(crate) fn new() -> Self {
        let facts = AccessFacts::default();
        Self(Arc::new(SharedQueue {
            state: Mutex::new(QueueState {
                queue: FairQueue::new(BOUNDS),
                rates: CallRates::new(call_limits(&facts)),
            }),
            requests: Mutex::new(CallRates::new(request_limits(&facts))),
            added: Notify::new(),
            started: Instant::now(),
        }))
    }

    /// Locks the state. Code under the lock panics only because of a bug, and the queue is
    /// consistent between its calls.
    fn lock(&self) -> MutexGuard<'_, QueueState<M>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, CallRates> {
        let requests = &self.0.requests;
        requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds a message of an account, of this cost and of these bytes. If there are too many, calls
    /// are refused: this one, or those of the account that has most.
    ///
    /// # Errors
    /// If it is refused because of its rate or because its account has too many.
    fn add(
        &self,
        account: &Account,
        kind: EntryKind,
        size: (u32, usize),
        message: M,
    ) -> Result<(), LimitReached> {
        let now = self.now();
        let refused = {
            let QueueState { queue, rates } = &mut *self.lock();
            if kind != EntryKind::End {
                let taken = rates.take(account, now);
                taken.map_err(LimitReached::PrincipalRate)?;
            }
            let is_one_more = queue.accounts() >= MAX_ACCOUNTS && !queue.knows(account);
            let account = if is_one_more {
                &Account::Others
            } else {
                account
            };
            queue.push(account, kind, size, message)
        };
        self.0.added.notify_one();
        let mut outcome = Ok(());
        for refused in refused {
            match refused.into_waiter() {
                Some(waiter) => waiter.answer(LeaderReply::Refused {
                    code: RATE_LIMITED,
                    message: String::new(),
                }),
                // The beginning of a stream that was just added.
                None => outcome = Err(LimitReached::PrincipalQueue),
            }
        }
        outcome
    }

    /// Takes one request of a connection, before its caller is identified.
    ///
    /// # Errors
    /// If it has used up its rate.
    pub(crate) fn admit_connection(
        &self,
        connection: Option<&ConnectionCalls>,
    ) -> Result<(), LimitReached> {
        let taken = connection.map_or(Ok(()), |calls| calls.take(CONNECTION_LIMIT));
        taken.map_err(LimitReached::ConnectionRate)
    }

    /// Takes one request of an account.
    ///
    /// # Errors
    /// If it has used up its rate.
    pub(crate) fn admit(&self, account: &Account) -> Result<(), LimitReached> {
        let taken = self.requests().take(account, self.now());
        taken.map_err(LimitReached::PrincipalRate)
    }

    /// Adds a call of an account, of this cost and of these bytes.
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub(crate) fn add_call(
        &self,
        account: &Account,
        size: (u32, usize),
        message: M,
    ) -> Result<(), LimitReached> {
        self.add(account, EntryKind::Call, size, message)
    }

    /// Adds a message of these bytes that begins a stream.
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub(crate) fn begin_stream(
        &self,
        account: &Account,
        bytes: usize,
        message: M,
    ) -> Result<(), LimitReached> {
        self.add(account, EntryKind::Stream, (STREAM_COST, bytes), message)
    }

    /// Adds the end of a stream that began on this account.
    pub(crate) fn end_stream(&self, account: &Account, message: M) {
        // It is never refused.
        let _ = self.add(account, EntryKind::End, (STREAM_COST, 0), message);
    }

    /// Moves at most `most` messages to `batch`, in the order in which they are served. Calls whose
    /// callers have disconnected are dropped; returns their number.
    pub(crate) fn take(&self, batch: &mut Vec<M>, most: usize) -> usize {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        for _ in 0..most {
            let Some((mut message, place)) = state.queue.take() else {
                break;
            };
            let has_caller = message.waiter().is_none_or(|waiter| {
                waiter.place = place;
                !waiter.sender.is_closed()
            });
            match has_caller {
                true => batch.push(message),
                false => dropped.push(message),
            }
        }
        drop(state);
        dropped.len()
    }

    /// Waits until a call is added. It may return without one.
    pub(crate) async fn added(&self) {
        self.0.added.notified().await;
    }

    /// Returns the number of waiting messages.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().queue.waiting()
    }

    /// Adjusts the shares of accounts to what they have needed; called at each tick of the owner.
    pub(crate) fn tick(&self) {
        self.lock().queue.tick();
    }

    /// Begins a new leadership. Only the former leader knows what is left in each bucket, so the
    /// buckets begin empty: a change of leader grants no account another burst.
    pub(crate) fn begin_leading(&self) {
        let now = self.now();
        self.lock().rates.empty(now);
    }

    /// Applies the limits of these facts, if they have changed.
    pub(crate) fn set_limits(&self, facts: &AccessFacts) {
        if self.requests().limits().differ_from(facts) {
            self.requests().set_limits(request_limits(facts));
            self.lock().rates.set_limits(call_limits(facts));
        }
    }
}

#[cfg(test)]
mod tests;
