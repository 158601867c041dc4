//! The disk usage of a store.

use std::time::Duration;

/// The disk usage of a store when it was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreUsage {
    /// The bytes of each column family: its tables, and its changes that only the write-ahead log
    /// holds. Empty before the first measurement, and for a store in memory.
    pub family_bytes: Vec<(&'static str, u64)>,
    /// The time for which RocksDB has delayed or stopped writes since its start.
    pub stalled: Duration,
    /// The bytes that the master may still write on the disk of its directory.
    pub free_bytes: u64,
    /// The size of that disk in bytes; 0 before the first measurement.
    pub total_bytes: u64,
}

/// Returns the time of stalls from the text of RocksDB's statistics.
#[cfg_attr(
    not(feature = "rocksdb"),
    allow(dead_code, reason = "only RocksDB has such statistics")
)]
pub(crate) fn stalled(statistics: &str) -> Option<Duration> {
    let lines = statistics.lines();
    let mut times = lines.filter_map(|line| line.strip_prefix("Cumulative stall: "));
    let (time, _) = times.next()?.split_once(' ')?;
    let mut parts = time.split(':');
    let mut seconds = 0.0;
    for _ in 0..3 {
        seconds = seconds * 60.0 + parts.next()?.parse::<f64>().ok()?;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_read_from_the_statistics_of_rocksdb() {
        let text = "\n** DB Stats **\nUptime(secs): 0.1 total, 0.1 interval\n\
            Cumulative stall: 01:02:3.250 H:M:S, 0.5 percent\n\
            Interval stall: 00:00:9.000 H:M:S, 0.0 percent\n";
        assert_eq!(stalled(text), Some(Duration::from_millis(3_723_250)));
        for other in ["", "Cumulative stall: x:y:z H:M:S", "Cumulative stall: 1"] {
            assert_eq!(stalled(other), None, "{other}");
        }
    }
}
