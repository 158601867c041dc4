//! Errors of image pulls. Every message has the problem, its location and the remedy.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_proto::remedy;
use argosy_state::task::{Code, Explanation};

use super::digest::Digest;
use crate::fetcher::AccessDenied;
use crate::sources;

/// An error of pulling an image. All waiters of one pull get the same error.
#[derive(Debug, Clone)]
pub struct PullError {
    /// Its full name.
    pub image: String,
    pub source: Arc<PullErrorKind>,
}

/// The cause of a pull error.
#[derive(Debug)]
pub enum PullErrorKind {
    /// The operator does not allow images from this path.
    Forbidden {
        /// As in the image's name.
        path: PathBuf,
    },
    /// A file of this host cannot be read.
    Read { path: PathBuf, source: io::Error },
    /// A directory or archive is not an OCI layout, or is incomplete.
    Layout {
        path: PathBuf,
        /// The error, and its remedy.
        rule: String,
    },
    /// The store cannot be written.
    Write { path: PathBuf, source: io::Error },
    /// The credentials file is invalid.
    Credentials {
        path: PathBuf,
        /// The error; never the content.
        rule: String,
    },
    /// A request to a server cannot be sent at all.
    InvalidRequest {
        url: String,
        /// The remedy.
        rule: String,
    },
    /// A server may not be contacted.
    Denied {
        url: String,
        /// The reason, and the remedy.
        refusal: AccessDenied,
    },
    /// A server is unreachable, or broke off.
    Get { url: String, source: reqwest::Error },
    /// A server answered with an error status.
    Status {
        url: String,
        /// The HTTP status.
        status: u16,
        /// The remedy, after a colon, or nothing.
        remedy: &'static str,
        /// The server's `Retry-After`, in seconds.
        retry_after_s: Option<u64>,
    },
    /// The agent lacks credentials for a registry, or does not support its authentication.
    Login {
        registry: String,
        /// The reason, and the remedy.
        rule: String,
    },
    /// A server stalled.
    Timeout {
        url: String,
        /// The time waited.
        seconds: u64,
    },
    /// A document was received too slowly.
    Slow {
        url: String,
        /// The time after which it was still incomplete.
        seconds: u64,
    },
    /// Something exceeds its maximum size.
    TooLarge {
        /// A manifest, a configuration or all layers.
        what: String,
        limit_bytes: u64,
    },
    /// There are more layers than a container supports.
    TooManyLayers { count: usize, limit: usize },
    /// A content does not have the announced size.
    WrongSize {
        what: String,
        /// As announced.
        wanted_bytes: u64,
        /// As received; more may have followed.
        found_bytes: u64,
    },
    /// A content does not have the announced digest.
    WrongDigest {
        what: String,
        /// As announced.
        wanted: Digest,
        /// As received.
        found: Digest,
    },
    /// A document is invalid.
    Malformed {
        what: String,
        /// The error.
        rule: String,
    },
    /// The image does not support this host's platform.
    Platform {
        /// This host's platform.
        wanted: String,
        /// The platforms of the image.
        offered: String,
    },
    /// An error that the content service reports.
    Service { why: Explanation },
    /// A layer cannot be unpacked.
    Unpack {
        /// Its blob.
        layer: Digest,
        source: super::unpacker::UnpackError,
    },
}

impl PullError {
    /// Returns the explanation for the task.
    #[must_use]
    pub fn explanation(&self) -> Explanation {
        Explanation::of(Code::ImageFailed, &[&self.image]).then(self.source.explanation())
    }
}

impl fmt::Display for PullError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Explanation::of(Code::ImageFailed, &[&self.image]).fmt(formatter)
    }
}

impl Error for PullError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

impl fmt::Display for PullErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.own_explanation().fmt(formatter)
    }
}

impl Error for PullErrorKind {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => Some(source),
            Self::Get { source, .. } => Some(source),
            Self::Unpack { source, .. } => Some(source),
            Self::Forbidden { .. }
            | Self::Layout { .. }
            | Self::Credentials { .. }
            | Self::InvalidRequest { .. }
            | Self::Denied { .. }
            | Self::Status { .. }
            | Self::Login { .. }
            | Self::Timeout { .. }
            | Self::Slow { .. }
            | Self::TooLarge { .. }
            | Self::TooManyLayers { .. }
            | Self::WrongSize { .. }
            | Self::WrongDigest { .. }
            | Self::Malformed { .. }
            | Self::Platform { .. }
            | Self::Service { .. } => None,
        }
    }
}

