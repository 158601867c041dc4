//! The floor of free space on the agent's disk. Below it tasks are evicted (`eviction`), and
//! sandboxes of ended tasks are removed sooner (`gc`). Space without inodes for it is not free.

use std::io;
use std::path::PathBuf;

use argosy_content::images::space;

/// The default floor, in per cent of the disk.
const DEFAULT_PERCENT: u64 = 5;
/// Upper bound of the default floor, in bytes.
const DEFAULT_MAX_BYTES: u64 = 1 << 30;

/// The floor of the disk with one directory.
#[derive(Debug, Clone)]
pub(crate) struct DiskFloor {
    directory: PathBuf,
    bytes: Option<u64>,
}

/// The disk at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskSpace {
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) floor_bytes: u64,
}

impl DiskFloor {
    /// Returns a floor of at least `bytes` of free space on the disk with `directory`; `None` for
    /// the default, 0 for no floor.
    pub(crate) fn new(directory: PathBuf, bytes: Option<u64>) -> Self {
        Self { directory, bytes }
    }

    /// Returns the current level of the disk.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub(crate) fn level(&self) -> io::Result<DiskSpace> {
        let (free_bytes, total_bytes) = space(&self.directory)?;
        Ok(self.level_of(free_bytes, total_bytes))
    }

    fn level_of(&self, free_bytes: u64, total_bytes: u64) -> DiskSpace {
        let default = || (total_bytes / 100 * DEFAULT_PERCENT).min(DEFAULT_MAX_BYTES);
        DiskSpace {
            free_bytes,
            total_bytes,
            floor_bytes: self.bytes.unwrap_or_else(default),
        }
    }
}

impl DiskSpace {
    /// Whether less is free than the floor.
    pub(crate) fn is_below(self) -> bool {
        self.free_bytes < self.floor_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use argosy_testing::skip;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_default_floor_is_small_on_small_disks_and_bounded_on_large_ones() {
        let default = DiskFloor::new(PathBuf::new(), None);
        assert_eq!(default.level_of(0, 100).floor_bytes, 5);
        assert_eq!(default.level_of(0, 1_000 * GIB).floor_bytes, GIB);
        assert!(!default.level_of(GIB, 10 * GIB).is_below());
        assert!(default.level_of(GIB - 1, 1_000 * GIB).is_below());
        let reported = DiskFloor::new(PathBuf::new(), Some(7));
        assert!(reported.level_of(6, 10).is_below() && !reported.level_of(7, 10).is_below());
        let none = DiskFloor::new(PathBuf::new(), Some(0));
        assert!(!none.level_of(0, 10).is_below());
    }

    #[test]
    fn a_disk_without_free_inodes_is_below_its_floor() {
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        let directory = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=64m,nr_inodes=100", "small"];
        let mounted = Command::new("mount")
            .args(mount)
            .arg(directory.path())
            .status();
        assert!(mounted.unwrap().success());
        let floor = DiskFloor::new(directory.path().to_owned(), None);
        let before = floor.level();
        // The last one that can be created, with the root of the file system.
        let files = (1..=99).map(|file| fs::write(directory.path().join(file.to_string()), ""));
        let result: io::Result<()> = files.collect();
        let after = floor.level();
        let unmounted = Command::new("umount").arg(directory.path()).status();
        assert!(unmounted.unwrap().success());
        result.unwrap();
        assert!(!before.unwrap().is_below());
        let after = after.unwrap();
        assert!(after.is_below(), "{after:?}");
    }
}
