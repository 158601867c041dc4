//! Preventing nested user namespaces, in which a process would have all capabilities.
//!
//! This layer backs up the seccomp filter, and replaces it where it is disabled.

use std::io::Write;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, openat};

use crate::rootfs::mount_calls::{MountError, mount_error};

/// Sets the limit of init's user namespace to zero, before the setting becomes read-only. `root`
/// has the container's `/proc`.
pub(super) fn forbid_user_namespaces(root: BorrowedFd<'_>) -> Result<(), MountError> {
    let setting = "proc/sys/user/max_user_namespaces";
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(root, setting, flags, Mode::empty());
    let mut file = std::fs::File::from(opened.map_err(mount_error(format!("open /{setting}")))?);
    file.write_all(b"0")
        .map_err(mount_error(format!("write to /{setting}")))
}
