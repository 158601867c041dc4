//! Finding a container again after the agent was away.
//!
//! Believes no number by itself: a handle counts only in its own boot, for processes with its start times,
//! in its own group, behind a supervisor that knows its nonce.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::cgroup::{CgroupError, Group};
use crate::container::{Container, ContainerError};
use crate::crash_points;
use crate::messages::with_short_path;
use crate::process::boot_id;
use crate::state_dir::{Claim, Exit, HandOff, HandOffError, Handle};

/// How long a supervisor may take to answer: it may be between its start and its socket, or about to end.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How often it is tried again until then.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// What has become of a container.
#[derive(Debug)]
pub enum Adoption {
    /// It runs on, and its handle is known.
    Running(Container),
    /// It has ended; this is its true status.
    Exited(Exit),
    /// It does not run under a supervisor and left no status: it never started (and never will), the host
    /// was restarted, or its supervisor died. Destroy what may be left of it.
    Gone {
        /// Which of these, in words.
        reason: String,
    },
}

/// Why it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionError {
    /// A hand-off file could not be read or written.
    #[error(transparent)]
    Files(#[from] HandOffError),
    /// It could not be seen whether the container's folder exists.
    #[error("cannot look for {directory}")]
    Folder {
        /// The container's folder.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The group could not be read.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The supervisor lives but does not answer.
    #[error("the supervisor of the container in {directory} lives but does not answer")]
    Silent {
        /// The container's folder.
        directory: PathBuf,
        /// The last thing that went wrong.
        source: io::Error,
    },
    /// The supervisor's messages make no sense.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The host could not be asked.
    #[error("cannot look at this host's processes")]
    Host {
        /// Why.
        source: io::Error,
    },
}

/// Finds the container of this hand-off folder again.
///
/// If it has not started yet, it is made sure that it never will: a launch request may still be under way.
/// An agent holds one connection a container: drop an earlier one first, or the supervisor does not listen.
/// Blocks while a supervisor is between two steps, at most 5 s, usually not at all.
///
/// # Errors
/// If the hand-off files cannot be read, or a supervisor that lives does not answer: try again, since its
/// container may live.
pub fn adopt(directory: &Path) -> Result<Adoption, AdoptionError> {
    let files = HandOff::at(directory);
    let folder = |source| AdoptionError::Folder {
        directory: directory.to_owned(),
        source,
    };
    if !directory.try_exists().map_err(folder)? {
        return Ok(gone("its folder does not exist"));
    }
    if let Some(exit) = files.exit()? {
        return Ok(Adoption::Exited(exit));
    }
    let handle = match files.void()? {
        Claim::Held(handle) => *handle,
        Claim::Void => return Ok(gone("it was never started, and now never will be")),
    };
    crash_points::passed("adopt.claimed");
    let host = |source| AdoptionError::Host { source };
    if boot_id().map_err(host)? != handle.boot_id {
        return Ok(gone("the host was restarted since it was started"));
    }
    let deadline = Instant::now() + ANSWER_LIMIT;
    loop {
        let alive = handle.supervisor.open().map_err(host)?.is_some();
        // In this order: a supervisor writes the status before it ends.
        if let Some(exit) = files.exit()? {
            return Ok(Adoption::Exited(exit));
        }
        if !alive {
            let pid = handle.supervisor.pid;
            return Ok(gone(&format!("its supervisor, process {pid}, is gone")));
        }
        match dial(&files) {
            Ok(connection) => {
                crash_points::passed("adopt.connected");
                if let Some(adoption) = recognise(&files, &handle, connection)? {
                    return Ok(adoption);
                }
            }
            Err(errno) if Instant::now() >= deadline => {
                return Err(AdoptionError::Silent {
                    directory: directory.to_owned(),
                    source: errno.into(),
                });
            }
            Err(_) => {}
        }
        std::thread::sleep(TRY_AGAIN);
    }
}

fn gone(reason: &str) -> Adoption {
    let reason = reason.to_owned();
    Adoption::Gone { reason }
}

fn dial(files: &HandOff) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let connection = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    with_short_path(files.directory(), "control", |path| {
        connect(connection.as_raw_fd(), &UnixAddr::new(path)?)
    })?;
    Ok(connection)
}

/// `None` if the supervisor ended before it answered: then its status is on disk.
fn recognise(
    files: &HandOff,
    handle: &Handle,
    connection: OwnedFd,
) -> Result<Option<Adoption>, AdoptionError> {
    let mut container = Container::adopted(files.clone(), handle.cgroup.clone(), connection);
    match container.wait_started(ANSWER_LIMIT) {
        Ok(Ok(answer)) if answer == *handle => {}
        Ok(Ok(answer)) => {
            let reason = format!(
                "the supervisor that answers there, process {}, keeps another container",
                answer.supervisor.pid
            );
            return Ok(Some(Adoption::Gone { reason }));
        }
        Ok(Err(exit)) => return Ok(Some(Adoption::Exited(exit))),
        Err(ContainerError::Lost { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    if let Some(path) = &handle.cgroup {
        let init = handle.init;
        let host = |source| AdoptionError::Host { source };
        // In this order: one that ends leaves its group first, and its supervisor tells of the end.
        if init.open().map_err(host)?.is_some()
            && !Group::at(path).contains(init.pid)?
            && !init.is_ending().map_err(host)?
        {
            let reason = format!(
                "process {} is not in its cgroup {}",
                init.pid,
                path.display()
            );
            return Ok(Some(Adoption::Gone { reason }));
        }
    }
    Ok(Some(Adoption::Running(container)))
}
