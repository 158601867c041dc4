//! From the present root into another one.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, UnmountFlags, open_tree, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::{CLONE, TAME, ViewError, attach, failed, file_system};
use crate::disable_layer::{self, Wall};

/// Goes into a root with nothing in it. For a process in namespaces of its own that needs no file by name.
pub(crate) fn leave_for_nothing() -> Result<(), ViewError> {
    let settings = [("mode", "555"), ("size", "4k")];
    let nothing = file_system("tmpfs", &settings, TAME | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    attach(nothing.as_fd(), CWD, "/")?;
    leave_host(nothing.as_fd())
}

/// Covers what is in the base below the root, so that not even who may change its root finds any of it: a `/proc` without
/// processes, and what an image's root was laid from. Detaching that instead would have the kernel wait for all processors.
pub(super) fn hide_base(root: BorrowedFd<'_>) -> Result<(), ViewError> {
    if !disable_layer::stands(Wall::Root) {
        return Ok(());
    }
    let flags = CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    let cover = open_tree(root, "", flags).map_err(failed("take a mount of the root"))?;
    attach(cover.as_fd(), CWD, "/proc")
}

/// Makes what lies over the present root, or somewhere in it, the root.
pub(super) fn enter_root(root: BorrowedFd<'_>) -> Result<(), ViewError> {
    fchdir(root)
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(failed("make the view the root"))
}

/// The old root is gone afterwards, with all that was mounted below it.
pub(super) fn leave_host(root: BorrowedFd<'_>) -> Result<(), ViewError> {
    fchdir(root).map_err(failed("enter the view"))?;
    match pivot_root(".", ".") {
        // The old root lies on top of the new one now.
        Ok(()) => {
            unmount(".", UnmountFlags::DETACH).map_err(failed("let go of the host's root"))?
        }
        // The host runs from its initial memory file system, which can only be covered, as switch_root does.
        Err(rustix::io::Errno::INVAL) => chroot(".").map_err(failed("make the view the root"))?,
        Err(errno) => return Err(failed("make the view the root")(errno)),
    }
    chdir("/").map_err(failed("enter the view's root"))
}
