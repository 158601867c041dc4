//! Whose turn it is with a container's plugins.
//!
//! A plugin goes on when its agent is killed: the next agent's DEL beside an ADD that is still running would find nothing
//! to take back of what that ADD is about to give. So what a plugin is told is in a file that is locked by whoever has it
//! open, and the plugin has, as its standard input. A living agent lets go of the lock when the plugin has ended, a dead
//! one's is the plugin's own.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::Flock;

use crate::network::ipam::lock_within;
use crate::sys;

/// How long one may take to end that was killed.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The right to run a plugin for a container; whoever else wants it waits until this is dropped.
pub(super) struct Turn(Flock<File>);

impl Turn {
    /// Waits for the plugin of an agent that is gone, as long as a plugin may take; then kills it.
    pub(super) fn take(path: &Path, patience: Duration) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        let locked = lock_within(file, patience).or_else(|(file, errno)| {
            if errno != Errno::EWOULDBLOCK {
                return Err(io::Error::from(errno));
            }
            kill_readers(path)?;
            let locked = lock_within(file, END_PATIENCE);
            locked.map_err(|(_, errno)| match errno {
                Errno::EWOULDBLOCK => io::ErrorKind::TimedOut.into(),
                errno => errno.into(),
            })
        });
        locked.map(Self)
    }

    /// The standard input of a plugin that is told this.
    pub(super) fn input(&mut self, text: &str) -> io::Result<OwnedFd> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(text.as_bytes())?;
        self.0.seek(SeekFrom::Start(0))?;
        Ok(self.0.try_clone()?.into())
    }
}

/// Kills every process whose standard input this file is.
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
        // The number may be another's by now: asked once more behind a handle that stays with one process.
        if let Ok(handle) = sys::pidfd_open(pid)
            && reads()
        {
            sys::pidfd_send_signal(handle.as_fd(), libc::SIGKILL)?;
        }
    }
    Ok(())
}
