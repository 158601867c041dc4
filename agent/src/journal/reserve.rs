//! Space that is allocated for the journal before it is needed.
//!
//! A task may fill the disk. Kills must still be recorded then, and the ends of tasks: the journal
//! always has blocks allocated after its end (`fallocate` with `FALLOC_FL_KEEP_SIZE`, so that
//! readers do not see them).

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

/// Size of the allocation after the end of the journal, in bytes.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;
/// The interval at which space is requested again from a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// The allocation of one file.
#[derive(Debug, Default)]
pub(super) struct Preallocation {
    /// Blocks are allocated up to this offset, in bytes.
    end: u64,
    /// The time at which the disk was last found full; `None` while it is not.
    full_at: Option<Instant>,
    /// Whether the file system cannot allocate in advance.
    is_unsupported: bool,
}

impl Preallocation {
    /// Ensures space for `bytes` at `end` and a reserve after it. Cheap while there is enough.
    pub(super) fn renew(&mut self, file: &File, end: u64, bytes: u64) {
        let wanted = end + bytes + RESERVE_BYTES;
        let has_enough = self.end + RESERVE_BYTES / 2 >= wanted;
        let waits = self.full_at.is_some_and(|tried| tried.elapsed() < RETRY);
        if has_enough || self.is_unsupported || waits {
            return;
        }
        match allocate(file, end, wanted) {
            Ok(()) => {
                if self.full_at.take().is_some() {
                    tracing::info!("the disk has space again: tasks are started");
                }
                self.end = wanted;
            }
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => self.is_unsupported = true,
            // The write reports any other error.
            Err(errno) => {
                if self.full_at.replace(Instant::now()).is_none() {
                    let left_bytes = self.end.saturating_sub(end + bytes);
                    tracing::error!(
                        left_bytes,
                        why = %errno,
                        "the disk of the journal is full: no task is started until there is space again; kills and ends of \
                         tasks are recorded in the reserve: make room"
                    );
                }
            }
        }
    }

    /// Whether the disk had no space for the whole reserve at the last request.
    pub(super) fn is_short(&self) -> bool {
        self.full_at.is_some()
    }

    /// Returns the allocated and unused space, in bytes.
    pub(super) fn unused_bytes(&self, end: u64) -> u64 {
        self.end.saturating_sub(end)
    }
}

fn allocate(file: &File, from: u64, until: u64) -> Result<(), Errno> {
    let [offset, length] =
        [from, until - from].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    loop {
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// A file that is appended to, with its reserve.
#[derive(Debug)]
pub(super) struct AppendFile {
    file: File,
    end: u64,
    reserve: Preallocation,
}

impl AppendFile {
    /// Wraps a file that ends at `end`, where it is positioned.
    pub(super) fn new(file: File, end: u64) -> Self {
        let mut reserve = Preallocation::default();
        reserve.renew(&file, end, 0);
        Self { file, end, reserve }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reserve.renew(&self.file, self.end, bytes.len() as u64);
        io::Write::write_all(&mut self.file, bytes)?;
        self.end += bytes.len() as u64;
        metrics::gauge!("argosy_agent_journal_reserve_bytes")
            .set(self.reserve.unused_bytes(self.end) as f64);
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Requests space again from a full disk. Returns whether it is still full.
    pub(super) fn is_short(&mut self) -> bool {
        self.reserve.renew(&self.file, self.end, 0);
        self.reserve.is_short()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn preallocated_space_is_invisible_to_readers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut appended = AppendFile::new(File::create(&path).unwrap(), 0);
        for _ in 0..10 {
            appended.append(&vec![7; 300_000]).unwrap();
            let found = std::fs::metadata(&path).unwrap();
            let reserved_bytes = found.blocks() * 512 - found.len();
            assert!(reserved_bytes >= RESERVE_BYTES / 2, "{reserved_bytes}");
        }
        assert!(!appended.is_short());
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 3_000_000]);
    }
}
