//! Why an image cannot be had. Every sentence says what, where, and what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_proto::remedy;
use argosy_state::task::{Code, Explanation};

use super::digest::Digest;
use crate::fetcher::Refusal;
use crate::sources;

/// Why an image could not be brought. All who waited for the same pull get the same.
#[derive(Debug, Clone)]
pub struct PullError {
    /// Its full name.
    pub image: String,
    /// Why.
    pub source: Arc<Fault>,
}

/// What went wrong.
#[derive(Debug)]
pub enum Fault {
    /// The operator lets no image be taken from there.
    Forbidden {
        /// As it was named.
        path: PathBuf,
    },
    /// A file of this host cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder or archive is no OCI layout, or lacks something.
    Layout {
        /// The folder or archive.
        path: PathBuf,
        /// What is wrong, and what to do.
        rule: String,
    },
    /// The store cannot be written.
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of credentials is of no use.
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong; never what is in it.
        rule: String,
    },
    /// A server cannot be asked at all.
    Unaskable {
        /// What was to be asked for.
        url: String,
        /// What to do.
        rule: String,
    },
    /// A server may not be asked.
    Refused {
        /// What was asked for.
        url: String,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// A server could not be reached, or broke off.
    Get {
        /// What was asked for.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// A server refused.
    Status {
        /// What was asked for.
        url: String,
        /// Of HTTP.
        status: u16,
        /// What to do, after a colon, or nothing.
        remedy: &'static str,
        /// Seconds after which the server wants to be asked again.
        retry_after_s: Option<u64>,
    },
    /// A registry asks for something that we do not have or do not do.
    Login {
        /// Its name.
        registry: String,
        /// Why, and what to do.
        rule: String,
    },
    /// A server went silent.
    Stalled {
        /// What was asked for.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// Something is larger than it may be.
    TooLarge {
        /// A manifest, a configuration or all layers.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// There is more than a container can take.
    TooManyLayers {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A content has not the announced size.
    WrongSize {
        /// Which content.
        what: String,
        /// As announced.
        wanted_bytes: u64,
        /// As received; more may have been there.
        found_bytes: u64,
    },
    /// A content is not the announced one.
    WrongDigest {
        /// Which content.
        what: String,
        /// As announced.
        wanted: Digest,
        /// As received.
        found: Digest,
    },
    /// A document is not what it must be.
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong.
        rule: String,
    },
    /// There is nothing for this host.
    Platform {
        /// This host's.
        wanted: String,
        /// Those of the image.
        offered: String,
    },
    /// As the process that asks registries explains it.
    Service {
        /// Why.
        why: Explanation,
    },
    /// A layer could not be unpacked.
    Unpack {
        /// Its blob.
        layer: Digest,
        /// Why.
        source: super::unpacker::UnpackError,
    },
}

impl PullError {
    /// Why, as its task is told it.
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

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.own().fmt(formatter)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => Some(source),
            Self::Get { source, .. } => Some(source),
            Self::Unpack { source, .. } => Some(source),
            Self::Forbidden { .. }
            | Self::Layout { .. }
            | Self::Credentials { .. }
            | Self::Unaskable { .. }
            | Self::Refused { .. }
            | Self::Status { .. }
            | Self::Login { .. }
            | Self::Stalled { .. }
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

impl Fault {
    /// Why, without what its source says.
    fn own(&self) -> Explanation {
        match self {
            Self::Forbidden { path } => Explanation::of(Code::ImageForbidden, &[&path.display()]),
            Self::Read { path, .. } => Explanation::of(Code::ImageUnread, &[&path.display()]),
            Self::Layout { path, rule } => {
                Explanation::of(Code::ImageLayout, &[&path.display()]).saying(rule)
            }
            Self::Write { path, source } => Explanation::of(
                Code::ImageUnwritten,
                &[&path.display(), &remedy::of_failed_write(source)],
            ),
            Self::Credentials { path, rule } => {
                Explanation::of(Code::ImageCredentials, &[&path.display()]).saying(rule)
            }
            Self::Unaskable { url, rule } => {
                Explanation::of(Code::RegistryUnasked, &[url]).saying(rule)
            }
            Self::Refused { url, refusal } => {
                Explanation::of(Code::RegistryForbidden, &[url]).saying(refusal.to_string())
            }
            Self::Get { url, .. } => Explanation::of(Code::RegistryFailed, &[url]),
            Self::Status {
                url,
                status,
                remedy,
                ..
            } => Explanation::of(Code::RegistryStatus, &[url, status, remedy]),
            Self::Login { registry, rule } => {
                Explanation::of(Code::RegistryLogin, &[registry]).saying(rule)
            }
            Self::Stalled { url, seconds } => {
                Explanation::of(Code::RegistryStalled, &[url, seconds])
            }
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
                Explanation::of(Code::ImageContent, &[what]).saying(rule)
            }
            Self::Platform { wanted, offered } => {
                Explanation::of(Code::ImagePlatform, &[wanted, offered])
            }
            Self::Service { why } => why.clone(),
            Self::Unpack { layer, .. } => Explanation::of(Code::LayerUnpacked, &[layer]),
        }
    }

    /// Why, as its task is told it.
    #[must_use]
    pub fn explanation(&self) -> Explanation {
        self.own().saying(sources(self))
    }

    /// Whether the same may go well a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Get { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Self::Stalled { .. } => true,
            // A connection that closes early looks like a short answer; too long an answer is wrong.
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
            | Self::Unaskable { .. }
            | Self::Refused { .. }
            | Self::Login { .. }
            | Self::TooLarge { .. }
            | Self::TooManyLayers { .. }
            | Self::WrongDigest { .. }
            | Self::Malformed { .. }
            | Self::Platform { .. }
            | Self::Service { .. }
            | Self::Unpack { .. } => false,
        }
    }

    /// How long the server wants to be left alone, in seconds.
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

    /// A document is wrong, for this reason.
    pub(super) fn malformed(what: &str, why: &dyn Error) -> Self {
        Self::Malformed {
            what: what.to_owned(),
            rule: crate::sentence(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_store_that_cannot_be_written_names_the_remedy_for_its_cause() {
        for (errno, remedy) in [
            (Errno::EMFILE, "raise the limit of open files"),
            (Errno::ENOSPC, "make room"),
            (Errno::EIO, "check the disk"),
        ] {
            let text = Fault::write(Path::new("/data/images"))(errno.into()).to_string();
            assert!(text.contains(remedy), "{text}");
        }
    }
}
