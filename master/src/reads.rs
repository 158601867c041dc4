//! Bounds on reads: concurrent readers, bytes of answers, and the time that a slow reader may hold
//! them; for all connections together and for each.
//!
//! An answer holds its share of the budget from before it is built until its last byte is sent.
//! This module does not depend on what is read. Reading order: [`ReadBounds`],
//! [`ReadLimiter::reserve`], then `line` (the order of waiting reads) and `sending` (answers in
//! progress).

mod line;
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

use line::{ConnectionKey, FairReadQueue, ReadCapacity};
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
    pub(crate) line: usize,
    /// Maximum bytes of answers that are built or being sent.
    pub(crate) bytes: usize,
    /// The same for one connection. One read is served regardless of its size.
    pub(crate) bytes_each: usize,
    /// The part of these bytes that is reserved for reads of at most a third of it, such as one
    /// record.
    pub(crate) bytes_kept: usize,
    /// Timeout of a waiting read, after which it is rejected.
    pub(crate) patience: Duration,
    /// Time for which a reader may read nothing of its answer. After it, the answer is dropped.
    pub(crate) stalled: Duration,
    /// The same while other reads wait.
    pub(crate) hurried: Duration,
    /// Maximum time in which an answer must be read. After it, the answer is dropped.
    pub(crate) longest: Duration,
}

impl Default for ReadBounds {
    fn default() -> Self {
        Self {
            builders: 8,
            builders_each: 4,
            line: 1_024,
            bytes: 96 << 20,
            bytes_each: 12 << 20,
            bytes_kept: 8 << 20,
            patience: Duration::from_secs(2),
            stalled: Duration::from_secs(5),
            hurried: Duration::from_secs(1),
            longest: Duration::from_secs(60),
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
    line: Arc<SharedReadQueue>,
    sending: SendTracker,
}

type SharedReadQueue = Mutex<FairReadQueue<oneshot::Sender<ReadReservation>>>;

/// A part of the budget; released when it is dropped.
#[derive(Debug)]
pub(crate) struct ReadReservation {
    line: Arc<SharedReadQueue>,
    caller: ConnectionKey,
    units: usize,
    builds: bool,
}

/// The call that this task answers.
struct CurrentCall {
    caller: ConnectionKey,
    shares: RefCell<Vec<ReadReservation>>,
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
            bounds.bytes_kept / UNIT,
            bounds.line,
        );
        Self {
            bounds,
            line: Arc::new(Mutex::new(line)),
            sending: SendTracker::default(),
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
        let units =
            units(bytes + ANSWER_BYTES).min((self.bounds.bytes - self.bounds.bytes_kept) / UNIT);
        let (waiter, turn) = oneshot::channel();
        let cost = units.min(self::units(likely + ANSWER_BYTES));
        let serial = locked(&self.line).enter(caller, units, cost, waiter);
        // Also when this call is dropped while it waits.
        let _place = QueueTicket {
            line: &self.line,
            caller,
            serial,
        };
        serve(&self.line);
        // Dropping the waiter rejects its read.
        drop(locked(&self.line).overflow());
        match tokio::time::timeout(self.bounds.patience, turn).await {
            Ok(Ok(share)) => Ok(share),
            Ok(Err(_)) => Err(refused("too many reads are waiting")),
            Err(_) => Err(refused("this read found no room within its timeout")),
        }
    }

    /// Drops answers whose readers are too slow, until the future is dropped.
    pub(crate) async fn cut_off_slow_readers(self) {
        let mut looks = tokio::time::interval(self.bounds.hurried / 2);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let others_wait = locked(&self.line).waiting() > 0;
            let stalled = if others_wait {
                self.bounds.hurried
            } else {
                self.bounds.stalled
            };
            let cut = self
                .sending
                .drop_slow(Instant::now(), stalled, self.bounds.longest);
            if cut > 0 {
                counter!("argosy_reads_cut_off_total").increment(cut);
            }
        }
    }

    /// Returns the bytes of the budget that answers hold.
    pub(crate) fn held(&self) -> usize {
        (self.bounds.bytes / UNIT - locked(&self.line).free().units) * UNIT
    }

    /// Sets the gauges.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn show(&self) {
        gauge!("argosy_read_bytes").set(self.held() as f64);
        gauge!("argosy_queue_depth", "queue" => "reads").set(locked(&self.line).waiting() as f64);
    }
}

