//! Host paths: what a container sees of the files of its host.
//!
//! Which ones an operator allows is not judged here.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

use super::{CLONE, Place, TAME, ViewError, failed, restrict};

/// A file or folder of the host that a container sees. What is mounted below it is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPath {
    /// On the host: absolute, resolved by the caller's rules; must exist, and leads through no link.
    pub from: PathBuf,
    /// In the container: absolute, without `..`, not in `/dev`, `/proc`, `/sys` or the sandbox. What is missing of it is made
    /// in the container's root; among the host's programs it must be there.
    pub to: PathBuf,
    /// Whether the container is kept from writing to it.
    pub read_only: bool,
    /// Whose its files are.
    pub owners: Owners,
}

/// Who owns the files of a host path, as its container sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owners {
    /// The container's users are the host's users of the same numbers. Not with one who is, or may become, root.
    Mapped,
    /// Nobody of the container, its root included: it reads what all users of the host may read. Only read-only.
    Strangers,
}

/// A mount of it that is attached nowhere. As root of the host.
pub(super) fn take(path: &HostPath) -> Result<Place, ViewError> {
    let tree = take_plain(&path.from)?;
    let attributes = match path.read_only {
        true => TAME | MountAttrFlags::MOUNT_ATTR_RDONLY,
        false => TAME,
    };
    restrict(tree.as_fd(), attributes)?;
    Ok(Place {
        tree,
        to: path.to.clone(),
        is_mapped: path.owners == Owners::Mapped,
    })
}

/// A mount of a path that leads through no link, without what is mounted below it: whoever may write on the way could turn it elsewhere after it was
/// judged.
fn take_plain(path: &Path) -> Result<OwnedFd, ViewError> {
    let words = || {
        format!(
            "take a mount of {} without following a link",
            path.display()
        )
    };
    // With O_NOFOLLOW a link at its end would be opened itself, and mounted.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(CWD, path, flags, Mode::empty(), resolve).map_err(failed(words()))?;
    open_tree(&found, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH).map_err(failed(words()))
}
