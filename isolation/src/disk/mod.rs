//! Disk limits of a container that the kernel enforces, by a separate file system or by a project
//! quota.
//!
//! Both make writes beyond the limit fail: the container sees a full disk, and no process is
//! killed.

pub mod file_system;
pub mod project;

use std::io;

pub use file_system::{FileSystem, MKFS_PATHS};

/// The disk usage of a container whose limit the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DiskUsage {
    /// Bytes in use.
    pub used_bytes: u64,
    pub limit_bytes: u64,
    /// Files in use, including directories and links.
    pub files: u64,
    pub files_limit: u64,
}

/// An error of setting or removing a disk limit.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct DiskError {
    what: String,
    source: io::Error,
}

fn disk_error<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> DiskError {
    let what = what.into();
    move |source| DiskError {
        what,
        source: source.into(),
    }
}
