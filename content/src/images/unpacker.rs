//! The border to whoever turns a layer's archive into files: it is given a descriptor and an empty folder.

use std::fs::File;
use std::path::Path;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// How a layer's archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packing {
    /// A plain tar file.
    Tar,
    /// Compressed by gzip.
    TarGzip,
    /// Compressed by zstd.
    TarZstd,
}

impl Packing {
    /// From the media type of a layer in a manifest; `None` if it cannot be unpacked here.
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

/// What came out of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// Of all bytes of the plain tar file, its padding included. The store is shared by images that do not
    /// trust each other, so a layer is kept under the digest that was seen and under no other.
    pub diff_id: Digest,
    /// What its files take on disk, in bytes.
    pub bytes: u64,
}

/// Why a layer could not be unpacked: a whole sentence, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnpackError(pub String);

/// Unpacks layers.
pub trait Unpacker: Send + Sync {
    /// Unpacks a whole blob, whose digest was found right, into a folder that is there and empty. The file
    /// stands at its beginning and has no name any more. If the future is dropped, whatever works for it
    /// ends; what is in the folder by then is removed by the caller.
    fn unpack<'a>(
        &'a self,
        layer: File,
        packing: Packing,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<UnpackedLayer, UnpackError>>;
}
