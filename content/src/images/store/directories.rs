//! The directory layout of the store.
//!
//! ```text
//! <directory>/
//!   blobs/                          packed layers during downloads; emptied at each start
//!   layers/<diff id>/root/          files of a layer; its size is next to it in layer.json
//!   records/<digest of name>.json   an image; the file's time is that of its last use
//!   leases/<container>.json         the layers that a container holds
//! ```
//! Names that start with `.draft-` are incomplete or being removed.

use std::path::{Path, PathBuf};

/// The directory of one store.
#[derive(Debug, Clone)]
pub(super) struct StoreDirs(PathBuf);

impl StoreDirs {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    /// Packed layers during downloads.
    pub(super) fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// Unpacked layers.
    pub(super) fn layers(&self) -> PathBuf {
        self.0.join("layers")
    }

    /// One file per image.
    pub(super) fn records(&self) -> PathBuf {
        self.0.join("records")
    }

    /// One file per container that holds an image.
    pub(super) fn leases(&self) -> PathBuf {
        self.0.join("leases")
    }
}
