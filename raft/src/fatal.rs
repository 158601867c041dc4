//! Handling of a failed write: report the path and the cause, then stop the process.
//!
//! A failed write or sync is never retried: after an error the kernel may have dropped the pages
//! and report the next sync as a success.

use std::io;
use std::sync::Arc;

use argosy_proto::remedy;

/// The handler of a fatal error. The one in production, [`abort`], does not return. A test may
/// observe the error instead; the store then rejects everything.
pub(crate) type FatalHandler = Arc<dyn Fn(&FatalError) + Send + Sync>;

/// The error that stops this process.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}")]
pub(crate) struct FatalError {
    /// The directory or file.
    pub(crate) path: String,
    /// The failed operation, as in "cannot … the path".
    pub(crate) what: &'static str,
    pub(crate) source: io::Error,
}

/// Logs the error and aborts the process immediately.
pub(crate) fn abort() -> FatalHandler {
    Arc::new(|error| {
        let FatalError { source, .. } = error;
        let remedy = remedy::of_failed_write(source);
        tracing::error!(path = error.path, cause = %source, remedy, "{error}; stopping immediately, the next start continues from the log");
        // Also printed to standard error: the log may be on the disk that has failed.
        eprintln!(
            "argosy: {error}: {source}; stopping immediately: {remedy}, then start this master again"
        );
        std::process::abort();
    })
}
