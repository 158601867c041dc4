//! Volumes: mounts of a container in addition to its root and its sandbox.
//!
//! Init creates them before any program of the container has run. It does not follow whatever an
//! image or a fetched archive has at their paths.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::fchdir;
use serde::{Deserialize, Serialize};

use super::secrets::{SecretFile, fill_vault, name_in_vault};
use super::{
    DEFAULT_ATTRIBUTES, MountError, SANDBOX, SHARED, attach, clone_dir, clone_mount, create_dir,
    create_file, mount_error, no_mount_point, restrict, writable_memory,
};
use crate::spec::{ContainerUser, SpecError};

/// Paths of the kernel or the supervisor: no volume is mounted over or in them.
const RESERVED: [&str; 5] = ["/dev", "/proc", "/sys", SANDBOX, SHARED];

/// A mount point of a container with separate contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The path: absolute, without `.` and `..`, not in `/dev`, `/proc`, `/sys` or the sandbox.
    /// Missing parts are created in the container's root; among the host's programs it must exist.
    pub path: PathBuf,
    /// Whether it is read-only. A secret always is.
    pub read_only: bool,
    pub source: VolumeSource,
}

/// The source of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeSource {
    /// A directory below the sandbox, which is created for the command's user if it does not exist.
    Sandbox(PathBuf),
    /// A memory file system for all users of the container. Counts as its memory.
    Tmpfs {
        /// The maximum size, in bytes; not 0.
        bytes: u64,
    },
    /// A file that only the command's user can read.
    Secret(SecretFile),
}

impl Volume {
    /// Whether the command may write to it.
    pub(crate) fn is_writable(&self) -> bool {
        match self.source {
            VolumeSource::Sandbox(_) | VolumeSource::Tmpfs { .. } => !self.read_only,
            VolumeSource::Secret(_) => false,
        }
    }
}

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

/// Rejects volumes that cannot be mounted, or would hide what every container has.
pub(crate) fn check(volumes: &[Volume]) -> Result<(), SpecError> {
    let refuse =
        |path: &Path, remedy: &str| Err(SpecError::new("volumes", &path.to_string_lossy(), remedy));
    let is_plain = |path: &Path| {
        let mut parts = path.components();
        let plain = parts.all(|part| matches!(part, Component::Normal(_)));
        plain && !path.as_os_str().is_empty() && !path.as_os_str().as_encoded_bytes().contains(&0)
    };
    for (at, volume) in volumes.iter().enumerate() {
        let path = volume.path.as_path();
        let is_reserved = RESERVED.iter().any(|reserved| path.starts_with(reserved));
        if is_reserved || !path.strip_prefix("/").is_ok_and(is_plain) {
            let remedy =
                "give an absolute path without '..', not in /dev, /proc, /sys, /sandbox or /group";
            return refuse(path, remedy);
        }
        if volumes[..at].iter().any(|other| other.path == path) {
            return refuse(path, "give each volume a separate path");
        }
        match &volume.source {
            VolumeSource::Sandbox(below) if !is_plain(below) => {
                return refuse(below, "name a directory below the sandbox, without '..'");
            }
            VolumeSource::Tmpfs { bytes: 0 } => {
                return refuse(path, "give its file system a size");
            }
            VolumeSource::Secret(secret)
                if !secret.folder.is_absolute() || !is_plain(&secret.name) =>
            {
                return refuse(&secret.name, "name a file below an absolute directory");
            }
            VolumeSource::Sandbox(_) | VolumeSource::Tmpfs { .. } | VolumeSource::Secret(_) => {}
        }
    }
    Ok(())
}

/// Opens the secrets among the volumes, in order, as host root.
pub(super) fn open_secrets(
    volumes: &[Volume],
    first_host_id: u32,
) -> Result<Option<OwnedFd>, MountError> {
    fill_vault(secrets(volumes), first_host_id)
}

fn secrets(volumes: &[Volume]) -> impl Iterator<Item = &SecretFile> {
    volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Secret(secret) => Some(secret),
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
    let mut gifts = Vec::new();
    let mut secrets = secrets.into_iter();
    let trees = volumes.iter().map(|volume| {
        let tree = match &volume.source {
            VolumeSource::Sandbox(below) => sandbox_dir(root, below, &mut gifts)?,
            VolumeSource::Tmpfs { bytes } => writable_memory(*bytes)?,
            VolumeSource::Secret(_) => secrets.next().expect("each secret has a mount"),
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
    Ok(gifts)
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
    let mut folder = create_dir(root, sandbox.expect("it is absolute"))?;
    for part in below {
        let is_new = match mkdirat(&folder, part, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(mount_error(words())(errno)),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = openat(&folder, part, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOTDIR | Errno::LOOP => {
                let text = "a file or a link is in its place; leave it out of what is fetched";
                mount_error(words())(io::Error::other(text))
            }
            errno => mount_error(words())(errno),
        })?;
        if is_new {
            let at = folder.try_clone().map_err(mount_error(words()))?;
            let name = String::new();
            chowns.push(PendingChown {
                directory: at,
                name,
            });
        }
    }
    clone_dir(folder.as_fd())
}

/// Returns the mount point of a volume.
fn mount_point(root: BorrowedFd<'_>, volume: &Volume) -> Result<OwnedFd, MountError> {
    let path = volume.path.strip_prefix("/").unwrap_or(&volume.path);
    match &volume.source {
        VolumeSource::Sandbox(_) | VolumeSource::Tmpfs { .. } => create_dir(root, path),
        VolumeSource::Secret(_) => create_file(root, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(path: &str, source: VolumeSource) -> Volume {
        Volume {
            path: path.into(),
            read_only: false,
            source,
        }
    }

    fn tmpfs(bytes: u64) -> VolumeSource {
        VolumeSource::Tmpfs { bytes }
    }

    fn secret(folder: &str, name: &str) -> VolumeSource {
        VolumeSource::Secret(SecretFile {
            folder: folder.into(),
            name: name.into(),
        })
    }

    #[test]
    fn a_volume_that_cannot_be_mounted_is_refused() {
        let fine = [
            volume("/data", VolumeSource::Sandbox("a/b".into())),
            volume("/tmp", tmpfs(4_096)),
            volume("/run/secrets/db", secret("/etc/secrets", "web/db")),
        ];
        assert_eq!(check(&fine), Ok(()));
        let bad = [
            volume("data", tmpfs(1)),
            volume("/", tmpfs(1)),
            volume("/a/../b", tmpfs(1)),
            volume("/proc/self", tmpfs(1)),
            volume("/sandbox", tmpfs(1)),
            volume("/data", tmpfs(1)),
            volume("/x", tmpfs(0)),
            volume("/x", VolumeSource::Sandbox("../other".into())),
            volume("/x", VolumeSource::Sandbox("/etc".into())),
            volume("/x", secret("relative", "web/db")),
            volume("/x", secret("/etc/secrets", "web/../db")),
        ];
        for wrong in bad {
            let refused = check(&[fine[0].clone(), wrong.clone()]);
            assert_eq!(
                refused.map_err(|error| error.field),
                Err("volumes"),
                "{wrong:?}"
            );
        }
    }
}
