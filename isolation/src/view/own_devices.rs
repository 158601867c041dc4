//! Devices of the host that a container has beside the usual six.
//!
//! Nodes of its own: those of the host belong to users that the container does not have, and stay as they are. The
//! supervisor, who may, makes them in a small file system that is attached nowhere; init, who may not, attaches each of
//! them at its path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, mknodat, openat, unlinkat,
};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::fchdir;

use super::{ViewError, attach, failed, file_system, make_file, make_folder, restrict, take};
use crate::device_filter::{Device, Kind};

/// Where their file system is while they are attached; nothing of this name is left.
const MEANWHILE: &str = ".own";

/// Nodes that are attached nowhere yet, with their places below `/dev`.
pub(crate) struct OwnDevices {
    nodes: OwnedFd,
    places: Vec<PathBuf>,
    /// What they are, for the filter.
    pub(crate) devices: Vec<Device>,
}

impl OwnDevices {
    /// Makes nodes of the devices at these paths of the host, for the container whose root is the host's user `owner`; as
    /// root of the host. `None` if there are none.
    pub(crate) fn make(paths: &[PathBuf], owner: u32) -> Result<Option<Self>, ViewError> {
        if paths.is_empty() {
            return Ok(None);
        }
        let settings = [("mode", "755"), ("size", "64k")];
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let nodes = file_system("tmpfs", &settings, quiet)?;
        let mut made = Self {
            nodes,
            places: Vec::new(),
            devices: Vec::new(),
        };
        for (number, path) in paths.iter().enumerate() {
            let device = look(path)?;
            let kind = match device.kind {
                Kind::Block => FileType::BlockDevice,
                Kind::Character => FileType::CharacterDevice,
            };
            let words = || format!("make a node of {}", path.display());
            let name = number.to_string();
            // For all users of the container: nobody else sees it.
            let mode = Mode::from_raw_mode(0o666);
            let which = libc::makedev(device.major, device.minor);
            mknodat(&made.nodes, &name, kind, mode, which).map_err(failed(words()))?;
            let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chownat(&made.nodes, &name, Some(user), Some(group), flags).map_err(failed(words()))?;
            rustix::fs::chmodat(&made.nodes, &name, mode, AtFlags::empty())
                .map_err(failed(words()))?;
            let place = path
                .strip_prefix("/dev")
                .expect("it was checked to be there");
            made.places.push(place.to_owned());
            made.devices.push(device);
        }
        Ok(Some(made))
    }

    /// Puts them into a container's `/dev`; by init. Changes the working directory.
    pub(super) fn attach_in(&self, devices: BorrowedFd<'_>) -> Result<(), ViewError> {
        let meanwhile = make_folder(devices, Path::new(MEANWHILE))?;
        attach(self.nodes.as_fd(), meanwhile.as_fd(), "")?;
        for (number, place) in self.places.iter().enumerate() {
            let node = take(devices, &Path::new(MEANWHILE).join(number.to_string()))?;
            restrict(
                node.as_fd(),
                MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
            )?;
            attach(node.as_fd(), make_file(devices, place)?.as_fd(), "")?;
        }
        fchdir(devices).map_err(failed("enter /dev"))?;
        unmount(MEANWHILE, UnmountFlags::DETACH).map_err(failed("let go of the nodes"))?;
        unlinkat(devices, MEANWHILE, AtFlags::REMOVEDIR).map_err(failed("let go of the nodes"))
    }
}

/// What the host has at a path: a device itself, no link to one.
fn look(path: &Path) -> Result<Device, ViewError> {
    let words = || format!("use the device {}", path.display());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty()).map_err(failed(words()))?;
    let found = rustix::fs::fstat(&file).map_err(failed(words()))?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::BlockDevice => Kind::Block,
        FileType::CharacterDevice => Kind::Character,
        _ => {
            let other = std::io::Error::other("it is no device; a link to one does not count");
            return Err(failed(words())(other));
        }
    };
    Ok(Device {
        kind,
        major: libc::major(found.st_rdev),
        minor: libc::minor(found.st_rdev),
    })
}
