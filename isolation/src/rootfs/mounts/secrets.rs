//! Secrets: files that a container sees as files of its user. They come from the host's operator,
//! or in memory with the launch.
//!
//! Their bytes go from these files to a memory file system that only the container has, and that is
//! never swapped where the kernel supports that. The kernel copies them from file to file.
//! They never pass through the memory of launcher, supervisor and init, and are in no request and
//! no state file.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::MountAttrFlags;

use crate::rootfs::mount_calls::{DEFAULT_ATTRIBUTES, MountError, file_system, mount_error};
use crate::spec::mounts::{DeliveredSecret, SECRET_LIMIT_BYTES, SecretFile};

/// An error of opening a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The directory cannot be opened.
    #[error("cannot open the secret directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    /// Users other than the agent's may enter the directory.
    #[error(
        "the secret directory {path} is accessible to users other than the agent's: give it to that user, with mode 0700"
    )]
    Exposed { path: PathBuf },
    /// The file does not exist, or a link leads to it.
    #[error(
        "there is no secret {name:?} in {directory} that can be opened without following a link"
    )]
    Open {
        /// Its name in the directory.
        name: PathBuf,
        directory: PathBuf,
        source: io::Error,
    },
    /// It is not a file of at most [`SECRET_LIMIT_BYTES`].
    #[error("the secret {name:?} is not a regular file of at most 1 MiB")]
    Kind {
        /// Its name in the directory.
        name: PathBuf,
    },
}

impl SecretFile {
    /// Opens the file, at its beginning.
    ///
    /// # Errors
    /// If the directory is open to others, or there is no such regular, small file.
    pub fn open(&self) -> Result<File, SecretError> {
        let path = &self.directory;
        let failed = |source: io::Error| SecretError::Directory {
            path: path.clone(),
            source,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty());
        let directory = File::from(directory.map_err(|errno| failed(errno.into()))?);
        let found = directory.metadata().map_err(failed)?;
        let own = rustix::process::geteuid().as_raw();
        if found.uid() != own || found.mode() & 0o077 != 0 {
            return Err(SecretError::Exposed { path: path.clone() });
        }
        let opened = |source: io::Error| SecretError::Open {
            name: self.name.clone(),
            directory: path.clone(),
            source,
        };
        // Opening must not block on other file types.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(&directory, &self.name, flags, Mode::empty(), beneath);
        let file = File::from(file.map_err(|errno| opened(errno.into()))?);
        let found = file.metadata().map_err(opened)?;
        if !found.is_file() || found.len() > SECRET_LIMIT_BYTES {
            return Err(SecretError::Kind {
                name: self.name.clone(),
            });
        }
        Ok(file)
    }
}

/// Returns the name of the secret with this number in its vault.
pub(super) fn name_in_vault(number: usize) -> String {
    number.to_string()
}

/// The source of a secret.
pub(super) enum SecretSource<'a> {
    /// A file of the host's operator.
    File(&'a SecretFile),
    /// A part of the file that came with the launch.
    Delivered(DeliveredSecret),
}

impl SecretSource<'_> {
    /// Returns its name for messages.
    fn name(&self) -> String {
        match self {
            Self::File(secret) => secret.name.display().to_string(),
            Self::Delivered(secret) => format!("at byte {} of the launch", secret.offset),
        }
    }

    /// Opens it at its first byte, for at most as many bytes as it has.
    fn open(&self, delivered: Option<&File>) -> Result<io::Take<File>, MountError> {
        let failed = |error| mount_error("give it its secrets")(error);
        match self {
            Self::File(secret) => {
                let file = secret
                    .open()
                    .map_err(|error| failed(io::Error::other(error)))?;
                Ok(file.take(SECRET_LIMIT_BYTES))
            }
            Self::Delivered(secret) => {
                let missing = || failed(io::Error::other("no secrets came with the launch"));
                let mut file = delivered.ok_or_else(missing)?.try_clone().map_err(failed)?;
                let length = file.metadata().map_err(failed)?.len();
                if secret.offset.saturating_add(secret.bytes) > length {
                    return Err(failed(io::ErrorKind::UnexpectedEof.into()));
                }
                file.seek(SeekFrom::Start(secret.offset)).map_err(failed)?;
                Ok(file.take(secret.bytes))
            }
        }
    }
}

