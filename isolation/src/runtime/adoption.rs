//! Adoption: finding a running container after a restart of the agent.
//!
//! A process id alone proves nothing. A handle is valid only in its boot, for processes with its
//! start times, in its cgroup, and behind a supervisor that knows its nonce.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argosy_host::process::boot_id;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::cgroup::{Cgroup, CgroupError};
use crate::runtime::container::{Container, ContainerError};
use crate::runtime::messages::with_short_path;
use crate::state_dir::{Exit, Handle, HandleFile, StateDirectory, StateDirectoryError};
use argosy_host::crash_point;

/// The time in which a supervisor must answer: it may still create its socket, or be about to exit.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The interval between connection attempts until then.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// The state of a container, as [`adopt`] finds it.
#[derive(Debug)]
pub enum Adoption {
    /// The container is running, and its handle is known.
    Running(Container),
    /// The container has ended; this is its true status.
    Exited(Exit),
    /// No supervisor runs it and there is no exit status: it never started (and never will), the
    /// host was restarted, or its supervisor died. Destroy what remains of it.
    Gone {
        /// The cause, as text.
        reason: String,
    },
}

/// An error that prevents [`adopt`] from determining the state of a container.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionError {
    /// A file of the state directory cannot be read or written.
    #[error(transparent)]
    Files(#[from] StateDirectoryError),
    /// It cannot be determined whether the state directory exists.
    #[error("cannot check whether {directory} exists")]
    Directory {
        directory: PathBuf,
        source: io::Error,
    },
    /// The cgroup cannot be read.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The supervisor is alive but does not answer.
    #[error("the supervisor of the container in {directory} is alive but does not answer")]
    Unresponsive {
        directory: PathBuf,
        /// The error of the last attempt.
        source: io::Error,
    },
    /// The supervisor sent an invalid message.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A query of the host failed.
    #[error("cannot inspect this host's processes")]
    Host { source: io::Error },
}

/// Finds the container of this state directory.
///
/// If the container has not started yet, this call makes sure that it never will: a launch request
/// may still be in flight. An agent holds one connection per container. Drop an earlier one first,
/// or the supervisor does not accept. Blocks while a supervisor is between two steps: at most 5 s,
/// usually not at all.
///
/// # Errors
/// If the state files cannot be read, or a supervisor that is alive does not answer. Try again: its
/// container may be running.
pub fn adopt(directory: &Path) -> Result<Adoption, AdoptionError> {
    let files = StateDirectory::at(directory);
    let dir = |source| AdoptionError::Directory {
        directory: directory.to_owned(),
        source,
    };
    if !directory.try_exists().map_err(dir)? {
        return Ok(gone("its directory does not exist"));
    }
    if let Some(exit) = files.exit()? {
        return Ok(Adoption::Exited(exit));
    }
    let handle = match files.cancel()? {
        HandleFile::Started(handle) => *handle,
        HandleFile::Cancelled => {
            return Ok(gone("it was never started, and the start is cancelled"));
        }
    };
    crash_point!("adopt.claimed");
    let host = |source| AdoptionError::Host { source };
    if boot_id().map_err(host)? != handle.boot_id {
        return Ok(gone("the host was restarted since it was started"));
    }
    let deadline = Instant::now() + ANSWER_LIMIT;
    loop {
        let alive = handle.supervisor.open().map_err(host)?.is_some();
        // The order matters: a supervisor writes the status before it exits.
        if let Some(exit) = files.exit()? {
            return Ok(Adoption::Exited(exit));
        }
        if !alive {
            let pid = handle.supervisor.pid;
            return Ok(gone(&format!("its supervisor, process {pid}, has exited")));
        }
        match dial(&files) {
            Ok(connection) => {
                crash_point!("adopt.connected");
                if let Some(adoption) = connect_supervisor(&files, &handle, connection)? {
                    return Ok(adoption);
                }
            }
            Err(errno) if Instant::now() >= deadline => {
                return Err(AdoptionError::Unresponsive {
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

fn dial(files: &StateDirectory) -> Result<OwnedFd, Errno> {
    // A blocking connection would wait without a limit if earlier attempts have filled the queue of
    // a stopped supervisor.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connection = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    with_short_path(files.directory(), "control", |path| {
        connect(connection.as_raw_fd(), &UnixAddr::new(path)?)
    })?;
    Ok(connection)
}

/// Returns `None` if the supervisor exited before it answered. Its status is then on disk.
fn connect_supervisor(
    files: &StateDirectory,
    handle: &Handle,
    connection: OwnedFd,
) -> Result<Option<Adoption>, AdoptionError> {
    let mut container = Container::adopted(files.clone(), handle.cgroup.clone(), connection);
    match container.wait_started(ANSWER_LIMIT) {
        Ok(Ok(answer)) if answer == *handle => {}
        Ok(Ok(answer)) => {
            let reason = format!(
                "the supervisor that answers, process {}, runs another container",
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
        // The order matters: an init that ends leaves its cgroup first, and its supervisor reports
        // the end.
        if init.open().map_err(host)?.is_some()
            && !Cgroup::at(path).contains(init.pid)?
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
