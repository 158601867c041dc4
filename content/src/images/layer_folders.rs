//! The border to whoever changes the folder of layers: their files belong to users of images, root among them.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::store::{LAYER_FILE, ROOT, remove};

/// Changes of the folder of layers. Each path is one in that folder. They block.
pub trait LayerFolders: Send + Sync {
    /// Makes the folder of a layer, and in it an empty one for its files that belongs to root.
    ///
    /// # Errors
    /// What cannot be done.
    fn make(&self, draft: &Path) -> io::Result<()>;

    /// Writes what is known of a layer beside its files.
    ///
    /// # Errors
    /// What cannot be done.
    fn describe(&self, draft: &Path, json: Vec<u8>) -> io::Result<()>;

    /// Gives a layer another name.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it is gone, or what cannot be done.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a layer with all that is in it. Nothing is wrong if it is gone.
    ///
    /// # Errors
    /// What cannot be done.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// For a process that may do all of it by itself.
#[derive(Debug, Clone, Copy)]
pub struct OwnFolders;

impl LayerFolders for OwnFolders {
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
