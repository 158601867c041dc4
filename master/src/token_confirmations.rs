//! The confirmations that all requests with unknown tokens share: a flood of such requests costs
//! the leader a bounded number of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

/// Timeout of the wait for the newest entries of the log, for a token that is unknown here.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum interval of two such waits, which cost the leader a read index each.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(100);

/// The confirmations for unknown tokens, which all requests share. Cheap to clone.
///
/// The lock is the queue of requests: it is held during a confirmation, so that those that wait
/// share the next one.
#[derive(Clone, Default)]
pub(crate) struct TokenConfirmations(Arc<Mutex<LastConfirmation>>);

#[derive(Default)]
struct LastConfirmation {
    began: Option<Instant>,
    /// Whether the wait that began then has succeeded.
    is_confirmed: bool,
}

impl TokenConfirmations {
    /// Waits until all entries that were committed before this call are applied, at most for
    /// [`CONFIRM_TIMEOUT`]. Returns whether they are.
    pub(crate) async fn wait(&self, confirm: impl Future<Output = bool>) -> bool {
        let arrived = Instant::now();
        let confirmed = timeout(CONFIRM_TIMEOUT, async {
            let mut last = self.0.lock().await;
            // One that began earlier may have missed the newest entry.
            if last.is_confirmed && last.began.is_some_and(|began| began > arrived) {
                return true;
            }
            if let Some(began) = last.began {
                sleep_until(began + CONFIRM_INTERVAL).await;
            }
            *last = LastConfirmation {
                began: Some(Instant::now()),
                is_confirmed: false,
            };
            last.is_confirmed = confirm.await;
            last.is_confirmed
        });
        confirmed.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_unknown_tokens_costs_the_leader_a_bounded_number_of_confirmations() {
        let confirmations = TokenConfirmations::default();
        let begun = Mutex::new(0_u32);
        let begin = Instant::now();
        let confirm = async || {
            *begun.lock().await += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
            true
        };
        let requests = (0..2_000_u64).map(|at| {
            let (confirmations, confirm) = (&confirmations, &confirm);
            async move {
                sleep_until(begin + Duration::from_millis(at / 2)).await;
                assert!(confirmations.wait(confirm()).await);
            }
        });
        futures::future::join_all(requests).await;
        let begun = *begun.lock().await;
        assert!((10..=12).contains(&begun), "{begun}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_confirmed_by_a_wait_that_began_after_its_request() {
        let confirmations = TokenConfirmations::default();
        assert!(confirmations.wait(async { true }).await);
        // The former one is no answer, and one that fails is repeated.
        assert!(!confirmations.wait(async { false }).await);
        assert!(confirmations.wait(async { true }).await);
        // A request whose caller has disconnected answers no other one.
        let dropped = timeout(
            Duration::from_millis(150),
            confirmations.wait(std::future::pending()),
        );
        dropped.await.unwrap_err();
        assert!(confirmations.wait(async { true }).await);
        assert!(!confirmations.wait(std::future::pending()).await);
    }
}
