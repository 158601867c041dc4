//! Volumes: mounts of a container in addition to its root and its sandbox.
//!
//! Init creates them before any program of the container has run. It does not follow whatever an
//! image or a fetched archive has at their paths.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::fchdir;

use super::secrets::{SecretSource, fill_vault, name_in_vault};
use crate::rootfs::mount_calls::{
    DEFAULT_ATTRIBUTES, MountError, attach, clone_dir, clone_mount, create_dir, create_file,
    mount_error, no_mount_point, restrict, writable_memory,
};
use crate::spec::ContainerUser;
use crate::spec::mounts::{SANDBOX, Volume, VolumeSource};

/// A file or directory whose owner becomes the command's user, once that user is known.
pub(crate) struct PendingChown {
    /// The file, or its parent directory.
    directory: OwnedFd,
    /// The name in that directory; empty if it is `at` itself.
    name: String,
}

impl PendingChown {
    /// Makes the user its owner.
    pub(crate) fn apply(&self, user: Option<&ContainerUser>) -> Result<(), MountError> {
        let (uid, gid) = user.map_or((0, 0), |user| (user.uid, user.gid));
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        chownat(
            &self.directory,
            self.name.as_str(),
            Some(uid),
            Some(gid),
            flags,
        )
        .map_err(mount_error("give a volume to the command's user"))
    }
}

/// Opens the secrets among the volumes, in order, as host root. `delivered` is the file that came
/// with the launch.
pub(super) fn open_secrets(
    volumes: &[Volume],
    delivered: Option<&OwnedFd>,
    first_host_id: u32,
) -> Result<Option<OwnedFd>, MountError> {
    fill_vault(secrets(volumes), delivered, first_host_id)
}

fn secrets(volumes: &[Volume]) -> impl Iterator<Item = SecretSource<'_>> {
    volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Secret(secret) => Some(SecretSource::File(secret)),
        VolumeSource::Delivered(secret) => Some(SecretSource::Delivered(*secret)),
        VolumeSource::Sandbox(_) | VolumeSource::Tmpfs { .. } => None,
    })
}

/// Returns unattached mounts of the single secrets, in order, with their future owners. `/tmp` must
/// still be unused.
pub(super) fn secret_mounts(
    root: BorrowedFd<'_>,
    vault: Option<&OwnedFd>,
    volumes: &[Volume],
) -> Result<(Vec<OwnedFd>, Vec<PendingChown>), MountError> {
    let Some(vault) = vault else {
        return Ok((Vec::new(), Vec::new()));
    };
    // Only an attached mount can be cloned.
    attach(
        vault.as_fd(),
        create_dir(root, Path::new("tmp"))?.as_fd(),
        "",
    )?;
    let single = (0..secrets(volumes).count()).map(|number| {
        let name = name_in_vault(number);
        let tree = clone_mount(vault.as_fd(), Path::new(&name))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        restrict(tree.as_fd(), DEFAULT_ATTRIBUTES | attributes)?;
        let at = vault.try_clone().map_err(mount_error(
            "duplicate the descriptor of the secret directory",
        ))?;
        Ok((
            tree,
            PendingChown {
                directory: at,
                name,
            },
        ))
    });
    let single = single.collect::<Result<_, MountError>>()?;
    fchdir(root)
        .and_then(|()| unmount("tmp", UnmountFlags::DETACH))
        .map_err(mount_error("unmount the secret directory"))?;
    Ok(single)
}

/// Attaches the volumes, outer ones first. `secrets` are the mounts of the secrets among them, in
/// order.
pub(super) fn attach_volumes(
    root: BorrowedFd<'_>,
    volumes: &[Volume],
    secrets: Vec<OwnedFd>,
) -> Result<Vec<PendingChown>, MountError> {
    let mut pending_chowns = Vec::new();
    let mut secrets = secrets.into_iter();
    let trees = volumes.iter().map(|volume| {
        let tree = match &volume.source {
            VolumeSource::Sandbox(below) => sandbox_dir(root, below, &mut pending_chowns)?,
            VolumeSource::Tmpfs { bytes } => writable_memory(*bytes)?,
            VolumeSource::Secret(_) | VolumeSource::Delivered(_) => {
                secrets.next().expect("each secret has a mount")
            }
        };
        if volume.read_only {
            restrict(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        }
        Ok((volume, tree))
    });
    let mut trees = trees.collect::<Result<Vec<_>, MountError>>()?;
    trees.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
    for (volume, tree) in trees {
        let place = mount_point(root, volume)
            .map_err(|error| no_mount_point("volume", &volume.path, error))?;
        attach(tree.as_fd(), place.as_fd(), "")?;
    }
    Ok(pending_chowns)
}

/// Returns a mount of a directory of the sandbox. Missing parts of its path are created for the
/// command's user.
fn sandbox_dir(
    root: BorrowedFd<'_>,
    below: &Path,
    chowns: &mut Vec<PendingChown>,
) -> Result<OwnedFd, MountError> {
    let words = || format!("create the directory {} of the sandbox", below.display());
    let sandbox = Path::new(SANDBOX).strip_prefix("/");
    let mut dir = create_dir(root, sandbox.expect("it is absolute"))?;
    for part in below {
        let is_new = match mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(mount_error(words())(errno)),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = openat(&dir, part, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOTDIR | Errno::LOOP => {
                let text = "a file or a link is in its place; leave it out of what is fetched";
                mount_error(words())(io::Error::other(text))
            }
            errno => mount_error(words())(errno),
        })?;
        if is_new {
            let at = dir.try_clone().map_err(mount_error(words()))?;
            let name = String::new();
            chowns.push(PendingChown {
                directory: at,
                name,
            });
        }
    }
    clone_dir(dir.as_fd())
}

/// Returns the mount point of a volume.
fn mount_point(root: BorrowedFd<'_>, volume: &Volume) -> Result<OwnedFd, MountError> {
    let path = volume.path.strip_prefix("/").unwrap_or(&volume.path);
    match &volume.source {
        VolumeSource::Sandbox(_) | VolumeSource::Tmpfs { .. } => create_dir(root, path),
        VolumeSource::Secret(_) | VolumeSource::Delivered(_) => create_file(root, path),
    }
}