/// Grants their shares to all reads that are next.
fn serve(line: &Arc<SharedReadQueue>) {
    loop {
        let Some(turn) = locked(line).next() else {
            return;
        };
        let share = ReadReservation {
            line: Arc::clone(line),
            caller: turn.caller,
            units: turn.units,
            builds: true,
        };
        // If its reader has just disconnected, this returns the share.
        drop(turn.waiter.send(share));
    }
}

impl ReadReservation {
    /// Releases the builder slot: the answer is built.
    pub(crate) fn built(&mut self) {
        if std::mem::take(&mut self.builds) {
            let room = ReadCapacity {
                units: 0,
                builders: 1,
            };
            locked(&self.line).give_back(self.caller, room);
            serve(&self.line);
        }
    }

    /// Adjusts the share to the size of the answer. A larger answer takes more if the budget has
    /// it, and is kept even if it has not.
    pub(crate) fn fit(&mut self, bytes: usize) {
        let units = units(bytes + ANSWER_BYTES);
        if units <= self.units {
            let room = ReadCapacity {
                units: self.units - units,
                builders: 0,
            };
            self.units = units;
            locked(&self.line).give_back(self.caller, room);
            serve(&self.line);
        } else if locked(&self.line).take_more(self.caller, units - self.units) {
            self.units = units;
        }
    }

    /// Attaches the share to the answer of this task. Outside a call it is released immediately.
    pub(crate) fn attach_to_answer(self) {
        // Outside a call nothing is sent.
        let _ = CALL.try_with(|call| call.shares.borrow_mut().push(self));
    }
}

impl Drop for ReadReservation {
    fn drop(&mut self) {
        let room = ReadCapacity {
            units: self.units,
            builders: usize::from(self.builds),
        };
        locked(&self.line).give_back(self.caller, room);
        serve(&self.line);
    }
}

/// A place in the line, released when it is dropped.
struct QueueTicket<'a> {
    line: &'a Arc<SharedReadQueue>,
    caller: ConnectionKey,
    serial: u64,
}

impl Drop for QueueTicket<'_> {
    fn drop(&mut self) {
        locked(self.line).leave(self.caller, self.serial);
        // It may have been the first one, followed by others that need less.
        serve(self.line);
    }
}

/// Locks the line. Code under the lock panics only because of a bug, and the line is consistent
/// between its calls.
fn locked(
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
pub(crate) async fn apart<T>(read: impl Future<Output = T>) -> T {
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
        (response, CALL.with(|call| call.shares.take()))
    };
    let (response, shares) = CALL.scope(CurrentCall::of(caller), answered).await;
    if shares.is_empty() {
        return response;
    }
    response.map(|body| reads.sending.send(body, shares))
}

impl CurrentCall {
    fn of(caller: ConnectionKey) -> Self {
        Self {
            caller,
            shares: RefCell::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ReadLimiter {
        ReadLimiter::new(ReadBounds {
            builders: 2,
            line: 1,
            bytes: 4 * ANSWER_BYTES,
            bytes_kept: 0,
            patience: Duration::from_millis(20),
            ..ReadBounds::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_budget_a_read_waits_in_line_and_beyond_the_line_it_is_refused() {
        let reads = small();
        let first = reads.reserve(ANSWER_BYTES, 0).await.unwrap();
        let _second = reads.reserve(ANSWER_BYTES, 0).await.unwrap();
        assert_eq!(reads.held(), 4 * ANSWER_BYTES);
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
        assert_eq!(reads.held(), 2 * ANSWER_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_built_holds_what_it_takes_and_builds_no_longer() {
        let reads = small();
        let mut shares = Vec::new();
        // More answers than builders: those that are built make room.
        for _ in 0..4 {
            let mut share = reads.reserve(ANSWER_BYTES, 0).await;
            if let Ok(share) = &mut share {
                share.fit(0);
                share.built();
            }
            shares.extend(share);
        }
        assert_eq!((shares.len(), reads.held()), (3, 3 * ANSWER_BYTES));
        shares.clear();
        assert_eq!(reads.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn another_connection_is_served_although_one_asks_for_more_than_the_line_takes() {
        let reads = ReadLimiter::new(ReadBounds {
            builders: 2,
            line: 20,
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
        assert_eq!((reads.held(), locked(&reads.line).waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_goes_away_while_it_waits_leaves_nothing() {
        let reads = small();
        let first = reads.reserve(4 * ANSWER_BYTES, 0).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(5), reads.reserve(0, 0));
        assert!(waiting.await.is_err());
        assert_eq!(locked(&reads.line).waiting(), 0);
        drop(first);
        drop(reads.reserve(0, 0).await.unwrap());
        assert_eq!(reads.held(), 0);
    }
}
