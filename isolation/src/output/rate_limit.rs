//! How many bytes of a stream are taken within a second. Decides only; the time is an argument.
//!
//! All of a second's bytes may come at once, and what comes after them waits for the next second, not for the next few bytes:
//! a flood is kept in whole pieces with one note between two of them, not in shreds.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// What may still come in the present second, which begins with its first byte.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second: u64,
    left: u64,
    since: Option<Instant>,
}

impl Allowance {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            per_second: bytes_per_second,
            left: 0,
            since: None,
        }
    }

    /// How many of so many bytes are taken now: the first ones.
    pub(super) fn grant(&mut self, now: Instant, wanted: usize) -> usize {
        if self.is_over(now) {
            (self.since, self.left) = (Some(now), self.per_second);
        }
        let granted = wanted.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= granted as u64;
        granted
    }

    /// Whether the next byte begins another second.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let is_over = |since| now.saturating_duration_since(since) >= SECOND;
        self.since.is_none_or(is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_granted_its_bytes_and_no_more() {
        let mut allowance = Allowance::new(100);
        let now = Instant::now();
        assert_eq!(allowance.grant(now, 70), 70);
        assert_eq!(allowance.grant(now + SECOND / 2, 70), 30);
        assert_eq!(
            allowance.grant(now + SECOND - Duration::from_nanos(1), 1),
            0
        );
        assert_eq!(allowance.grant(now + SECOND, 250), 100);
        assert_eq!(allowance.grant(now + SECOND * 3 / 2, 1), 0);
        assert_eq!(allowance.grant(now + SECOND * 9, 5), 5);
    }

    #[test]
    fn a_clock_that_stands_still_grants_no_second_time() {
        let mut allowance = Allowance::new(100);
        let now = Instant::now();
        assert_eq!(allowance.grant(now + SECOND, 100), 100);
        assert_eq!(allowance.grant(now, 1), 0);
    }
}
