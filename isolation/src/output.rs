//! What a command writes: from its pipes into files of its sandbox, of bounded size, number and pace.
//!
//! `stdout` is the file that is being written. When it is full it becomes `stdout.1`, that one `stdout.2`, and so on; the
//! oldest goes. The files belong to the supervisor, so that the command may read them but not change them. It may rename,
//! remove or replace them, as the folder is its own: files are made anew and renamed by their names below the open folder,
//! nothing there is ever opened or followed, and what stands in the way costs the command its own output only.
//!
//! Never holds the command up: what comes faster than the cap, and what cannot be written, is read and dropped, and
//! a note in the output says how many bytes were. Back-pressure would be gentler with the output and worse for the service
//! that writes it: a busy one would stand still for its log. The cap is per second and stream; its usual 64 MiB are more
//! than a reader over a network of 1 Gbit/s could follow with both streams, and little enough to leave a disk to others.

mod log;
mod rate_limit;
mod record;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown};
use serde::{Deserialize, Serialize};

use crate::spec::{Spec, User};
use log::Log;
pub use record::{FileId, Part, Record, Rotated, StreamName};
use store::Store;

/// How much is moved at a time, in bytes: at first little, as most commands write little, then as much as a
/// pipe holds.
const CHUNK_BYTES: [usize; 2] = [4 * 1024, 64 * 1024];
/// How many chunks one turn moves, so that a command that never stops writing holds up no order.
const CHUNKS_A_TURN: usize = 16;

/// How much is kept of each of a command's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLimits {
    /// The largest file, in bytes.
    pub file_bytes: u64,
    /// How many files, the one that is being written included.
    pub files: u32,
    /// What is taken within one second, in bytes; more is dropped, with a note.
    pub bytes_per_second: u64,
}

impl OutputLimits {
    /// Five files of 10 MiB, and 64 MiB a second.
    pub const USUAL: Self = Self {
        file_bytes: 10 * 1024 * 1024,
        files: 5,
        bytes_per_second: 64 * 1024 * 1024,
    };

    /// What both streams keep at most, in bytes.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        let files = u64::from(self.files).saturating_mul(2);
        self.file_bytes.saturating_mul(files)
    }
}

/// Why output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the command's output to {path}")]
pub(crate) struct OutputError {
    path: PathBuf,
    source: io::Error,
}

/// One of a command's two output streams.
#[derive(Debug)]
struct Output {
    pipe: Option<OwnedFd>,
    log: Log,
}

/// Both, and where they are kept.
#[derive(Debug)]
pub(crate) struct Outputs {
    streams: [Output; 2],
    store: Store,
}

impl Outputs {
    /// Makes the files in the sandbox, and returns the ends of the pipes that the command writes to, which belong to its
    /// user: programs open `/dev/stdout` by its name.
    pub(crate) fn create(spec: &Spec) -> Result<(Self, [OwnedFd; 2]), OutputError> {
        let (sandbox, owner) = (spec.sandbox.as_path(), spec.host_user());
        let of = |stream: StreamName| {
            let path = sandbox.join(stream.name());
            |source: io::Error| OutputError { path, source }
        };
        let mut store = Store::open(sandbox, &spec.output_record, spec.output)
            .map_err(of(StreamName::Stdout))?;
        let mut open = |stream| {
            let log = Log::create(&mut store, stream).map_err(of(stream))?;
            let (pipe, writer) = pipe(owner.as_ref()).map_err(of(stream))?;
            let pipe = Some(pipe);
            Ok((Output { pipe, log }, writer))
        };
        let (stdout, stdout_writer) = open(StreamName::Stdout)?;
        let (stderr, stderr_writer) = open(StreamName::Stderr)?;
        let streams = [stdout, stderr];
        Ok((Self { streams, store }, [stdout_writer, stderr_writer]))
    }

    /// From now on all that the command writes comes from its terminal.
    pub(crate) fn come_from_terminal(&mut self, master: OwnedFd) {
        let [stdout, stderr] = &mut self.streams;
        (stdout.pipe, stderr.pipe) = (Some(master), None);
    }

    /// How many bytes each of them has been so far, as far as they are kept.
    pub(crate) fn lengths(&self) -> [u64; 2] {
        let streams = self.streams.each_ref();
        streams.map(|stream| stream.log.length(&self.store))
    }

    /// The end of what is kept of each of them, at most so many bytes.
    pub(crate) fn tails(&self, most_bytes: usize) -> [Vec<u8>; 2] {
        let streams = self.streams.each_ref();
        streams.map(|stream| stream.log.tail(most_bytes))
    }

    /// The pipes to wait for, of stdout and stderr; `None` once every writer has closed one.
    pub(crate) fn pipes(&self) -> [Option<BorrowedFd<'_>>; 2] {
        self.streams
            .each_ref()
            .map(|stream| stream.pipe.as_ref().map(AsFd::as_fd))
    }

    /// Moves what is in those pipes of which it is said, up to a turn's worth each, and shows it. True if there may be
    /// more at once.
    ///
    /// `buffer` is the caller's only to be kept for the next call.
    pub(crate) fn pump(
        &mut self,
        ready: [bool; 2],
        buffer: &mut Vec<u8>,
        show: &mut dyn FnMut(StreamName, &[u8]),
    ) -> bool {
        let mut more = false;
        for (stream, ready) in self.streams.iter_mut().zip(ready) {
            if stream.log.owes_note() {
                stream.log.settle(&mut self.store, Instant::now());
            }
            more |= ready && stream.pump(&mut self.store, buffer, show);
        }
        more
    }

    /// Whether to come back within a second though nothing is to be moved: a note is owed.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.streams.iter().any(|stream| stream.log.owes_note())
    }

    /// Moves what is left, for at most this long, and tells what was dropped last.
    pub(crate) fn finish(
        &mut self,
        patience: Duration,
        buffer: &mut Vec<u8>,
        show: &mut dyn FnMut(StreamName, &[u8]),
    ) {
        let deadline = Instant::now() + patience;
        while self.pump([true; 2], buffer, show) && Instant::now() < deadline {}
        for stream in &mut self.streams {
            stream.log.finish(&mut self.store);
        }
        self.store.finish();
    }
}

/// A pipe to read without waiting, and its other end.
fn pipe(owner: Option<&User>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (pipe, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    if let Some(user) = owner {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        fchown(&writer, Some(uid), Some(gid))?;
    }
    Ok((pipe, writer))
}

impl Output {
    fn pump(
        &mut self,
        store: &mut Store,
        buffer: &mut Vec<u8>,
        show: &mut dyn FnMut(StreamName, &[u8]),
    ) -> bool {
        for _ in 0..CHUNKS_A_TURN {
            let Some(pipe) = &self.pipe else { return false };
            if buffer.is_empty() {
                buffer.resize(CHUNK_BYTES[0], 0);
            }
            match nix::unistd::read(pipe, buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.log.take(store, Instant::now(), &buffer[..length]);
                    show(self.log.stream(), &buffer[..length]);
                    if length == CHUNK_BYTES[0] {
                        buffer.resize(CHUNK_BYTES[1], 0);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                Err(_) => self.pipe = None,
            }
        }
        self.pipe.is_some()
    }
}
