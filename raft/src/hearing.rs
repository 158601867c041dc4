//! When this node last heard its leader.
//!
//! For what is said about the leader, never for safety: a follower that is cut off must not go on naming the leader it had.

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
}

impl Hearing {
    pub(crate) fn new(timing: Timing) -> Hearing {
        Hearing {
            at: watch::Sender::new(None),
            silence: SILENCE.max(Duration::from_millis(timing.election_max_ms)),
        }
    }

    /// The leader of the present term, or of a newer one, has sent something.
    pub(crate) fn heard(&self) {
        let now = Instant::now();
        self.at.send_if_modified(|at| {
            let former = at.replace(now);
            former.is_none_or(|former| now - former > self.silence)
        });
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
