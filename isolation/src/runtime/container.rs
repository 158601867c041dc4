//! An agent's handle on one container: a socket to its supervisor.
//!
//! The interface is plain blocking and non-blocking calls on one descriptor, so that any runtime
//! can poll it. Dropping the handle has no effect on the container.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argosy_host::BootTime;
use argosy_host::packets::{ReceiveResult, WaitMode, receive_packet, send_packet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup::{Cgroup, CgroupStats};
use crate::runtime::attachment::{Attachment, AttachmentError};
use crate::runtime::exec::{ExecRequest, ExecSession, ExecSessionError};
use crate::runtime::messages::{SupervisorNotice, SupervisorRequest};
use crate::runtime::removal::{RemovalError, destroy};
use crate::spec::LaunchSpec;
use crate::state_dir::{Exit, Handle, StateDirectory, StateDirectoryError};

/// A container that was launched or adopted.
#[derive(Debug)]
pub struct Container {
    connection: OwnedFd,
    files: StateDirectory,
    cgroup: Option<PathBuf>,
    handle: Option<Box<Handle>>,
    exit: Option<Box<Exit>>,
}

/// An error of a container handle.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The supervisor has exited and left no exit status. Destroy the container: its status is
    /// unknown.
    #[error("the supervisor of the container in {directory} has exited and left no exit status")]
    Lost { directory: PathBuf },
    /// The call timed out.
    #[error("the container in {directory} has not {awaited} within {waited_ms} ms")]
    Timeout {
        directory: PathBuf,
        /// The awaited event.
        awaited: &'static str,
        /// The time waited, in milliseconds.
        waited_ms: u128,
    },
    /// The supervisor cannot be reached.
    #[error("cannot reach the supervisor of the container in {directory}")]
    Socket {
        directory: PathBuf,
        source: io::Error,
    },
    /// A file of the state directory cannot be read.
    #[error(transparent)]
    Files(#[from] StateDirectoryError),
}

impl Container {
    pub(crate) fn launched(spec: &LaunchSpec, connection: OwnedFd) -> Self {
        Self {
            connection,
            files: StateDirectory::at(&spec.directory),
            cgroup: spec.cgroup.clone(),
            handle: None,
            exit: None,
        }
    }

    /// Returns a container whose connection came from another process, with its handle if that
    /// process read it.
    #[must_use]
    pub fn from_connection(
        directory: &Path,
        cgroup: Option<PathBuf>,
        handle: Option<Handle>,
        connection: OwnedFd,
    ) -> Self {
        Self {
            connection,
            files: StateDirectory::at(directory),
            cgroup,
            handle: handle.map(Box::new),
            exit: None,
        }
    }

    /// Returns the connection, to pass it to another process.
    #[must_use]
    pub fn into_connection(self) -> OwnedFd {
        self.connection
    }

    pub(crate) fn adopted(
        files: StateDirectory,
        cgroup: Option<PathBuf>,
        connection: OwnedFd,
    ) -> Self {
        Self {
            connection,
            files,
            cgroup,
            handle: None,
            exit: None,
        }
    }

    /// Returns the container's state directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.files.directory()
    }

    /// Returns the handle of the container's processes; known once [`SupervisorNotice::Started`]
    /// was read. Always known after an adoption.
    #[must_use]
    pub fn handle(&self) -> Option<&Handle> {
        self.handle.as_deref()
    }

    /// Returns the exit status; known once [`SupervisorNotice::Exited`] was read.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.exit.as_deref()
    }

    /// Returns the next notice, or `None` if there is none now. Call it when the descriptor is
    /// readable; after [`SupervisorNotice::Exited`] there are no more.
    ///
    /// # Errors
    /// If the connection is lost and the state directory holds no exit status: adopt the container
    /// again.
    pub fn notice(&mut self) -> Result<Option<SupervisorNotice>, ContainerError> {
        if self.exit.is_some() {
            return Ok(None);
        }
        let notice = match receive_packet(&self.connection, WaitMode::Return) {
            Ok(ReceiveResult::Message(notice)) => notice,
            Ok(ReceiveResult::Nothing) => return Ok(None),
            // The supervisor exited between connect and accept, or died.
            Ok(ReceiveResult::Closed) => match self.files.exit()? {
                Some(exit) => SupervisorNotice::Exited(Box::new(exit)),
                None => {
                    let directory = self.files.directory().to_owned();
                    return Err(ContainerError::Lost { directory });
                }
            },
            Err(source) => return Err(self.socket_error(source)),
        };
        match &notice {
            SupervisorNotice::Started(handle) => self.handle = Some(handle.clone()),
            SupervisorNotice::Exited(exit) => self.exit = Some(exit.clone()),
        }
        Ok(Some(notice))
    }

    /// Whether the supervisor has closed its connection, which happens only when it exits. Call it
    /// when the descriptor is readable, after [`SupervisorNotice::Exited`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let received = receive_packet::<SupervisorNotice>(&self.connection, WaitMode::Return);
        matches!(received, Ok(ReceiveResult::Closed))
    }

    /// Blocks until the command is executed (`Ok`), or cannot be executed or has already ended (the
    /// exit).
    ///
    /// # Errors
    /// As [`Container::notice`], and [`ContainerError::Timeout`] after `timeout`.
    pub fn wait_started(
        &mut self,
        timeout: Duration,
    ) -> Result<Result<Handle, Exit>, ContainerError> {
        self.wait_until("started", timeout, |container| {
            let ended = container.exit().map(|exit| Err(exit.clone()));
            container
                .handle()
                .map(|handle| Ok(handle.clone()))
                .or(ended)
        })
    }

    /// Blocks until the container has ended.
    ///
    /// # Errors
    /// As [`Container::notice`], and [`ContainerError::Timeout`] after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<Exit, ContainerError> {
        self.wait_until("ended", timeout, |container| container.exit().cloned())
    }

    fn wait_until<T>(
        &mut self,
        awaited: &'static str,
        limit: Duration,
        reached: impl Fn(&Self) -> Option<T>,
    ) -> Result<T, ContainerError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(answer) = reached(self) {
                return Ok(answer);
            }
            if self.notice()?.is_some() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ContainerError::Timeout {
                    directory: self.files.directory().to_owned(),
                    awaited,
                    waited_ms: limit.as_millis(),
                });
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut watched = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.socket_error(errno.into())),
            }
        }
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// If the connection is lost, except because the container has ended.
    pub fn signal(&self, signal: i32) -> Result<(), ContainerError> {
        self.request(SupervisorRequest::Signal { signal })
    }

    /// Sends TERM to the command's process group and, after the grace period (in milliseconds),
    /// KILL to everything in the container; without a grace period KILL immediately. Repeatable: a
    /// later call can only shorten the grace period.
    ///
    /// # Errors
    /// If the connection is lost, except because the container has ended.
    pub fn kill(&self, grace_ms: u64) -> Result<(), ContainerError> {
        self.request(SupervisorRequest::Kill { grace_ms })
    }

    /// Extends the `stop_after` deadline. It never moves back, so late renewals are harmless.
    ///
    /// # Errors
    /// If the connection is lost, except because the container has ended.
    pub fn renew(&self, deadline: BootTime) -> Result<(), ContainerError> {
        self.request(SupervisorRequest::Renew { deadline })
    }

    /// Starts an exec session: another command in the container, with the same confinement, for as
    /// long as the session is open. The session's first notice reports whether the command started,
    /// or the error. At most 64 per container at a time.
    ///
    /// # Errors
    /// If the request is too long, or the connection is lost or its queue is full.
    pub fn exec(&self, request: &ExecRequest) -> Result<ExecSession, ExecSessionError> {
        ExecSession::open(self.connection.as_fd(), request)
    }

    /// Attaches to the main command's streams: its output from this moment on, and with `stdin` its
    /// standard input. The first notice reports whether that succeeded, or the error. At most 16
    /// attached clients per container; all see the output, and their input is merged.
    ///
    /// # Errors
    /// If the supervisor is of an earlier release, or the connection is lost or its queue is full.
    pub fn attach(&self, stdin: bool) -> Result<Attachment, AttachmentError> {
        // A supervisor without this feature would close the connection.
        if self
            .handle
            .as_ref()
            .is_some_and(|handle| !handle.attachable)
        {
            return Err(AttachmentError::NotStarted);
        }
        Attachment::open(self.connection.as_fd(), self.files.clone(), stdin)
    }

    /// Sends an order. A container that has ended needs none, so that case is not an error.
    fn request(&self, order: SupervisorRequest) -> Result<(), ContainerError> {
        match send_packet(&self.connection, &order, WaitMode::Return) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => Ok(()),
            Err(source) => Err(self.socket_error(source)),
        }
    }

    /// Returns the current usage; all fields are `None` without a cgroup.
    #[must_use]
    pub fn stats(&self) -> CgroupStats {
        let group = self.cgroup.as_deref().map(Cgroup::at);
        group.map(|group| group.stats()).unwrap_or_default()
    }

    /// Kills the container immediately and removes everything except its state files. Idempotent.
    ///
    /// # Errors
    /// As [`destroy`].
    pub fn destroy(&self, timeout: Duration) -> Result<(), RemovalError> {
        destroy(self.files.directory(), self.cgroup.as_deref(), timeout)
    }

    fn socket_error(&self, source: io::Error) -> ContainerError {
        ContainerError::Socket {
            directory: self.files.directory().to_owned(),
            source,
        }
    }
}

/// The same for runtimes that register raw descriptors. The container keeps ownership.
impl AsRawFd for Container {
    fn as_raw_fd(&self) -> RawFd {
        self.connection.as_raw_fd()
    }
}

/// Readable when [`Container::notice`] has a notice.
impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
