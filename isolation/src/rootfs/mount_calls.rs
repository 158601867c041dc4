//! Steps of setting up mounts: making, cloning, restricting and attaching them, and the files and
//! directories on which they are mounted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use argosy_host::sys;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::testing::disable_layer;

/// The number of bytes of a scratch file system per permitted file.
const BYTES_PER_INODE: u64 = 4_096;
/// The minimum number of files of a scratch file system.
const MIN_INODES: u64 = 1_024;

/// The attributes of every mount: `nosuid` and `nodev`.
pub(super) const DEFAULT_ATTRIBUTES: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// An error of setting up the mounts.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub(crate) struct MountError {
    what: String,
    source: io::Error,
}

pub(super) fn mount_error<E: Into<io::Error>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> MountError {
    let what = what.into();
    move |source| MountError {
        what,
        source: source.into(),
    }
}

/// Creates an unattached mount of one directory, without its submounts.
pub(crate) fn clone_dir(directory: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let tree = open_tree(directory, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(mount_error("clone the mount of a directory"))?;
    restrict(tree.as_fd(), DEFAULT_ATTRIBUTES)?;
    Ok(tree)
}

/// Creates an unattached memory file system for all users of the container.
pub(super) fn writable_memory(bytes: u64) -> Result<OwnedFd, MountError> {
    let size = bytes.to_string();
    // An empty file uses none of those bytes, but a kilobyte of kernel memory.
    let files = (bytes / BYTES_PER_INODE).max(MIN_INODES).to_string();
    let settings = [("mode", "1777"), ("size", &*size), ("nr_inodes", &*files)];
    file_system(
        "tmpfs",
        &settings,
        DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

/// Creates an unattached file system. An option without a value is a flag.
pub(super) fn file_system(
    kind: &str,
    settings: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, MountError> {
    let make = || {
        let made = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in settings {
            match *value {
                "" => fsconfig_set_flag(made.as_fd(), *key)?,
                value => fsconfig_set_string(made.as_fd(), *key, value)?,
            }
        }
        fsconfig_create(made.as_fd())?;
        let attributes = disable_layer::enabled_attributes(attributes);
        fsmount(made.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(mount_error(format!("make a file system of kind {kind}")))
}

pub(super) fn attach(
    tree: BorrowedFd<'_>,
    mount_point: BorrowedFd<'_>,
    path: &str,
) -> Result<(), MountError> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    move_mount(tree, "", mount_point, path, flags)
        .map_err(mount_error(format!("attach a mount at {path:?}")))
}

/// Attaches a mount at the directory of this name in `parent`, which is created if it does not
/// exist. A link is not followed.
pub(super) fn attach_in(
    tree: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &Path,
) -> Result<(), MountError> {
    let words = || format!("create the directory {}", name.display());
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(mount_error(words())(errno)),
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    match move_mount(tree, "", parent, name, flags) {
        Ok(()) => Ok(()),
        // The kernel's error for mounting a directory over a file or a link.
        Err(rustix::io::Errno::INVAL) => Err(mount_error(words())(link_error())),
        Err(errno) => Err(mount_error(format!("attach a mount at {}", name.display()))(errno)),
    }
}

pub(super) const CLONE: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// Creates an unattached mount of one directory or file, without its submounts.
pub(super) fn clone_mount(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, MountError> {
    open_tree(parent, path, CLONE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW).map_err(mount_error(
        format!("clone the mount of {}", path.display()),
    ))
}

/// The same with its submounts.
pub(super) fn clone_tree(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, MountError> {
    let flags = CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(parent, path, flags).map_err(mount_error(format!(
        "clone the mounts of {}",
        path.display()
    )))
}

pub(super) fn clone_if_exists(
    parent: BorrowedFd<'_>,
    path: &str,
) -> Result<Option<OwnedFd>, MountError> {
    match open_tree(parent, path, CLONE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(tree) => Ok(Some(tree)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(mount_error(format!("clone the mount of {path}"))(errno)),
    }
}

/// Sets attributes on a mount and its submounts.
pub(super) fn restrict(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<(), MountError> {
    let attributes = disable_layer::enabled_attributes(attributes).bits();
    sys::add_mount_attributes(tree, attributes.into(), true).map_err(mount_error("restrict mounts"))
}

/// Sets attributes on one mount only.
pub(super) fn restrict_one(
    tree: BorrowedFd<'_>,
    attributes: MountAttrFlags,
) -> Result<(), MountError> {
    let attributes = disable_layer::enabled_attributes(attributes).bits();
    sys::add_mount_attributes(tree, attributes.into(), false)
        .map_err(mount_error("restrict a mount"))
}

pub(super) fn is_dir(file: BorrowedFd<'_>) -> Result<bool, MountError> {
    let found = rustix::fs::fstat(file).map_err(mount_error("inspect the mount source"))?;
    Ok(rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir())
}

/// Creates a directory to mount on, with its parents. Never leaves `parent`, never follows a link.
pub(super) fn create_dir(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, MountError> {
    let words = || format!("create the directory {}", path.display());
    let mut made: Option<OwnedFd> = None;
    for part in path.components() {
        let Component::Normal(part) = part else {
            return Err(mount_error(words())(io::Error::other(
                "its path is not plain",
            )));
        };
        let above = made.as_ref().map_or(parent, AsFd::as_fd);
        match mkdirat(above, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(mount_error(words())(errno)),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        made = match openat(above, part, flags, Mode::empty()) {
            Ok(directory) => Some(directory),
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Err(mount_error(words())(link_error()));
            }
            Err(errno) => return Err(mount_error(words())(errno)),
        };
    }
    match made {
        Some(directory) => Ok(directory),
        None => parent.try_clone_to_owned().map_err(mount_error(words())),
    }
}

/// Creates a file to mount on, open for writing if it is new.
pub(super) fn create_file(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, MountError> {
    let words = || format!("make the file {}", path.display());
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("it has no name"));
    let name = name.map_err(mount_error(words()))?;
    let directory = create_dir(parent, path.parent().unwrap_or(Path::new("")))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&directory, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(file) => Ok(file),
        // An image may contain it: a file is then covered.
        Err(rustix::io::Errno::EXIST) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file =
                openat(&directory, name, flags, Mode::empty()).map_err(mount_error(words()))?;
            let found = rustix::fs::fstat(&file).map_err(mount_error(words()))?;
            if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() {
                return Err(mount_error(words())(link_error()));
            }
            Ok(file)
        }
        Err(errno) => Err(mount_error(words())(errno)),
    }
}

/// Builds the error for a missing mount point, with its remedy.
pub(super) fn no_mount_point(what: &str, path: &Path, error: MountError) -> MountError {
    let path = path.display();
    let remedy = match error.source.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            ": nothing can be created there; choose a path outside the host's directories"
        }
        _ => "",
    };
    mount_error(format!("mount the {what} at {path}{remedy}"))(io::Error::other(error))
}

/// Returns the error for an image that has another file at a mount point: links are never followed,
/// because the mount would land elsewhere.
fn link_error() -> io::Error {
    io::Error::other(
        "the image has another entry in its place, such as a link; build the image without it",
    )
}
