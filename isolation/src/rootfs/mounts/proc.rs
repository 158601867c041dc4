//! A container's `/proc`: only its processes, and nothing about the host.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, statat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::devices::{NULL, QUEUES};
use super::userns_limit::forbid_user_namespaces;
use crate::rootfs::mount_calls::{
    DEFAULT_ATTRIBUTES, MountError, attach, attach_in, clone_if_exists, clone_mount, clone_tree,
    file_system, mount_error, restrict,
};
use crate::spec::profile::IsolationLayers;
use crate::testing::disable_layer::layer_disabled;

/// Files that expose or control the host.
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
/// Kernel settings: readable, not writable.
const READ_ONLY: [&str; 4] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys"];

/// Mounts `/proc`. `devices` is attached at `/dev`, with nothing in it yet.
pub(super) fn make_proc(
    root: BorrowedFd<'_>,
    devices: BorrowedFd<'_>,
    layers: IsolationLayers,
) -> Result<(), MountError> {
    let attributes = DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let own = || file_system("proc", &[("hidepid", "invisible")], attributes);
    // A new `/proc` shows the processes of the current pid namespace.
    let processes = layer_disabled!(Pid, own()?, clone_tree(CWD, Path::new("/proc"))?);
    attach_in(processes.as_fd(), root, Path::new("proc"))?;
    if layers.user_namespaces && !layer_disabled!(Nesting) && !layer_disabled!(User) {
        forbid_user_namespaces(root)?;
    }
    if !layers.masks {
        return Ok(());
    }
    for path in READ_ONLY {
        if let Some(tree) = clone_if_exists(root, path)? {
            restrict(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            attach(tree.as_fd(), root, path)?;
        }
    }
    for path in MASKED {
        let Some(is_directory) = is_dir_if_exists(root, path)? else {
            continue;
        };
        // Both are as read-only as `/dev`.
        let mask = match is_directory {
            true => clone_mount(devices, Path::new(QUEUES))?,
            false => clone_mount(devices, Path::new(NULL))?,
        };
        attach(mask.as_fd(), root, path)?;
    }
    Ok(())
}

/// Whether the path is a directory, if it exists. It is not checked through a mount: freeing a
/// never attached mount waits for all processors, which would cost more than the rest of one mask.
fn is_dir_if_exists(root: BorrowedFd<'_>, path: &str) -> Result<Option<bool>, MountError> {
    match statat(root, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode).is_dir())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(mount_error(format!("inspect {path}"))(errno)),
    }
}
