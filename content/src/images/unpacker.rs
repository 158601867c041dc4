//! The interface to the unpacker of layers, which gets a descriptor and an empty directory.

use std::fs::File;
use std::path::Path;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// The packing of a layer's archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerCompression {
    /// A plain tar file.
    Tar,
    /// Compressed with gzip.
    TarGzip,
    /// Compressed with zstd.
    TarZstd,
}

impl LayerCompression {
    /// Returns the packing for the media type of a layer in a manifest; `None` if it is not
    /// supported.
    #[must_use]
    pub fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Some(Self::Tar),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(Self::TarGzip),
            "application/vnd.oci.image.layer.v1.tar+zstd" => Some(Self::TarZstd),
            _ => None,
        }
    }
}

/// The result of unpacking a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// The digest of the whole plain tar file, including its padding. Images that do not trust each
    /// other share the store, so a layer is stored under its computed digest and no other.
    pub diff_id: Digest,
    /// The disk usage of its files, in bytes.
    pub bytes: u64,
}

/// The error of unpacking a layer: a complete message with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnpackError(pub String);

/// An unpacker of layers.
pub trait Unpacker: Send + Sync {
    /// Unpacks a whole blob, whose digest was verified, into an existing empty directory. The file
    /// is unlinked and positioned at its start. Dropping the future ends the work; the caller then
    /// removes the content of the directory.
    fn unpack<'a>(
        &'a self,
        layer: File,
        packing: LayerCompression,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<UnpackedLayer, UnpackError>>;
}
