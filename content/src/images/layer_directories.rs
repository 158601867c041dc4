//! The interface to the directory of layers, whose files belong to users of images, including root.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::store::{LAYER_FILE, ROOT, remove};

/// Changes of the directory of layers. Each path is relative to that directory. The methods block.
pub trait LayerDirs: Send + Sync {
    /// Creates the directory of a layer, and in it an empty one for its files that belongs to root.
    ///
    /// # Errors
    /// The operation that failed.
    fn make(&self, draft: &Path) -> io::Result<()>;

    /// Writes the metadata of a layer next to its files.
    ///
    /// # Errors
    /// The operation that failed.
    fn describe(&self, draft: &Path, json: Vec<u8>) -> io::Result<()>;

    /// Renames a layer.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it does not exist, or the operation that failed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a layer with its content. Succeeds if it does not exist.
    ///
    /// # Errors
    /// The operation that failed.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The implementation for a process that has the privileges itself.
#[derive(Debug, Clone, Copy)]
pub struct LocalLayerDirs;

impl LayerDirs for LocalLayerDirs {
    fn make(&self, draft: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o711).create(draft)?;
        DirBuilder::new().mode(0o755).create(draft.join(ROOT))
    }

    fn describe(&self, draft: &Path, json: Vec<u8>) -> io::Result<()> {
        std::fs::write(draft.join(LAYER_FILE), json)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        remove(path)
    }
}
