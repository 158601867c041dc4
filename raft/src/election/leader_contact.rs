//! When this node last heard its leader.
//!
//! For what is said about the leader, never for safety: a follower that is cut off must not go on naming the leader it had.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::settings::Timing;

/// A leader that is silent for longer than this is not named any more, unless elections take even longer.
const SILENCE: Duration = Duration::from_secs(1);

/// Noted with each append, read when the status is reported. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Hearing {
    /// Wakes who watches when a silence ends, not with each append.
    at: watch::Sender<Option<Instant>>,
    silence: Duration,
    /// The newest message of a leader, of any kind. A plain lock, never held over an await.
    contact: Arc<Mutex<Option<Contact>>>,
}

#[derive(Clone, Copy, Debug)]
struct Contact {
    term: u64,
    at: Instant,
}

impl Hearing {
    pub(crate) fn new(timing: Timing) -> Hearing {
        Hearing {
            at: watch::Sender::new(None),
            silence: SILENCE.max(Duration::from_millis(timing.election_max_ms)),
            contact: Arc::default(),
        }
    }

    /// The leader of this term, the present or a newer one, has sent entries or a heartbeat.
    pub(crate) fn heard(&self, term: u64) {
        let now = Instant::now();
        self.note(term, now);
        self.at.send_if_modified(|at| {
            let former = at.replace(now);
            former.is_none_or(|former| now - former > self.silence)
        });
    }

    /// The leader of this term has sent a message that waits for no disk of its own either.
    pub(crate) fn alive(&self, term: u64) {
        self.note(term, Instant::now());
    }

    fn note(&self, term: u64, at: Instant) {
        let mut contact = self.contact();
        if contact.is_none_or(|newest| newest.term <= term) {
            *contact = Some(Contact { term, at });
        }
    }

    fn contact(&self) -> std::sync::MutexGuard<'_, Option<Contact>> {
        self.contact.lock().expect("no holder of the lock panics")
    }

    /// When the newest message of the leader of this term arrived.
    pub(crate) fn contact_of(&self, term: u64) -> Option<Instant> {
        let contact = *self.contact();
        contact
            .filter(|contact| contact.term == term)
            .map(|contact| contact.at)
    }

    /// When it was last heard.
    pub(crate) fn at(&self) -> Option<Instant> {
        *self.at.borrow()
    }

    /// From when on the leader counts as silent; in the past if it was never heard.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.at().map(|at| at + self.silence)
    }

    /// Told when a silence ends.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Instant>> {
        self.at.subscribe()
    }
}
