//! The schedule of disk measurements.
//!
//! A round, once a second, has a maximum cost, however many files tasks have. Most tasks have few
//! files: each of these is measured in each round while its budget lasts; the next round begins
//! with those that were left out. Tasks with many files share half of each round. Each gets one
//! slice, after which its scan is suspended, so that millions of names delay only the task that has
//! them.

use std::collections::{BTreeMap, VecDeque};

use super::pass::{RunningScan, Scanner};
use super::{DiskExcess, MeasuredTask, TaskDiskUsage};
use crate::broker_client::{BrokerClient, ScanProgress};
use crate::core::Instance;

/// The maximum cost of a round, in entries: about a fortieth of a core.
const ROUND_COST: u64 = 20_000;
/// Every n-th scan of a task's files includes the open files of its processes.
const PROCESSES_EVERY: u64 = 5;
/// A task with a higher cost has many files.
const SMALL_COST: u64 = 2_000;
/// The minimum cost of a slice for a task with many files.
const SLICE_COST: u64 = 500;
/// Maximum number of directories that all suspended scans may hold open. A scan that would exceed
/// it runs to completion, before all others: deeply nested directories cannot use up the agent's
/// descriptors.
const HELD_DIRECTORIES: usize = 1_024;

/// All tasks that are measured.
pub(super) struct ScanSchedule {
    scanner: Scanner,
    tasks: BTreeMap<Instance, TaskScan>,
    /// Tasks with few files, or not measured yet; the next one first.
    small: VecDeque<Instance>,
    /// Tasks with many files.
    large: VecDeque<Instance>,
    /// The suspended scans of these tasks.
    scans: BTreeMap<Instance, RunningScan>,
}

/// The known facts about a task.
#[derive(Debug)]
struct TaskScan {
    task: MeasuredTask,
    /// Number of scans that were begun.
    scans: u64,
    /// The bytes that the newest complete scan found, or those that the present one has found so
    /// far, if that is more.
    bytes: u64,
}

/// The outcome of one slice of a scan.
enum ScanOutcome {
    /// The scan is complete.
    Done,
    /// The scan is suspended.
    Unfinished,
    /// The task is to be killed.
    LimitExceeded(DiskExcess),
}

impl ScanSchedule {
    pub(super) fn of(broker: BrokerClient) -> Self {
        Self::with_scanner(Scanner::Broker(broker))
    }

    fn with_scanner(scanner: Scanner) -> Self {
        Self {
            scanner,
            tasks: BTreeMap::new(),
            small: VecDeque::new(),
            large: VecDeque::new(),
            scans: BTreeMap::new(),
        }
    }

