//! A container's `/dev`: six devices of the host, terminals, queues and shared memory of its own.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{CWD, symlinkat};
use rustix::mount::MountAttrFlags;

use super::own_devices::OwnDevices;
use super::{
    TAME, View, ViewError, attach, failed, file_system, make_file, make_folder, restrict,
    restrict_one, scratch, take,
};
use crate::breach::{self, Wall};

/// Devices that every program may expect and that tell nothing of the host: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Links of `/dev` that programs expect.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

pub(super) fn make_devices(
    root: BorrowedFd<'_>,
    view: &View,
    own: Option<&OwnDevices>,
) -> Result<(), ViewError> {
    let devices = file_system(
        "tmpfs",
        &[("mode", "755"), ("size", "64k")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    let devices = devices.as_fd();
    let place = make_folder(root, Path::new("dev"))?;
    attach(devices, place.as_fd(), "")?;
    for (name, major, minor) in DEVICES {
        let from = Path::new("/dev").join(name);
        let tree = take(CWD, &from)?;
        let found = fs::File::from(tree.try_clone().map_err(failed("keep a device"))?);
        let found = found
            .metadata()
            .map_err(failed(format!("look at {}", from.display())))?;
        let right =
            found.file_type().is_char_device() && found.rdev() == libc::makedev(major, minor);
        if !right {
            let not_it = io::Error::other("it is another file");
            return Err(failed(format!("use {}", from.display()))(not_it));
        }
        restrict(
            tree.as_fd(),
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        )?;
        let place = make_file(devices, Path::new(name))?;
        attach(tree.as_fd(), place.as_fd(), "")?;
    }
    if let Some(own) = own {
        own.attach_in(devices)?;
    }
    for (name, to) in DEVICE_LINKS {
        symlinkat(to, devices, name).map_err(failed(format!("link /dev/{name}")))?;
    }
    let terminals = file_system(
        "devpts",
        &[("mode", "620"), ("ptmxmode", "666")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    attach(
        terminals.as_fd(),
        make_folder(devices, Path::new("pts"))?.as_fd(),
        "",
    )?;
    // Only who owns an ipc namespace has a view of it.
    if breach::stands(Wall::Queues) {
        let queues = file_system("mqueue", &[], TAME | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        attach(
            queues.as_fd(),
            make_folder(devices, Path::new("mqueue"))?.as_fd(),
            "",
        )?;
    }
    scratch(devices, "shm", view.shm_bytes)?;
    restrict_one(devices, MountAttrFlags::MOUNT_ATTR_RDONLY)
}
