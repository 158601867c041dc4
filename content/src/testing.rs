//! Waiting in unit tests.

use std::time::Duration;

/// Timeout for everything that takes well below a second on a host that is not busy.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits for a condition that must become true.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let waited = tokio::time::timeout(TIMEOUT, waiting).await;
    waited.expect("the condition becomes true in time");
}
