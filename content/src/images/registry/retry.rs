//! How long a registry that cannot be reached, breaks off or is busy is tried again.

use std::time::{Duration, Instant};

use crate::images::error::Fault;

/// The first pause between tries; doubled up to the longest.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// Tries of one request, however well each begins.
const TRIES: u32 = 30;

/// How long to bear with a server.
#[derive(Debug, Clone)]
pub(in crate::images) struct Patience {
    /// How long it may stay silent in the middle of an answer.
    pub(in crate::images) stall: Duration,
    /// How long it is tried again after it was last heard.
    pub(in crate::images) retry_for: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(60),
            retry_for: Duration::from_secs(30),
        }
    }
}

/// The tries of one request.
pub(in crate::images) struct Retry {
    retry_for: Duration,
    heard: Instant,
    pause: Duration,
    tries: u32,
}

impl Retry {
    pub(in crate::images) fn new(patience: &Patience) -> Self {
        Self {
            retry_for: patience.retry_for,
            heard: Instant::now(),
            pause: FIRST,
            tries: 1,
        }
    }

    /// Something came: whatever goes wrong from here on is new.
    pub(in crate::images) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Waits, if another try makes sense.
    ///
    /// # Errors
    /// The fault itself, if it does not.
    pub(in crate::images) async fn after(&mut self, fault: Fault) -> Result<(), Fault> {
        let asked = Duration::from_secs(fault.retry_after_s().unwrap_or(0));
        let pause = self.pause.max(asked);
        let is_late = self.heard.elapsed().saturating_add(pause) >= self.retry_for;
        if !fault.may_pass() || is_late || self.tries >= TRIES {
            return Err(fault);
        }
        tokio::time::sleep(pause).await;
        self.tries += 1;
        self.pause = (self.pause * 2).min(LONGEST);
        Ok(())
    }
}
