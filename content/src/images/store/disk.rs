//! Files and folders of the store: each is whole under its name, or not there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// With what the names begin of all that is not finished, or on its way out.
pub const DRAFT: &str = ".draft-";

/// Whether what is written must outlive a cut of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// On disk before it has its name.
    PowerCut,
    /// It says something of containers, and these end with the boot.
    Boot,
}

/// Makes a folder and those above it.
pub(super) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Writes a file by way of a draft beside it.
pub(super) fn write_whole(
    path: &Path,
    draft: &Path,
    bytes: &[u8],
    lasting: Lasting,
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(draft)?;
    file.write_all(bytes)?;
    if lasting == Lasting::PowerCut {
        file.sync_all()?;
    }
    fs::rename(draft, path)?;
    match (lasting, path.parent()) {
        (Lasting::PowerCut, Some(folder)) => sync_folder(folder),
        _ => Ok(()),
    }
}

/// Names in it are on disk from here on.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// All that was written to the folder's file system is on disk from here on: one call for many small files.
pub(super) fn sync_all_below(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(path)?)?)
}

/// Removes a file or a folder with all that is in it; no link is followed. Nothing is wrong if it is gone.
pub(in crate::images) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names in a folder, in order; names that are no text are nobody's.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    let names = entries.into_iter().map(|entry| entry.file_name());
    let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// What of the file system of `path` is free for us, and all that it has, in bytes.
///
/// # Errors
/// If it cannot be asked.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    let found = nix::sys::statvfs::statvfs(path)?;
    let unit = found.fragment_size();
    Ok((
        found.blocks_available().saturating_mul(unit),
        found.blocks().saturating_mul(unit),
    ))
}

/// The name of a draft.
pub(super) fn draft(folder: &Path, serial: u64) -> PathBuf {
    folder.join(format!("{DRAFT}{serial}"))
}
