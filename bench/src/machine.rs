//! The machine of the measurement: its properties, and its current speed.
//!
//! Two small probes accompany every run, so that a drift of the machine is visible.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::statistics::median;

const SYNCS: usize = 200;
const SPAWNS: usize = 60;

/// The properties that affect measurements most.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MachineInfo {
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// Name of the processor, from the kernel.
    pub(crate) processor: String,
    /// Memory in mebibytes.
    pub(crate) memory_mib: u64,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Type of the file system of the data.
    pub(crate) file_system: String,
}

/// The current speed of the machine.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Probes {
    /// Median time of an append of 4 KiB with fdatasync, in microseconds.
    pub(crate) fsync_us: f64,
    /// Median time to start and await /bin/true, in microseconds.
    pub(crate) spawn_us: f64,
}

impl MachineInfo {
    pub(crate) fn of_this_host(directory: &Path) -> Self {
        let line = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .map(str::to_owned);
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
                .unwrap_or_default()
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let kib: u64 = memory
            .split(' ')
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: line("/proc/cpuinfo", "model name"),
            memory_mib: kib / 1024,
            kernel: kernel.trim().to_owned(),
            file_system: file_system(directory),
        }
    }

    /// Returns one line of text.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} cores of {}, {} MiB, Linux {}, data on {}",
            self.cores, self.processor, self.memory_mib, self.kernel, self.file_system
        )
    }
}

/// Returns the type of the longest mount point above a directory.
fn file_system(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        directory.starts_with(point).then_some((point.len(), kind))
    });
    let longest = above.max_by_key(|(length, _)| *length);
    longest.map_or_else(
        || "an unknown file system".to_owned(),
        |(_, kind)| kind.to_owned(),
    )
}

impl Probes {
    /// Measures for about a tenth of a second.
    ///
    /// # Errors
    /// If the directory cannot be written or /bin/true not started.
    pub(crate) fn take(directory: &Path) -> Result<Self> {
        Ok(Self {
            fsync_us: fsync(directory)?,
            spawn_us: spawn()?,
        })
    }
}

fn fsync(directory: &Path) -> Result<f64> {
    let mut file = tempfile::tempfile_in(directory)
        .with_context(|| format!("cannot write in {}", directory.display()))?;
    let block = [7_u8; 4096];
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&block).context("cannot append")?;
        file.sync_data().context("cannot sync")?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

fn spawn() -> Result<f64> {
    let mut times = Vec::with_capacity(SPAWNS);
    for _ in 0..SPAWNS {
        let start = Instant::now();
        Command::new("/bin/true")
            .status()
            .context("cannot start /bin/true")?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_probe_measures_a_nonzero_time() {
        let directory = tempfile::tempdir().unwrap();
        let probes = Probes::take(directory.path()).unwrap();
        assert!(probes.fsync_us > 0.0 && probes.spawn_us > 1.0, "{probes:?}");
    }

    #[test]
    fn a_directory_is_on_the_file_system_of_its_nearest_mount_point() {
        assert_eq!(file_system(Path::new("/proc/self")), "proc");
    }
}
