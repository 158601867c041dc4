//! Retries of requests to a registry that is unreachable, breaks off or is busy.

use std::time::{Duration, Instant};

use crate::images::error::PullErrorKind;

/// The first delay between retries; doubled up to the maximum.
const MIN_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_secs(2);
/// The maximum number of attempts for one request, however well each starts.
const MAX_ATTEMPTS: u32 = 30;

/// The timeouts of a server.
#[derive(Debug, Clone)]
pub(in crate::images) struct RetryTimeouts {
    /// The maximum silence in the middle of a response.
    pub(in crate::images) stall: Duration,
    /// The maximum time in which a document is received: it is in memory, and a large one takes a
    /// slot, so a server that sends a byte a minute must not keep it.
    pub(in crate::images) document: Duration,
    /// The time for which it is retried after its last data.
    pub(in crate::images) retry_for: Duration,
}

impl Default for RetryTimeouts {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(60),
            document: Duration::from_secs(300),
            retry_for: Duration::from_secs(30),
        }
    }
}

/// The retry state of one request.
pub(in crate::images) struct RetryState {
    retry_for: Duration,
    last_data: Instant,
    delay: Duration,
    attempts: u32,
}

impl RetryState {
    pub(in crate::images) fn new(timeouts: &RetryTimeouts) -> Self {
        Self {
            retry_for: timeouts.retry_for,
            last_data: Instant::now(),
            delay: MIN_DELAY,
            attempts: 1,
        }
    }

    /// Data was received: later errors count as new ones.
    pub(in crate::images) fn record_data(&mut self) {
        self.last_data = Instant::now();
    }

    /// Waits, if another attempt is useful.
    ///
    /// # Errors
    /// The error itself, if it is not.
    pub(in crate::images) async fn wait_after(
        &mut self,
        error: PullErrorKind,
    ) -> Result<(), PullErrorKind> {
        let asked = Duration::from_secs(error.retry_after_s().unwrap_or(0));
        let pause = self.delay.max(asked);
        let is_late = self.last_data.elapsed().saturating_add(pause) >= self.retry_for;
        if !error.is_transient() || is_late || self.attempts >= MAX_ATTEMPTS {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        self.attempts += 1;
        self.delay = (self.delay * 2).min(MAX_DELAY);
        Ok(())
    }
}
