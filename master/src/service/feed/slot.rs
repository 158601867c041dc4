//! One subscriber as the hub sees it: its place among the subscribers, and how far it is behind.
//!
//! A stream whose peer reads nothing is not polled, so it cannot end itself. The hub takes from it
//! everything that costs memory; the stream reports that when its peer reads on.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::places::Place;
use super::snapshot::SnapshotWalk;
use super::subscription::FeedItem;

/// Bytes that may pile up for a subscriber. Beyond it, the subscriber is disconnected.
pub(super) const BACKLOG_BYTES: i64 = 4 << 20;
/// Time for which a subscriber may read nothing. It gets a message every five seconds.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for which a reader of a snapshot may read nothing: the snapshot holds a copy of the
/// registry.
const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time in which a snapshot must be read.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Slot(
    // A lock, because the hub cuts off a subscriber whose stream is not polled. It is held for a
    // comparison, or to append items.
    Mutex<SlotState>,
);

#[derive(Debug)]
struct SlotState {
    /// The place among the subscribers; `None` once the subscriber is cut off.
    place: Option<Place>,
    /// The offset in the window after which changes wait for the subscriber; `None` during a
    /// snapshot.
    offset: Option<i64>,
    /// The least number of bytes that it was behind, once it has taken changes. One that resumes
    /// begins far behind, and must not fall back further.
    least_behind: Option<i64>,
    polled_at: Instant,
    snapshot: Option<(Box<SnapshotWalk>, Instant)>,
    /// Items to be sent; dropped if the subscriber is cut off.
    ready: VecDeque<FeedItem>,
    /// The log index of the first change that was dropped with them.
    unsent: Option<u64>,
    /// Why the subscriber was cut off, if it was.
    cause: CutOffCause,
}

/// Which bound a subscriber exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutOffCause {
    /// More than [`BACKLOG_BYTES`] waited for it.
    Backlog,
    /// It has read nothing for too long.
    Stall,
}

/// The subscriber has been too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CutOff {
    pub(super) cause: CutOffCause,
    /// The log index of the first change that it took and was not sent.
    pub(super) unsent: Option<u64>,
}

impl Slot {
    pub(super) fn new(place: Place) -> Self {
        Self(Mutex::new(SlotState {
            place: Some(place),
            offset: None,
            least_behind: None,
            polled_at: Instant::now(),
            snapshot: None,
            ready: VecDeque::new(),
            unsent: None,
            cause: CutOffCause::Stall,
        }))
    }

    /// Records that the stream of the subscriber is polled. Returns the next item to be sent, if
    /// there is one.
    pub(super) fn polled(&self) -> Result<Option<FeedItem>, CutOff> {
        let mut slot = self.lock();
        slot.polled_at = Instant::now();
        match slot.place {
            Some(_) => Ok(slot.ready.pop_front()),
            None => Err(CutOff {
                cause: slot.cause,
                unsent: slot.unsent,
            }),
        }
    }

    /// Adds items to be sent. They are dropped if the subscriber is cut off.
    pub(super) fn put(&self, items: Vec<FeedItem>) {
        let mut slot = self.lock();
        if slot.place.is_some() {
            slot.ready.extend(items);
        } else {
            slot.unsent = slot.unsent.or_else(|| first_change(&items));
        }
    }

    /// Records that the subscriber has taken everything up to `offset`, after which `behind` bytes
    /// wait.
    pub(super) fn took(&self, offset: i64, behind: i64) {
        let mut slot = self.lock();
        slot.offset = Some(offset);
        slot.least_behind = Some(slot.least_behind.map_or(behind, |least| least.min(behind)));
    }

    /// Records that changes after `offset` wait for the subscriber, which has taken none yet.
    pub(super) fn waits_from(&self, offset: i64) {
        self.lock().offset = Some(offset);
    }

    /// Records that the subscriber begins again with a snapshot: changes do not wait for it until
    /// that has ended. The rest of a former snapshot is dropped, and its place is free.
    pub(super) fn began_again(&self) {
        let mut slot = self.lock();
        slot.offset = None;
        slot.least_behind = None;
        let former = slot.snapshot.take();
        drop(slot);
        // Freed after the lock is released.
        drop(former);
    }

    /// Cuts off the subscriber if it is too slow. Returns whether it does so now.
    pub(super) fn cut_if_slow(&self, end_offset: i64, now: Instant) -> bool {
        let mut slot = self.lock();
        let most = slot.least_behind.unwrap_or(0).saturating_add(BACKLOG_BYTES);
        let is_behind = slot.offset.is_some_and(|offset| end_offset - offset > most);
        let stalled = now.saturating_duration_since(slot.polled_at);
        let is_stalled = match &slot.snapshot {
            Some((_, began)) => {
                stalled > SNAPSHOT_STALL_TIMEOUT
                    || now.saturating_duration_since(*began) > SNAPSHOT_TIMEOUT
            }
            None => stalled > STALL_TIMEOUT,
        };
        if !is_behind && !is_stalled || slot.place.is_none() {
            return false;
        }
        slot.cause = match is_behind {
            true => CutOffCause::Backlog,
            false => CutOffCause::Stall,
        };
        slot.unsent = first_change(&slot.ready);
        let ready = std::mem::take(&mut slot.ready);
        let freed = (slot.place.take(), slot.snapshot.take(), ready);
        drop(slot);
        // Freed after the lock is released.
        drop(freed);
        true
    }

    /// Holds a snapshot between two of its parts. It is dropped if the subscriber is cut off.
    pub(super) fn put_snapshot(&self, walk: Box<SnapshotWalk>, began: Instant) {
        let mut slot = self.lock();
        if slot.place.is_some() {
            slot.snapshot = Some((walk, began));
        }
    }

