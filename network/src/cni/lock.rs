//! The lock that serializes plugin runs for a container.
//!
//! A plugin continues when its agent is killed. The next agent's DEL would then run concurrently
//! with an unfinished ADD, and could not release what that ADD is about to allocate. So a plugin's
//! input is a locked file. Every process that has it open holds the lock, and the plugin has it
//! open as its standard input. A running agent releases the lock when the plugin has ended; after
//! an agent's death the plugin alone holds it.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use argosy_host::sys;
use nix::errno::Errno;
use nix::fcntl::Flock;

use crate::ipam::lock_within;

/// The time in which a killed plugin must end.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The right to run a plugin for a container, until it is dropped.
pub(super) struct ContainerLock(Flock<File>);

impl ContainerLock {
    /// Waits for a plugin that a dead agent left, up to the plugin timeout; then kills it.
    pub(super) fn take(path: &Path, timeout: Duration) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        let locked = lock_within(file, timeout).or_else(|(file, errno)| {
            if errno != Errno::EWOULDBLOCK {
                return Err(io::Error::from(errno));
            }
            kill_readers(path)?;
            let locked = lock_within(file, KILL_TIMEOUT);
            locked.map_err(|(_, errno)| match errno {
                Errno::EWOULDBLOCK => io::ErrorKind::TimedOut.into(),
                errno => errno.into(),
            })
        });
        locked.map(Self)
    }

    /// Returns the standard input of a plugin with this input.
    pub(super) fn input(&mut self, text: &str) -> io::Result<OwnedFd> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(text.as_bytes())?;
        self.0.seek(SeekFrom::Start(0))?;
        Ok(self.0.try_clone()?.into())
    }
}

/// Kills every process whose standard input is this file.
fn kill_readers(path: &Path) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    for process in fs::read_dir("/proc")?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let reads = || fs::read_link(process.path().join("fd/0")).is_ok_and(|file| file == path);
        if !reads() {
            continue;
        }
        // The process id may have been reused: it is checked again through a pidfd, which is bound
        // to one process.
        if let Ok(handle) = sys::pidfd_open(pid)
            && reads()
        {
            sys::pidfd_send_signal(handle.as_fd(), libc::SIGKILL)?;
        }
    }
    Ok(())
}
