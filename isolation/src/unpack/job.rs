//! The agent's interface to unpacking in a separate process: requests and reports.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use argosy_host::packets::{ReceiveResult, WaitMode, receive_packet};
use argosy_host::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use super::{ArchiveFormat, UnpackLimits, UnpackProgress, UnpackResult};

/// An unpack request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackJob {
    /// The format of the archive.
    pub format: ArchiveFormat,
    /// The limits of the archive.
    pub rules: UnpackLimits,
    /// The host's user and group that own the files of a fetched archive. The target must belong to
    /// them. A layer keeps its owners, and its target must belong to root.
    pub owner: HostOwner,
    /// The cgroup of the process; `None`: that of the supervisors.
    pub group: Option<PathBuf>,
}

/// A user and a group of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOwner {
    pub uid: u32,
    pub gid: u32,
}

/// A report of an unpack process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnpackReport {
    /// The progress. Reports are skipped while none is read.
    Progress(UnpackProgress),
    /// Success. The last report.
    Done(UnpackResult),
    /// Failure. The last report.
    Failed(UnpackFailure),
}

/// The failure of unpacking; the caller removes what was written so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct UnpackFailure {
    /// The cause: archive or host.
    pub blame: FailureOrigin,
    /// The error, with entry and rule.
    pub reason: String,
}

/// The cause of a failure, which shows whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureOrigin {
    /// The archive is damaged, too large or malicious: a retry would fail as well.
    Archive,
    /// The host could not do it now.
    Host,
}

impl UnpackFailure {
    pub(crate) fn of_host(reason: impl Into<String>) -> Self {
        Self {
            blame: FailureOrigin::Host,
            reason: reason.into(),
        }
    }
}

/// An agent's handle on an unpack process. Dropping it ends the process.
#[derive(Debug)]
pub struct UnpackHandle {
    connection: OwnedFd,
    has_ended: bool,
}

impl UnpackHandle {
    /// Sends the archive and the target.
    pub(crate) fn start(
        connection: OwnedFd,
        archive: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        for file in [archive, target] {
            let descriptors = [file.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let byte = [IoSlice::new(b"f")];
            let flags = MsgFlags::MSG_NOSIGNAL;
            sendmsg::<()>(connection.as_raw_fd(), &byte, &rights, flags, None)?;
        }
        Ok(Self {
            connection,
            has_ended: false,
        })
    }

    /// Wraps a connection that came from another process.
    #[must_use]
    pub fn from_connection(connection: OwnedFd) -> Self {
        Self {
            connection,
            has_ended: false,
        }
    }

    /// Returns the connection, to pass it to another process: no report may have been read.
    #[must_use]
    pub fn into_connection(self) -> OwnedFd {
        self.connection
    }

    /// Returns the next report, or `None` if there is none now. Call it when the descriptor is
    /// readable; after [`UnpackReport::Done`] and [`UnpackReport::Failed`] there are no more.
    pub fn report(&mut self) -> Option<UnpackReport> {
        if self.has_ended {
            return None;
        }
        let report = match receive_packet(&self.connection, WaitMode::Return) {
            Ok(ReceiveResult::Message(report)) => report,
            Ok(ReceiveResult::Nothing) => return None,
            Ok(ReceiveResult::Closed) => UnpackReport::Failed(UnpackFailure::of_host(
                "the unpacking process exited without a report; unpack again",
            )),
            Err(error) => UnpackReport::Failed(UnpackFailure::of_host(format!(
                "cannot read from the unpacking process: {error}"
            ))),
        };
        self.has_ended = !matches!(report, UnpackReport::Progress(_));
        Some(report)
    }

    /// Blocks until the work is done.
    ///
    /// # Errors
    /// The failure, or a timeout after `limit`: the process then continues until this is
    /// dropped.
    pub fn wait(&mut self, limit: Duration) -> Result<UnpackResult, UnpackFailure> {
        let deadline = Instant::now() + limit;
        loop {
            match self.report() {
                Some(UnpackReport::Progress(_)) => continue,
                Some(UnpackReport::Done(unpacked)) => return Ok(unpacked),
                Some(UnpackReport::Failed(failure)) => return Err(failure),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.has_ended {
                let waited = limit.as_millis();
                return Err(UnpackFailure::of_host(format!(
                    "not unpacked within {waited} ms; wait longer"
                )));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut watched = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(UnpackFailure::of_host(format!(
                        "cannot wait: {}",
                        errno.desc()
                    )));
                }
            }
        }
    }
}

/// The same for runtimes that register raw descriptors. `UnpackHandle` keeps ownership.
impl AsRawFd for UnpackHandle {
    fn as_raw_fd(&self) -> RawFd {
        self.connection.as_raw_fd()
    }
}

impl AsFd for UnpackHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Receives the next file that [`UnpackHandle::start`] sent.
pub(super) fn receive_file(connection: &OwnedFd) -> io::Result<OwnedFd> {
    let connection = connection.as_fd();
    let (_, files) = sys::receive_with_descriptors::<1>(connection, &mut [0], RecvFlags::empty())?;
    let file = files.into_iter().next();
    file.ok_or_else(|| io::Error::other("no file came with the request"))
}
