//! What a container may have on the disk, kept by the kernel: by a file system of its own, or by a quota.
//!
//! Either refuses what is too much: the container sees that its disk is full, and nobody is killed for it.

pub mod file_system;
pub mod project;

use std::io;

pub use file_system::{FileSystem, MAKERS};

/// What a container has on a disk whose limit the kernel keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DiskUsage {
    /// What its files take.
    pub used_bytes: u64,
    /// What they may.
    pub limit_bytes: u64,
    /// How many there are, folders and links included.
    pub files: u64,
    /// How many there may be.
    pub files_limit: u64,
}

/// Why a disk cannot be bounded, or let go of.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct DiskError {
    what: String,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> DiskError {
    let what = what.into();
    move |source| DiskError {
        what,
        source: source.into(),
    }
}
