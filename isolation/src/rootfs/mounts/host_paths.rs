//! Host paths: files of the host that a container sees.
//!
//! Which paths an operator allows is not checked here.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

use super::{CLONE, DEFAULT_ATTRIBUTES, HostPathMount, MountError, mount_error, restrict};

/// A host file or directory that a container sees. Its submounts are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPath {
    /// The path on the host: absolute, resolved by the caller; it must exist, and contains no link.
    pub from: PathBuf,
    /// The path in the container: absolute, without `..`, not in `/dev`, `/proc`, `/sys` or the
    /// sandbox. Missing parts are created in the container's root; among the host's programs it
    /// must exist.
    pub to: PathBuf,
    pub read_only: bool,
    pub owners: OwnerMapping,
}

/// The owners of a host path's files, as its container sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerMapping {
    /// The container's users are the host's users with the same ids. Not allowed for a user that
    /// is, or may become, root.
    Mapped,
    /// No user of the container, not even its root: it reads what all users of the host may read.
    /// Only read-only.
    #[serde(rename = "strangers")]
    Unmapped,
}

/// Creates an unattached mount of it, as host root.
pub(super) fn clone_host_path(path: &HostPath) -> Result<HostPathMount, MountError> {
    let tree = clone_plain(&path.from)?;
    let attributes = match path.read_only {
        true => DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_RDONLY,
        false => DEFAULT_ATTRIBUTES,
    };
    restrict(tree.as_fd(), attributes)?;
    Ok(HostPathMount {
        tree,
        to: path.to.clone(),
        is_mapped: path.owners == OwnerMapping::Mapped,
    })
}

/// Creates a mount of a path without links, without its submounts. A user who may write to a parent
/// directory could otherwise redirect it after it was checked.
fn clone_plain(path: &Path) -> Result<OwnedFd, MountError> {
    let words = || {
        format!(
            "clone the mount of {} without following a link",
            path.display()
        )
    };
    // With O_NOFOLLOW a link at the end would itself be opened and mounted.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(CWD, path, flags, Mode::empty(), resolve).map_err(mount_error(words()))?;
    open_tree(&found, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH).map_err(mount_error(words()))
}
