//! Round-trip times that exceed the election timing: counted here, and reported with the setting
//! that helps.
//!
//! openraft gives a heartbeat one heartbeat interval to be answered, and confirms reads by
//! heartbeats. The time is measured with the `Alive` request, which waits for no disk, so it is the
//! network round trip. A leader that is too far away from a majority confirms no read and transfers
//! leadership: another master may be nearer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::settings::Timing;

/// The number of consecutive late answers that a busy machine does not explain. There is one
/// request per heartbeat interval.
const MAX_LATE: u32 = 50;

/// The consecutive late answers, by peer. Cheap to clone; all clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct RttTracker {
    // A plain lock, never held over an await: the clients of openraft share their measurements.
    late: Arc<Mutex<BTreeMap<u64, u32>>>,
}

impl RttTracker {
    /// Records how long a request and its answer took. Returns a message for operators, once until
    /// the answers are in time again.
    pub(crate) fn record_answer(
        &self,
        peer: u64,
        took: Duration,
        timing: Timing,
    ) -> Option<String> {
        let mut late = self
            .late
            .lock()
            .expect("no task panics while holding the lock");
        if took <= Duration::from_millis(timing.heartbeat_ms) {
            late.remove(&peer);
            return None;
        }
        let count = late.entry(peer).or_default();
        *count = count.saturating_add(1);
        (*count == MAX_LATE).then(|| {
            format!(
                "a request to master-{peer} and its answer take {} ms, but a heartbeat must be answered within {} ms: \
                 this master confirms no read that needs master-{peer}; repair the network, or start all masters with \
                 --timing wan, which allows {} ms",
                took.as_millis(),
                timing.heartbeat_ms,
                Timing::wan().heartbeat_ms
            )
        })
    }

    /// Returns whether so many of the other voters answer late repeatedly that this node, `own`,
    /// and the rest are not a majority.
    pub(crate) fn is_far(&self, own: u64, voters: &BTreeSet<u64>) -> bool {
        let late = self
            .late
            .lock()
            .expect("no task panics while holding the lock");
        let is_late = |peer: &u64| late.get(peer).is_some_and(|count| *count >= MAX_LATE);
        let far = voters
            .iter()
            .filter(|peer| **peer != own && is_late(peer))
            .count();
        voters.len() - far <= voters.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeatedly_late_answers_are_reported_with_a_remedy() {
        let distances = RttTracker::default();
        let answered =
            |peer, ms| distances.record_answer(peer, Duration::from_millis(ms), Timing::lan());
        for _ in 1..MAX_LATE {
            assert_eq!(answered(2, 180), None);
        }
        assert_eq!(answered(3, 180), None, "each peer counts by itself");
        let reported = answered(2, 180).unwrap();
        assert!(
            reported.contains("master-2")
                && reported.contains("180 ms")
                && reported.contains("--timing wan"),
            "{reported}"
        );
        assert_eq!(answered(2, 180), None, "once");
        assert_eq!(answered(2, 20), None);
        let again = (0..MAX_LATE).filter_map(|_| answered(2, 180)).count();
        assert_eq!(again, 1, "after it was in time");
    }

    #[test]
    fn node_is_far_without_a_majority_of_timely_answers() {
        let distances = RttTracker::default();
        let answered = |peer, ms| {
            drop(distances.record_answer(peer, Duration::from_millis(ms), Timing::lan()))
        };
        let far = |voters: &[u64]| distances.is_far(1, &voters.iter().copied().collect());
        (1..MAX_LATE).for_each(|_| answered(2, 180));
        (0..MAX_LATE).for_each(|_| answered(3, 180));
        assert!(!far(&[1, 2, 3]) && far(&[1, 3]) && !far(&[1]));
        answered(2, 180);
        assert!(far(&[1, 2, 3]) && far(&[1, 2, 3, 4]) && !far(&[1, 2, 3, 4, 5]));
        answered(3, 20);
        assert!(!far(&[1, 2, 3]), "one answer in time");
    }

    #[test]
    fn occasional_late_answers_are_ignored() {
        let distances = RttTracker::default();
        for _ in 0..100 {
            for ms in [70, 80, 90, 100, 5] {
                let took = Duration::from_millis(ms);
                assert_eq!(distances.record_answer(2, took, Timing::lan()), None);
            }
        }
    }
}
