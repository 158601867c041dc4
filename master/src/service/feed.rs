//! The change feed: what has changed in the registry, for many subscribers of any master.
//!
//! The ring (`change_ring`) has the changed stored records. The hub renders each changed object
//! from a copy of the registry and encodes it once; subscribers have a cursor in the window of
//! encoded events, and no queue. Reading order: `subject`, `selection`, `event`, `window`,
//! `render`, `hub`, `snapshot`, `places`, `slot`, `subscription`.

mod event;
mod hub;
mod places;
mod render;
mod resumption;
mod selection;
mod slot;
mod snapshot;
mod subject;
mod subscription;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_proto::watch::OPEN_TIMEOUT;
use argosy_state::ids::Revision;
use metrics::{counter, gauge};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::owner_handle::{OwnerHandle, unavailable};
use places::Places;
use resumption::HeldRecords;
use slot::Slot;
use window::{Window, through};

pub(crate) use places::ConnectionKey;
#[cfg(test)]
pub(crate) use places::SUBSCRIBERS_PER_CONNECTION;
pub(crate) use selection::Selection;
pub(crate) use subscription::{FeedItem, Subscription};

/// Maximum number of subscribers of one master.
pub(crate) const SUBSCRIBERS: usize = 2_000;
/// Maximum number of snapshots that are being sent; each may hold a copy of the registry.
const SNAPSHOTS: usize = 16;

/// The feed of one master. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // Locks, because the hub and the subscribers are on several threads. They are held to copy
    // references to some hundred events, to add the events of some milliseconds, or for a lookup.
    window: Mutex<Window>,
    list: Mutex<BTreeMap<u64, Arc<Slot>>>,
    /// The oldest log index after which a subscriber needs changes that the window does not have.
    wanted_after: Mutex<Option<u64>>,
    wanted: Notify,
    /// Counts the changes of the window.
    announced: watch::Sender<u64>,
    subscribers: watch::Sender<usize>,
    places: Places,
    snapshots: Arc<Semaphore>,
    next: AtomicU64,
}

/// Where a subscriber begins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Start {
    /// The last change that it has; `None` if it has nothing.
    pub(crate) after: Option<Revision>,
    /// The log index that this master must have applied.
    pub(crate) min_revision: u64,
    pub(crate) wants_snapshots: bool,
    /// Whether `after` and `min_revision` belong to another cluster than this one.
    pub(crate) is_of_other_cluster: bool,
}

impl Start {
    /// Returns the cursor of a reader that has everything up to a log index, or up to a position
    /// in that entry.
    pub(crate) fn cursor(index: u64, position: Option<u32>) -> Revision {
        match position {
            Some(position) => Revision { index, position },
            None => through(index),
        }
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::bounded(SUBSCRIBERS)
    }
}

impl Feed {
    pub(crate) fn bounded(subscribers: usize) -> Self {
        let shared = Shared {
            window: Mutex::default(),
            list: Mutex::default(),
            wanted_after: Mutex::default(),
            wanted: Notify::new(),
            announced: watch::channel(0).0,
            subscribers: watch::channel(0).0,
            places: Places::new(subscribers),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS)),
            next: AtomicU64::new(1),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Returns the number of further subscribers.
    #[cfg(test)]
    pub(crate) fn free_places(&self) -> usize {
        self.shared.places.free()
    }

    /// Adds a subscriber.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there are too many; OUT_OF_RANGE if it begins after the newest
    /// revision of the cluster; UNAVAILABLE if this master has not applied that revision in time.
    pub(crate) async fn subscribe(
        &self,
        owner: &OwnerHandle,
        connection: ConnectionKey,
        (selection, cluster): (Selection, Arc<str>),
        start: Start,
    ) -> Result<Subscription, Status> {
        let place = self.shared.places.take(connection).map_err(|why| {
            counter!("argosy_queue_full_total", "queue" => "watch").increment(1);
            Status::resource_exhausted(why.to_string())
        })?;
        let is_other = start.is_of_other_cluster;
        let after = start.after.filter(|_| !is_other);
        let required = start.min_revision.max(after.map_or(0, |after| after.index));
        await_revision(owner, required).await?;
        let held = match after {
            Some(after) => HeldRecords::after(after, owner, &selection).await?,
            None if is_other && start.after.is_some() => HeldRecords::OfOtherCluster,
            None => HeldRecords::Current(BTreeSet::new()),
        };
        let start = Start {
            after: after.map(|after| render::after_change(&owner.changes, after)),
            ..start
        };
        let slot = Arc::new(Slot::new(place));
        let registration = Registration::new(&self.shared, &slot);
        Ok(Subscription::new(
            (self.clone(), owner.clone()),
            (slot, registration),
            (selection, cluster),
            (start, held),
        ))
    }
}

/// Waits until this master has applied a log index, for at most [`OPEN_TIMEOUT`]. One that is not
/// committed is rejected.
pub(crate) async fn await_revision(owner: &OwnerHandle, required: u64) -> Result<(), Status> {
    if *owner.applied.borrow() >= required {
        return Ok(());
    }
    let deadline = Instant::now() + OPEN_TIMEOUT;
    let confirmed = tokio::time::timeout_at(deadline, owner.node.confirm_read()).await;
    let committed = match confirmed {
        Ok(Ok(index)) => index,
        Ok(Err(why)) => return Err(unavailable(&why.to_string())),
        Err(_) => return Err(unavailable("the leader does not answer")),
    };
    if required > committed {
        return Err(Status::out_of_range(format!(
            "revision {required} is after {committed}, the newest one of this cluster: begin without a revision"
        )));
    }
    let applied = tokio::time::timeout_at(deadline, owner.wait_applied(required)).await;
    applied.unwrap_or_else(|_| {
        Err(unavailable(&format!(
            "this master has not applied revision {required} yet: use another one"
        )))
    })
}

impl Shared {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Slot>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the number of subscribers, under the lock, so that the last one counts.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    fn count(&self, list: &BTreeMap<u64, Arc<Slot>>) {
        self.subscribers.send_replace(list.len());
        gauge!("argosy_watch_subscribers").set(list.len() as f64);
    }

    /// Reports to the subscribers that the window has changed.
    fn announce(&self) {
        self.announced.send_modify(|count| *count += 1);
    }

    /// Requests the changes after a log index from the hub.
    fn want(&self, after: u64) {
        let mut wanted = self.wanted_after();
        *wanted = Some(wanted.map_or(after, |known| known.min(after)));
        drop(wanted);
        self.wanted.notify_one();
    }

    fn take_wanted(&self) -> Option<u64> {
        self.wanted_after().take()
    }

    fn wanted_after(&self) -> MutexGuard<'_, Option<u64>> {
        let wanted = self.wanted_after.lock();
        wanted.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of a subscriber in the list; removed when it is dropped, or the subscriber cut off.
#[derive(Debug)]
struct Registration {
    shared: Arc<Shared>,
    number: u64,
}

impl Registration {
    fn new(shared: &Arc<Shared>, slot: &Arc<Slot>) -> Self {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let registration = Self {
            shared: Arc::clone(shared),
            number,
        };
        let mut list = shared.list();
        list.insert(number, Arc::clone(slot));
        shared.count(&list);
        drop(list);
        registration
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut list = self.shared.list();
        let removed = list.remove(&self.number);
        self.shared.count(&list);
        drop(list);
        // Freed after the lock is released.
        drop(removed);
    }
}
