//! Teardown of a stopping agent: it removes its helpers, and host resources that are unused without
//! containers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RunnerState;

/// The time for which a stopping agent waits for the last of its ended containers.
const CLEAR_PATIENCE: Duration = Duration::from_secs(1);
/// The polling interval.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Ends the helpers, and requests the removal of the tree when the last supervisor of an ended
/// container has exited.
pub(super) fn clear(mut shared: Arc<RunnerState>) {
    let deadline = Instant::now() + CLEAR_PATIENCE;
    let again = || {
        std::thread::sleep(LOOK_AGAIN);
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
    shared.service.end();
    if let Err(why) = shared.broker.clear() {
        tracing::warn!(why, "resources of containers stay on this host");
    }
}
