//! Host paths: files of the host that a container sees.
//!
//! Which paths an operator allows is not checked here.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::HostPathMount;
use crate::rootfs::mount_calls::{CLONE, DEFAULT_ATTRIBUTES, MountError, mount_error, restrict};
use crate::spec::mounts::{HostPath, OwnerMapping};

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
