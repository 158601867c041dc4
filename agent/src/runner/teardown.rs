//! What an agent that stops takes off its host: its helpers, and what only containers need if there are none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;

/// How long an agent that stops waits for the last of its ended containers.
const CLEAR_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Ends the helpers, and has the tree removed when the last supervisor of an ended container has gone.
pub(super) fn clear(mut shared: Arc<Shared>) {
    let deadline = Instant::now() + CLEAR_PATIENCE;
    let again = || {
        std::thread::sleep(LOOK_AGAIN);
        Instant::now() < deadline
    };
    let shared = loop {
        match Arc::try_unwrap(shared) {
            Ok(shared) => break shared,
            // A launch or removal that is still on a blocking thread has a hold on it.
            Err(held) if again() => shared = held,
            Err(_) => return,
        }
    };
    shared.service.end();
    if let Err(why) = shared.broker.clear() {
        tracing::warn!(why, "what containers need stays on this host");
    }
}
