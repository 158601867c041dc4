//! Drafts in a sandbox, whose directory may belong to a task's user.
//!
//! A process of that user can replace any name there at any time. So a draft is always new, and its
//! mode and owner are set by its descriptor, never by its name.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use argosy_isolation::ContainerUser;
use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use nix::unistd::{Gid, Uid, fchown, geteuid};

/// Creates an empty file for writing and reading. A leftover of an earlier attempt under its name
/// is removed.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    // Exclusive: neither a link nor another process's file is taken for the draft.
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path)
}

/// Creates an empty directory.
pub(super) fn create_dir(path: &Path) -> io::Result<File> {
    DirBuilder::new().mode(0o755).create(path)?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW);
    let directory = options.open(path)?;
    if directory.metadata()?.uid() != geteuid().as_raw() {
        return Err(io::Error::other(
            "another process has created a directory there; launch the task again",
        ));
    }
    Ok(directory)
}

/// Makes a task's user the owner of a draft.
pub(super) fn chown(draft: &File, user: &ContainerUser) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    Ok(fchown(draft, Some(uid), Some(gid))?)
}
