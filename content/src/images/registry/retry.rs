//! Retries of requests to a registry that is unreachable, breaks off or is busy.

use std::time::{Duration, Instant};

use crate::images::error::PullErrorKind;

/// The first delay between retries; doubled up to the maximum.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// The maximum number of attempts for one request, however well each starts.
const TRIES: u32 = 30;

/// The timeouts of a server.
#[derive(Debug, Clone)]
pub(in crate::images) struct RetryTimeouts {
    /// The maximum silence in the middle of a response.
    pub(in crate::images) stall: Duration,
    /// The time for which it is retried after its last data.
    pub(in crate::images) retry_for: Duration,
}

impl Default for RetryTimeouts {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(60),
            retry_for: Duration::from_secs(30),
        }
    }
}

/// The retry state of one request.
pub(in crate::images) struct RetryState {
    retry_for: Duration,
    record_data: Instant,
    pause: Duration,
    tries: u32,
}

impl RetryState {
    pub(in crate::images) fn new(patience: &RetryTimeouts) -> Self {
        Self {
            retry_for: patience.retry_for,
            record_data: Instant::now(),
            pause: FIRST,
            tries: 1,
        }
    }

    /// Data was received: later errors count as new ones.
    pub(in crate::images) fn record_data(&mut self) {
        self.record_data = Instant::now();
    }

    /// Waits, if another attempt is useful.
    ///
    /// # Errors
    /// The fault itself, if it is not.
    pub(in crate::images) async fn after(
        &mut self,
        fault: PullErrorKind,
    ) -> Result<(), PullErrorKind> {
        let asked = Duration::from_secs(fault.retry_after_s().unwrap_or(0));
        let pause = self.pause.max(asked);
        let is_late = self.record_data.elapsed().saturating_add(pause) >= self.retry_for;
        if !fault.is_transient() || is_late || self.tries >= TRIES {
            return Err(fault);
        }
        tokio::time::sleep(pause).await;
        self.tries += 1;
        self.pause = (self.pause * 2).min(LONGEST);
        Ok(())
    }
}
