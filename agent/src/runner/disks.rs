//! Disks of the host, by the device numbers that the kernel uses in I/O limits.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};

/// The kernel's directory of block devices.
const SYSTEM: &str = "/sys/dev/block";

/// A whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockDevice {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// Returns the disk that a task names: a device in `/dev`, or without a name the one that holds
/// `sandbox`; else the reason for a refusal.
pub(super) fn disk_of(name: &str, sandbox: &Path) -> Result<BlockDevice, String> {
    let (path, number) = if name.is_empty() {
        (sandbox, number_of(sandbox, false))
    } else {
        (Path::new(name), number_of(Path::new(name), true))
    };
    let number = number.map_err(|error| format!("{}: {error}", path.display()))?;
    parent_disk(Path::new(SYSTEM), number)
        .ok_or_else(|| format!("{}: the kernel has no disk for it", path.display()))
}

/// Returns the device number of a device, or of the file system that holds a path.
fn number_of(path: &Path, is_device: bool) -> io::Result<u64> {
    let data = fs::metadata(path)?;
    match is_device {
        false => Ok(data.dev()),
        true if data.file_type().is_block_device() => Ok(data.rdev()),
        true => Err(io::Error::other(
            "it is not a disk; name one of this agent's host, such as /dev/sda",
        )),
    }
}

/// Returns the whole disk: the kernel counts use by disks, never by partitions.
fn parent_disk(system: &Path, number: u64) -> Option<BlockDevice> {
    // The kernel has 12 bits for the major and 20 for the minor number.
    let (major, minor) = (major(number) as u32, minor(number) as u32);
    let directory = system.join(format!("{major}:{minor}"));
    if !directory.exists() {
        return None;
    }
    if !directory.join("partition").exists() {
        return Some(BlockDevice { major, minor });
    }
    // A partition's directory is inside that of its disk.
    let directory = fs::canonicalize(directory).ok()?;
    let text = fs::read_to_string(directory.parent()?.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(BlockDevice {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_counts_as_its_disk() {
        let system = tempfile::tempdir().unwrap();
        let disk = system.path().join("devices/sda");
        fs::create_dir_all(disk.join("sda1")).unwrap();
        fs::write(disk.join("dev"), "8:0\n").unwrap();
        fs::write(disk.join("sda1/dev"), "8:1\n").unwrap();
        fs::write(disk.join("sda1/partition"), "1\n").unwrap();
        symlink(&disk, system.path().join("8:0")).unwrap();
        symlink(disk.join("sda1"), system.path().join("8:1")).unwrap();
        let found = |minor| parent_disk(system.path(), nix::sys::stat::makedev(8, minor));
        let sda = Some(BlockDevice { major: 8, minor: 0 });
        assert_eq!(found(0), sda);
        assert_eq!(found(1), sda);
        assert_eq!(found(2), None);
    }

    #[test]
    fn unknown_disks_are_rejected_by_name() {
        for name in ["/dev/null", "/dev/no-such-disk", "/etc"] {
            let refused = disk_of(name, Path::new("/")).unwrap_err();
            assert!(refused.starts_with(name), "{refused}");
        }
    }
}
