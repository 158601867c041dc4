//! Access to the files of cgroup2, and where it is mounted.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An error of a cgroup operation.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 file system in `/proc/self/mountinfo`.
    #[error("no cgroup2 file system is mounted: mount one, for example at /sys/fs/cgroup")]
    NoMount,
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// The kernel does not accept a value.
    #[error("cannot write {value:?} to {path}")]
    Write {
        path: PathBuf,
        /// The rejected value.
        value: String,
        source: io::Error,
    },
    #[error("cannot create the cgroup {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot remove the cgroup {path}")]
    Remove { path: PathBuf, source: io::Error },
    /// Processes of a killed group are still alive.
    #[error("the processes in the cgroup {path} have not ended within {waited_ms} ms")]
    StillPopulated {
        path: PathBuf,
        /// The time waited, in milliseconds.
        waited_ms: u128,
    },
}

pub(super) fn read(path: PathBuf) -> Result<String, CgroupError> {
    fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })
}

/// Writes to an existing file. The kernel answers an attempt to create one with a permission error.
pub(super) fn write(path: PathBuf, value: &str) -> Result<(), CgroupError> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).truncate(true).open(&path);
    let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|source| CgroupError::Write {
        path,
        value: value.to_owned(),
        source,
    })
}

/// Returns the controllers that a group may use.
pub(super) fn read_controllers(group: &Path) -> Result<Vec<String>, CgroupError> {
    let text = read(group.join("cgroup.controllers"))?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

pub(super) fn remove_dir(path: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(CgroupError::Remove {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Returns the mount point of cgroup2, which differs between hybrid and unified hosts.
///
/// # Errors
/// If no cgroup2 is mounted, or the list of mounts cannot be read.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let mounts = read("/proc/self/mountinfo".into())?;
    find_mount_point(&mounts).ok_or(CgroupError::NoMount)
}

fn find_mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next()? != "cgroup2" {
            return None;
        }
        let escaped = left.split(' ').nth(4)?;
        // The kernel escapes a blank in a path as \040; the other escapes do not occur in practice.
        Some(PathBuf::from(escaped.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,x shared:4 - cgroup2 cgroup2 rw\n";
        let found = find_mount_point(hybrid);
        assert_eq!(found, Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(
            find_mount_point("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw"),
            None
        );
    }
}
