//! The journal: one append-only, checksummed file of records, synced in groups.
//!
//! This module handles the storage of records, and little of their meaning. A disk error is final:
//! the process must stop, and nothing is ever synced twice. Reading order: `frame`, `explanation`,
//! `record`, `read`, `reserve`, `storage`, `seal`, `compaction`, `writer`, `lock`.

mod compaction;
mod executors;
mod explanation;
mod frame;
mod lock;
mod read;
mod record;
mod reserve;
mod seal;
mod storage;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::PathBuf;

use argosy_proto::remedy;

pub use lock::{DirectoryLock, LockError};
pub use read::{CorruptRange, JournalContents, read, read_memory, read_synced};
#[cfg(feature = "fuzzing")]
pub(crate) use read::{journal_of, parse_journal, reread_record};
pub use storage::MemoryDisk;
pub use writer::{Journal, WriterProgress};

/// The reason why a journal cannot be used. Each is final for this process.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It could not be read.
    #[error("cannot read the journal {path}")]
    Read { path: PathBuf, source: io::Error },
    /// It could not be written or synced: data that was reported as done is on disk, nothing else
    /// is certain.
    #[error(
        "cannot write the journal {path}; tasks continue to run: {}, then start this agent again",
        remedy::of_failed_write(source)
    )]
    Write { path: PathBuf, source: io::Error },
    /// A newer release has written it.
    #[error(
        "the journal {path} has format {found}, this release reads up to {}: start the newer release again",
        frame::VERSION
    )]
    Newer { path: PathBuf, found: u32 },
    /// A newer release has written to it.
    #[error(
        "the journal {path} has a record at byte {offset} of a kind that this release does not know: start the newer \
         release again"
    )]
    Unknown {
        path: PathBuf,
        /// The offset of the record.
        offset: u64,
    },
    /// The records with the agent's identity are damaged.
    #[error(
        "the journal {path} is damaged at byte {offset}, and the rest does not identify this agent or the owner of its tasks; \
         nothing was changed or ended: restore it, or move it away and this agent starts as a new one, under another id, \
         and ends all tasks that still run here"
    )]
    NoIdentity {
        path: PathBuf,
        /// The offset of the first damaged part, in bytes.
        offset: u64,
    },
    /// Its head is damaged, without which no record can be read.
    #[error(
        "the journal {path} is damaged in its first {} bytes, without which nothing in it can be read; nothing was changed or \
         ended: restore it, or move it away and this agent starts as a new one, under another id, and ends all tasks that still run here",
        frame::HEAD_BYTES
    )]
    Head { path: PathBuf },
    /// The file does not begin with the magic of a journal.
    #[error(
        "{path} does not begin with the header of a journal: restore it, or move it away and this agent starts as a new one, \
         under another id, and ends all tasks that still run here"
    )]
    Foreign { path: PathBuf },
}
