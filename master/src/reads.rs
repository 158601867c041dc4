//! Bounds on reads: concurrent readers, bytes of answers, and the time that a slow reader may hold
//! them; for all connections together and for each.
//!
//! An answer holds its share of the budget from before it is built until its last byte is sent.
//! This module does not depend on what is read. Reading order: [`ReadBounds`],
//! [`ReadLimiter::reserve`], then `queue` (the order of waiting reads) and `sending` (answers in
//! progress).

mod queue;
mod sending;

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_proto::transport::PeerIdentity;
use axum::response::Response;
use metrics::{counter, gauge};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use queue::{ConnectionKey, FairReadQueue, ReadCapacity};
use sending::SendTracker;

/// The bounds of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadBounds {
    /// Maximum number of answers that are built at the same time. Each may compute for some
    /// milliseconds on a thread that also serves links.
    pub(crate) builders: usize,
    /// The same for one connection.
    pub(crate) builders_each: usize,
    /// Maximum number of waiting reads. Beyond it, the newest read of the connection with the most
    /// of them is rejected.
    pub(crate) max_waiting: usize,
    /// Maximum bytes of answers that are built or being sent.
    pub(crate) bytes: usize,
    /// The same for one connection. One read is served regardless of its size.
    pub(crate) bytes_each: usize,
    /// The part of these bytes that is reserved for reads of at most a third of it, such as one
    /// record.
    pub(crate) bytes_reserved: usize,
    /// Timeout of a waiting read, after which it is rejected.
    pub(crate) wait_timeout: Duration,
    /// Time for which a reader may read nothing of its answer. After it, the answer is dropped.
    pub(crate) stall_timeout: Duration,
    /// The same while other reads wait.
    pub(crate) busy_stall_timeout: Duration,
    /// Maximum time in which an answer must be read. After it, the answer is dropped.
    pub(crate) send_timeout: Duration,
}

impl Default for ReadBounds {
    fn default() -> Self {
        Self {
            builders: 8,
            builders_each: 4,
            max_waiting: 1_024,
            bytes: 96 << 20,
            bytes_each: 12 << 20,
            bytes_reserved: 8 << 20,
            wait_timeout: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(5),
            busy_stall_timeout: Duration::from_secs(1),
            send_timeout: Duration::from_secs(60),
        }
    }
}

/// The budget is counted in units of this many bytes.
const UNIT: usize = 1_024;
/// Overhead of an answer: headers, stream buffers, one chunk in flight.
const ANSWER_BYTES: usize = 32 << 10;

/// The budget. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ReadLimiter {
    bounds: ReadBounds,
    queue: Arc<SharedReadQueue>,
    tracker: SendTracker,
}

type SharedReadQueue = Mutex<FairReadQueue<oneshot::Sender<ReadReservation>>>;

/// A part of the budget; released when it is dropped.
#[derive(Debug)]
pub(crate) struct ReadReservation {
    queue: Arc<SharedReadQueue>,
    caller: ConnectionKey,
    units: usize,
    is_building: bool,
}

/// The call that this task answers.
struct CurrentCall {
    caller: ConnectionKey,
    reservations: RefCell<Vec<ReadReservation>>,
}

tokio::task_local! {
    static CALL: CurrentCall;
}

impl ReadLimiter {
    pub(crate) fn new(bounds: ReadBounds) -> Self {
        let room = |bytes: usize, builders| ReadCapacity {
            units: bytes / UNIT,
            builders,
        };
        let line = FairReadQueue::new(
            room(bounds.bytes, bounds.builders),
            room(bounds.bytes_each, bounds.builders_each),
            bounds.bytes_reserved / UNIT,
            bounds.max_waiting,
        );
        Self {
            bounds,
            queue: Arc::new(Mutex::new(line)),
            tracker: SendTracker::default(),
        }
    }

    /// Waits in line for room to build an answer of at most `bytes`, which is expected to take
    /// `likely`. Of several waiting connections, the one that has received least is served first.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the line is full, or there is no room in time.
    pub(crate) async fn reserve(
        &self,
        bytes: usize,
        likely: usize,
    ) -> Result<ReadReservation, Status> {
        let caller = CALL.try_with(|call| call.caller).unwrap_or_default();
        self.reserve_for(caller, bytes, likely).await
    }

