//! An agent's hold on one container: a socket to its supervisor.
//!
//! Plain blocking or non-blocking calls on one descriptor, so that any runtime can wait for it. Dropping it
//! changes nothing for the container.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::attachment::{Attachment, AttachmentError};
use crate::cgroup::{Group, Stats};
use crate::exec::{EntryError, EntryRequest, Session};
use crate::messages::{Notice, Order, Received, Wait, receive_packet, send_packet};
use crate::process::BootTime;
use crate::removal::{RemovalError, destroy};
use crate::spec::Spec;
use crate::state_dir::{Exit, HandOff, HandOffError, Handle};

/// A container that was launched or adopted.
#[derive(Debug)]
pub struct Container {
    connection: OwnedFd,
    files: HandOff,
    cgroup: Option<PathBuf>,
    handle: Option<Box<Handle>>,
    exit: Option<Box<Exit>>,
}

/// Why a container could not be asked or told something.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Its supervisor is gone and left no exit status: destroy the container, its end is unknown.
    #[error("the supervisor of the container in {directory} is gone and left no exit status")]
    Lost {
        /// The container's folder.
        directory: PathBuf,
    },
    /// The call's time has passed.
    #[error("the container in {directory} has not {awaited} within {waited_ms} ms")]
    Late {
        /// The container's folder.
        directory: PathBuf,
        /// What was waited for.
        awaited: &'static str,
        /// How long, in milliseconds.
        waited_ms: u128,
    },
    /// The supervisor could not be reached.
    #[error("cannot talk to the supervisor of the container in {directory}")]
    Talk {
        /// The container's folder.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A hand-off file could not be read.
    #[error(transparent)]
    Files(#[from] HandOffError),
}

impl Container {
    pub(crate) fn launched(spec: &Spec, connection: OwnedFd) -> Self {
        Self {
            connection,
            files: HandOff::at(&spec.directory),
            cgroup: spec.cgroup.clone(),
            handle: None,
            exit: None,
        }
    }

    /// One whose connection came from another process, with its handle if that was read there.
    #[must_use]
    pub fn passed_on(
        directory: &Path,
        cgroup: Option<PathBuf>,
        handle: Option<Handle>,
        connection: OwnedFd,
    ) -> Self {
        Self {
            connection,
            files: HandOff::at(directory),
            cgroup,
            handle: handle.map(Box::new),
            exit: None,
        }
    }

    /// Its connection, to be passed on to another process.
    #[must_use]
    pub fn into_connection(self) -> OwnedFd {
        self.connection
    }

    pub(crate) fn adopted(files: HandOff, cgroup: Option<PathBuf>, connection: OwnedFd) -> Self {
        Self {
            connection,
            files,
            cgroup,
            handle: None,
            exit: None,
        }
    }

    /// Its hand-off folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.files.directory()
    }

    /// Who runs it; known once [`Notice::Started`] was read. Always known after an adoption.
    #[must_use]
    pub fn handle(&self) -> Option<&Handle> {
        self.handle.as_deref()
    }

    /// How it ended; known once [`Notice::Exited`] was read.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.exit.as_deref()
    }

    /// The next notice, or `None` if there is none now. Call it when the descriptor is readable; after
    /// [`Notice::Exited`] nothing more comes.
    ///
    /// # Errors
    /// If the connection broke off and the hand-off files tell no end either: adopt it anew.
    pub fn notice(&mut self) -> Result<Option<Notice>, ContainerError> {
        if self.exit.is_some() {
            return Ok(None);
        }
        let notice = match receive_packet(&self.connection, Wait::Return) {
            Ok(Received::Message(notice)) => notice,
            Ok(Received::Nothing) => return Ok(None),
            // It ended between our connecting and its accepting, or died.
            Ok(Received::Closed) => match self.files.exit()? {
                Some(exit) => Notice::Exited(Box::new(exit)),
                None => {
                    let directory = self.files.directory().to_owned();
                    return Err(ContainerError::Lost { directory });
                }
            },
            Err(source) => return Err(self.talk(source)),
        };
        match &notice {
            Notice::Started(handle) => self.handle = Some(handle.clone()),
            Notice::Exited(exit) => self.exit = Some(exit.clone()),
        }
        Ok(Some(notice))
    }

    /// Whether the supervisor has closed its connection, as it does only by its own end. Call it when the descriptor is
    /// readable, after [`Notice::Exited`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let received = receive_packet::<Notice>(&self.connection, Wait::Return);
        matches!(received, Ok(Received::Closed))
    }

    /// Blocks until the command has been executed (`Ok`), or cannot be or has already ended (the exit).
    ///
    /// # Errors
    /// As [`Container::notice`], and [`ContainerError::Late`] when the patience (a span of time) is over.
    pub fn wait_started(
        &mut self,
        patience: Duration,
    ) -> Result<Result<Handle, Exit>, ContainerError> {
        self.wait_until("started", patience, |container| {
            let ended = container.exit().map(|exit| Err(exit.clone()));
            container
                .handle()
                .map(|handle| Ok(handle.clone()))
                .or(ended)
        })
    }

    /// Blocks until it has ended.
    ///
    /// # Errors
    /// As [`Container::notice`], and [`ContainerError::Late`] when the patience (a span of time) is over.
    pub fn wait(&mut self, patience: Duration) -> Result<Exit, ContainerError> {
        self.wait_until("ended", patience, |container| container.exit().cloned())
    }

    fn wait_until<T>(
        &mut self,
        awaited: &'static str,
        patience: Duration,
        reached: impl Fn(&Self) -> Option<T>,
    ) -> Result<T, ContainerError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(answer) = reached(self) {
                return Ok(answer);
            }
            if self.notice()?.is_some() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ContainerError::Late {
                    directory: self.files.directory().to_owned(),
                    awaited,
                    waited_ms: patience.as_millis(),
                });
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut watched = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.talk(errno.into())),
            }
        }
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// If the connection broke off, except because the container has ended.
    pub fn signal(&self, signal: i32) -> Result<(), ContainerError> {
        self.order(Order::Signal { signal })
    }

    /// TERM to the command's process group, and after the grace (in milliseconds) KILL to everything in the
    /// container; with no grace KILL at once. Repeatable: a later call can only shorten the grace.
    ///
    /// # Errors
    /// If the connection broke off, except because the container has ended.
    pub fn kill(&self, grace_ms: u64) -> Result<(), ContainerError> {
        self.order(Order::Kill { grace_ms })
    }

    /// Moves the `stop_after` deadline. It never moves back, so late renewals are harmless.
    ///
    /// # Errors
    /// If the connection broke off, except because the container has ended.
    pub fn renew(&self, deadline: BootTime) -> Result<(), ContainerError> {
        self.order(Order::Renew { deadline })
    }

    /// Lets one more command in: beside the container's own, confined as that is, for as long as the session is held.
    /// Known to have started, or why not, by the session's first notice. At most 64 a container at a time.
    ///
    /// # Errors
    /// If the request is too long, or the connection broke off or takes nothing for now.
    pub fn enter(&self, request: &EntryRequest) -> Result<Session, EntryError> {
        Session::open(self.connection.as_fd(), request)
    }

    /// Attaches to the command's own streams: its output from now on, and with `stdin` its standard input. Known to have
    /// worked, or why not, by the attachment's first notice. At most 16 a container at a time, who all see the output;
    /// what they send is merged.
    ///
    /// # Errors
    /// If its supervisor is of an earlier release, or the connection broke off or takes nothing for now.
    pub fn attach(&self, stdin: bool) -> Result<Attachment, AttachmentError> {
        // One that cannot be asked would hang up on who asks.
        if self
            .handle
            .as_ref()
            .is_some_and(|handle| !handle.attachable)
        {
            return Err(AttachmentError::Early);
        }
        Attachment::open(self.connection.as_fd(), self.files.clone(), stdin)
    }

    /// A container that has ended needs no orders: that they come too late is no error.
    fn order(&self, order: Order) -> Result<(), ContainerError> {
        match send_packet(&self.connection, &order, Wait::Return) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => Ok(()),
            Err(source) => Err(self.talk(source)),
        }
    }

    /// What it uses now; all `None` without a group.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let group = self.cgroup.as_deref().map(Group::at);
        group.map(|group| group.stats()).unwrap_or_default()
    }

    /// Ends it at once and removes all that is left of it, except its hand-off files. Repeatable.
    ///
    /// # Errors
    /// As [`destroy`].
    pub fn destroy(&self, patience: Duration) -> Result<(), RemovalError> {
        destroy(self.files.directory(), self.cgroup.as_deref(), patience)
    }

    fn talk(&self, source: io::Error) -> ContainerError {
        ContainerError::Talk {
            directory: self.files.directory().to_owned(),
            source,
        }
    }
}

/// The same for runtimes that register raw descriptors. It stays the container's own.
impl AsRawFd for Container {
    fn as_raw_fd(&self) -> RawFd {
        self.connection.as_raw_fd()
    }
}

/// Readable when [`Container::notice`] has something to say.
impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
