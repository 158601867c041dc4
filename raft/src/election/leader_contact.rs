//! The time of the last message from the leader.
//!
//! It is used only to report the leader, never for safety: a follower that is partitioned must stop
//! reporting its former leader.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::settings::Timing;

/// A leader that is silent for longer than this is no longer reported, unless elections take even
/// longer.
const SILENCE: Duration = Duration::from_secs(1);

/// The leader's last contact, recorded with each append and read when the status is reported. Cheap
/// to clone; all clones share one state.
#[derive(Clone)]
pub(crate) struct LeaderContact {
    /// Wakes its watchers when a silence ends, not with each append.
    at: watch::Sender<Option<Instant>>,
    silence: Duration,
    /// The newest message of a leader, of any kind. A plain lock, never held over an await.
    contact: Arc<Mutex<Option<LastContact>>>,
}

#[derive(Clone, Copy, Debug)]
struct LastContact {
    term: u64,
    at: Instant,
}

impl LeaderContact {
    pub(crate) fn new(timing: Timing) -> LeaderContact {
        LeaderContact {
            at: watch::Sender::new(None),
            silence: SILENCE.max(Duration::from_millis(timing.election_max_ms)),
            contact: Arc::default(),
        }
    }

    /// Records entries or a heartbeat from the leader of `term`, which is the current term or a
    /// newer one.
    pub(crate) fn record_append(&self, term: u64) {
        let now = Instant::now();
        self.record(term, now);
        self.at.send_if_modified(|at| {
            let former = at.replace(now);
            former.is_none_or(|former| now - former > self.silence)
        });
    }

    /// Records a message of the leader of `term` that does not wait for the leader's disk either.
    pub(crate) fn record_alive(&self, term: u64) {
        self.record(term, Instant::now());
    }

    fn record(&self, term: u64, at: Instant) {
        let mut contact = self.contact();
        if contact.is_none_or(|newest| newest.term <= term) {
            *contact = Some(LastContact { term, at });
        }
    }

    fn contact(&self) -> std::sync::MutexGuard<'_, Option<LastContact>> {
        self.contact.lock().expect("no holder of the lock panics")
    }

    /// Returns when the newest message of the leader of `term` arrived.
    pub(crate) fn contact_of(&self, term: u64) -> Option<Instant> {
        let contact = *self.contact();
        contact
            .filter(|contact| contact.term == term)
            .map(|contact| contact.at)
    }

    /// Returns when the leader's last append arrived.
    pub(crate) fn at(&self) -> Option<Instant> {
        *self.at.borrow()
    }

    /// Returns the time from which the leader counts as silent. `None` before its first append.
    pub(crate) fn silent_from(&self) -> Option<Instant> {
        self.at().map(|at| at + self.silence)
    }

    /// Returns a receiver that is notified when a silence ends.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Instant>> {
        self.at.subscribe()
    }
}
