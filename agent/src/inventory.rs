//! Detection of the host's resources: processors, memory, disk, ports.

use std::path::{Path, PathBuf};
use std::{fs, io};

use argosy_state::resources::Resources;

use crate::error::RunError;

/// Memory reserved for the host, in MiB, or half of all if that is less. Mesos reserves the same.
const MEMORY_RESERVE_MIB: u64 = 1_024;
/// Disk reserved for the host, in MiB, or half of all if that is less. Mesos reserves the same.
const DISK_RESERVE_MIB: u64 = 5 * 1_024;
/// Default ports; the range that Mesos offers.
const PORTS: &str = "31000-32000";

/// Detects the resources of the host with `directory`: `cpus`, `mem` and `disk` in MiB, `ports`.
///
/// # Errors
/// If the host does not report them.
pub fn detect(directory: &Path) -> Result<Resources, RunError> {
    let cpus = std::thread::available_parallelism().map_err(|source| RunError::Host {
        path: PathBuf::from("/proc/self/status"),
        source,
    })?;
    let memory = subtract_reserve(memory_mib()?, MEMORY_RESERVE_MIB);
    let disk = subtract_reserve(disk_mib(directory)?, DISK_RESERVE_MIB);
    let text = format!("cpus:{cpus};mem:{memory};disk:{disk};ports:[{PORTS}]");
    Ok(text.parse().expect("plain numbers make resources"))
}

fn subtract_reserve(total: u64, reserve: u64) -> u64 {
    total.saturating_sub(reserve.min(total / 2))
}

/// Returns the memory of the host, or of the memory cgroup that limits the agent itself.
fn memory_mib() -> Result<u64, RunError> {
    let path = PathBuf::from("/proc/meminfo");
    let text = fs::read_to_string(&path).map_err(|source| RunError::Host {
        path: path.clone(),
        source,
    })?;
    let total = meminfo_mib(&text).ok_or_else(|| RunError::Host {
        path,
        source: io::Error::other("it has no MemTotal"),
    })?;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
    Ok(limit.map_or(total, |bytes| total.min(bytes >> 20)))
}

fn meminfo_mib(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

fn disk_mib(directory: &Path) -> Result<u64, RunError> {
    let stat = nix::sys::statvfs::statvfs(directory).map_err(|errno| RunError::Host {
        path: directory.to_owned(),
        source: errno.into(),
    })?;
    let bytes = u128::from(stat.blocks()) * u128::from(stat.fragment_size());
    Ok(u64::try_from(bytes >> 20).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resources_of_the_host_are_detected() {
        let found = detect(Path::new("/")).unwrap();
        for name in ["cpus", "mem", "disk"] {
            assert!(found.scalar_milli(name) > 0, "{name} in {found}");
        }
    }

    #[test]
    fn the_host_keeps_a_reserve_of_at_most_half() {
        assert_eq!(subtract_reserve(8_192, 1_024), 7_168);
        assert_eq!(subtract_reserve(1_000, 1_024), 500);
    }

    #[test]
    fn memory_is_read_in_mib() {
        assert_eq!(
            meminfo_mib("MemTotal:       24576000 kB\nMemFree: 1 kB\n"),
            Some(24_000)
        );
        assert_eq!(meminfo_mib("MemFree: 1 kB\n"), None);
    }
}