    async fn reserve_for(
        &self,
        caller: ConnectionKey,
        bytes: usize,
        likely: usize,
    ) -> Result<ReadReservation, Status> {
        let units = units(bytes + ANSWER_BYTES)
            .min((self.bounds.bytes - self.bounds.bytes_reserved) / UNIT);
        let (waiter, turn) = oneshot::channel();
        let cost = units.min(self::units(likely + ANSWER_BYTES));
        let serial = lock_queue(&self.queue).push(caller, units, cost, waiter);
        // Also when this call is dropped while it waits.
        let _place = QueueTicket {
            queue: &self.queue,
            caller,
            serial,
        };
        serve(&self.queue);
        // Dropping the waiter rejects its read.
        drop(lock_queue(&self.queue).overflow());
        match tokio::time::timeout(self.bounds.wait_timeout, turn).await {
            Ok(Ok(share)) => Ok(share),
            Ok(Err(_)) => Err(refused("too many reads are waiting")),
            Err(_) => Err(refused("this read found no room within its timeout")),
        }
    }

    /// Drops answers whose readers are too slow, until the future is dropped; also those of the
    /// budgets `others`, whose answers are sent by the same tracker.
    pub(crate) async fn cut_off_slow_readers(self, others: Vec<Self>) {
        let mut ticks = tokio::time::interval(self.bounds.busy_stall_timeout / 2);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let limiters = std::iter::once(&self).chain(&others);
            let stalled = if limiters.into_iter().any(Self::has_waiting) {
                self.bounds.busy_stall_timeout
            } else {
                self.bounds.stall_timeout
            };
            let cut = self
                .tracker
                .drop_slow(Instant::now(), stalled, self.bounds.send_timeout);
            if cut > 0 {
                counter!("argosy_reads_cut_off_total").increment(cut);
            }
        }
    }

    fn has_waiting(&self) -> bool {
        lock_queue(&self.queue).waiting() > 0
    }

    /// Returns the bytes of the budget that answers hold.
    pub(crate) fn held_bytes(&self) -> usize {
        (self.bounds.bytes / UNIT - lock_queue(&self.queue).free().units) * UNIT
    }

    /// Sets the gauges.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn export_metrics(&self) {
        gauge!("argosy_read_bytes").set(self.held_bytes() as f64);
        gauge!("argosy_queue_depth", "queue" => "reads")
            .set(lock_queue(&self.queue).waiting() as f64);
    }
}

/// Grants their shares to all reads that are next.
fn serve(line: &Arc<SharedReadQueue>) {
    loop {
        let Some(turn) = lock_queue(line).next() else {
            return;
        };
        let share = ReadReservation {
            queue: Arc::clone(line),
            caller: turn.caller,
            units: turn.units,
            is_building: true,
        };
        // If its reader has just disconnected, this returns the share.
        drop(turn.waiter.send(share));
    }
}

impl ReadReservation {
    /// Releases the builder slot: the answer is built.
    pub(crate) fn finish_building(&mut self) {
        if std::mem::take(&mut self.is_building) {
            let room = ReadCapacity {
                units: 0,
                builders: 1,
            };
            lock_queue(&self.queue).release(self.caller, room);
            serve(&self.queue);
        }
    }

    /// Adjusts the share to the size of the answer. A larger answer takes more if the budget has
    /// it, and is kept even if it has not.
    pub(crate) fn resize(&mut self, bytes: usize) {
        let units = units(bytes + ANSWER_BYTES);
        if units <= self.units {
            let room = ReadCapacity {
                units: self.units - units,
                builders: 0,
            };
            self.units = units;
            lock_queue(&self.queue).release(self.caller, room);
            serve(&self.queue);
        } else if lock_queue(&self.queue).grow(self.caller, units - self.units) {
            self.units = units;
        }
    }

    /// Attaches the share to the answer of this task. Outside a call it is released immediately.
    pub(crate) fn attach_to_answer(self) {
        // Outside a call nothing is sent.
        let _ = CALL.try_with(|call| call.reservations.borrow_mut().push(self));
    }
}

impl Drop for ReadReservation {
    fn drop(&mut self) {
        let room = ReadCapacity {
            units: self.units,
            builders: usize::from(self.is_building),
        };
        lock_queue(&self.queue).release(self.caller, room);
        serve(&self.queue);
    }
}

/// A ticket for a waiting read, which leaves the queue when it is dropped.
struct QueueTicket<'a> {
    queue: &'a Arc<SharedReadQueue>,
    caller: ConnectionKey,
    serial: u64,
}

impl Drop for QueueTicket<'_> {
    fn drop(&mut self) {
        lock_queue(self.queue).remove(self.caller, self.serial);
        // It may have been the first one, followed by others that need less.
        serve(self.queue);
    }
}

/// Locks the queue. Code under the lock panics only because of a bug, and the queue is consistent
/// between its calls.
fn lock_queue(
    line: &SharedReadQueue,
) -> MutexGuard<'_, FairReadQueue<oneshot::Sender<ReadReservation>>> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

