//! Output of a command: from its pipes into files of its sandbox, of bounded size, number and rate.
//!
//! `stdout` is the current file. When it is full it becomes `stdout.1`, that one `stdout.2`, and so
//! on; the oldest is removed. The files belong to the supervisor, so that the command may read them
//! but not change them. It may rename, remove or replace them, because it owns the directory. So
//! files are created new and renamed by name below the open directory, and no existing entry is
//! ever opened or followed. An obstacle in the directory costs the command only its output.
//!
//! Output never blocks the command. Bytes above the rate limit, and bytes that cannot be written,
//! are read and dropped, and a note in the output gives their number. Back-pressure would keep the
//! output but harm the service that writes it: a busy one would stall for its log. The limit is per
//! second and stream. Its default of 64 MiB is more than a reader over a network of 1 Gbit/s could
//! follow with both streams. It is also little enough to leave disk bandwidth to others.

mod log;
mod rate_limit;
mod record;
mod store;
#[cfg(test)]
mod tests;
mod time_log;
mod times;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown};

use crate::spec::{ContainerUser, LaunchSpec};
use log::OutputLog;
pub use record::{FileId, OutputRecord, StreamFile, StreamFiles, StreamName};
use store::OutputStore;
#[cfg(feature = "fuzzing")]
pub(crate) use times::decode_times;
pub use times::{OutputSpan, SPAN_MS, TimesReader, encode_times, times_path};

/// The number of bytes moved at a time: first few, as most commands write little, then as much as a
/// pipe holds.
const CHUNK_BYTES: [usize; 2] = [4 * 1024, 64 * 1024];
/// The number of chunks per turn, so that a command that writes continuously delays no order.
const CHUNKS_PER_TURN: usize = 16;

/// An error of setting up the output files.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the command's output to {path}")]
pub(crate) struct OutputError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
struct StreamOutput {
    pipe: Option<OwnedFd>,
    log: OutputLog,
}

/// Both streams, and the store of their files.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    streams: [StreamOutput; 2],
    store: OutputStore,
}

impl CommandOutput {
    /// Creates the files in the sandbox. Returns the command's ends of the pipes, which belong to
    /// its user: programs reopen `/dev/stdout` by its path.
    pub(crate) fn create(spec: &LaunchSpec) -> Result<(Self, [OwnedFd; 2]), OutputError> {
        let (sandbox, owner) = (spec.sandbox.as_path(), spec.host_user());
        let of = |stream: StreamName| {
            let path = sandbox.join(stream.name());
            |source: io::Error| OutputError { path, source }
        };
        let mut store = OutputStore::open(sandbox, &spec.output_record, spec.output)
            .map_err(of(StreamName::Stdout))?;
        let mut open = |stream| {
            let log = OutputLog::create(&mut store, stream).map_err(of(stream))?;
            let (pipe, writer) = pipe(owner.as_ref()).map_err(of(stream))?;
            let pipe = Some(pipe);
            Ok((StreamOutput { pipe, log }, writer))
        };
        let (stdout, stdout_writer) = open(StreamName::Stdout)?;
        let (stderr, stderr_writer) = open(StreamName::Stderr)?;
        let streams = [stdout, stderr];
        Ok((Self { streams, store }, [stdout_writer, stderr_writer]))
    }

    /// Switches to the command's terminal as the source of all output.
    pub(crate) fn attach_terminal(&mut self, master: OwnedFd) {
        let [stdout, stderr] = &mut self.streams;
        (stdout.pipe, stderr.pipe) = (Some(master), None);
    }

    /// Returns the number of bytes of each stream so far, as far as they were stored.
    pub(crate) fn lengths(&self) -> [u64; 2] {
        let streams = self.streams.each_ref();
        streams.map(|stream| stream.log.length(&self.store))
    }

    /// Returns the end of each stream's newest file, at most this many bytes.
    pub(crate) fn tails(&self, max_bytes: usize) -> [Vec<u8>; 2] {
        let streams = self.streams.each_ref();
        streams.map(|stream| stream.log.tail(max_bytes))
    }

    /// Returns the pipes to poll, of stdout and stderr; `None` once every writer has closed one.
    pub(crate) fn pipes(&self) -> [Option<BorrowedFd<'_>>; 2] {
        self.streams
            .each_ref()
            .map(|stream| stream.pipe.as_ref().map(AsFd::as_fd))
    }

    /// Moves data of the pipes that are ready, up to [`CHUNKS_PER_TURN`] chunks each, and passes it
    /// on. Returns true if more may be ready.
    ///
    /// `buffer` belongs to the caller only so that it is reused.
    pub(crate) fn pump(
        &mut self,
        ready: [bool; 2],
        buffer: &mut Vec<u8>,
        show: &mut dyn FnMut(StreamName, &[u8]),
    ) -> bool {
        let mut more = false;
        for (stream, ready) in self.streams.iter_mut().zip(ready) {
            if stream.log.has_pending_note() {
                stream.log.flush_note(&mut self.store, Instant::now());
            }
            more |= ready && stream.pump(&mut self.store, buffer, show);
        }
        more
    }

    /// Whether to call again within a second although there is no data: a note is pending.
    pub(crate) fn has_pending_note(&self) -> bool {
        self.streams
            .iter()
            .any(|stream| stream.log.has_pending_note())
    }

    /// Moves the remaining data, for at most this long, and writes a note about the last dropped
    /// bytes.
    pub(crate) fn finish(
        &mut self,
        timeout: Duration,
        buffer: &mut Vec<u8>,
        show: &mut dyn FnMut(StreamName, &[u8]),
    ) {
        let deadline = Instant::now() + timeout;
        while self.pump([true; 2], buffer, show) && Instant::now() < deadline {}
        for stream in &mut self.streams {
            stream.log.finish(&mut self.store, Instant::now());
        }
        self.store.finish();
    }
}

/// Returns a non-blocking pipe to read, and its other end.
fn pipe(owner: Option<&ContainerUser>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (pipe, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    if let Some(user) = owner {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        fchown(&writer, Some(uid), Some(gid))?;
    }
    Ok((pipe, writer))
}

impl StreamOutput {
    fn pump(
        &mut self,
        store: &mut OutputStore,
        buffer: &mut Vec<u8>,
        show: &mut dyn FnMut(StreamName, &[u8]),
    ) -> bool {
        for _ in 0..CHUNKS_PER_TURN {
            let Some(pipe) = &self.pipe else { return false };
            if buffer.is_empty() {
                buffer.resize(CHUNK_BYTES[0], 0);
            }
            match nix::unistd::read(pipe, buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.log.accept(store, Instant::now(), &buffer[..length]);
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