/// Copies secrets into an unattached memory file system, for container root only. Runs as host
/// root. Returns `None` without secrets. Empties the file that came with the launch, which this
/// process may hold open as long as it runs.
pub(super) fn fill_vault<'a>(
    secrets: impl Iterator<Item = SecretSource<'a>>,
    delivered: Option<&OwnedFd>,
    first_host_id: u32,
) -> Result<Option<OwnedFd>, MountError> {
    let delivered = delivered
        .map(|file| file.try_clone().map(File::from))
        .transpose();
    let delivered = delivered.map_err(mount_error("read the secrets of the launch"))?;
    let mut secrets = secrets.enumerate().peekable();
    if secrets.peek().is_none() {
        return Ok(None);
    }
    let vault = make_vault()?;
    for (number, secret) in secrets {
        let mut from = secret.open(delivered.as_ref())?;
        let words = || format!("keep the secret {}", secret.name());
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = name_in_vault(number);
        let made = openat(&vault, name, flags, Mode::RUSR).map_err(mount_error(words()))?;
        let mut made = File::from(made);
        io::copy(&mut from, &mut made)
            .and_then(|_| made.set_permissions(fs::Permissions::from_mode(0o400)))
            .and_then(|()| {
                std::os::unix::fs::fchown(&made, Some(first_host_id), Some(first_host_id))
            })
            .map_err(mount_error(words()))?;
    }
    if let Some(file) = delivered {
        let emptied = file.set_len(0);
        emptied.map_err(mount_error("erase the secrets of the launch"))?;
    }
    Ok(Some(vault))
}

/// Creates the vault, without swap if the kernel supports that (6.4). A container with a memory
/// limit has no swap anyway.
fn make_vault() -> Result<OwnedFd, MountError> {
    // Its root lets users pass to files of the container of which they know only the names.
    let settings = [("mode", "711"), ("size", "65m")];
    let attributes = DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let unswapped: Vec<_> = settings.into_iter().chain([("noswap", "")]).collect();
    file_system("tmpfs", &unswapped, attributes)
        .or_else(|_| file_system("tmpfs", &settings, attributes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(directory.path().join("web")).unwrap();
        fs::write(directory.path().join("web/db"), "s3cret").unwrap();
        directory
    }

    fn secret(directory: &Path, name: &str) -> SecretFile {
        SecretFile {
            directory: directory.to_owned(),
            name: name.into(),
        }
    }

    #[test]
    fn a_secret_is_a_small_regular_file_in_its_directory() {
        let directory = directory();
        let mut text = String::new();
        let mut file = secret(directory.path(), "web/db").open().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "s3cret");
        let refused = |name: &str| secret(directory.path(), name).open().unwrap_err();
        let absent = refused("web/none");
        assert!(matches!(absent, SecretError::Open { .. }), "{absent}");
        assert!(matches!(refused("web"), SecretError::Kind { .. }));
        let large = File::create(directory.path().join("web/large")).unwrap();
        large.set_len(SECRET_LIMIT_BYTES + 1).unwrap();
        assert!(matches!(refused("web/large"), SecretError::Kind { .. }));
    }

    #[test]
    fn a_delivered_secret_is_a_part_of_the_file_of_its_launch() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"onetwo").unwrap();
        let part = |offset, bytes| SecretSource::Delivered(DeliveredSecret { offset, bytes });
        let read = |offset, bytes| {
            let mut text = String::new();
            let mut opened = part(offset, bytes).open(Some(&file))?;
            opened.read_to_string(&mut text).unwrap();
            Ok::<_, MountError>(text)
        };
        assert_eq!(read(3, 3).unwrap(), "two");
        assert_eq!(read(0, 3).unwrap(), "one");
        assert_eq!(read(6, 0).unwrap(), "");
        for (offset, bytes) in [(4, 3), (7, 0), (u64::MAX, 1)] {
            assert!(read(offset, bytes).is_err(), "{offset} {bytes}");
        }
        assert!(part(0, 3).open(None).is_err());
    }

    #[test]
    fn links_to_secrets_are_not_followed() {
        let directory = directory();
        fs::write(directory.path().join("key"), "another's").unwrap();
        symlink("../key", directory.path().join("web/link")).unwrap();
        symlink("web", directory.path().join("alias")).unwrap();
        for name in [
            "web/link",
            "alias/db",
            "web/../key/..",
            "../../etc/passwd",
            "/etc/passwd",
        ] {
            let refused = secret(directory.path(), name).open().unwrap_err();
            let is_closed = matches!(refused, SecretError::Open { .. } | SecretError::Kind { .. });
            assert!(is_closed, "{name}: {refused}");
        }
    }

    #[test]
    fn a_secret_directory_open_to_others_is_rejected() {
        let directory = directory();
        for mode in [0o750, 0o701, 0o777] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let refused = secret(directory.path(), "web/db").open().unwrap_err();
            assert!(matches!(refused, SecretError::Exposed { .. }), "{refused}");
        }
        let gone = secret(&directory.path().join("gone"), "web/db")
            .open()
            .unwrap_err();
        assert!(matches!(gone, SecretError::Directory { .. }), "{gone}");
    }
}
