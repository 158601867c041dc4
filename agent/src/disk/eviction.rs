//! Evicts tasks while the disk is almost full.
//!
//! Below the floor of free space the task is evicted that exceeds its request by most, as in
//! Kubernetes' node-pressure eviction. A task within its request is never evicted, whatever else
//! fills the disk.

use std::time::{Duration, Instant};

use argosy_state::task::{Code, Explanation};

use super::floor::{DiskFloor, DiskSpace};
use super::schedule::ScanSchedule;
use super::{DiskExcess, TaskDiskUsage, mebibytes};
use crate::core::Instance;

/// An evicted task has freed its space after this time: garbage collection removes its sandbox
/// within two rounds.
const WAIT: Duration = Duration::from_secs(90);
/// The next task is evicted sooner, after this time, if free space continues to shrink.
const WAIT_WHILE_SHRINKING: Duration = Duration::from_secs(5);

/// Evictions from one disk.
#[derive(Debug)]
pub(super) struct Evictions {
    floor: DiskFloor,
    last: Option<Eviction>,
    /// Whether the level could not be read, which was logged.
    is_unreadable: bool,
}

#[derive(Debug, Clone, Copy)]
struct Eviction {
    at: Instant,
    free_bytes: u64,
}

impl Evictions {
    pub(super) fn new(floor: DiskFloor) -> Self {
        Self {
            floor,
            last: None,
            is_unreadable: false,
        }
    }

    /// Returns the task to evict now, and the reason. It is no longer measured. The tasks in
    /// `ending` are killed because they exceeded their limits: if one of them exceeds its request
    /// by most, no other task is evicted.
    pub(super) fn next(
        &mut self,
        schedule: &mut ScanSchedule,
        ending: &[DiskExcess],
    ) -> Option<(Instance, Explanation)> {
        let level = self.level()?;
        let now = Instant::now();
        if !self.is_due(level, now) {
            return None;
        }
        let most = schedule.most_above_request();
        let above = most.map_or(0, |usage| usage.used_bytes - usage.requested_bytes);
        let ending = ending.iter().map(DiskExcess::above_request).max();
        let ending = ending.unwrap_or(0);
        if above.max(ending) == 0 {
            return None;
        }
        self.last = Some(Eviction {
            at: now,
            free_bytes: level.free_bytes,
        });
        if ending >= above {
            return None;
        }
        let TaskDiskUsage {
            instance,
            used_bytes,
            requested_bytes,
        } = most?;
        schedule.end(instance);
        metrics::counter!("argosy_agent_disk_evictions_total").increment(1);
        let [free, floor, used, requested] = [
            level.free_bytes,
            level.floor_bytes,
            used_bytes,
            requested_bytes,
        ]
        .map(mebibytes);
        let why = Explanation::of(Code::Evicted, &[&free, &floor, &used, &requested]);
        tracing::warn!(?instance, %why, "a task is evicted");
        Some((instance, why))
    }

    fn level(&mut self) -> Option<DiskSpace> {
        match self.floor.level() {
            Ok(level) => {
                self.is_unreadable = false;
                Some(level)
            }
            Err(why) => {
                if !std::mem::replace(&mut self.is_unreadable, true) {
                    tracing::error!(%why, "free space cannot be read: no task is evicted, however full the disk is");
                }
                None
            }
        }
    }

    /// Whether less is free than the floor although the last eviction had time to take effect.
    fn is_due(&self, level: DiskSpace, now: Instant) -> bool {
        let waits = self.last.is_some_and(|last| {
            let wait = match level.free_bytes < last.free_bytes {
                true => WAIT_WHILE_SHRINKING,
                false => WAIT,
            };
            now.duration_since(last.at) < wait
        });
        level.is_below() && !waits
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use argosy_state::ids::{AgentId, OrderIndex};

    use super::*;
    use crate::disk::MeasuredTask;

    #[test]
    fn the_next_eviction_waits_for_the_last_one_to_free_its_space() {
        let started_at = Instant::now();
        let mut evictions = Evictions::new(DiskFloor::new(PathBuf::new(), None));
        let due = |evictions: &Evictions, free_bytes, seconds| {
            let level = DiskSpace {
                free_bytes,
                total_bytes: 1_000,
                floor_bytes: 100,
            };
            evictions.is_due(level, started_at + Duration::from_secs(seconds))
        };
        assert!(due(&evictions, 99, 0) && !due(&evictions, 100, 0));
        evictions.last = Some(Eviction {
            at: started_at,
            free_bytes: 50,
        });
        assert!(!due(&evictions, 50, 89) && due(&evictions, 50, 90));
        assert!(
            !due(&evictions, 49, 4) && due(&evictions, 49, 5),
            "it continues to shrink"
        );
    }

    #[test]
    fn no_task_is_evicted_for_one_that_ends_because_of_its_limit() {
        let [little, large] = [1, 2].map(|order| Instance {
            agent: AgentId(1),
            order: OrderIndex(order),
        });
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), [1; 1 << 16]).unwrap();
        let mut schedule = ScanSchedule::in_process();
        let task = MeasuredTask {
            directories: vec![directory.path().to_owned()],
            processes: None,
            limit_bytes: u64::MAX,
            requested_bytes: 0,
            leads_group: false,
        };
        schedule.begin(little, task);
        assert_eq!(schedule.round(), []);
        let excess = |found_bytes| DiskExcess {
            instance: large,
            found_bytes,
            limit_bytes: 1 << 12,
            requested_bytes: 0,
            is_too_deep: false,
        };
        let floor = DiskFloor::new(directory.path().to_owned(), Some(u64::MAX));
        let mut evictions = Evictions::new(floor.clone());
        assert_eq!(evictions.next(&mut schedule, &[excess(1 << 20)]), None);
        assert!(evictions.last.is_some(), "its space is free soon");
        // One that frees less is no reason to wait.
        let mut evictions = Evictions::new(floor);
        let evicted = evictions.next(&mut schedule, &[excess(1 << 13)]);
        assert_eq!(evicted.map(|(instance, _)| instance), Some(little));
    }

    #[test]
    fn nothing_is_evicted_while_free_space_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        let mut evictions = Evictions::new(DiskFloor::new(gone.clone(), Some(u64::MAX)));
        assert_eq!(evictions.level(), None);
        assert!(evictions.is_unreadable);
        std::fs::create_dir(gone).unwrap();
        assert!(evictions.level().is_some_and(DiskSpace::is_below));
        assert!(!evictions.is_unreadable);
    }
}
