//! Bounds on reads: readers at once, bytes of answers, and the time that a slow reader may hold them.
//!
//! An answer holds its share of the budget from before it is built until its last byte is sent.
//! Nothing here knows what is read.

mod sending;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use metrics::{counter, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use sending::Sending;

/// The bounds of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Answers that are built at once. Each may compute for some milliseconds on a thread that also
    /// serves links.
    pub(crate) builders: usize,
    /// Reads that wait for their turn. Beyond it a read is refused at once.
    pub(crate) line: usize,
    /// Bytes of answers that are built or being sent.
    pub(crate) bytes: usize,
    /// How long a read waits for its turn. Then it is refused.
    pub(crate) patience: Duration,
    /// How long a reader may take nothing of its answer. Then the answer is dropped.
    pub(crate) stalled: Duration,
    /// How long an answer may take to be read. Then it is dropped.
    pub(crate) longest: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            builders: 8,
            line: 1_024,
            bytes: 96 << 20,
            patience: Duration::from_secs(2),
            stalled: Duration::from_secs(5),
            longest: Duration::from_secs(60),
        }
    }
}

/// Permits are counted in units of this many bytes: the budget fits into 32 bits.
const UNIT: usize = 1_024;
/// Overhead of an answer: headers, stream buffers, one chunk in flight.
const ANSWER_BYTES: usize = 32 << 10;

/// The budget. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Reads {
    bounds: Bounds,
    builders: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    sending: Sending,
}

/// A part of the budget; released when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Semaphore>,
    bytes: OwnedSemaphorePermit,
    builder: Option<OwnedSemaphorePermit>,
}

tokio::task_local! {
    /// The share of the answer that this task builds.
    static ANSWER: RefCell<Option<Share>>;
}

impl Reads {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            builders: Arc::new(Semaphore::new(bounds.builders)),
            bytes: Arc::new(Semaphore::new(bounds.bytes / UNIT)),
            waiting: Arc::default(),
            sending: Sending::default(),
        }
    }

    /// Waits in line for room to build an answer of at most `bytes`.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the line is full, or there is no room in time.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<Share, Status> {
        let units = units(bytes + ANSWER_BYTES).min(units(self.bounds.bytes));
        if let Some(share) = self.try_reserve(units) {
            return Ok(share);
        }
        let _waits = Waits::enter(&self.waiting, self.bounds.line)
            .ok_or_else(|| refused("as many reads as may wait are waiting"))?;
        match tokio::time::timeout(self.bounds.patience, self.wait(units)).await {
            Ok(share) => Ok(share),
            Err(_) => Err(refused(
                "other reads took all of the time that this one may wait",
            )),
        }
    }

    fn try_reserve(&self, units: u32) -> Option<Share> {
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(units).ok()?;
        let builder = Arc::clone(&self.builders).try_acquire_owned().ok()?;
        Some(self.share(bytes, builder))
    }

    /// Bytes before the builder: one that builds never waits for bytes, so that it always ends.
    async fn wait(&self, units: u32) -> Share {
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(units).await;
        let builder = Arc::clone(&self.builders).acquire_owned().await;
        let never = "the semaphores are never closed";
        self.share(bytes.expect(never), builder.expect(never))
    }

    fn share(&self, bytes: OwnedSemaphorePermit, builder: OwnedSemaphorePermit) -> Share {
        Share {
            budget: Arc::clone(&self.bytes),
            bytes,
            builder: Some(builder),
        }
    }

    /// Drops answers whose readers are too slow; runs until it is dropped.
    pub(crate) async fn cut_off_slow_readers(self) {
        let mut looks = tokio::time::interval(self.bounds.stalled.min(Duration::from_secs(1)));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let cut = self
                .sending
                .cut(Instant::now(), self.bounds.stalled, self.bounds.longest);
            if cut > 0 {
                counter!("argosy_reads_cut_off_total").increment(cut);
            }
        }
    }

    /// Bytes of the budget that answers hold.
    pub(crate) fn held(&self) -> usize {
        self.bounds.bytes - (self.bytes.available_permits() * UNIT).min(self.bounds.bytes)
    }

    /// Sets the gauges.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn show(&self) {
        gauge!("argosy_read_bytes").set(self.held() as f64);
        gauge!("argosy_queue_depth", "queue" => "reads")
            .set(self.waiting.load(Ordering::Relaxed) as f64);
    }
}