    /// Measures in this process.
    #[cfg(test)]
    pub(super) fn in_process() -> Self {
        Self::with_scanner(Scanner::in_process())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Begins to measure a task, or changes its directories and limits; its results so far are
    /// kept.
    pub(super) fn begin(&mut self, instance: Instance, task: MeasuredTask) {
        if let Some(known) = self.tasks.get_mut(&instance) {
            known.task = task;
            return;
        }
        let known = TaskScan {
            task,
            scans: 0,
            bytes: 0,
        };
        self.tasks.insert(instance, known);
        self.small.push_back(instance);
    }

    /// Whether one of its measured directories is that of its group.
    pub(super) fn leads_group(&self, instance: Instance) -> bool {
        let measured = self.tasks.get(&instance);
        measured.is_some_and(|known| known.task.leads_group)
    }

    /// Returns the bytes that the tasks used when each was measured last.
    pub(super) fn used_bytes(&self) -> u64 {
        self.tasks.values().map(|known| known.bytes).sum()
    }

    /// Returns the task that exceeds its request by most; `None` if all are within their requests.
    pub(super) fn most_above_request(&self) -> Option<TaskDiskUsage> {
        let above = self.tasks.iter().filter_map(|(instance, known)| {
            let requested_bytes = known.task.requested_bytes;
            (known.bytes > requested_bytes).then_some(TaskDiskUsage {
                instance: *instance,
                used_bytes: known.bytes,
                requested_bytes,
            })
        });
        above.max_by_key(|usage| usage.used_bytes - usage.requested_bytes)
    }

    pub(super) fn end(&mut self, instance: Instance) {
        if self.tasks.remove(&instance).is_none() {
            return;
        }
        self.small.retain(|waiting| *waiting != instance);
        self.scans.remove(&instance);
        self.large.retain(|waiting| *waiting != instance);
    }

    /// Runs one round. Each excess is reported once.
    pub(super) fn round(&mut self) -> Vec<DiskExcess> {
        self.round_of(ROUND_COST)
    }

    fn round_of(&mut self, cost: u64) -> Vec<DiskExcess> {
        let mut found = Vec::new();
        let kept = if self.large.is_empty() { 0 } else { cost / 2 };
        let spent = self.measure_small(cost - kept, &mut found);
        self.measure_large(cost - spent, &mut found);
        for excess in &found {
            self.end(excess.instance);
        }
        found
    }

    /// Returns the cost.
    fn measure_small(&mut self, cost: u64, found: &mut Vec<DiskExcess>) -> u64 {
        let mut spent = 0;
        for _ in 0..self.small.len() {
            if spent >= cost {
                break;
            }
            let instance = self.small.pop_front().expect("the count matches the queue");
            let mut walk = self.new_scan(instance);
            match self.run_slice(instance, &mut walk, SMALL_COST) {
                ScanOutcome::Done => self.small.push_back(instance),
                ScanOutcome::Unfinished => self.large.push_back(instance),
                ScanOutcome::LimitExceeded(excess) => {
                    self.small.push_back(instance);
                    found.push(excess);
                }
            }
            spent += walk.cost;
        }
        spent.min(cost)
    }

    fn measure_large(&mut self, mut cost: u64, found: &mut Vec<DiskExcess>) {
        for turns in (1..=self.large.len() as u64).rev() {
            if cost == 0 {
                return;
            }
            let instance = self.large.pop_front().expect("the count matches the queue");
            let begun = self.scans.remove(&instance);
            let mut walk = begun.unwrap_or_else(|| self.new_scan(instance));
            let before = walk.cost;
            let share = cost.div_ceil(turns).max(SLICE_COST).min(cost);
            let turn = self.run_slice(instance, &mut walk, before.saturating_add(share));
            cost = cost.saturating_sub(walk.cost - before);
            match turn {
                ScanOutcome::Unfinished => {
                    let held: usize = self.scans.values().map(RunningScan::open_dirs).sum();
                    let is_beyond = held + walk.open_dirs() > HELD_DIRECTORIES;
                    self.scans.insert(instance, walk);
                    if is_beyond {
                        self.large.push_front(instance);
                    } else {
                        self.large.push_back(instance);
                    }
                }
                ScanOutcome::Done if walk.cost <= SMALL_COST => self.small.push_back(instance),
                ScanOutcome::Done => self.large.push_back(instance),
                ScanOutcome::LimitExceeded(excess) => {
                    self.large.push_back(instance);
                    found.push(excess);
                }
            }
        }
    }

    /// Begins a new scan of a task's files.
    fn new_scan(&mut self, instance: Instance) -> RunningScan {
        let known = self.tasks.get_mut(&instance);
        let known = known.expect("only measured tasks have turns");
        known.scans += 1;
        let looks_at_processes = known.scans.is_multiple_of(PROCESSES_EVERY);
        let measured = &known.task;
        let processes = measured.processes.filter(|_| looks_at_processes);
        RunningScan::new(
            self.scanner.clone(),
            measured.directories.clone(),
            processes,
        )
    }

    fn run_slice(
        &mut self,
        instance: Instance,
        scan: &mut RunningScan,
        until_cost: u64,
    ) -> ScanOutcome {
        let known = self.tasks.get_mut(&instance);
        let known = known.expect("only measured tasks have turns");
        let MeasuredTask {
            limit_bytes,
            requested_bytes,
            ..
        } = known.task;
        let excess = |found_bytes, is_too_deep| {
            ScanOutcome::LimitExceeded(DiskExcess {
                instance,
                found_bytes,
                limit_bytes,
                requested_bytes,
                is_too_deep,
            })
        };
        let progress = scan.advance(until_cost, limit_bytes);
        known.bytes = match progress {
            ScanProgress::Done(bytes) => bytes,
            ScanProgress::Unfinished(bytes) => known.bytes.max(bytes),
            ScanProgress::TooDeep => known.bytes,
        };
        match progress {
            ScanProgress::TooDeep => excess(0, true),
            ScanProgress::Done(bytes) | ScanProgress::Unfinished(bytes) if bytes > limit_bytes => {
                excess(bytes, false)
            }
            ScanProgress::Done(_) => ScanOutcome::Done,
            ScanProgress::Unfinished(_) => ScanOutcome::Unfinished,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use argosy_state::ids::{AgentId, OrderIndex};

    use super::*;

    fn instance(order: u64) -> Instance {
        Instance {
            agent: AgentId(1),
            order: OrderIndex(order),
        }
    }

    fn task(world: &Path, order: u64, files: usize) -> PathBuf {
        let directory = world.join(order.to_string());
        fs::create_dir(&directory).unwrap();
        for number in 0..files {
            fs::write(directory.join(number.to_string()), "").unwrap();
        }
        directory
    }

    fn may_have(directory: &Path, limit_bytes: u64) -> MeasuredTask {
        MeasuredTask {
            directories: vec![directory.to_owned()],
            processes: None,
            limit_bytes,
            requested_bytes: MIB,
            leads_group: false,
        }
    }

    fn over(found: &[DiskExcess]) -> Vec<u64> {
        found.iter().map(|excess| excess.instance.order.0).collect()
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn an_excess_is_reported_once_and_others_continue() {
        let world = tempfile::tempdir().unwrap();
        let mut rounds = ScanSchedule::in_process();
        let directories = [1, 2].map(|order| task(world.path(), order, 3));
        for (order, directory) in (1..).zip(&directories) {
            rounds.begin(instance(order), may_have(directory, MIB));
        }
        assert_eq!(rounds.round(), []);
        fs::write(directories[0].join("0"), vec![1; 2 * MIB as usize]).unwrap();
        let found = rounds.round();
        assert_eq!(over(&found), [1]);
        assert!(found[0].found_bytes > 2 * MIB, "{found:?}");
        assert_eq!(found[0].limit_bytes, MIB);
        assert_eq!(rounds.round(), []);
        fs::write(directories[1].join("0"), vec![1; 2 * MIB as usize]).unwrap();
        assert_eq!(over(&rounds.round()), [2]);
        assert!(rounds.is_empty());
    }

    #[test]
    fn the_first_to_be_evicted_exceeds_its_request_by_most() {
        let world = tempfile::tempdir().unwrap();
        let mut rounds = ScanSchedule::in_process();
        for (order, mib, requested) in [(1, 40, 39), (2, 5, 1), (3, 60, 64), (4, 3, 0)] {
            let directory = task(world.path(), order, 1);
            fs::write(directory.join("0"), vec![1; mib * MIB as usize]).unwrap();
            let measured = MeasuredTask {
                requested_bytes: requested * MIB,
                ..may_have(&directory, u64::MAX)
            };
            rounds.begin(instance(order), measured);
        }
        assert_eq!(rounds.most_above_request(), None, "nothing is known yet");
        assert_eq!(rounds.round(), []);
        let mut next = || {
            let usage = rounds.most_above_request()?;
            rounds.end(usage.instance);
            Some(usage.instance.order.0)
        };
        let all = [next(), next(), next(), next()];
        assert_eq!(all, [Some(2), Some(4), Some(1), None]);
    }

    #[test]
    fn measurements_survive_a_changed_request() {
        let world = tempfile::tempdir().unwrap();
        let mut rounds = ScanSchedule::in_process();
        let directory = task(world.path(), 1, 1);
        fs::write(directory.join("0"), vec![1; 5 * MIB as usize]).unwrap();
        rounds.begin(instance(1), may_have(&directory, u64::MAX));
        assert_eq!(rounds.round(), []);
        let more = MeasuredTask {
            requested_bytes: 2 * MIB,
            ..may_have(&directory, u64::MAX)
        };
        rounds.begin(instance(1), more);
        let usage = rounds.most_above_request().unwrap();
        assert_eq!(usage.requested_bytes, 2 * MIB);
        assert_eq!(rounds.small, [instance(1)], "it has one turn a round");
    }

    #[test]
    fn large_tasks_do_not_delay_others_and_complete() {
        let world = tempfile::tempdir().unwrap();
        let mut rounds = ScanSchedule::in_process();
        let (large, small) = (task(world.path(), 1, 5_000), task(world.path(), 2, 3));
        rounds.begin(instance(1), may_have(&large, 64 * MIB));
        assert_eq!(rounds.round_of(1_000), []);
        assert_eq!(rounds.large, [instance(1)]);
        rounds.begin(instance(2), may_have(&small, MIB));
        fs::write(small.join("0"), vec![1; 2 * MIB as usize]).unwrap();
        assert_eq!(over(&rounds.round_of(1_000)), [2]);
        assert_eq!(rounds.scans.len(), 1, "it is not through yet");
        fs::write(large.join("new"), vec![1; 65 * MIB as usize]).unwrap();
        let mut found = Vec::new();
        for _ in 0..12 {
            found.extend(rounds.round_of(1_000));
        }
        assert_eq!(over(&found), [1]);
    }

    #[test]
    fn very_large_tasks_do_not_delay_other_large_ones() {
        let world = tempfile::tempdir().unwrap();
        let mut rounds = ScanSchedule::in_process();
        for (order, files) in [(1, 20_000), (2, 3_000)] {
            let directory = task(world.path(), order, files);
            rounds.begin(instance(order), may_have(&directory, 64 * MIB));
            assert_eq!(rounds.round_of(SMALL_COST), []);
        }
        assert_eq!(rounds.large, [instance(1), instance(2)]);
        fs::write(world.path().join("2/new"), vec![1; 65 * MIB as usize]).unwrap();
        let mut waited = 0;
        let found = loop {
            waited += 1;
            assert!(waited < 10, "the second waits for the first to be through");
            match rounds.round_of(1_000) {
                found if found.is_empty() => {}
                found => break found,
            }
        };
        assert_eq!(over(&found), [2]);
        assert_eq!(rounds.large, [instance(1)]);
        assert!(rounds.scans.contains_key(&instance(1)), "it continues");
    }

    #[test]
    fn open_directories_of_suspended_scans_are_bounded() {
        let world = tempfile::tempdir().unwrap();
        let mut rounds = ScanSchedule::in_process();
        let deep = vec!["d"; 200].join("/");
        for order in 1..=8 {
            let directory = task(world.path(), order, 0);
            fs::create_dir_all(directory.join(&deep)).unwrap();
            task(&directory.join(&deep), 0, 3_000);
            rounds.begin(instance(order), may_have(&directory, 64 * MIB));
        }
        let mut most = 0;
        let mut through = BTreeMap::new();
        for _ in 0..100 {
            assert_eq!(rounds.round_of(8_000), []);
            most = most.max(rounds.scans.values().map(RunningScan::open_dirs).sum());
            for (instance, known) in &rounds.tasks {
                through.insert(*instance, known.scans);
            }
        }
        assert!((600..=HELD_DIRECTORIES + 257).contains(&most), "{most}");
        assert!(through.values().all(|passes| *passes > 2), "{through:?}");
    }

    #[test]
    fn rounds_are_bounded_and_measure_every_task() {
        let world = tempfile::tempdir().unwrap();
        let mut rounds = ScanSchedule::in_process();
        for order in 1..=50 {
            let directory = task(world.path(), order, 10);
            rounds.begin(instance(order), may_have(&directory, MIB));
        }
        let cost = 100;
        for _ in 0..50 {
            let before = rounds.small[0];
            assert_eq!(rounds.round_of(cost), []);
            assert_ne!(
                rounds.small[0], before,
                "the next round begins with another"
            );
            assert_eq!(rounds.small.len(), 50);
        }
        (1..=50).for_each(|order| rounds.end(instance(order)));
        assert!(rounds.is_empty() && rounds.small.is_empty());
    }

    #[test]
    fn a_shrunk_task_is_queued_as_small_again() {
        let world = tempfile::tempdir().unwrap();
        let mut rounds = ScanSchedule::in_process();
        let directory = task(world.path(), 1, 3_000);
        rounds.begin(instance(1), may_have(&directory, 64 * MIB));
        assert_eq!(rounds.round(), []);
        assert_eq!((rounds.small.len(), rounds.large.len()), (0, 1));
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(rounds.round(), []);
        assert_eq!((rounds.small.len(), rounds.large.len()), (1, 0));
    }
}
