//! Masters that are farther away than the times of elections allow: counted here, and said in words.
//!
//! openraft gives a heartbeat one heartbeat interval to be answered. A leader whose heartbeats take longer is heard
//! by its followers and never hears that they hear it: it cannot stay in office.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::settings::Timing;

/// So many late answers in a row are no accident of a busy machine.
const IN_A_ROW: u32 = 5;

/// Late answers in a row, by peer. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distances {
    // A plain lock, never held over an await: the clients of openraft share what they saw.
    late: Arc<Mutex<BTreeMap<u64, u32>>>,
}

impl Distances {
    /// Notes how long a question and its answer were under way; now and then returns what a person must know.
    pub(crate) fn answered(&self, peer: u64, took: Duration, timing: Timing) -> Option<String> {
        let mut late = self
            .late
            .lock()
            .expect("nobody panics while holding the lock");
        if took <= Duration::from_millis(timing.heartbeat_ms) {
            late.remove(&peer);
            return None;
        }
        let count = late.entry(peer).or_default();
        *count += 1;
        count.is_multiple_of(IN_A_ROW).then(|| {
            format!(
                "a question to master-{peer} and its answer take {} ms, and a leader's heartbeat must be answered within {} ms: \
                 no leader that needs it can stay in office; mend the network, or start all masters with --timing wan, \
                 which allows {} ms",
                took.as_millis(),
                timing.heartbeat_ms,
                Timing::wan().heartbeat_ms
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_late_again_and_again_are_told_with_the_setting_that_helps() {
        let distances = Distances::default();
        let answered =
            |peer, ms| distances.answered(peer, Duration::from_millis(ms), Timing::shipped());
        for _ in 0..4 {
            assert_eq!(answered(2, 180), None);
        }
        assert_eq!(answered(3, 180), None, "each peer counts by itself");
        let told = answered(2, 180).unwrap();
        assert!(
            told.contains("master-2") && told.contains("180 ms") && told.contains("--timing wan"),
            "{told}"
        );
        assert_eq!(answered(2, 180), None, "not each time");
    }

    #[test]
    fn a_late_answer_now_and_then_is_nothing() {
        let distances = Distances::default();
        for _ in 0..10 {
            for ms in [70, 80, 90, 100, 5] {
                let took = Duration::from_millis(ms);
                assert_eq!(distances.answered(2, took, Timing::shipped()), None);
            }
        }
    }
}
