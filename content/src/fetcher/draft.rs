//! Drafts in a sandbox, whose folder may belong to a task's user.
//!
//! A process of that user can put something else under any name there, at any time. So a draft is always new, and its mode
//! and owner are set by its descriptor, never by its name.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use argosy_isolation::User;
use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use nix::unistd::{Gid, Uid, fchown, geteuid};

/// Makes an empty file, to be written and read again. What an earlier try left under its name is removed.
pub(super) fn file(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    // Exclusive: neither a link nor a file of others is taken for the draft.
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path)
}

/// Makes an empty folder.
pub(super) fn folder(path: &Path) -> io::Result<File> {
    DirBuilder::new().mode(0o755).create(path)?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW);
    let folder = options.open(path)?;
    if folder.metadata()?.uid() != geteuid().as_raw() {
        return Err(io::Error::other(
            "another process has put its own folder there; launch the task again",
        ));
    }
    Ok(folder)
}

/// Gives a draft to the user of a task.
pub(super) fn give(draft: &File, user: &User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    Ok(fchown(draft, Some(uid), Some(gid))?)
}
