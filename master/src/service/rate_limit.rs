//! The rate limit for forwarding one client's messages: a flood on one stream must not use up the
//! connection that others share.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Messages that are forwarded without delay.
const BURST: u32 = 500;
/// Interval of later messages: 2,000 a second, several times the rate of an agent with 1,000 tasks.
const INTERVAL: Duration = Duration::from_micros(500);

/// Returns the same messages, limited to that rate.
pub(super) fn paced<T: Send + 'static>(
    messages: impl Stream<Item = T> + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static {
    let mut due = Instant::now();
    messages.then(move |message| {
        let now = Instant::now();
        let at = admit_at(&mut due, now);
        async move {
            if at > now {
                tokio::time::sleep_until(at).await;
            }
            message
        }
    })
}

/// Returns the same messages, each of which takes a permit first. The receiver of its answer
/// returns the permit.
pub(super) fn with_flow_control<T: Send + 'static>(
    messages: impl Stream<Item = T> + Send + 'static,
    room: Arc<Semaphore>,
) -> impl Stream<Item = T> + Send + 'static {
    messages.then(move |message| {
        let room = Arc::clone(&room);
        async move {
            // It is never closed.
            if let Ok(place) = room.acquire().await {
                place.forget();
            }
            message
        }
    })
}

/// Returns when a message that has just arrived may be forwarded. `due` is the time at which all
/// messages so far would have been forwarded without bursts.
fn admit_at(due: &mut Instant, now: Instant) -> Instant {
    let at = due.checked_sub(INTERVAL * BURST).unwrap_or(now).max(now);
    *due = (*due).max(now) + INTERVAL;
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_immediately_and_a_flood_is_rate_limited() {
        // The clock of a machine that has just started may not reach back far enough.
        tokio::time::advance(Duration::from_secs(10)).await;
        let began = Instant::now();
        let burst = BURST as usize;
        let mut messages = Box::pin(paced(futures::stream::iter(0..)));
        for _ in 0..burst {
            messages.next().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..2_000 {
            messages.next().await;
        }
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(990) && took < Duration::from_secs(4),
            "{took:?}"
        );
        tokio::time::advance(Duration::from_secs(10)).await;
        let began = Instant::now();
        for _ in 0..burst {
            messages.next().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
