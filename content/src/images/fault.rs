//! Why an image cannot be had. Every sentence says what, where, and what to do.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_proto::remedy;

use super::digest::Digest;
use crate::fetcher::Refusal;

/// Why an image could not be brought. All who waited for the same pull get the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot bring the image {image}")]
pub struct PullError {
    /// Its full name.
    pub image: String,
    /// Why.
    pub source: Arc<Fault>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operator lets no image be taken from there.
    #[error(
        "{path} is not below a folder that images may be taken from: the agent must be told of one by --image-folder"
    )]
    Forbidden {
        /// As it was named.
        path: PathBuf,
    },
    /// A file of this host cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder or archive is no OCI layout, or lacks something.
    #[error("{path} is no usable OCI image layout: {rule}")]
    Layout {
        /// The folder or archive.
        path: PathBuf,
        /// What is wrong, and what to do.
        rule: String,
    },
    /// The store cannot be written.
    #[error("cannot write {path}; {}", remedy::of_failed_write(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of credentials is of no use.
    #[error("cannot use the credentials in {path}: {rule}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong; never what is in it.
        rule: String,
    },
    /// A server cannot be asked at all.
    #[error("cannot ask {url}: {rule}")]
    Unaskable {
        /// What was to be asked for.
        url: String,
        /// What to do.
        rule: String,
    },
    /// A server may not be asked.
    #[error("cannot get {url}: {refusal}")]
    Refused {
        /// What was asked for.
        url: String,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// A server could not be reached, or broke off.
    #[error("cannot get {url}")]
    Get {
        /// What was asked for.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// A server refused.
    #[error("cannot get {url}: the server answered {status}{remedy}")]
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
    #[error("the registry {registry} cannot be logged in to: {rule}")]
    Login {
        /// Its name.
        registry: String,
        /// Why, and what to do.
        rule: String,
    },
    /// A server went silent.
    #[error("cannot get {url}: nothing came for {seconds} s")]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// Something is larger than it may be.
    #[error("{what} is larger than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// A manifest, a configuration or all layers.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// There is more than a container can take.
    #[error("it has {count} layers; at most {limit} can be put on each other")]
    TooManyLayers {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A content has not the announced size.
    #[error("{what} must have {wanted_bytes} bytes, and {found_bytes} came")]
    WrongSize {
        /// Which content.
        what: String,
        /// As announced.
        wanted_bytes: u64,
        /// As received; more may have been there.
        found_bytes: u64,
    },
    /// A content is not the announced one.
    #[error(
        "{what} must have the digest {wanted}, and has {found}: it was damaged or tampered with"
    )]
    WrongDigest {
        /// Which content.
        what: String,
        /// As announced.
        wanted: Digest,
        /// As received.
        found: Digest,
    },
    /// A document is not what it must be.
    #[error("{what} is not valid: {rule}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong.
        rule: String,
    },
    /// There is nothing for this host.
    #[error("it is not made for {wanted}, only for {offered}")]
    Platform {
        /// This host's.
        wanted: String,
        /// Those of the image.
        offered: String,
    },
    /// In the words of the process that asks registries.
    #[error("{why}")]
    Service {
        /// A sentence.
        why: String,
    },
    /// A layer could not be unpacked.
    #[error("cannot unpack the layer {layer}")]
    Unpack {
        /// Its blob.
        layer: Digest,
        /// Why.
        source: super::unpacker::UnpackError,
    },
}

impl Fault {
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
