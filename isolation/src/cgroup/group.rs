//! One cgroup: creating, watching, killing and removing it.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::files::{CgroupError, read, remove_dir, write};
use super::stats::{CgroupStats, LastUsage, value_of};

/// The interval at which an emptying group is polled: the kernel notifies at most every 10 ms.
const POLL_MS: u8 = 2;

/// The number of attempts of a kill, every [`POLL_MS`], while a group exists without its files.
/// The kernel leaves this state within microseconds; a kernel older than 5.14 stays in it.
const KILL_ATTEMPTS: u8 = 100;

#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Returns the group at this path. It need not exist.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Returns the group's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the group. Replaces an existing group only if no process is in it.
    ///
    /// # Errors
    /// If a process is in an existing group, or the directory cannot be created.
    pub fn create(&self) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::Create {
            path: self.path.clone(),
            source,
        };
        match fs::create_dir(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.is_populated()? {
                    return Err(failed(error));
                }
                // The group is created again: the old one may have limits that this container does
                // not request.
                remove_dir(&self.path)?;
                fs::create_dir(&self.path).map_err(failed)
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// Opens a descriptor for `clone3`.
    pub(crate) fn open(&self) -> Result<OwnedFd, CgroupError> {
        let path = self.path.clone();
        let opened = File::open(&path);
        Ok(opened
            .map_err(|source| CgroupError::Read { path, source })?
            .into())
    }

    /// Whether any process is in the group or below it. False for a group that does not exist.
    ///
    /// # Errors
    /// If the group exists and cannot be read.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        match read(self.path.join("cgroup.events")) {
            Ok(events) => Ok(value_of(&events, "populated") != Some(0)),
            Err(CgroupError::Read { source, .. }) if is_absent(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether this process is in the group.
    ///
    /// # Errors
    /// If the group does not exist or cannot be read.
    pub fn contains(&self, pid: i32) -> Result<bool, CgroupError> {
        let members = read(self.path.join("cgroup.procs"))?;
        Ok(members.lines().any(|line| line.parse() == Ok(pid)))
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// If the process or the group does not exist, or the kernel refuses the move.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        write(self.path.join("cgroup.procs"), &pid.to_string())
    }

    /// Kills every process in the group and below it atomically: no fork escapes. Succeeds if the
    /// group does not exist.
    ///
    /// # Errors
    /// If the group exists and the kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let mut attempts = 0..KILL_ATTEMPTS;
        loop {
            match write(self.path.join("cgroup.kill"), "1") {
                Err(CgroupError::Write { source, .. })
                    if is_absent(&source) && !self.path.exists() =>
                {
                    return Ok(());
                }
                // Its supervisor, killed in the middle of a system call, has created it since, or
                // is removing it: the kernel removes the files before their directory.
                Err(CgroupError::Write { source, .. })
                    if is_absent(&source) && attempts.next().is_some() =>
                {
                    std::thread::sleep(Duration::from_millis(POLL_MS.into()));
                }
                other => return other,
            }
        }
    }

    /// Kills all processes of the group, waits until it is empty, and removes it with all groups
    /// below. Idempotent.
    ///
    /// # Errors
    /// If a process has not ended within `timeout`, or a directory cannot be removed.
    pub fn remove(&self, timeout: Duration) -> Result<(), CgroupError> {
        // The usual case after a clean end: no process in the group and no group below it.
        if remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        self.kill()?;
        self.wait_empty(timeout)?;
        let deadline = Instant::now() + timeout;
        loop {
            match remove_all(&self.path) {
                // The last process may still be exiting in the kernel.
                Err(CgroupError::Remove { source, .. })
                    if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(POLL_MS.into()));
                }
                other => return other,
            }
        }
    }

    /// Waits until no process is in the group.
    ///
    /// # Errors
    /// If a process has not ended within `timeout`, or the group cannot be read.
    pub fn wait_empty(&self, timeout: Duration) -> Result<(), CgroupError> {
        let path = self.path.join("cgroup.events");
        let started = Instant::now();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(source) => return Err(CgroupError::Read { path, source }),
        };
        let mut events = String::new();
        loop {
            events.clear();
            let read = file
                .rewind()
                .and_then(|()| file.read_to_string(&mut events));
            match read {
                Err(error) if is_absent(&error) => return Ok(()),
                Err(source) => return Err(CgroupError::Read { path, source }),
                Ok(_) if value_of(&events, "populated") == Some(0) => return Ok(()),
                Ok(_) => {}
            }
            if started.elapsed() >= timeout {
                return Err(CgroupError::StillPopulated {
                    path: self.path.clone(),
                    waited_ms: timeout.as_millis(),
                });
            }
            let mut watched = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            // The file is read again whatever the poll returns.
            let _ = poll(&mut watched, PollTimeout::from(POLL_MS));
        }
    }

    /// Returns the usage so far.
    #[must_use]
    pub fn stats(&self) -> CgroupStats {
        CgroupStats::read(&self.path)
    }

    /// Returns the usage that is reported at the end of the container.
    pub(crate) fn last_usage(&self) -> LastUsage {
        LastUsage::read(&self.path)
    }
}

/// Removes a group and all groups below it, deepest first.
fn remove_all(path: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(source) => {
            let path = path.to_owned();
            return Err(CgroupError::Read { path, source });
        }
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path())?;
        }
    }
    remove_dir(path)
}

/// Whether the error means that the group is removed: its files are not found or, if open, return
/// ENODEV.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_group_is_empty_and_can_be_killed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let group = Cgroup::at(&directory.path().join("gone"));
        assert!(!group.is_populated().unwrap());
        group.kill().unwrap();
        group.remove(Duration::ZERO).unwrap();
        group.remove(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_group_that_does_not_empty_is_reported_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(
            directory.path().join("cgroup.events"),
            "populated 1\nfrozen 0\n",
        )
        .unwrap();
        fs::write(directory.path().join("cgroup.kill"), "").unwrap();
        let group = Cgroup::at(directory.path());
        assert!(group.is_populated().unwrap());
        let error = group.remove(Duration::from_millis(5)).unwrap_err();
        assert!(
            matches!(error, CgroupError::StillPopulated { .. }),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(directory.path().to_str().unwrap())
        );
    }

    #[test]
    fn a_group_is_replaced_only_when_it_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let group = Cgroup::at(&directory.path().join("c"));
        group.create().unwrap();
        group.create().unwrap();
        fs::write(group.path().join("cgroup.events"), "populated 1\n").unwrap();
        assert!(matches!(group.create(), Err(CgroupError::Create { .. })));
    }
}
