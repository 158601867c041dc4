//! How long an attempt waits for one master.
//!
//! Pure. A busy master answers late: after a failover all agents connect to the same one. Clients
//! that gave up after the same time again and again would only repeat what it has to do. So the
//! timeout grows with each attempt that was not answered, until the master answers.

use std::collections::HashMap;
use std::time::Duration;

/// Timeout for an answer of a master that has answered before.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of the first attempt at a master that has never answered: the host may not exist.
pub(crate) const FIRST_ATTEMPT: Duration = Duration::from_secs(1);
/// The longest timeout.
const LONGEST: Duration = Duration::from_secs(8);

/// The timeouts in a row of each master. Bounded by the masters that were called.
#[derive(Default)]
pub(super) struct AttemptTimeouts {
    timeouts: HashMap<String, u32>,
}

impl AttemptTimeouts {
    /// Returns the timeout of the next attempt at a master.
    pub(super) fn limit(&self, address: &str, is_responsive: bool) -> Duration {
        let first = match is_responsive {
            true => ATTEMPT_TIMEOUT,
            false => FIRST_ATTEMPT,
        };
        let timeouts = self.timeouts.get(address).copied().unwrap_or(0);
        first.saturating_mul(1 << timeouts.min(3)).min(LONGEST)
    }

    /// Records that an attempt was not answered in time.
    pub(super) fn timed_out(&mut self, address: &str) {
        let timeouts = self.timeouts.entry(address.to_owned()).or_default();
        *timeouts = timeouts.saturating_add(1);
    }

    /// Records an answer of any kind.
    pub(super) fn answered(&mut self, address: &str) {
        self.timeouts.remove(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_grow_until_the_master_answers() {
        let mut timeouts = AttemptTimeouts::default();
        let mut limits = Vec::new();
        for _ in 0..5 {
            limits.push(timeouts.limit("a:1", false).as_secs());
            timeouts.timed_out("a:1");
        }
        assert_eq!(limits, [1, 2, 4, 8, 8]);
        assert_eq!(timeouts.limit("a:1", true), LONGEST);
        assert_eq!(timeouts.limit("b:1", false), FIRST_ATTEMPT);
        assert_eq!(timeouts.limit("b:1", true), ATTEMPT_TIMEOUT);
        timeouts.answered("a:1");
        assert_eq!(timeouts.limit("a:1", true), ATTEMPT_TIMEOUT);
    }
}
