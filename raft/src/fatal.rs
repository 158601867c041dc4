//! The one way out after a failed write: say which path and why, then stop.
//!
//! A write or sync that failed is never retried: after an error the kernel may have dropped the pages and call the next sync a success.

use std::io;
use std::sync::Arc;

use argosy_proto::remedy;

use crate::storage::store::Place;

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
        let remedy = remedy::of_failed_write(source);
        tracing::error!(path = error.path, cause = %source, remedy, "{error}; stopping at once, the next start goes on from the log");
        // Standard error too: the log may go to the very disk that has failed.
        eprintln!(
            "argosy: {error}: {source}; stopping at once: {remedy}, then start this master again"
        );
        std::process::abort();
    })
}
