//! Errors of fetching a file.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use argosy_proto::uri::RedactedUri;
use argosy_state::task::{Code, Explanation};

use super::reach::AccessDenied;
use crate::sources;

/// An error of fetching a file. Each variant names the URI, without its secrets.
#[derive(Debug)]
pub enum FetchError {
    Invalid {
        uri: RedactedUri,
        rule: String,
    },
    Open {
        uri: RedactedUri,
        source: io::Error,
    },
    Get {
        uri: RedactedUri,
        source: reqwest::Error,
    },
    /// Another agent does not answer.
    Agent {
        uri: RedactedUri,
        why: String,
    },
    Denied {
        uri: RedactedUri,
        refusal: AccessDenied,
    },
    Status {
        uri: RedactedUri,
        status: u16,
    },
    Timeout {
        uri: RedactedUri,
        limit: Duration,
    },
    Untrusted {
        uri: RedactedUri,
        why: String,
    },
    TooLarge {
        uri: RedactedUri,
        limit_bytes: u64,
    },
    Digest {
        uri: RedactedUri,
        wanted: String,
        found: String,
    },
    /// An error that the content service reports.
    Service {
        why: Explanation,
    },
    /// A shared fetch failed for all its waiters.
    Shared(Arc<FetchError>),
    Archive {
        uri: RedactedUri,
        rule: String,
    },
    Write {
        uri: RedactedUri,
        path: PathBuf,
        source: io::Error,
    },
}

/// Escapes a URI for quotation marks in messages.
fn escaped(uri: &RedactedUri) -> String {
    uri.to_string().escape_debug().to_string()
}

impl fmt::Display for FetchError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.own_explanation().fmt(formatter)
    }
}

impl Error for FetchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Open { source, .. } | Self::Write { source, .. } => Some(source),
            Self::Get { source, .. } => Some(source),
            Self::Shared(error) => error.source(),
            Self::Invalid { .. }
            | Self::Agent { .. }
            | Self::Denied { .. }
            | Self::Status { .. }
            | Self::Timeout { .. }
            | Self::Untrusted { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Service { .. }
            | Self::Archive { .. } => None,
        }
    }
}

/// The TLS library's prefix of the reason why it does not trust a server.
const UNTRUSTED: &str = "invalid peer certificate";

impl FetchError {
    /// Returns the error text, without its source's.
    fn own_explanation(&self) -> Explanation {
        let plain = |code: Code, uri: &RedactedUri| Explanation::of(code, &[&escaped(uri)]);
        match self {
            Self::Invalid { uri, rule } => plain(Code::FetchInvalid, uri).with_detail(rule),
            Self::Open { uri, .. } => plain(Code::FetchUnread, uri),
            Self::Get { uri, .. } => plain(Code::FetchFailed, uri),
            Self::Agent { uri, why } => plain(Code::FetchFailed, uri).with_detail(why),
            Self::Denied { uri, refusal } => {
                plain(Code::FetchForbidden, uri).with_detail(refusal.to_string())
            }
            Self::Status { uri, status } => {
                Explanation::of(Code::FetchStatus, &[&escaped(uri), status])
            }
            Self::Timeout { uri, limit } => Explanation::of(
                Code::FetchStalled,
                &[&escaped(uri), &format_args!("{limit:?}")],
            ),
            Self::Untrusted { uri, why } => {
                Explanation::of(Code::FetchUntrusted, &[&escaped(uri), why])
            }
            Self::TooLarge { uri, limit_bytes } => {
                Explanation::of(Code::FetchTooLarge, &[&escaped(uri), limit_bytes])
            }
            Self::Digest { uri, wanted, found } => {
                Explanation::of(Code::FetchDigest, &[&escaped(uri), found, wanted])
            }
            Self::Service { why } => why.clone(),
            Self::Shared(error) => error.own_explanation(),
            Self::Archive { uri, rule } => plain(Code::FetchArchive, uri).with_detail(rule),
            Self::Write { uri, path, .. } => {
                Explanation::of(Code::FetchUnwritten, &[&escaped(uri), &path.display()])
            }
        }
    }

    /// Returns the explanation for the task.
    #[must_use]
    pub fn explanation(&self) -> Explanation {
        self.own_explanation().with_detail(sources(self))
    }

    /// Builds the error of a missing or incomplete response.
    pub(super) fn of_server(uri: &str, source: reqwest::Error) -> Self {
        let shown = RedactedUri::of(uri);
        if let Some(refusal) = AccessDenied::find_in(&source) {
            return Self::refused(uri, refusal);
        }
        let mut cause = std::error::Error::source(&source);
        while let Some(error) = cause {
            let words = error.to_string();
            if words.starts_with(UNTRUSTED) {
                return Self::Untrusted {
                    uri: shown,
                    why: words,
                };
            }
            cause = error.source();
        }
        Self::Get { uri: shown, source }
    }

    /// Builds the error of a server that is silent for this time.
    pub(super) fn stalled(uri: &str, limit: Duration) -> Self {
        Self::Timeout {
            uri: RedactedUri::of(uri),
            limit,
        }
    }

    /// Builds the error of a forbidden server.
    pub(super) fn refused(uri: &str, refusal: AccessDenied) -> Self {
        Self::Denied {
            uri: RedactedUri::of(uri),
            refusal,
        }
    }

    /// Whether a retry may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Get { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => *status >= 500,
            Self::Agent { .. } | Self::Timeout { .. } => true,
            Self::Shared(_)
            | Self::Service { .. }
            | Self::Untrusted { .. }
            | Self::Denied { .. }
            | Self::Invalid { .. }
            | Self::Open { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Archive { .. }
            | Self::Write { .. } => false,
        }
    }
}
