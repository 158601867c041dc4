//! The interface to the directory of layers, whose files belong to users of images, including root.

use std::io;
use std::path::Path;

/// Access to the directory of layers. Each path is relative to that directory. The methods block.
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

    /// Returns the metadata of a layer, or `None` if it has no directory for its files.
    ///
    /// # Errors
    /// The operation that failed.
    fn metadata(&self, layer: &Path) -> io::Result<Option<Vec<u8>>>;

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
