//! Processor time of processes and of everything else, from /proc.
//!
//! This module only reads. Times are in seconds of one core.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// The processor time of one process, and of its reaped children.
#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: i32,
    own_ticks: u64,
    reaped_ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may contain any character, so fields are counted after its closing parenthesis.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_ticks: number(11)? + number(12)?,
        reaped_ticks: number(13)? + number(14)?,
    })
}

fn tick_seconds() -> f64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    1.0 / per_second as f64
}

/// Returns the seconds that one process has used since its start; `None` if it is gone.
pub(crate) fn process_seconds(pid: u32) -> Option<f64> {
    let ticks = stat(i32::try_from(pid).ok()?)?.own_ticks;
    Some(ticks as f64 * tick_seconds())
}

/// Returns the cores that a process uses while `work` runs, and its result.
///
/// # Errors
/// An error of `work`, or if the process is gone.
pub(crate) async fn cores_during<T>(
    pid: u32,
    work: impl Future<Output = Result<T>>,
) -> Result<(f64, T)> {
    let used = || process_seconds(pid).context("the measured process is gone");
    let (began, before) = (std::time::Instant::now(), used()?);
    let result = work.await?;
    let seconds = used()? - before;
    Ok((seconds / began.elapsed().as_secs_f64(), result))
}

/// Processor time and context switches of processes since their start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct CpuUsage {
    /// Seconds of a core.
    pub(crate) seconds: f64,
    /// Context switches, voluntary or not, of the threads that still exist.
    pub(crate) switches: u64,
}

impl CpuUsage {
    /// Returns the sum over these processes. An exited process adds nothing.
    pub(crate) fn of(pids: &[u32]) -> Self {
        Self {
            seconds: pids.iter().copied().filter_map(process_seconds).sum(),
            switches: pids.iter().copied().map(switches).sum(),
        }
    }

    /// Returns the difference to an earlier sum.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            seconds: self.seconds - earlier.seconds,
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// Returns the context switches of all threads of one process.
fn switches(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let statuses =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    statuses.map(|status| switches_in(&status)).sum()
}

fn switches_in(status: &str) -> u64 {
    let counted = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.ends_with("voluntary_ctxt_switches")
            .then(|| value.trim().parse::<u64>().ok())?
    };
    status.lines().filter_map(counted).sum()
}

/// Returns the bytes that one process has caused to be written to a disk; `None` if it is gone.
pub(crate) fn written_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

/// Returns the resident memory of one process in bytes; `None` if it is gone.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// A point in time, relative to which the load of others is counted.
///
/// It uses the times of processes, not the kernel's totals. Those are sampled at clock ticks, and
/// overstate programs that wake often and briefly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuBaseline {
    at: std::time::Instant,
    others_seconds: f64,
}

impl CpuBaseline {
    pub(crate) fn now() -> Self {
        let (ours, others): (Vec<_>, Vec<_>) = split(std::process::id());
        debug_assert!(!ours.is_empty(), "this process is running");
        Self {
            at: std::time::Instant::now(),
            others_seconds: seconds(&others),
        }
    }

    /// Returns the cores that other processes used between this moment and now.
    pub(crate) fn other_load(self) -> f64 {
        let now = Self::now();
        let elapsed = (now.at - self.at).as_secs_f64().max(0.001);
        ((now.others_seconds - self.others_seconds) / elapsed).max(0.0)
    }
}

/// Returns the seconds of a process, of all that it started, and of those that were reaped.
pub(crate) fn tree_seconds(root: u32) -> f64 {
    seconds(&split(root).0)
}

/// Returns the processes of this name below a process, at any depth.
pub(crate) fn descendants(root: u32, name: &str) -> Vec<u32> {
    let named = |pid: i32| {
        let found = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        u32::try_from(pid).ok().filter(|_| found.trim_end() == name)
    };
    let (tree, _) = family(root);
    tree.into_keys().filter_map(named).collect()
}

