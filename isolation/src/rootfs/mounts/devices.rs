//! A container's `/dev`: six devices that every program may expect, its extra devices, and private
//! mounts for terminals, queues and shared memory.
//!
//! The nodes are new: the host's nodes belong to users that the container does not have, and stay
//! unchanged. A process with host root creates them in a small unattached file system.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, mknodat, openat, symlinkat,
};
use rustix::mount::MountAttrFlags;

use crate::confinement::device_filter::{Device, DeviceType};
use crate::rootfs::mount_calls::{
    DEFAULT_ATTRIBUTES, MountError, attach, create_dir, file_system, mount_error, restrict_one,
    writable_memory,
};
use crate::spec::mounts::MountSpec;
use crate::testing::disable_layer::layer_disabled;

/// Devices that every program may expect and that reveal nothing about the host: name, major and
/// minor number.
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
/// The first device: writes are discarded, reads return end of file.
pub(super) const NULL: &str = DEVICES[0].0;
/// The mount points of the container's file systems in `/dev`.
const TERMINALS: &str = "pts";
pub(super) const QUEUES: &str = "mqueue";
const MEMORY: &str = "shm";

/// A `/dev` with devices in addition to the usual ones.
pub(crate) struct DeviceDirectory {
    pub(super) tree: OwnedFd,
    /// The devices, for the device filter.
    pub(crate) devices: Vec<Device>,
}

impl DeviceDirectory {
    /// Creates nodes of the devices at these host paths, for the container whose root is the host's
    /// user `owner`. Returns `None` if there are none.
    pub(crate) fn make(paths: &[PathBuf], owner: u32) -> Result<Option<Self>, MountError> {
        if paths.is_empty() {
            return Ok(None);
        }
        let found = paths
            .iter()
            .map(|path| Ok((path.as_path(), stat_device(path)?)));
        let found: Vec<_> = found.collect::<Result<_, MountError>>()?;
        Ok(Some(Self {
            tree: make_devices(&found, owner)?,
            devices: found.into_iter().map(|(_, device)| device).collect(),
        }))
    }
}

/// Creates the usual devices, and `own` for the host's user `owner`. Runs as host root; the result
/// is not attached.
pub(super) fn make_devices(own: &[(&Path, Device)], owner: u32) -> Result<OwnedFd, MountError> {
    let settings = [("mode", "755"), ("size", "64k")];
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let made = file_system("tmpfs", &settings, quiet)?;
    for (name, major, minor) in DEVICES {
        let device = Device {
            kind: DeviceType::Character,
            major,
            minor,
        };
        make_node(made.as_fd(), Path::new(name), &device)?;
    }
    for (path, device) in own {
        let place = path
            .strip_prefix("/dev")
            .expect("it was checked to be there");
        if let Some(directory) = place.parent() {
            create_dir(made.as_fd(), directory)?;
        }
        make_node(made.as_fd(), place, device)?;
        let (user, group) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
        chownat(&made, place, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(mount_error(
            format!("give {} to the container's root", path.display()),
        ))?;
    }
    for (name, to) in DEVICE_LINKS {
        symlinkat(to, &made, name).map_err(mount_error(format!("link /dev/{name}")))?;
    }
    for directory in [TERMINALS, QUEUES, MEMORY] {
        create_dir(made.as_fd(), Path::new(directory))?;
    }
    restrict_one(made.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(made)
}

/// Creates a node that all users of the container may open; no other process sees it.
fn make_node(directory: BorrowedFd<'_>, place: &Path, device: &Device) -> Result<(), MountError> {
    let kind = match device.kind {
        DeviceType::Block => FileType::BlockDevice,
        DeviceType::Character => FileType::CharacterDevice,
    };
    let (mode, which) = (
        Mode::from_raw_mode(0o666),
        libc::makedev(device.major, device.minor),
    );
    let made = mknodat(directory, place, kind, mode, which);
    // Independent of the agent's umask.
    made.and_then(|()| chmodat(directory, place, mode, AtFlags::empty()))
        .map_err(mount_error(format!(
            "make a node of /dev/{}",
            place.display()
        )))
}

/// Attaches the container's private mounts in `/dev`. Called by init once `/dev` is attached.
pub(super) fn attach_private(devices: BorrowedFd<'_>, view: &MountSpec) -> Result<(), MountError> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let settings = [("mode", "620"), ("ptmxmode", "666")];
    let terminals = file_system("devpts", &settings, quiet)?;
    attach(terminals.as_fd(), devices, TERMINALS)?;
    // Only the owner of an ipc namespace can mount its queues.
    if !layer_disabled!(Ipc) {
        let queues = file_system(
            "mqueue",
            &[],
            DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        )?;
        attach(queues.as_fd(), devices, QUEUES)?;
    }
    attach(writable_memory(view.shm_bytes)?.as_fd(), devices, MEMORY)
}

/// Returns the device at a host path: the device itself, not a link to one.
fn stat_device(path: &Path) -> Result<Device, MountError> {
    let words = || format!("use the device {}", path.display());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty()).map_err(mount_error(words()))?;
    let found = rustix::fs::fstat(&file).map_err(mount_error(words()))?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::BlockDevice => DeviceType::Block,
        FileType::CharacterDevice => DeviceType::Character,
        _ => {
            let other = std::io::Error::other("it is no device; a link to one does not count");
            return Err(mount_error(words())(other));
        }
    };
    Ok(Device {
        kind,
        major: libc::major(found.st_rdev),
        minor: libc::minor(found.st_rdev),
    })
}
