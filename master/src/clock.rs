//! Cluster time: follows the monotonic clock while this master leads, and stops otherwise.

use std::time::Duration;

use argosy_state::ids::Timestamp;
use argosy_state::planted_bug;
use tokio::time::Instant;

/// A longer gap between two readings is a pause of this process or machine. It counts as this much.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// Cluster time, and the time of the last reading.
pub(crate) struct ClusterClock {
    now: Timestamp,
    last_read: Instant,
}

impl ClusterClock {
    pub(crate) fn new(now: Timestamp) -> Self {
        let looked = Instant::now();
        Self {
            now,
            last_read: looked,
        }
    }

    /// Returns the cluster time of the last reading.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Advances the clock, if it runs. Returns the gap if it was a pause, which must not count as
    /// silence of an agent or framework.
    pub(crate) fn advance(&mut self, runs: bool) -> Option<Duration> {
        self.advance_to(Instant::now(), runs)
    }

    fn advance_to(&mut self, present: Instant, runs: bool) -> Option<Duration> {
        let gap = present.saturating_duration_since(self.last_read);
        self.last_read = present;
        if !runs {
            return None;
        }
        let counted = planted_bug!(FreezeExpires, gap.min(LONGEST_GAP), gap);
        let ms = counted.as_millis().try_into().unwrap_or(0);
        self.now = self.now.plus_ms(ms);
        // Fractions of a millisecond are carried over.
        self.last_read -= Duration::from_nanos(u64::from(counted.subsec_nanos() % 1_000_000));
        (gap > counted).then_some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(begin: Instant, us: u64) -> Instant {
        begin + Duration::from_micros(us)
    }

    #[test]
    fn many_short_reads_lose_no_time() {
        let mut clock = ClusterClock::new(Timestamp(500));
        let begin = clock.last_read;
        for step in 1..=10_000 {
            assert_eq!(clock.advance_to(after(begin, step * 300), true), None);
        }
        assert_eq!(clock.now(), Timestamp(3_500));
    }

    #[test]
    fn pause_counts_as_one_second_and_is_reported() {
        let mut clock = ClusterClock::new(Timestamp(0));
        let begin = clock.last_read;
        let pause = clock.advance_to(after(begin, 60_000_000), true);
        assert_eq!(pause, Some(Duration::from_secs(60)));
        assert_eq!(clock.now(), Timestamp(1_000));
        assert_eq!(clock.advance_to(after(begin, 61_000_000), true), None);
        assert_eq!(clock.now(), Timestamp(2_000));
    }

    #[test]
    fn clock_stops_while_not_leading() {
        let mut clock = ClusterClock::new(Timestamp(7));
        let begin = clock.last_read;
        assert_eq!(clock.advance_to(after(begin, 9_000_000), false), None);
        clock.advance_to(after(begin, 9_010_000), true);
        assert_eq!(clock.now(), Timestamp(17));
    }

    #[test]
    fn reading_at_an_earlier_time_changes_nothing() {
        let mut clock = ClusterClock::new(Timestamp(7));
        let begin = clock.last_read;
        clock.advance_to(begin - Duration::from_millis(5), true);
        assert_eq!(clock.now(), Timestamp(7));
    }
}
