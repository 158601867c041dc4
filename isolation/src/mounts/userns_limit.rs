//! That nobody inside makes user namespaces of their own, in which they would have all capabilities.
//!
//! Behind the filter of system calls, and where there is none.

use std::io::Write;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, openat};

use super::{ViewError, failed};

/// By the setting of init's own user namespace, before it becomes read-only. `root` has a `/proc` of its own.
pub(super) fn forbid_user_namespaces(root: BorrowedFd<'_>) -> Result<(), ViewError> {
    let setting = "proc/sys/user/max_user_namespaces";
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(root, setting, flags, Mode::empty());
    let mut file = std::fs::File::from(opened.map_err(failed(format!("open /{setting}")))?);
    file.write_all(b"0")
        .map_err(failed(format!("write to /{setting}")))
}
