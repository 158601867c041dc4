//! Who must go when the disk is almost full.
//!
//! As Kubernetes' node-pressure eviction does it: below a floor of free space the task goes that has most beyond what it
//! requested. One that has no more than it requested is never evicted, whatever else fills the disk.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::rounds::Rounds;
use super::{Beyond, mebibytes};
use crate::core::Instance;
use crate::images::space;

/// The floor unless told otherwise: so much of the disk, in per cent, ...
const DEFAULT_PERCENT: u64 = 5;
/// ... and no more than this, in bytes.
const DEFAULT_MOST_BYTES: u64 = 1 << 30;
/// What was evicted frees its space within this time: its sandbox is removed two rounds of garbage collection later.
const WAIT: Duration = Duration::from_secs(90);
/// If free space goes on shrinking, the next one goes after this time.
const WAIT_WHILE_SHRINKING: Duration = Duration::from_secs(5);

/// Free space below which tasks are evicted.
#[derive(Debug)]
pub(crate) struct Floor {
    /// On the disk.
    folder: PathBuf,
    bytes: Option<u64>,
    last: Option<Eviction>,
}

#[derive(Debug, Clone, Copy)]
struct Eviction {
    at: Instant,
    free_bytes: u64,
}

impl Floor {
    /// `bytes` of the disk with `folder` are to be free; `None` for the default.
    pub(crate) fn new(folder: PathBuf, bytes: Option<u64>) -> Self {
        Self {
            folder,
            bytes,
            last: None,
        }
    }

    /// The task that must go now, and why; it is measured no longer.
    pub(super) fn evicts(&mut self, rounds: &mut Rounds) -> Option<(Instance, String)> {
        let (free, total) = space(&self.folder).ok()?;
        let floor_bytes = self.is_due(free, total, Instant::now())?;
        let Beyond {
            instance,
            used_bytes,
            requested_bytes,
        } = rounds.largest_beyond_request()?;
        self.last = Some(Eviction {
            at: Instant::now(),
            free_bytes: free,
        });
        rounds.end(instance);
        metrics::counter!("argosy_agent_disk_evictions_total").increment(1);
        let [free, floor, used, requested] =
            [free, floor_bytes, used_bytes, requested_bytes].map(mebibytes);
        let why = format!(
            "evicted: {free} MiB of the disk were free, and {floor} MiB are to be; of all tasks it had most beyond its request: \
             it used {used} MiB and requested {requested} MiB; request what it needs"
        );
        tracing::warn!(?instance, why, "a task is evicted");
        Some((instance, why))
    }

    /// The floor, in bytes, if less is free and the last eviction has not helped.
    fn is_due(&self, free: u64, total: u64, now: Instant) -> Option<u64> {
        let default = || (total / 100 * DEFAULT_PERCENT).min(DEFAULT_MOST_BYTES);
        let floor_bytes = self.bytes.unwrap_or_else(default);
        let waits = self.last.is_some_and(|last| {
            let wait = match free < last.free_bytes {
                true => WAIT_WHILE_SHRINKING,
                false => WAIT,
            };
            now.duration_since(last.at) < wait
        });
        (free < floor_bytes && !waits).then_some(floor_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_default_floor_is_small_on_small_disks_and_bounded_on_large_ones() {
        let now = Instant::now();
        let floor = Floor::new(PathBuf::new(), None);
        assert_eq!(floor.is_due(GIB, 10 * GIB, now), None);
        assert_eq!(floor.is_due(0, 100, now), Some(5));
        assert_eq!(floor.is_due(2 * GIB, 1_000 * GIB, now), None);
        assert_eq!(floor.is_due(GIB - 1, 1_000 * GIB, now), Some(GIB));
        let told = Floor::new(PathBuf::new(), Some(7));
        assert_eq!(told.is_due(6, 10, now), Some(7));
        assert_eq!(told.is_due(7, 10, now), None);
        let none = Floor::new(PathBuf::new(), Some(0));
        assert_eq!(none.is_due(0, 10, now), None);
    }

    #[test]
    fn the_next_eviction_waits_for_the_last_one_to_free_its_space() {
        let begun = Instant::now();
        let mut floor = Floor::new(PathBuf::new(), Some(100));
        floor.last = Some(Eviction {
            at: begun,
            free_bytes: 50,
        });
        let due = |free, seconds| {
            let now = begun + Duration::from_secs(seconds);
            floor.is_due(free, 1_000, now).is_some()
        };
        assert!(!due(50, 89) && due(50, 90));
        assert!(!due(49, 4) && due(49, 5), "it goes on shrinking");
    }
}