    pub(super) fn take_snapshot(&self) -> Option<(Box<SnapshotWalk>, Instant)> {
        self.lock().snapshot.take()
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the log index of the first change among these items.
fn first_change<'a>(items: impl IntoIterator<Item = &'a FeedItem>) -> Option<u64> {
    items.into_iter().find_map(FeedItem::changed_at)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use argosy_state::testing::World;
    use tokio::sync::Semaphore;

    use super::super::event::tests::event;
    use super::super::places::Places;
    use super::super::selection::Selection;
    use super::*;
    use crate::access::{FollowedSights, Reader};
    use crate::encodings::EncodingCache;
    use crate::inbox::OwnerState;

    fn slot() -> (Slot, Places) {
        let places = Places::new(1);
        let place = places.take(None).unwrap();
        (Slot::new(place), places)
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_is_cut_off_when_its_bound_piles_up() {
        let (slot, places) = slot();
        let now = Instant::now();
        // Before a snapshot, no changes wait for it.
        assert!(!slot.cut_if_slow(i64::MAX / 2, now));
        slot.took(100, 0);
        assert!(!slot.cut_if_slow(100 + BACKLOG_BYTES, now));
        assert_eq!(places.free(), 0);
        assert!(slot.cut_if_slow(101 + BACKLOG_BYTES, now));
        assert!(!slot.cut_if_slow(101 + BACKLOG_BYTES, now));
        assert_eq!(places.free(), 1);
        assert_eq!(slot.polled().unwrap_err().cause, CutOffCause::Backlog);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_never_takes_a_change_is_cut_off_at_the_same_bound() {
        let (slot, _places) = slot();
        let now = Instant::now();
        slot.waits_from(100);
        assert!(!slot.cut_if_slow(100 + BACKLOG_BYTES, now));
        // What it was behind when it took its first changes is not counted.
        let far = 10 * BACKLOG_BYTES;
        slot.took(100, far);
        assert!(!slot.cut_if_slow(100 + far + BACKLOG_BYTES, now));
        slot.began_again();
        slot.waits_from(100);
        assert!(slot.cut_if_slow(101 + BACKLOG_BYTES, now));
        assert_eq!(slot.polled().unwrap_err().cause, CutOffCause::Backlog);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_resumes_far_behind_must_catch_up() {
        let (slot, _places) = slot();
        let far = 10 * BACKLOG_BYTES;
        let now = Instant::now();
        slot.took(0, far);
        assert!(!slot.cut_if_slow(far + BACKLOG_BYTES, now));
        slot.took(far, 0);
        slot.took(far + 1, BACKLOG_BYTES);
        assert!(slot.cut_if_slow(far + 2 + BACKLOG_BYTES, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_begins_again_is_not_behind() {
        let (slot, _places) = slot();
        let now = Instant::now();
        slot.took(0, 0);
        slot.began_again();
        let end = 10 * BACKLOG_BYTES;
        assert!(!slot.cut_if_slow(end, now));
        // After the snapshot it may be as far behind as one that resumes.
        slot.took(0, end);
        assert!(!slot.cut_if_slow(end, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_begins_again_holds_no_snapshot_while_it_waits() {
        let (slot, _places) = slot();
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let world = World::new();
        let facts = OwnerState {
            registry: &world.registry,
            leader: None,
            now: world.now,
            failovers: &VecDeque::new(),
        };
        let everything = FollowedSights::new(Reader::Unrestricted, Arc::default());
        let selection = Selection::new(&[], HashMap::new(), everything).unwrap();
        let view = Arc::new(facts.view());
        let walk = SnapshotWalk::new(view, selection, EncodingCache::default(), permit);
        slot.put_snapshot(Box::new(walk), Instant::now());
        assert_eq!(permits.available_permits(), 0);
        slot.began_again();
        assert_eq!(permits.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_reads_nothing_gives_up_its_place() {
        let (slot, places) = slot();
        tokio::time::advance(STALL_TIMEOUT).await;
        assert!(!slot.cut_if_slow(0, Instant::now()));
        slot.polled().unwrap();
        tokio::time::advance(STALL_TIMEOUT * 2).await;
        assert!(slot.cut_if_slow(0, Instant::now()));
        assert_eq!(places.free(), 1);
        assert_eq!(slot.polled().unwrap_err().cause, CutOffCause::Stall);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_drops_unsent_items_and_names_the_first_change_among_them() {
        let (slot, _places) = slot();
        let events = [(7, 0), (9, 1), (9, 2)];
        let events = events.map(|(index, position)| Arc::new(event(index, position, 1, 9)));
        let item = |event: &Arc<_>| FeedItem::Change(Arc::clone(event), false);
        slot.put(events.iter().map(item).collect());
        assert!(slot.polled().unwrap().is_some());
        tokio::time::advance(STALL_TIMEOUT * 2).await;
        assert!(slot.cut_if_slow(0, Instant::now()));
        // The stream may have been about to add more.
        slot.put(vec![FeedItem::Change(Arc::new(event(12, 0, 1, 9)), false)]);
        assert!(events.iter().all(|event| Arc::strong_count(event) == 1));
        let cut = slot.polled().unwrap_err();
        assert_eq!(cut.unsent, Some(9));
    }

    #[tokio::test(start_paused = true)]
    async fn items_that_a_cut_overtakes_are_named_too() {
        let (slot, _places) = slot();
        tokio::time::advance(STALL_TIMEOUT * 2).await;
        assert!(slot.cut_if_slow(0, Instant::now()));
        let late = Arc::new(event(12, 0, 1, 9));
        slot.put(vec![FeedItem::Change(Arc::clone(&late), false)]);
        assert_eq!(Arc::strong_count(&late), 1);
        assert_eq!(slot.polled().unwrap_err().unsent, Some(12));
    }
}
