//! Teardown of a stopping agent: it removes its helpers, and host resources that are unused without
//! containers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RunnerState;

/// The time for which a stopping agent waits for the last of its ended containers.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(1);
/// The polling interval.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Ends the helpers, and requests the removal of the tree when the last supervisor of an ended
/// container has exited.
pub(super) fn clear(mut shared: Arc<RunnerState>) {
    let deadline = Instant::now() + CLEAR_TIMEOUT;
    let again = || {
        std::thread::sleep(POLL_INTERVAL);
        Instant::now() < deadline
    };
    let shared = loop {
        match Arc::try_unwrap(shared) {
            Ok(shared) => break shared,
            // A launch or removal that is still on a blocking thread holds a reference.
            Err(held) if again() => shared = held,
            Err(_) => return,
        }
    };
    shared.service.stop();
    if let Err(why) = shared.broker.clear() {
        tracing::warn!(why, "resources of containers stay on this host");
    }
}
