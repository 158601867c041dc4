//! Why a file could not be brought.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use argosy_proto::uri::ShownUri;

use super::reach::Refusal;

/// Why a file could not be brought. Every message names the URI, without its secrets.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FetchError {
    #[error("cannot fetch {uri:?}: {rule}")]
    Invalid { uri: ShownUri, rule: String },
    #[error("cannot fetch {uri:?}")]
    Open { uri: ShownUri, source: io::Error },
    #[error("cannot fetch {uri:?}")]
    Get {
        uri: ShownUri,
        source: reqwest::Error,
    },
    #[error("cannot fetch {uri:?}: {refusal}")]
    Refused { uri: ShownUri, refusal: Refusal },
    #[error("cannot fetch {uri:?}: the server answered {status}")]
    Status { uri: ShownUri, status: u16 },
    #[error("cannot fetch {uri:?}: nothing came for {limit:?}")]
    Stalled { uri: ShownUri, limit: Duration },
    #[error(
        "cannot fetch {uri:?}: the agent does not trust its server, {why}: renew its certificate, or start the agent \
         with SSL_CERT_FILE, a file of authorities that lists the one that signed it"
    )]
    Untrusted { uri: ShownUri, why: String },
    #[error("cannot fetch {uri:?}: it is larger than the limit of {limit_bytes} bytes")]
    TooLarge { uri: ShownUri, limit_bytes: u64 },
    #[error("{uri:?} is not what was asked for: its SHA-256 is {found}, not {wanted}")]
    Digest {
        uri: ShownUri,
        wanted: String,
        found: String,
    },
    /// In the words of the process that asks servers.
    #[error("{why}")]
    Service { why: String },
    /// What was fetched once for several failed once for all.
    #[error(transparent)]
    Shared(Arc<FetchError>),
    #[error("cannot extract {uri:?}: {rule}")]
    Archive { uri: ShownUri, rule: String },
    #[error("cannot fetch {uri:?} to {path}")]
    Write {
        uri: ShownUri,
        path: PathBuf,
        source: io::Error,
    },
}

/// How the library of TLS begins to say why it does not trust a server.
const DISTRUST: &str = "invalid peer certificate";

impl FetchError {
    /// Why there is no answer, or none to its end.
    pub(super) fn of_server(uri: &str, source: reqwest::Error) -> Self {
        let shown = ShownUri::of(uri);
        if let Some(refusal) = Refusal::behind(&source) {
            return Self::refused(uri, refusal);
        }
        let mut cause = std::error::Error::source(&source);
        while let Some(error) = cause {
            let words = error.to_string();
            if words.starts_with(DISTRUST) {
                return Self::Untrusted {
                    uri: shown,
                    why: words,
                };
            }
            cause = error.source();
        }
        Self::Get { uri: shown, source }
    }

    /// A server is not asked.
    pub(super) fn refused(uri: &str, refusal: Refusal) -> Self {
        Self::Refused {
            uri: ShownUri::of(uri),
            refusal,
        }
    }

    /// Whether the same may go well a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Get { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => *status >= 500,
            Self::Stalled { .. } => true,
            Self::Shared(_)
            | Self::Service { .. }
            | Self::Untrusted { .. }
            | Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::Open { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Archive { .. }
            | Self::Write { .. } => false,
        }
    }
}
