//! Asynchronous wrappers of a command's streams and a session's notices.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use argosy_isolation::{ExecNotice, ExecSession, ExecSessionError, WindowSize};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::descriptors::watched;

/// One end of a pipe, or the master of a terminal. All clones share it; the last one closes it.
#[derive(Debug, Clone)]
pub(super) struct CommandStream(Arc<AsyncFd<OwnedFd>>);

impl CommandStream {
    pub(super) fn new(file: OwnedFd) -> io::Result<Self> {
        // The command has a separate file description, which stays blocking.
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let file = watched(file, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self(Arc::new(file)))
    }

    /// Reads available bytes; returns 0 at the end.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |file: &OwnedFd| -> io::Result<usize> {
            match nix::unistd::read(file, buffer) {
                // Of a terminal: no process has its other end open any more.
                Err(Errno::EIO) => Ok(0),
                read => Ok(read?),
            }
        };
        self.0.async_io(Interest::READABLE, read).await
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write =
                |file: &OwnedFd| -> io::Result<usize> { Ok(nix::unistd::write(file, bytes)?) };
            let written = self.0.async_io(Interest::WRITABLE, write).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Sets the window size. Only a terminal has one.
    pub(super) fn resize(&self, size: WindowSize) -> io::Result<()> {
        size.set(self.0.get_ref())
    }
}

/// The notices of a session. Dropping it ends the command.
pub(super) struct SessionNotices(AsyncFd<ExecSession>);

impl SessionNotices {
    pub(super) fn new(session: ExecSession) -> io::Result<Self> {
        Ok(Self(watched(session, Interest::READABLE)?))
    }

    /// Waits for the next notice. Must not be called after the last one.
    pub(super) async fn next(&mut self) -> Result<ExecNotice, ExecSessionError> {
        loop {
            if let Some(notice) = self.0.get_mut().notice()? {
                return Ok(notice);
            }
            let ready = self.0.readable().await;
            ready
                .map_err(|source| ExecSessionError::Socket { source })?
                .clear_ready();
        }
    }

    pub(super) fn signal(&self, signal: i32) -> Result<(), ExecSessionError> {
        self.0.get_ref().signal(signal)
    }
}
