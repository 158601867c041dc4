//! The rate limit of a stream, in bytes per second. It decides only; the time is an argument.
//!
//! All bytes of a second may arrive together, and later ones wait for the next second, not for the
//! next few bytes. So a flood is kept in contiguous pieces with one note between two of them, not
//! in fragments.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// The remaining bytes of the current second, which starts with its first byte.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_second: u64,
    remaining: u64,
    since: Option<Instant>,
}

impl RateLimit {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            per_second: bytes_per_second,
            remaining: 0,
            since: None,
        }
    }

    /// Returns how many of the requested bytes are accepted now: the first ones.
    pub(super) fn grant(&mut self, now: Instant, wanted: usize) -> usize {
        if self.is_over(now) {
            (self.since, self.remaining) = (Some(now), self.per_second);
        }
        let granted = wanted.min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        self.remaining -= granted as u64;
        granted
    }

    /// Whether the next byte starts another second.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let is_over = |since| now.saturating_duration_since(since) >= SECOND;
        self.since.is_none_or(is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_grants_at_most_its_bytes() {
        let mut allowance = RateLimit::new(100);
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
    fn a_stopped_clock_grants_no_more_bytes() {
        let mut allowance = RateLimit::new(100);
        let now = Instant::now();
        assert_eq!(allowance.grant(now + SECOND, 100), 100);
        assert_eq!(allowance.grant(now, 1), 0);
    }
}
