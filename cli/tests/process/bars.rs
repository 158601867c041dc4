//! How long the cluster may be without a leader after its leader's process was killed.
//!
//! The bar of the product for that is 0.6 s, and `argosy-chaos failover` measures it. Tests share a busy host of two
//! cores, so these bounds are those of a broken mechanism, not of a slow host: usually it takes 20 to 100 ms, since
//! followers see that the process is dead, and 0.6 s if none does and the election waits for its timeout.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The bar of the product for a single failover.
const BAR: Duration = Duration::from_millis(600);
/// The longest median of a test program: elections that wait for their timeout twice take as long. A host that is slow
/// now and then does not move it.
const MEDIAN: Duration = BAR.saturating_mul(2);
/// The longest single one: ten rounds of elections have failed by then.
const LONGEST: Duration = BAR.saturating_mul(10);
/// Fewer show no median.
const ENOUGH: usize = 5;

/// All failovers of this test program.
static TOOK: Mutex<Vec<Duration>> = Mutex::new(Vec::new());

/// Judges one more failover.
///
/// # Panics
/// If it, or the median of all so far, took too long.
pub(crate) fn judge(took: Duration) {
    let mut all = TOOK.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(took);
    if let Some(why) = too_long(took, &mut all) {
        let all = all.clone();
        panic!("{why}: {all:?}");
    }
}

/// Sorts all that there were.
fn too_long(took: Duration, all: &mut [Duration]) -> Option<String> {
    all.sort_unstable();
    let median = all[all.len() / 2];
    if took > LONGEST {
        Some(format!("a failover took {took:?}, longer than {LONGEST:?}"))
    } else if all.len() >= ENOUGH && median > MEDIAN {
        Some(format!(
            "the median of the failovers is {median:?}, longer than {MEDIAN:?}"
        ))
    } else {
        None
    }
}

#[test]
fn a_slow_failover_now_and_then_is_no_broken_mechanism_and_slow_ones_every_time_are() {
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
