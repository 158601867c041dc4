//! Limits of rate.

use std::fmt;

/// A limit of the rate of a subject's calls: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The lasting rate, in calls per second: 1 to 1,000,000.
    pub calls_per_second: u32,
    /// The number of calls that may come at once: 1 to 1,000,000.
    pub burst: u32,
}

impl RateLimit {
    /// The largest rate and burst.
    pub const MOST: u32 = 1_000_000;

    /// Returns whether both numbers are in their range.
    #[must_use]
    pub fn is_valid(self) -> bool {
        let range = 1..=Self::MOST;
        range.contains(&self.calls_per_second) && range.contains(&self.burst)
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} calls/s, burst {}",
            self.calls_per_second, self.burst
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_of_a_limit_are_bounded() {
        let limit = |calls_per_second, burst| RateLimit {
            calls_per_second,
            burst,
        };
        assert!(limit(1, 1).is_valid() && limit(RateLimit::MOST, RateLimit::MOST).is_valid());
        assert!(!limit(0, 1).is_valid() && !limit(1, 0).is_valid());
        assert!(!limit(RateLimit::MOST + 1, 1).is_valid());
        assert!(!limit(1, RateLimit::MOST + 1).is_valid());
        assert_eq!(limit(100, 200).to_string(), "100 calls/s, burst 200");
    }
}
