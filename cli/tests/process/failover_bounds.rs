//! Bounds on the time without a leader after the leader's process was killed.
//!
//! The product's target is 0.6 s, which `argosy-bench leader-loss` measures. These tests share a
//! busy host of two cores, so their bounds detect a broken mechanism, not a slow host. A failover
//! usually takes 20 to 100 ms, since followers detect the dead process. It takes 0.6 s if none does
//! and the election waits for its timeout.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The product's target for a single failover.
const TARGET: Duration = Duration::from_millis(600);
/// The longest accepted median of a test program. Elections that wait for their timeout twice take
/// this long. A host that is occasionally slow does not affect it.
const MEDIAN: Duration = TARGET.saturating_mul(2);
/// The longest accepted single failover. Ten rounds of elections have failed by then.
const LONGEST: Duration = TARGET.saturating_mul(10);
/// The number of failovers below which there is no meaningful median.
const MIN_FAILOVERS: usize = 5;

/// The durations of all failovers of this test program.
static DURATIONS: Mutex<Vec<Duration>> = Mutex::new(Vec::new());

/// Checks one more failover.
///
/// # Panics
/// If it, or the median of all so far, took too long.
pub(crate) fn check(took: Duration) {
    let mut all = DURATIONS.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(took);
    if let Some(why) = too_long(took, &mut all) {
        let all = all.clone();
        panic!("{why}: {all:?}");
    }
}

/// Sorts all durations, and returns a message if one is too long.
fn too_long(took: Duration, all: &mut [Duration]) -> Option<String> {
    all.sort_unstable();
    let median = all[all.len() / 2];
    if took > LONGEST {
        Some(format!("a failover took {took:?}, longer than {LONGEST:?}"))
    } else if all.len() >= MIN_FAILOVERS && median > MEDIAN {
        Some(format!(
            "the median of the failovers is {median:?}, longer than {MEDIAN:?}"
        ))
    } else {
        None
    }
}

#[test]
fn occasional_slow_failovers_pass_and_consistently_slow_ones_fail() {
    let ms = Duration::from_millis;
    assert_eq!(too_long(ms(5_900), &mut [ms(5_900)]), None);
    let found = too_long(ms(6_100), &mut [ms(6_100)]).unwrap();
    assert!(found.contains("a failover took 6.1s"), "{found}");
    let mut slow_once = [ms(40), ms(3_000), ms(2_000), ms(60), ms(50)];
    assert_eq!(too_long(ms(50), &mut slow_once), None);
    let mut by_timeout_twice = [ms(1_300), ms(1_250), ms(40), ms(1_400), ms(60)];
    let found = too_long(ms(60), &mut by_timeout_twice).unwrap();
    assert!(found.contains("the median"), "{found}");
    assert_eq!(too_long(ms(1_300), &mut [ms(1_300); 4]), None, "too few");
}
