//! What an agent that stops takes off its host: its helpers, and what only containers need if there are none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;

/// How long an agent that stops waits for the last of its ended containers.
const CLEAR_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Ends the helpers, and removes the tree when the last supervisor of an ended container has gone.
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
    shared.launching.end();
    shared.service.end();
    let Some(tree) = &shared.tree else { return };
    let is_empty = || tree.containers().is_ok_and(|living| living.is_empty());
    if is_empty()
        && let Err(error) = shared.bridges.remove()
    {
        let why = crate::error::sentence(&error);
        tracing::warn!(why, "the networks of containers stay on this host");
    }
    if is_empty() {
        shared.plugged.remove();
    }
    while is_empty() && tree.remove().is_err() && again() {}
}