impl PullErrorKind {
    /// Returns the error text, without its source's.
    fn own_explanation(&self) -> Explanation {
        match self {
            Self::Forbidden { path } => Explanation::of(Code::ImageForbidden, &[&path.display()]),
            Self::Read { path, .. } => Explanation::of(Code::ImageUnread, &[&path.display()]),
            Self::Layout { path, rule } => {
                Explanation::of(Code::ImageLayout, &[&path.display()]).with_detail(rule)
            }
            Self::Write { path, source } => Explanation::of(
                Code::ImageUnwritten,
                &[&path.display(), &remedy::of_failed_write(source)],
            ),
            Self::Credentials { path, rule } => {
                Explanation::of(Code::ImageCredentials, &[&path.display()]).with_detail(rule)
            }
            Self::InvalidRequest { url, rule } => {
                Explanation::of(Code::RegistryUnasked, &[url]).with_detail(rule)
            }
            Self::Denied { url, refusal } => {
                Explanation::of(Code::RegistryForbidden, &[url]).with_detail(refusal.to_string())
            }
            Self::Get { url, .. } => Explanation::of(Code::RegistryFailed, &[url]),
            Self::Status {
                url,
                status,
                remedy,
                ..
            } => Explanation::of(Code::RegistryStatus, &[url, status, remedy]),
            Self::Login { registry, rule } => {
                Explanation::of(Code::RegistryLogin, &[registry]).with_detail(rule)
            }
            Self::Timeout { url, seconds } => {
                Explanation::of(Code::RegistryStalled, &[url, seconds])
            }
            Self::Slow { url, seconds } => Explanation::of(Code::RegistryFailed, &[url])
                .with_detail(format!("it was not complete after {seconds} s")),
            Self::TooLarge { what, limit_bytes } => {
                Explanation::of(Code::ImageTooLarge, &[what, limit_bytes])
            }
            Self::TooManyLayers { count, limit } => {
                Explanation::of(Code::ImageLayers, &[count, limit])
            }
            Self::WrongSize {
                what,
                wanted_bytes,
                found_bytes,
            } => Explanation::of(Code::ImageSize, &[what, wanted_bytes, found_bytes]),
            Self::WrongDigest {
                what,
                wanted,
                found,
            } => Explanation::of(Code::ImageDigest, &[what, wanted, found]),
            Self::Malformed { what, rule } => {
                Explanation::of(Code::ImageContent, &[what]).with_detail(rule)
            }
            Self::Platform { wanted, offered } => {
                Explanation::of(Code::ImagePlatform, &[wanted, offered])
            }
            Self::Service { why } => why.clone(),
            Self::Unpack { layer, .. } => Explanation::of(Code::LayerUnpacked, &[layer]),
        }
    }

    /// Returns the explanation for the task.
    #[must_use]
    pub fn explanation(&self) -> Explanation {
        self.own_explanation().with_detail(sources(self))
    }

    /// Whether a retry may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Get { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Self::Timeout { .. } => true,
            // A connection that closes early looks like a short response; too long a response is
            // wrong.
            Self::WrongSize {
                wanted_bytes,
                found_bytes,
                ..
            } => found_bytes < wanted_bytes,
            Self::Forbidden { .. }
            | Self::Read { .. }
            | Self::Layout { .. }
            | Self::Write { .. }
            | Self::Credentials { .. }
            | Self::InvalidRequest { .. }
            | Self::Denied { .. }
            | Self::Login { .. }
            | Self::Slow { .. }
            | Self::TooLarge { .. }
            | Self::TooManyLayers { .. }
            | Self::WrongDigest { .. }
            | Self::Malformed { .. }
            | Self::Platform { .. }
            | Self::Service { .. }
            | Self::Unpack { .. } => false,
        }
    }

    /// Returns the server's requested delay, in seconds.
    pub(super) fn retry_after_s(&self) -> Option<u64> {
        if let Self::Status { retry_after_s, .. } = self {
            *retry_after_s
        } else {
            None
        }
    }

    pub(super) fn write(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Write {
            path: path.clone(),
            source,
        }
    }

    pub(super) fn read(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Read {
            path: path.clone(),
            source,
        }
    }

    /// Builds the error of an invalid document.
    pub(super) fn malformed(what: &str, why: &dyn Error) -> Self {
        Self::Malformed {
            what: what.to_owned(),
            rule: crate::error_chain(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn store_write_errors_name_a_remedy() {
        for (errno, remedy) in [
            (Errno::EMFILE, "raise the limit of open files"),
            (Errno::ENOSPC, "make room"),
            (Errno::EIO, "check the disk"),
        ] {
            let text = PullErrorKind::write(Path::new("/data/images"))(errno.into()).to_string();
            assert!(text.contains(remedy), "{text}");
        }
    }
}
