//! Unpacking in a process of its own, as an agent sees it: what is asked, and what is told.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::{Format, Progress, Rules, Unpacked};
use crate::messages::{Received, Wait, receive_packet};
use crate::sys;

/// What is to be unpacked, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// How the archive is packed.
    pub format: Format,
    /// What it may be.
    pub rules: Rules,
    /// The user and group of the host that files of a fetched archive belong to. The target must be theirs. A layer
    /// keeps its owners, and its target must belong to root.
    pub owner: Owner,
    /// The control group to do it in; `None`: that of the supervisors.
    pub group: Option<PathBuf>,
}

/// A user and a group of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// What an unpacking process tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// How far it is. Some are left out if nobody reads them.
    Progress(Progress),
    /// All went well. The last report.
    Done(Unpacked),
    /// It did not. The last report.
    Failed(Failure),
}

/// Why an archive was not unpacked; what was written so far is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// Whose fault it is.
    pub blame: Blame,
    /// In words, with entry and rule.
    pub reason: String,
}

/// Whether it helps to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The archive is damaged, too large or hostile: it will not be unpacked later either.
    Archive,
    /// The host could not do it now.
    Host,
}

impl Failure {
    pub(crate) fn of_host(reason: impl Into<String>) -> Self {
        Self {
            blame: Blame::Host,
            reason: reason.into(),
        }
    }
}

/// An agent's hold on an unpacking process. Dropping it ends the process.
#[derive(Debug)]
pub struct Unpacking {
    connection: OwnedFd,
    ended: bool,
}

impl Unpacking {
    /// Puts archive and target on their way.
    pub(crate) fn begin(
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
            ended: false,
        })
    }

    /// One whose connection came from another process.
    #[must_use]
    pub fn passed_on(connection: OwnedFd) -> Self {
        Self {
            connection,
            ended: false,
        }
    }

    /// Its connection, to be passed on to another process: nothing of it may have been read.
    #[must_use]
    pub fn into_connection(self) -> OwnedFd {
        self.connection
    }

    /// The next report, or `None` if there is none now. Call it when the descriptor is readable; after
    /// [`Report::Done`] and [`Report::Failed`] nothing more comes.
    pub fn report(&mut self) -> Option<Report> {
        if self.ended {
            return None;
        }
        let report = match receive_packet(&self.connection, Wait::Return) {
            Ok(Received::Message(report)) => report,
            Ok(Received::Nothing) => return None,
            Ok(Received::Closed) => Report::Failed(Failure::of_host(
                "the unpacking process ended without a word; unpack again",
            )),
            Err(error) => Report::Failed(Failure::of_host(format!(
                "cannot hear the unpacking process: {error}"
            ))),
        };
        self.ended = !matches!(report, Report::Progress(_));
        Some(report)
    }

    /// Blocks until it is done.
    ///
    /// # Errors
    /// Why it is not, or that the patience (a span of time) is over: the process goes on then until this is dropped.
    pub fn wait(&mut self, patience: Duration) -> Result<Unpacked, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            match self.report() {
                Some(Report::Progress(_)) => continue,
                Some(Report::Done(unpacked)) => return Ok(unpacked),
                Some(Report::Failed(failure)) => return Err(failure),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.ended {
                let waited = patience.as_millis();
                return Err(Failure::of_host(format!(
                    "not unpacked within {waited} ms; wait longer"
                )));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut watched = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(Failure::of_host(format!("cannot wait: {}", errno.desc())));
                }
            }
        }
    }
}

/// The same for runtimes that register raw descriptors. It stays the process' own.
impl AsRawFd for Unpacking {
    fn as_raw_fd(&self) -> RawFd {
        self.connection.as_raw_fd()
    }
}

impl AsFd for Unpacking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// The other side of [`Unpacking::begin`]: the next file that was sent.
pub(super) fn receive_file(connection: &OwnedFd) -> io::Result<OwnedFd> {
    let connection = connection.as_fd();
    let (_, files) = sys::receive_with_descriptors::<1>(connection, &mut [0], MsgFlags::empty())?;
    let file = files.into_iter().next();
    file.ok_or_else(|| io::Error::other("no file came with the request"))
}