/// Returns RESOURCE_EXHAUSTED with a retry hint.
fn refused(why: &str) -> Status {
    counter!("argosy_queue_full_total", "queue" => "reads").increment(1);
    let mut details = ErrorDetails::with_error_info("too-many-reads", "argosy", []);
    details.set_retry_info(Some(Duration::from_secs(1)));
    let text = format!("{why}: retry in a second, or use another master");
    Status::with_error_details(tonic::Code::ResourceExhausted, text, details)
}

/// Runs a read whose result is not the answer, such as one before a file is streamed: its share
/// ends here, and the answer is not cut off.
pub(crate) async fn detached<T>(read: impl Future<Output = T>) -> T {
    let caller = CALL.try_with(|call| call.caller).unwrap_or_default();
    CALL.scope(CurrentCall::of(caller), read).await
}

/// Keeps the answer's share of the budget until its body is sent.
pub(crate) async fn bounded(
    reads: &ReadLimiter,
    peer: Option<&PeerIdentity>,
    answered: impl Future<Output = Response>,
) -> Response {
    let caller = peer.and_then(PeerIdentity::address);
    let answered = async {
        let response = answered.await;
        (response, CALL.with(|call| call.reservations.take()))
    };
    let (response, shares) = CALL.scope(CurrentCall::of(caller), answered).await;
    if shares.is_empty() {
        return response;
    }
    response.map(|body| reads.tracker.send(body, shares))
}

impl CurrentCall {
    fn of(caller: ConnectionKey) -> Self {
        Self {
            caller,
            reservations: RefCell::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ReadLimiter {
        ReadLimiter::new(ReadBounds {
            builders: 2,
            max_waiting: 1,
            bytes: 4 * ANSWER_BYTES,
            bytes_reserved: 0,
            wait_timeout: Duration::from_millis(20),
            ..ReadBounds::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn read_over_budget_waits_and_is_rejected_when_queue_is_full() {
        let reads = small();
        let first = reads.reserve(ANSWER_BYTES, 0).await.unwrap();
        let _second = reads.reserve(ANSWER_BYTES, 0).await.unwrap();
        assert_eq!(reads.held_bytes(), 4 * ANSWER_BYTES);
        // One waits in line, the next one is rejected immediately, with a hint.
        let begun = Instant::now();
        let (waited, refused) = tokio::join!(reads.reserve(0, 0), reads.reserve(0, 0));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        for status in [waited.unwrap_err(), refused.unwrap_err()] {
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
            let hint = status.get_details_retry_info().unwrap().retry_delay;
            assert_eq!(hint, Some(Duration::from_secs(1)));
        }
        // A released share goes to the waiting read.
        let (waited, ()) = tokio::join!(reads.reserve(ANSWER_BYTES, 0), async { drop(first) });
        drop(waited.unwrap());
        assert_eq!(reads.held_bytes(), 2 * ANSWER_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn built_answer_holds_its_size_and_frees_the_builder() {
        let reads = small();
        let mut shares = Vec::new();
        // More answers than builders: those that are built make room.
        for _ in 0..4 {
            let mut share = reads.reserve(ANSWER_BYTES, 0).await;
            if let Ok(share) = &mut share {
                share.resize(0);
                share.finish_building();
            }
            shares.extend(share);
        }
        assert_eq!((shares.len(), reads.held_bytes()), (3, 3 * ANSWER_BYTES));
        shares.clear();
        assert_eq!(reads.held_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn flooding_connection_does_not_block_others() {
        let reads = ReadLimiter::new(ReadBounds {
            builders: 2,
            max_waiting: 20,
            ..ReadBounds::default()
        });
        let greedy = Some("10.0.0.1:1".parse().unwrap());
        let mut flood = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let reads = reads.clone();
            flood.spawn(async move {
                loop {
                    let share = reads.reserve_for(greedy, 3 << 20, 3 << 20).await;
                    tokio::time::sleep(Duration::from_millis(80)).await;
                    drop(share);
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        for port in 1..20 {
            let other = Some(std::net::SocketAddr::from(([10, 0, 0, 2], port)));
            let begun = Instant::now();
            reads.reserve_for(other, 1_000, 1_000).await.unwrap();
            // At most one page each that was begun before.
            assert!(begun.elapsed() <= Duration::from_millis(80), "{begun:?}");
        }
        flood.shutdown().await;
        assert_eq!(
            (reads.held_bytes(), lock_queue(&reads.queue).waiting()),
            (0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_waiting_read_releases_everything() {
        let reads = small();
        let first = reads.reserve(4 * ANSWER_BYTES, 0).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(5), reads.reserve(0, 0));
        assert!(waiting.await.is_err());
        assert_eq!(lock_queue(&reads.queue).waiting(), 0);
        drop(first);
        drop(reads.reserve(0, 0).await.unwrap());
        assert_eq!(reads.held_bytes(), 0);
    }
}
