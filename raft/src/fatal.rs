//! The one way out after a failed write: say which path and why, then stop.
//!
//! A write or sync that failed is never retried: after an error the kernel may have dropped the pages and call the next sync a success.

use std::io;
use std::sync::Arc;

use crate::store::Place;

/// What is called with the last words. The shipped one, [`abort`], does not return; a test may observe instead, the store then
/// refuses everything.
pub(crate) type Fatal = Arc<dyn Fn(&FatalError) + Send + Sync>;

/// Why this process cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}")]
pub(crate) struct FatalError {
    /// The directory or file.
    pub(crate) path: String,
    /// What failed, as in "cannot … the path".
    pub(crate) what: &'static str,
    pub(crate) source: io::Error,
}

/// What an operator can do about it. A process without descriptors fails like a disk, and its disk is well.
fn remedy(source: &io::Error) -> &'static str {
    // ENFILE and EMFILE; RocksDB passes on their text alone.
    let is_out_of_files = matches!(source.raw_os_error(), Some(23 | 24))
        || source
            .to_string()
            .to_lowercase()
            .contains("too many open files");
    if is_out_of_files {
        "raise the limit of open files (LimitNOFILE in the unit, ulimit -n)"
    } else {
        "mend the disk or make room"
    }
}

/// The shipped one, but for a store in memory: several nodes live in such a process, and only the one whose store
/// has failed must end.
pub(crate) fn of(place: &Place) -> Fatal {
    match place {
        Place::Directory(_) => abort(),
        Place::Memory(_) => Arc::new(|error| tracing::error!(cause = %error.source, "{error}")),
    }
}

/// Logs the error and ends the process at once.
pub(crate) fn abort() -> Fatal {
    Arc::new(|error| {
        let FatalError { source, .. } = error;
        tracing::error!(path = error.path, cause = %source, remedy = remedy(source), "{error}; stopping at once, the next start goes on from the log");
        // Standard error too: the log may go to the very disk that has failed.
        eprintln!(
            "argosy: {error}: {source}; stopping at once: {}, then start this master again",
            remedy(source)
        );
        std::process::abort();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_descriptors_is_not_a_broken_disk() {
        let rocks = "IO error: While open a file for appending: /data/store/000359.log: Too many open files";
        for source in [
            io::Error::from_raw_os_error(23),
            io::Error::from_raw_os_error(24),
            io::Error::other(rocks),
        ] {
            assert!(remedy(&source).contains("LimitNOFILE"), "{source}");
        }
        // ENOSPC and EIO.
        for number in [28, 5] {
            let source = io::Error::from_raw_os_error(number);
            assert!(remedy(&source).contains("mend the disk"), "{source}");
        }
    }
}
