//! The records of the store: images, layers and leases. Every record has a version.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::images::digest::Digest;
use crate::images::image::ImageConfig;

/// The version of all three.
pub(super) const VERSION: u32 = 1;

/// An image; the time of its last use is that of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::images) struct ImageRecord {
    pub(in crate::images) version: u32,
    /// Its full name.
    pub(in crate::images) reference: String,
    /// Of the manifest for this host.
    pub(in crate::images) digest: Digest,
    pub(in crate::images) config: ImageConfig,
    /// Diff ids, lowest first.
    pub(in crate::images) layers: Vec<Digest>,
    /// The number of downloaded packed bytes.
    pub(in crate::images) packed_bytes: u64,
}

impl ImageRecord {
    pub(in crate::images) fn new(
        reference: String,
        digest: Digest,
        config: ImageConfig,
        layers: Vec<Digest>,
        packed_bytes: u64,
    ) -> Self {
        Self {
            version: VERSION,
            reference,
            digest,
            config,
            layers,
            packed_bytes,
        }
    }

    pub(super) fn file_name(reference: &str) -> String {
        format!("{}.json", Digest::of(reference.as_bytes()).hex())
    }
}

/// The metadata of an unpacked layer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) version: u32,
    pub(super) diff_id: Digest,
    /// The disk usage of its files.
    pub(super) bytes: u64,
}

/// The lease of one container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    pub(super) version: u32,
    pub(super) reference: String,
    pub(super) layers: BTreeSet<Digest>,
}
