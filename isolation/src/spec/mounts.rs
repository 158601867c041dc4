//! The files that a container sees: its root, host paths, volumes and secrets.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::SpecError;
use super::image::RootFs;

/// The path of the sandbox in the container.
pub const SANDBOX: &str = "/sandbox";

/// The path of the directory that it shares with other containers, if it has one.
pub const SHARED: &str = "/group";

/// Paths of the kernel or the supervisor: no volume is mounted over or in them.
const RESERVED: [&str; 5] = ["/dev", "/proc", "/sys", SANDBOX, SHARED];

/// The part of the host that a container sees, in addition to the host's programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    pub root: RootFs,
    /// The host paths that it sees.
    pub host_paths: Vec<HostPath>,
    pub volumes: Vec<Volume>,
    /// The size of `/tmp`, in bytes. Counts as the container's memory.
    pub tmp_bytes: u64,
    /// The size of `/dev/shm`, in bytes. Counts as the container's memory.
    pub shm_bytes: u64,
}

impl MountSpec {
    /// Whether users of the container are users of the host on some host path.
    pub(crate) fn has_mapped_owners(&self) -> bool {
        let mut paths = self.host_paths.iter();
        paths.any(|path| path.owners == OwnerMapping::Mapped)
    }
}

/// A host file or directory that a container sees. Its submounts are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPath {
    /// The path on the host: absolute, resolved by the caller; it must exist, and contains no link.
    pub from: PathBuf,
    /// The path in the container: absolute, without `..`, not in `/dev`, `/proc`, `/sys` or the
    /// sandbox. Missing parts are created in the container's root; among the host's programs it
    /// must exist.
    pub to: PathBuf,
    pub read_only: bool,
    pub owners: OwnerMapping,
}

/// The owners of a host path's files, as its container sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerMapping {
    /// The container's users are the host's users with the same ids. Not allowed for a user that
    /// is, or may become, root.
    Mapped,
    /// No user of the container, not even its root: it reads what all users of the host may read.
    /// Only read-only.
    #[serde(rename = "strangers")]
    Unmapped,
}

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
    /// The same with bytes that come with the launch: see
    /// [`LaunchDescriptors::secrets`](crate::LaunchDescriptors::secrets).
    Delivered(DeliveredSecret),
}

impl Volume {
    /// Whether the command may write to it.
    pub(crate) fn is_writable(&self) -> bool {
        match self.source {
            VolumeSource::Sandbox(_) | VolumeSource::Tmpfs { .. } => !self.read_only,
            VolumeSource::Secret(_) | VolumeSource::Delivered(_) => false,
        }
    }
}

/// The maximum size of a secret, in bytes: 1 MiB.
pub const SECRET_LIMIT_BYTES: u64 = 1024 * 1024;

/// The location of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// The operator's directory: absolute, and accessible only to the agent's user.
    #[serde(rename = "folder")]
    pub directory: PathBuf,
    /// The file's path below it. No link on the path is followed.
    pub name: PathBuf,
}

/// The place of a secret in the file that comes with the launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveredSecret {
    /// The number of bytes before it.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// Rejects volumes that cannot be mounted, or would hide what every container has.
pub(super) fn check_volumes(volumes: &[Volume]) -> Result<(), SpecError> {
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
                if !secret.directory.is_absolute() || !is_plain(&secret.name) =>
            {
                return refuse(&secret.name, "name a file below an absolute directory");
            }
            VolumeSource::Delivered(secret) if secret.bytes > SECRET_LIMIT_BYTES => {
                return refuse(path, "a secret takes at most 1 MiB");
            }
            VolumeSource::Sandbox(_)
            | VolumeSource::Tmpfs { .. }
            | VolumeSource::Secret(_)
            | VolumeSource::Delivered(_) => {}
        }
    }
    Ok(())
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

    fn secret(directory: &str, name: &str) -> VolumeSource {
        VolumeSource::Secret(SecretFile {
            directory: directory.into(),
            name: name.into(),
        })
    }

    fn delivered(bytes: u64) -> VolumeSource {
        VolumeSource::Delivered(DeliveredSecret { offset: 0, bytes })
    }

    #[test]
    fn a_volume_that_cannot_be_mounted_is_refused() {
        let fine = [
            volume("/data", VolumeSource::Sandbox("a/b".into())),
            volume("/tmp", tmpfs(4_096)),
            volume("/run/secrets/db", secret("/etc/secrets", "web/db")),
            volume("/run/secrets/key", delivered(SECRET_LIMIT_BYTES)),
        ];
        assert_eq!(check_volumes(&fine), Ok(()));
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
            volume("/x", delivered(SECRET_LIMIT_BYTES + 1)),
        ];
        for wrong in bad {
            let refused = check_volumes(&[fine[0].clone(), wrong.clone()]);
            assert_eq!(
                refused.map_err(|error| error.field),
                Err("volumes"),
                "{wrong:?}"
            );
        }
    }
}
