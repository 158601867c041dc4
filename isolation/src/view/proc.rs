//! A container's `/proc`: of its own processes, and silent about the host.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::nesting::forbid_user_namespaces;
use super::{
    TAME, ViewError, attach, failed, file_system, is_folder, make_folder, restrict, take, take_all,
    take_if_there,
};
use crate::breach::{self, Wall};
use crate::profile::Walls;

/// What the kernel tells or lets be told there is the host's alone.
const MASKED: [&str; 11] = [
    "proc/acpi",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/key-users",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/sysrq-trigger",
    "proc/timer_list",
    "proc/timer_stats",
];
/// Settings of the kernel: to be read, not written.
const READ_ONLY: [&str; 4] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys"];

pub(super) fn make_proc(root: BorrowedFd<'_>, walls: Walls) -> Result<(), ViewError> {
    let attributes = TAME | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let processes = match breach::stands(Wall::Processes) {
        true => file_system("proc", &[("hidepid", "invisible")], attributes)?,
        // One of its own shows who is in its own pid namespace.
        false => take_all(CWD, Path::new("/proc"))?,
    };
    attach(
        processes.as_fd(),
        make_folder(root, Path::new("proc"))?.as_fd(),
        "",
    )?;
    if walls.user_namespaces && breach::stands(Wall::Nesting) && breach::stands(Wall::Users) {
        forbid_user_namespaces(root)?;
    }
    if !walls.masks {
        return Ok(());
    }
    for path in READ_ONLY {
        if let Some(tree) = take_if_there(root, path)? {
            restrict(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            attach(tree.as_fd(), root, path)?;
        }
    }
    for path in MASKED {
        let Some(shown) = look(root, path)? else {
            continue;
        };
        let mask = if is_folder(shown.as_fd())? {
            let nothing = [("mode", "555"), ("size", "4k")];
            file_system("tmpfs", &nothing, TAME)?
        } else {
            take(root, Path::new("dev/null"))?
        };
        restrict(mask.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        attach(mask.as_fd(), root, path)?;
    }
    Ok(())
}

/// Opened and not mounted: the kernel frees a mount that was never attached after all its processors have taken note,
/// which would cost more than all else that is done for one mask.
fn look(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, ViewError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(root, path, flags, Mode::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(format!("look at {path}"))(errno)),
    }
}
