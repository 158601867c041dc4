//! The journal: one append-only, checksummed file of records, synced in groups.
//!
//! Knows how records lie on disk, and little of what they mean. An error of the disk is final: the process must
//! stop, and nothing is ever synced twice. Reading order: `frame`, `record`, `read`, `reserve`, `place`,
//! `seal`, `compaction`, `writer`, `lock`.

mod compaction;
mod executors;
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

pub use lock::{Lock, LockError};
pub use read::{Contents, Damage, read, read_memory, read_synced};
pub use storage::MemoryDisk;
pub use writer::{Journal, Progress, Request};

/// Why a journal cannot be used. Each is final for this process.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It could not be read.
    #[error("cannot read the journal {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be written or synced: what was reported as done is on disk, nothing else is sure.
    #[error(
        "cannot write the journal {path}; tasks run on: {}, then start this agent again",
        remedy::of_failed_write(source)
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A newer release has written it.
    #[error(
        "the journal {path} has format {found}, this release reads up to {}: start the newer release again",
        frame::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A newer release has written to it.
    #[error(
        "the journal {path} has a record at byte {offset} of a kind that this release does not know: start the newer \
         release again"
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
    },
    /// It is damaged where it says which agent this is.
    #[error(
        "the journal {path} is damaged at byte {offset}, and what is left does not say which agent this is or whose its tasks \
         are; nothing was changed or ended: restore it, or move it away and this agent starts as a new one, under another id, \
         and ends what still runs here"
    )]
    NoIdentity {
        /// The file.
        path: PathBuf,
        /// Where the first damaged part begins, in bytes.
        offset: u64,
    },
    /// It is damaged in its head, without which no record can be read.
    #[error(
        "the journal {path} is damaged in its first {} bytes, without which nothing in it can be read; nothing was changed or \
         ended: restore it, or move it away and this agent starts as a new one, under another id, and ends what still runs here",
        frame::HEAD_BYTES
    )]
    Head {
        /// The file.
        path: PathBuf,
    },
    /// The file does not begin as a journal does.
    #[error(
        "{path} does not begin as a journal does: restore it, or move it away and this agent starts anew, \
         under another id, and ends what still runs here"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}