impl Share {
    /// Releases the builder's permit: the answer is built.
    pub(crate) fn built(&mut self) {
        self.builder = None;
    }

    /// Adjusts the share to the size of the answer. A larger answer takes more if the budget has it, and
    /// is kept even if it has not.
    pub(crate) fn fit(&mut self, bytes: usize) {
        let (units, held) = (
            units(bytes + ANSWER_BYTES) as usize,
            self.bytes.num_permits(),
        );
        if units < held {
            drop(self.bytes.split(held - units));
        } else {
            let more = u32::try_from(units - held).unwrap_or(u32::MAX);
            if let Ok(more) = Arc::clone(&self.budget).try_acquire_many_owned(more) {
                self.bytes.merge(more);
            }
        }
    }

    /// Attaches the share to the answer of this task. Outside of a call it is released at once.
    pub(crate) fn leave_to_answer(self) {
        let mut share = Some(self);
        // Outside of a call nothing is sent.
        let _ = ANSWER.try_with(|answer| match &mut *answer.borrow_mut() {
            Some(held) => held
                .bytes
                .merge(share.take().expect("it is taken once").bytes),
            empty => *empty = share.take(),
        });
    }
}

/// One place in the line.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn enter(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let this = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(this)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// RESOURCE_EXHAUSTED with a hint when to try again.
fn refused(why: &str) -> Status {
    counter!("argosy_queue_full_total", "queue" => "reads").increment(1);
    let mut details = ErrorDetails::with_error_info("too-many-reads", "argosy", []);
    details.set_retry_info(Some(Duration::from_secs(1)));
    let text = format!("{why}: read again in a second, or ask another master");
    Status::with_error_details(tonic::Code::ResourceExhausted, text, details)
}

/// Runs a read whose result is not the answer, as before a file is streamed: its share ends here, and
/// the answer is not cut off.
pub(crate) async fn apart<T>(read: impl Future<Output = T>) -> T {
    ANSWER.scope(RefCell::default(), read).await
}

/// Keeps what an answer holds of the budget until its body is sent.
pub(crate) async fn bounded(State(reads): State<Reads>, request: Request, next: Next) -> Response {
    let answered = async {
        let response = next.run(request).await;
        (response, ANSWER.with(RefCell::take))
    };
    let (response, share) = ANSWER.scope(RefCell::default(), answered).await;
    match share {
        None => response,
        Some(share) => response.map(|body| reads.sending.send(body, share)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Reads {
        Reads::new(Bounds {
            builders: 2,
            line: 1,
            bytes: 4 * ANSWER_BYTES,
            patience: Duration::from_millis(20),
            ..Bounds::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_budget_a_read_waits_in_line_and_beyond_the_line_it_is_refused() {
        let reads = small();
        let first = reads.reserve(ANSWER_BYTES).await.unwrap();
        let _second = reads.reserve(ANSWER_BYTES).await.unwrap();
        assert_eq!(reads.held(), 4 * ANSWER_BYTES);
        // One waits in line, the next one is refused at once, with a hint.
        let begun = Instant::now();
        let (waited, refused) = tokio::join!(reads.reserve(0), reads.reserve(0));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        for status in [waited.unwrap_err(), refused.unwrap_err()] {
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
            let hint = status.get_details_retry_info().unwrap().retry_delay;
            assert_eq!(hint, Some(Duration::from_secs(1)));
        }
        // What is given back goes to the one that waits.
        let (waited, ()) = tokio::join!(reads.reserve(ANSWER_BYTES), async { drop(first) });
        drop(waited.unwrap());
        assert_eq!(reads.held(), 2 * ANSWER_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_built_holds_what_it_takes_and_builds_no_longer() {
        let reads = small();
        let mut shares = Vec::new();
        // More answers than builders: those that are built make room.
        for _ in 0..4 {
            let mut share = reads.reserve(ANSWER_BYTES).await;
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
}