/// An exited process counts with its reaper, so the sum over running processes is complete.
fn seconds(stats: &[Stat]) -> f64 {
    let ticks: u64 = stats
        .iter()
        .map(|stat| stat.own_ticks + stat.reaped_ticks)
        .sum();
    ticks as f64 * tick_seconds()
}

/// Returns all processes: a root with everything below it, and the others.
fn split(root: u32) -> (Vec<Stat>, Vec<Stat>) {
    let (below, others) = family(root);
    let plain = |stats: BTreeMap<i32, Stat>| stats.into_values().collect();
    (plain(below), plain(others))
}

fn family(root: u32) -> (BTreeMap<i32, Stat>, BTreeMap<i32, Stat>) {
    let root = i32::try_from(root).unwrap_or_default();
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok());
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, stat(pid)?))) {
            stats.insert(pid, stat);
        }
    }
    let is_below = |pid: i32| {
        let ancestors = std::iter::successors(Some(pid), |pid| Some(stats.get(pid)?.parent));
        // A tree of processes is not deeper than this; a loop would be a race with the reading.
        ancestors.take(64).any(|pid| pid == root)
    };
    stats.iter().partition(|(pid, _)| is_below(**pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_move_the_fields() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0";
        let stat = parse(text).unwrap();
        assert_eq!(
            (stat.parent, stat.own_ticks, stat.reaped_ticks),
            (7, 30, 70)
        );
    }

    #[test]
    fn switches_of_both_kinds_count() {
        let status = "Name:\ta\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches_in(status), 42);
    }

    #[test]
    fn a_process_that_works_and_waits_uses_seconds_and_switches() {
        let own = [std::process::id()];
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let mut used = CpuUsage::default();
        while used.seconds <= 0.0 || used.switches <= 10 {
            assert!(std::time::Instant::now() < deadline, "{used:?}");
            // Again each time: a thread of another test that ends takes its switches with it.
            let started = CpuUsage::of(&own);
            for _ in 0..200 {
                std::thread::sleep(std::time::Duration::from_micros(100));
                std::hint::black_box((0..100_000).sum::<u64>());
            }
            used = CpuUsage::of(&own).since(started);
        }
        assert_eq!(CpuUsage::of(&[u32::MAX]), CpuUsage::default());
    }

    #[tokio::test]
    async fn the_work_of_a_process_is_measured_in_cores() {
        let own = std::process::id();
        let work = async {
            let seconds = process_seconds(own).unwrap();
            // Four ticks of the clock that counts.
            while process_seconds(own).unwrap() - seconds < 0.04 {
                std::hint::black_box((0..100_000).sum::<u64>());
            }
            Ok(7)
        };
        let (cores, result) = cores_during(own, work).await.unwrap();
        assert!(cores > 0.0, "{cores}");
        assert_eq!(result, 7);
        assert!(cores_during(u32::MAX, async { Ok(()) }).await.is_err());
    }

    #[test]
    fn own_processes_are_not_counted_as_other_load() {
        let started = CpuBaseline::now();
        let spin = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let ours = std::process::Command::new("sh").args(["-c", spin]).status();
        assert!(ours.unwrap().success());
        let all = split(std::process::id());
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(all.0.iter().chain(&all.1).count() > 1);
        assert!(
            all.1.iter().all(|stat| stat.parent != own),
            "a child counts as another's"
        );
        assert!(
            started.other_load()
                <= 2.0 * std::thread::available_parallelism().unwrap().get() as f64
        );
    }

    #[test]
    fn the_cpu_time_of_a_reaped_child_is_counted_as_own() {
        let before = tree_seconds(std::process::id());
        let spin = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let child = std::process::Command::new("sh").args(["-c", spin]).status();
        assert!(child.unwrap().success());
        assert!(
            tree_seconds(std::process::id()) > before,
            "a child that counted to 300,000 used no time"
        );
    }
}
