//! Changing from the current root to another one.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, UnmountFlags, open_tree, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use crate::rootfs::mount_calls::{
    CLONE, DEFAULT_ATTRIBUTES, MountError, attach, file_system, mount_error,
};
use crate::testing::disable_layer::layer_disabled;

/// Changes into an empty root. For a process in separate namespaces that needs no file by name.
pub(crate) fn enter_empty_root() -> Result<(), MountError> {
    let settings = [("mode", "555"), ("size", "4k")];
    let nothing = file_system(
        "tmpfs",
        &settings,
        DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?;
    attach(nothing.as_fd(), CWD, "/")?;
    leave_host(nothing.as_fd())
}

/// Covers the contents of the base below the root, so that they cannot be found even by a process
/// that may change its root: a `/proc` without processes, and the parts of an image's root.
/// Detaching them instead would make the kernel wait for all processors.
pub(super) fn hide_base(root: BorrowedFd<'_>) -> Result<(), MountError> {
    layer_disabled!(Root => return Ok(()));
    let flags = CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    let cover = open_tree(root, "", flags).map_err(mount_error("clone the mount of the root"))?;
    attach(cover.as_fd(), CWD, "/proc")
}

/// Makes a mount on top of the current root, or a directory in it, the root.
pub(super) fn enter_root(root: BorrowedFd<'_>) -> Result<(), MountError> {
    fchdir(root)
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(mount_error("change the root"))
}

/// Changes the root and detaches the old one, with everything that was mounted below it.
pub(super) fn leave_host(root: BorrowedFd<'_>) -> Result<(), MountError> {
    fchdir(root).map_err(mount_error("enter the new root"))?;
    match pivot_root(".", ".") {
        // The old root is now mounted on top of the new one.
        Ok(()) => {
            unmount(".", UnmountFlags::DETACH).map_err(mount_error("detach the host's root"))?
        }
        // The host runs from its initramfs, which can only be covered, as switch_root does.
        Err(rustix::io::Errno::INVAL) => chroot(".").map_err(mount_error("change the root"))?,
        Err(errno) => return Err(mount_error("change the root")(errno)),
    }
    chdir("/").map_err(mount_error("enter the new root"))
}
