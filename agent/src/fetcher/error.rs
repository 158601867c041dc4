//! Why a file could not be brought.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::origin::STALL_LIMIT;

/// Why a file could not be brought. Every message names the URI.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("cannot fetch {uri:?}: {rule}")]
    Invalid { uri: String, rule: String },
    #[error("cannot fetch {uri:?}")]
    Open { uri: String, source: io::Error },
    #[error("cannot fetch {uri:?}")]
    Get { uri: String, source: reqwest::Error },
    #[error("cannot fetch {uri:?}: the server answered {status}")]
    Status { uri: String, status: u16 },
    #[error("cannot fetch {uri:?}: nothing came for {} s", STALL_LIMIT.as_secs())]
    Stalled { uri: String },
    #[error("cannot fetch {uri:?}: it is larger than the limit of {limit_bytes} bytes")]
    TooLarge { uri: String, limit_bytes: u64 },
    #[error("{uri:?} is not what was asked for: its SHA-256 is {found}, not {wanted}")]
    Digest {
        uri: String,
        wanted: String,
        found: String,
    },
    /// What was fetched once for several failed once for all.
    #[error(transparent)]
    Shared(Arc<FetchError>),
    #[error("cannot extract {uri:?}: {rule}")]
    Archive { uri: String, rule: String },
    #[error("cannot fetch {uri:?} to {path}")]
    Write {
        uri: String,
        path: PathBuf,
        source: io::Error,
    },
}

impl FetchError {
    /// Whether the same may go well a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Get { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => *status >= 500,
            Self::Stalled { .. } => true,
            Self::Shared(_)
            | Self::Invalid { .. }
            | Self::Open { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Archive { .. }
            | Self::Write { .. } => false,
        }
    }
}
