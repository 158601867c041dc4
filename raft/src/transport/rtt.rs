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
const IN_A_ROW: u32 = 50;

/// The consecutive late answers, by peer. Cheap to clone; all clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct RttTracker {
    // A plain lock, never held over an await: the clients of openraft share their measurements.
    late: Arc<Mutex<BTreeMap<u64, u32>>>,
}

impl RttTracker {
    /// Records how long a request and its answer took. Returns a message for operators, once until
    /// the answers are in time again.
    pub(crate) fn answered(&self, peer: u64, took: Duration, timing: Timing) -> Option<String> {
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
        (*count == IN_A_ROW).then(|| {
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
        let is_late = |peer: &u64| late.get(peer).is_some_and(|count| *count >= IN_A_ROW);
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
    fn answers_that_are_late_again_and_again_are_told_with_the_setting_that_helps() {
        let distances = RttTracker::default();
        let answered =
            |peer, ms| distances.answered(peer, Duration::from_millis(ms), Timing::lan());
        for _ in 1..IN_A_ROW {
            assert_eq!(answered(2, 180), None);
        }
        assert_eq!(answered(3, 180), None, "each peer counts by itself");
        let told = answered(2, 180).unwrap();
        assert!(
            told.contains("master-2") && told.contains("180 ms") && told.contains("--timing wan"),
            "{told}"
        );
        assert_eq!(answered(2, 180), None, "once");
        assert_eq!(answered(2, 20), None);
        let again = (0..IN_A_ROW).filter_map(|_| answered(2, 180)).count();
        assert_eq!(again, 1, "after it was in time");
    }

    #[test]
    fn a_node_is_far_away_while_it_and_those_that_answer_in_time_are_no_majority() {
        let distances = RttTracker::default();
        let answered =
            |peer, ms| drop(distances.answered(peer, Duration::from_millis(ms), Timing::lan()));
        let far = |voters: &[u64]| distances.is_far(1, &voters.iter().copied().collect());
        (1..IN_A_ROW).for_each(|_| answered(2, 180));
        (0..IN_A_ROW).for_each(|_| answered(3, 180));
        assert!(!far(&[1, 2, 3]) && far(&[1, 3]) && !far(&[1]));
        answered(2, 180);
        assert!(far(&[1, 2, 3]) && far(&[1, 2, 3, 4]) && !far(&[1, 2, 3, 4, 5]));
        answered(3, 20);
        assert!(!far(&[1, 2, 3]), "one answer in time");
    }

    #[test]
    fn a_late_answer_now_and_then_is_nothing() {
        let distances = RttTracker::default();
        for _ in 0..100 {
            for ms in [70, 80, 90, 100, 5] {
                let took = Duration::from_millis(ms);
                assert_eq!(distances.answered(2, took, Timing::lan()), None);
            }
        }
    }
}
