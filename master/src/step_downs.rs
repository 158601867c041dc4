//! Step-downs of a leader whose followers answer too late.
//!
//! This module is pure. If no quorum answers within the lease, the leader stops acting and the
//! others elect another one. Two cases remain. Answers may take about as long as the lease, so that
//! the leader loses and regains its active status again and again ([`StepDowns`]). Or answers
//! arrive within the lease but take longer than a heartbeat may, so that no read is confirmed
//! ([`FarTransfer`]).

use std::time::Duration;

use tokio::time::Instant;

/// Number of step-downs after which another one is expected.
const MAX_STEP_DOWNS: usize = 3;
/// The window in which they must occur, in leases. Isolated step-downs with healthy periods between
/// them do not count.
const WINDOW_LEASES: u32 = 16;

/// Log message of a leadership transfer for this reason.
pub(crate) const TOO_OFTEN: &str = "a quorum repeatedly answers too late: transferring leadership in case this master is far away or slow";

/// Log message of a leadership transfer because no read can be confirmed.
pub(crate) const FAR_AWAY: &str = "a majority of the masters is too far away to confirm reads in time: transferring leadership in case this master is far away";

/// The step-downs that still count.
#[derive(Debug)]
pub(crate) struct StepDowns {
    window: Duration,
    recent: Vec<Instant>,
}

impl StepDowns {
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            window: lease * WINDOW_LEASES,
            recent: Vec::new(),
        }
    }

    /// Records a step-down. Returns true, and resets the count, if leadership should be
    /// transferred.
    pub(crate) fn record(&mut self, now: Instant) -> bool {
        self.recent
            .retain(|fall| now.duration_since(*fall) < self.window);
        self.recent.push(now);
        let is_often = self.recent.len() >= MAX_STEP_DOWNS;
        if is_often {
            self.recent.clear();
        }
        is_often
    }
}

/// Delay before a failed transfer is retried: its target may have been down.
const RETRY: Duration = Duration::from_secs(10);

/// Whether this master has transferred leadership because it is far away from the others.
///
/// A master that was far away, transferred leadership and was elected again keeps it. Otherwise
/// leadership would move endlessly among masters that are all far away from each other.
#[derive(Debug, Default)]
pub(crate) enum FarTransfer {
    #[default]
    Near,
    /// The master leads, and requested a transfer at this time.
    Requested(Instant),
    /// The master no longer leads since its request.
    Transferred,
}

impl FarTransfer {
    /// Records whether this master is far away from a majority, `None` while it does not lead.
    /// Returns whether to transfer leadership now.
    pub(crate) fn check(&mut self, is_far: Option<bool>, now: Instant) -> bool {
        let (next, asks) = match (&*self, is_far) {
            (Self::Near, None) | (_, Some(false)) => (Self::Near, false),
            (Self::Near, Some(true)) => (Self::Requested(now), true),
            (Self::Requested(at), Some(true)) if now.duration_since(*at) < RETRY => {
                (Self::Requested(*at), false)
            }
            (Self::Requested(_), Some(true)) => (Self::Requested(now), true),
            (Self::Requested(_) | Self::Transferred, None) | (Self::Transferred, Some(true)) => {
                (Self::Transferred, false)
            }
        };
        *self = next;
        asks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distant_leader_transfers_once_until_it_was_near() {
        let begun = Instant::now();
        let mut distance = FarTransfer::default();
        let mut check = |is_far, ms: u64| distance.check(is_far, begun + Duration::from_millis(ms));
        assert!(!check(None, 0) && !check(Some(false), 1_000) && check(Some(true), 2_000));
        assert!(!check(Some(true), 2_100), "under way");
        assert!(
            !check(None, 2_200) && !check(Some(true), 60_000),
            "elected again"
        );
        assert!(!check(Some(false), 61_000) && check(Some(true), 62_000));
    }

    #[test]
    fn distant_leader_retries_a_failed_transfer() {
        let begun = Instant::now();
        let mut distance = FarTransfer::default();
        let mut check = |ms: u64| distance.check(Some(true), begun + Duration::from_millis(ms));
        assert!(check(0) && !check(9_999));
        assert!(check(10_000) && !check(10_100) && check(20_100));
    }

    #[test]
    fn third_step_down_in_the_window_transfers_leadership() {
        let begun = Instant::now();
        let mut falls = StepDowns::new(Duration::from_millis(300));
        let mut at = |ms: u64| falls.record(begun + Duration::from_millis(ms));
        assert!(!at(0) && !at(400) && at(900));
        assert!(!at(1_200), "it counts from zero");
        assert!(!at(6_300) && !at(11_400) && !at(16_500));
    }
}
