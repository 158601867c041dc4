//! The task that encodes changes for all subscribers of this master.
//!
//! It runs on the readers' thread, only while there are subscribers, and reads copies of the
//! registry: the owner's turns do not depend on it, except for the copies.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_state::planted_bug;
use metrics::{counter, gauge};
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Status;
use tracing::debug;

use super::render;
use super::slot::Slot;
use super::subject::Subject;
use super::window::{CATCH_UP_BYTES, KEPT_BYTES, WINDOW_BYTES, Window};
use super::{Feed, Shared};
use crate::change_ring::ChangeRing;
use crate::inbox::StateView;
use crate::owner_handle::{OwnerHandle, stopping};

/// Minimum interval between two copies of the registry. Changes of one record within it are one
/// event.
const INTERVAL: Duration = Duration::from_millis(10);
/// Interval at which slow subscribers are searched for.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Fills a window from a ring.
pub(super) struct Encoder<'a> {
    window: &'a Mutex<Window>,
    ring: &'a ChangeRing,
    /// The newest record of the cluster; most changes of the stored one are not visible.
    cluster: Vec<u8>,
}

impl Feed {
    /// Encodes changes while there are subscribers, until the future is dropped.
    pub(crate) async fn run(self, owner: OwnerHandle) {
        loop {
            let mut subscribers = self.shared.subscribers.subscribe();
            // The sender is part of this feed.
            if subscribers.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            // Fails only if this master is stopping.
            if self.shared.serve(&owner).await.is_err() {
                return;
            }
            self.shared.window().end();
        }
    }
}

impl Shared {
    /// Returns when there are no subscribers left, or if this master is stopping.
    async fn serve(&self, owner: &OwnerHandle) -> Result<(), Status> {
        let mut applied = owner.applied.clone();
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let index = *applied.borrow_and_update();
        let view = owner.view(index).await?;
        let mut encoder = Encoder::new(&self.window, &owner.changes, &view);
        self.announce();
        drop(view);
        while *self.subscribers.borrow() > 0 {
            let began = Instant::now();
            tokio::select! {
                changed = applied.changed() => changed.map_err(|_| stopping())?,
                () = self.wanted.notified() => {}
                _ = checks.tick() => {
                    self.cut_slow();
                    continue;
                }
            }
            let index = *applied.borrow_and_update();
            let view = owner.view(index).await?;
            encoder.advance(&view).await;
            let wanted = self.take_wanted();
            if let Some(after) = wanted {
                encoder.catch_up(&view, after).await;
            }
            drop(view);
            self.announce();
            tokio::time::sleep_until(began + INTERVAL).await;
        }
        Ok(())
    }

    /// Cuts off slow subscribers. They count no longer, although their streams may remain.
    pub(super) fn cut_slow(&self) {
        let (end, cost) = {
            let window = self.window();
            (window.end_offset(), window.cost())
        };
        let now = Instant::now();
        let mut slots: Vec<(u64, Arc<Slot>)> = {
            let list = self.list();
            let slots = list.iter();
            let slots = slots.map(|(number, slot)| (*number, Arc::clone(slot)));
            slots.collect()
        };
        slots.retain(|(_, slot)| slot.cut_if_slow(end, now));
        if !slots.is_empty() {
            counter!("argosy_watch_cut_off_total").increment(slots.len() as u64);
            let mut list = self.list();
            for (number, _) in &slots {
                list.remove(number);
            }
            self.count(&list);
        }
        #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
        gauge!("argosy_watch_window_bytes").set(cost as f64);
    }
}

impl<'a> Encoder<'a> {
    /// Begins the window at a view.
    pub(super) fn new(window: &'a Mutex<Window>, ring: &'a ChangeRing, view: &StateView) -> Self {
        let mut encoder = Self {
            window,
            ring,
            cluster: Vec::new(),
        };
        encoder.begin(view);
        encoder
    }

    fn begin(&mut self, view: &StateView) {
        self.cluster = render::cluster(&view.registry).encode_to_vec();
        self.window().begin(view.registry.applied());
    }

    /// Appends all changes up to the view.
    pub(super) async fn advance(&mut self, view: &StateView) {
        self.advance_within(view, KEPT_BYTES).await;
    }

    /// Appends the newest changes up to the view that cost at most `most`. If there are more, the
    /// window begins again: the ring has the others, if a subscriber needs them.
    pub(super) async fn advance_within(&mut self, view: &StateView, most: usize) {
        let (head, applied) = (self.window().head(), view.registry.applied());
        if head >= applied {
            return;
        }
        let mut touched = match render::touched(self.ring, head, applied).await {
            Ok(touched) => touched,
            Err(lost) => {
                // A snapshot was installed, or this task had no time for very many changes. Readers
                // that have been further at another master can continue from the ring.
                debug!(%lost, "the window of the change feed begins again");
                self.begin(view);
                return self.window().lose_before(lost.oldest);
            }
        };
        let cluster = render::cluster(&view.registry).encode_to_vec();
        if std::mem::replace(&mut self.cluster, cluster) == self.cluster {
            touched.remove(&Subject::Cluster);
        }
        let (events, left_out) = render::newest_events(view, touched, most).await;
        let mut window = self.window();
        if let Some(index) = left_out {
            window.begin(index);
        }
        window.append(applied, events);
    }

    /// Prepends the changes after a log index up to the floor. The window must reach up to the
    /// view.
    pub(super) async fn catch_up(&self, view: &StateView, after: u64) {
        self.catch_up_within(view, after, CATCH_UP_BYTES).await;
    }

    /// Prepends what costs at most `most` and fits in the window. Only subscribers that need more
    /// than that have lost their history.
    pub(super) async fn catch_up_within(&self, view: &StateView, after: u64, most: usize) {
        let Some(floor) = self.window().floor().filter(|floor| after < *floor) else {
            return;
        };
        let (newer, room) = {
            let window = self.window();
            let room = WINDOW_BYTES.saturating_sub(window.cost());
            (window.subjects(), room)
        };
        let begin = planted_bug!(WatchResumesLate, after, after + 1);
        let mut touched = match render::touched(self.ring, begin, floor).await {
            Ok(touched) => touched,
            Err(lost) => return self.window().lose_before(lost.oldest),
        };
        // Their newest state follows in the window, and their earlier one is unknown.
        touched.retain(|subject, touch| !newer.contains(subject) || touch.keep_removal());
        let (events, left_out) = render::newest_events(view, touched, most.min(room)).await;
        let mut window = self.window();
        if let Some(index) = left_out {
            window.lose_before(index);
        }
        window.prepend(left_out.unwrap_or(after), events);
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
