//! Files and directories of the store: each is complete under its name, or absent.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use argosy_host::atomic_file::{self, Durability, WriteOptions};
use argosy_host::remove_tree;

/// The name prefix of everything that is incomplete or being removed.
pub const DRAFT: &str = ".draft-";
/// The mode of each file of the store that is not of a layer.
const PRIVATE_FILE: u32 = 0o600;

/// Creates a directory and its parents.
pub(super) fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Writes a file through a draft next to it. A power cut may lose the file.
pub(super) fn write_atomically(path: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let options = WriteOptions {
        mode: PRIVATE_FILE,
        durability: Durability::Cached,
    };
    atomic_file::replace(path, draft, bytes, options)
}

/// Writes a draft, and syncs its content. The caller renames it and syncs the directory.
pub(super) fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(PRIVATE_FILE);
    let mut file = options.open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Syncs the directory's whole file system: one call for many small files.
pub(super) fn sync_all_below(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(path)?)?)
}

/// Removes a file, or a directory with its content; follows no link. Succeeds if it does not exist.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match remove_tree::remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Returns the names in a directory, sorted; names that are not UTF-8 are skipped.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    let names = entries.into_iter().map(|entry| entry.file_name());
    let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Returns the [usable](argosy_host::usable_space) space of the file system of `path`, and its
/// size, in bytes.
///
/// # Errors
/// If the file system cannot be queried.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    argosy_host::usable_space(path)
}

/// Returns the name of a draft.
pub(super) fn draft(directory: &Path, serial: u64) -> PathBuf {
    directory.join(format!("{DRAFT}{serial}"))
}
