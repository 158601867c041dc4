//! Processor time of processes and of everything else, from /proc.
//!
//! Reads only. Times are in seconds of one core.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// What one process used, and what its reaped children did.
#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: i32,
    own_ticks: u64,
    reaped_ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may hold anything, so fields are counted behind its closing parenthesis.
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

/// Seconds that one process has used since it began; `None` if it is gone.
pub(crate) fn process_seconds(pid: u32) -> Option<f64> {
    let ticks = stat(i32::try_from(pid).ok()?)?.own_ticks;
    Some(ticks as f64 * tick_seconds())
}

/// Bytes that one process has caused to be written to a disk; `None` if it is gone.
pub(crate) fn written_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

/// A moment, against which the load of others is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: std::time::Instant,
    all_seconds: f64,
    ours_seconds: f64,
}

impl Moment {
    /// # Errors
    /// If /proc cannot be read.
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        let ticks = |at| {
            line.split_whitespace()
                .nth(at)
                .and_then(|text| text.parse::<u64>().ok())
        };
        // User, nice and system; interrupts belong to nobody.
        let all = [1, 2, 3].iter().filter_map(|at| ticks(*at)).sum::<u64>();
        Ok(Self {
            at: std::time::Instant::now(),
            all_seconds: all as f64 * tick_seconds(),
            ours_seconds: tree_seconds(std::process::id()),
        })
    }

    /// Cores that others kept busy between this moment and now.
    ///
    /// # Errors
    /// If /proc cannot be read.
    pub(crate) fn other_load(self) -> Result<f64> {
        let now = Self::now()?;
        let seconds = (now.at - self.at).as_secs_f64().max(0.001);
        let others = (now.all_seconds - self.all_seconds) - (now.ours_seconds - self.ours_seconds);
        Ok((others / seconds).max(0.0))
    }
}

/// Seconds of a process, of all it started, and of those that were reaped.
pub(crate) fn tree_seconds(root: u32) -> f64 {
    let own = i32::try_from(root).unwrap_or_default();
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
    let is_ours = |pid: i32| {
        let ancestors = std::iter::successors(Some(pid), |pid| Some(stats.get(pid)?.parent));
        // A tree of processes is not deeper than this; a loop would be a race with the reading.
        ancestors.take(64).any(|pid| pid == own)
    };
    let ours = stats.iter().filter(|(pid, _)| is_ours(**pid));
    let ticks: u64 = ours
        .map(|(_, stat)| stat.own_ticks + stat.reaped_ticks)
        .sum();
    ticks as f64 * tick_seconds()
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
    fn the_work_of_a_reaped_child_is_ours() {
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
