//! Removal of everything that a container had: processes, group, socket.
//!
//! It continues from any point at which an earlier attempt, or the supervisor, may have stopped,
//! and is idempotent.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argosy_host::process::{boot_id, has_ended};
use argosy_host::{ContainerId, ProcessId};

use crate::cgroup::{Cgroup, CgroupError, CgroupTree};
use crate::state_dir::{Handle, HandleFile, StateDirectory, StateDirectoryError};
use argosy_host::crash_point;

/// An error that may leave a part of a container behind. Trying again is always correct.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// Its group cannot be emptied or removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its state files cannot be read or written.
    #[error(transparent)]
    Files(#[from] StateDirectoryError),
    /// One of its processes did not end.
    #[error("process {pid} of the container in {directory} has not ended within {waited_ms} ms")]
    Alive {
        pid: i32,
        directory: PathBuf,
        /// The time waited, in milliseconds.
        waited_ms: u128,
    },
    /// The host refused to report on a process or to kill it.
    #[error("cannot end the processes of the container in {directory}")]
    Kill {
        directory: PathBuf,
        source: io::Error,
    },
    /// Its socket cannot be removed.
    #[error("cannot remove {path}")]
    Remove { path: PathBuf, source: io::Error },
}

/// Kills everything in the container and removes its group and socket. `exit.json` and the other
/// state files stay, for the caller to read and remove.
///
/// A launch that is still in flight will not start. No file names its supervisor, which may create
/// the group later, and removes it itself. If that supervisor may be killed, kill it first
/// ([`Launcher::supervisors`](crate::Launcher::supervisors)).
///
/// `cgroup` is the path of the group if there is no handle. Each wait takes at most `timeout`.
///
/// # Errors
/// The first step that failed; the next call continues with the rest.
pub fn destroy(
    directory: &Path,
    cgroup: Option<&Path>,
    timeout: Duration,
) -> Result<(), RemovalError> {
    let files = StateDirectory::at(directory);
    let handle = if directory.exists() {
        match files.cancel()? {
            HandleFile::Started(handle) => Some(*handle),
            HandleFile::Cancelled => None,
        }
    } else {
        None
    };
    crash_point!("destroy.voided");
    let kill = |source| RemovalError::Kill {
        directory: directory.to_owned(),
        source,
    };
    // Process ids of an earlier boot may belong to unrelated processes now; groups and processes of
    // that boot no longer exist.
    let this_boot = boot_id().map_err(kill)?;
    let handle = handle.filter(|handle| handle.boot_id == this_boot);
    let group = handle.as_ref().and_then(|handle| handle.cgroup.as_deref());
    let group = group.or(cgroup).map(Cgroup::at);
    if let Some(group) = &group {
        group.kill()?;
        crash_point!("destroy.group-killed");
    }
    if let Some(handle) = &handle {
        end_processes(handle, directory, timeout)?;
        crash_point!("destroy.processes-ended");
    }
    if let Some(group) = &group {
        group.remove(timeout)?;
        crash_point!("destroy.group-removed");
    }
    let path = files.control();
    match fs::remove_file(&path) {
        Ok(()) => {
            crash_point!("destroy.control-removed");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(RemovalError::Remove { path, source }),
    }
}

/// The supervisor exits once its container has ended, and writes the status before; it is killed on
/// a timeout.
fn end_processes(handle: &Handle, directory: &Path, timeout: Duration) -> Result<(), RemovalError> {
    let kill = |source| RemovalError::Kill {
        directory: directory.to_owned(),
        source,
    };
    let late = |process: ProcessId| RemovalError::Alive {
        pid: process.pid,
        directory: directory.to_owned(),
        waited_ms: timeout.as_millis(),
    };
    let supervisor: Option<OwnedFd> = handle.supervisor.open().map_err(kill)?;
    if supervisor.is_none()
        && handle.cgroup.is_none()
        && let Some(init) = handle.init.open().map_err(kill)?
    {
        // Init has seen its supervisor's end and kills the processes that it started: only init
        // still knows them.
        has_ended(&init, timeout).map_err(kill)?;
    }
    if !handle.init.kill(timeout).map_err(kill)? {
        return Err(late(handle.init));
    }
    let Some(supervisor) = supervisor else {
        return Ok(());
    };
    let ended = has_ended(&supervisor, timeout).map_err(kill)?;
    if !ended && !handle.supervisor.kill(timeout).map_err(kill)? {
        return Err(late(handle.supervisor));
    }
    Ok(())
}

/// Cancels the start of a container whose launch was requested: its command is never executed.
/// Returns whether it was in time; it is too late once a supervisor has claimed the container.
///
/// # Errors
/// If the state files cannot be read or written, as without the container's directory.
pub fn cancel_start(directory: &Path) -> Result<bool, StateDirectoryError> {
    Ok(StateDirectory::at(directory).cancel()? == HandleFile::Cancelled)
}

/// Removes the remains of containers that are not known, in the agent's tree only; returns their
/// ids.
///
/// Continues after a failure and returns the first one at the end.
///
/// # Errors
/// The first removal that failed, or the tree if it cannot be read.
pub fn clean_up_abandoned(
    tree: &CgroupTree,
    known: &BTreeSet<ContainerId>,
    timeout: Duration,
) -> Result<Vec<ContainerId>, RemovalError> {
    let mut removed = Vec::new();
    let mut failure = None;
    for id in tree.containers()? {
        if known.contains(&id) {
            continue;
        }
        match tree.group(&id).remove(timeout) {
            Ok(()) => removed.push(id),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(removed),
    }
}
