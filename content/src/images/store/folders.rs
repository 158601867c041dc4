//! Where the store keeps what: the one drawing of its directory.
//!
//! ```text
//! <directory>/
//!   blobs/                          packed layers while they come; emptied at each start
//!   layers/<diff id>/root/          files of a layer; its size beside it in layer.json
//!   records/<digest of name>.json   an image; the time of the file is that of its last use
//!   leases/<container>.json         the layers that a container holds
//! ```
//! Whatever begins with `.draft-` is not finished, or on its way out.

use std::path::{Path, PathBuf};

/// The directory of one store.
#[derive(Debug, Clone)]
pub(super) struct Folders(PathBuf);

impl Folders {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    /// Packed layers on their way.
    pub(super) fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// Unpacked layers.
    pub(super) fn layers(&self) -> PathBuf {
        self.0.join("layers")
    }

    /// A file for each image.
    pub(super) fn records(&self) -> PathBuf {
        self.0.join("records")
    }

    /// A file for each container that holds an image.
    pub(super) fn leases(&self) -> PathBuf {
        self.0.join("leases")
    }
}
