//! Changes of the directory of layers, by a process that has the privileges itself.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::{LAYER_FILE, ROOT, disk};
use crate::images::layer_directories::LayerDirs;

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

    fn metadata(&self, layer: &Path) -> io::Result<Option<Vec<u8>>> {
        match layer.join(ROOT).is_dir() {
            true => std::fs::read(layer.join(LAYER_FILE)).map(Some),
            false => Ok(None),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        disk::remove(path)
    }
}
