//! Sandboxes: working directories of tasks, created before a start, one for each instance.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use argosy_host::crash_point;
use argosy_isolation::division::HostUser;
use argosy_isolation::{ContainerUser, HostPath, OwnerMapping};
use argosy_proto::{remedy, v1};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

/// The reason why a sandbox cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The directory could not be created.
    #[error(
        "cannot make the sandbox {path}: {source}; {}",
        remedy::of_failed_write(source)
    )]
    Create { path: PathBuf, source: io::Error },
    /// Tasks may not use the host path.
    #[error("host_paths {path:?} is not allowed here: {rule}")]
    HostPath { path: String, rule: String },
}

/// Parent directories of those of tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParentDirMode {
    mode: u32,
    /// The group that may list them.
    group: Option<u32>,
}

impl ParentDirMode {
    /// Returns the mode for an agent whose files are this user's.
    pub(crate) fn of(owner: HostUser) -> Self {
        let group = (owner != HostUser::current()).then_some(owner.gid);
        Self {
            mode: if group.is_some() { 0o751 } else { 0o711 },
            group,
        }
    }

    /// Returns the same without access for other users.
    pub(crate) fn without_others(self) -> Self {
        let mode = if self.group.is_some() { 0o750 } else { 0o700 };
        Self { mode, ..self }
    }

    /// Returns the mode for an agent without a broker.
    #[cfg(test)]
    pub(crate) fn own() -> Self {
        Self::of(HostUser::current())
    }

    /// Creates a directory and its parents. An existing directory is left unchanged.
    pub(crate) fn make(self, path: &Path) -> io::Result<()> {
        let above = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        match DirBuilder::new().mode(self.mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(above)?;
                return self.make(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            made => made?,
        }
        self.grant_listing(path)
    }

    /// Lets the group list an existing directory.
    pub(crate) fn grant_listing(self, path: &Path) -> io::Result<()> {
        let Some(group) = self.group else {
            return Ok(());
        };
        chown(path, Some(0), Some(group))?;
        fs::set_permissions(path, Permissions::from_mode(self.mode))
    }
}

/// Creates the directory, accessible only to its user. An existing one is reused.
pub(crate) fn make(
    path: &Path,
    owner: Option<&ContainerUser>,
    above: ParentDirMode,
) -> Result<(), SandboxError> {
    let failed = |source| SandboxError::Create {
        path: path.to_owned(),
        source,
    };
    // The task's user must be able to traverse the directories above.
    let parent = path.parent().unwrap_or(path);
    above.make(parent).map_err(failed)?;
    match DirBuilder::new().mode(0o750).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    crash_point!("sandbox.directory-made");
    match owner {
        Some(user) => {
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            nix::unistd::chown(path, Some(uid), Some(gid)).map_err(|errno| failed(errno.into()))
        }
        None => Ok(()),
    }
}

/// The properties of the container that uses host paths.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct HostPathUser {
    /// Whether it has its own view of the file system, not the host's.
    pub(crate) is_confined: bool,
    /// Whether a process in it is, or may become, root of the container.
    pub(crate) may_be_root: bool,
}

/// Checks host paths against the operator's settings, and returns their mounts in the container. A
/// path with a name in the sandbox is mounted at the host's path, and that name becomes a link to
/// it.
pub(crate) fn host_paths(
    sandbox: &Path,
    wanted: &[v1::HostPath],
    allowed: &[PathBuf],
    viewer: HostPathUser,
) -> Result<Vec<HostPath>, SandboxError> {
    let mut seen: Vec<HostPath> = Vec::new();
    for wanted in wanted {
        let host = resolve_permitted(wanted, allowed)?;
        let path = HostPath {
            to: mount_point(sandbox, wanted, &host, viewer)?,
            from: host,
            read_only: wanted.read_only,
            owners: match wanted.read_only && viewer.may_be_root {
                true => OwnerMapping::Unmapped,
                false => OwnerMapping::Mapped,
            },
        };
        if !seen.contains(&path) {
            seen.push(path);
        }
    }
    Ok(seen)
}

fn refused(wanted: &v1::HostPath, rule: impl Into<String>) -> SandboxError {
    SandboxError::HostPath {
        path: wanted.host_path.clone(),
        rule: rule.into(),
    }
}

/// Returns the path without links, if it is below a permitted one.
fn resolve_permitted(wanted: &v1::HostPath, allowed: &[PathBuf]) -> Result<PathBuf, SandboxError> {
    let host = fs::canonicalize(&wanted.host_path);
    let host = host.map_err(|error| refused(wanted, error.to_string()))?;
    let below =
        |prefix: &PathBuf| fs::canonicalize(prefix).is_ok_and(|prefix| host.starts_with(prefix));
    if allowed.iter().any(below) {
        return Ok(host);
    }
    let rule = "the agent must be started with a --host-path that it is below";
    Err(refused(wanted, rule))
}

/// Returns the mount point in the container.
fn mount_point(
    sandbox: &Path,
    wanted: &v1::HostPath,
    host: &Path,
    viewer: HostPathUser,
) -> Result<PathBuf, SandboxError> {
    if wanted.read_only && !viewer.is_confined {
        let rule = "only an agent that isolates in full can keep a task from writing to it; ask for it without read_only, or for another agent";
        return Err(refused(wanted, rule));
    }
    let inside = Path::new(&wanted.container_path);
    if inside.is_absolute() {
        if inside == host {
            return Ok(host.to_owned());
        }
        if inside == Path::new(&wanted.host_path) {
            // Its components would have to be links in the container, too.
            let host = host.display();
            let rule = format!("it leads through a link: name {host} itself");
            return Err(refused(wanted, rule));
        }
        if !viewer.is_confined {
            let inside = inside.display();
            let rule = format!(
                "only an agent that isolates in full can show it at {inside}: use the same path, one in the sandbox, or another agent"
            );
            return Err(refused(wanted, rule));
        }
        return Ok(inside.components().collect());
    }
    let mut parts = inside.components();
    let is_plain = parts.all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || inside.components().count() != 1 {
        let rule = format!("{inside:?} is not a plain name in the sandbox");
        return Err(refused(wanted, rule));
    }
    let link = sandbox.join(inside);
    match std::os::unix::fs::symlink(host, &link) {
        Ok(()) => {}
        Err(_) if fs::read_link(&link).is_ok_and(|target| target == host) => {}
        Err(source) => return Err(SandboxError::Create { path: link, source }),
    }
    Ok(host.to_owned())
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn sandbox_creation_errors_name_a_remedy() {
        for (errno, remedy) in [
            (Errno::EMFILE, "raise the limit of open files"),
            (Errno::ENOSPC, "make room"),
            (Errno::EIO, "check the disk"),
        ] {
            let path = PathBuf::from("/data/sandbox");
            let source = errno.into();
            let text = SandboxError::Create { path, source }.to_string();
            assert!(text.contains(remedy), "{text}");
        }
    }

    fn wanted(host: &Path, container: &str) -> v1::HostPath {
        v1::HostPath {
            host_path: host.to_string_lossy().into_owned(),
            container_path: container.to_owned(),
            read_only: false,
        }
    }

    const CONFINED: HostPathUser = HostPathUser {
        is_confined: true,
        may_be_root: false,
    };

    #[test]
    fn host_paths_are_mounted_only_below_allowed_paths() {
        let directory = tempfile::tempdir().unwrap();
        let directory = fs::canonicalize(directory.path()).unwrap();
        let (allowed, sandbox) = (directory.join("allowed"), directory.join("sandbox"));
        fs::create_dir_all(allowed.join("inner")).unwrap();
        make(&sandbox, None, ParentDirMode::own()).unwrap();
        let seen = |wanted: v1::HostPath| {
            host_paths(
                &sandbox,
                &[wanted],
                std::slice::from_ref(&allowed),
                CONFINED,
            )
        };
        let see = |path: &Path, name: &str| seen(wanted(path, name));
        see(&allowed.join("inner"), "witness").unwrap();
        assert!(sandbox.join("witness").is_dir());
        std::os::unix::fs::symlink(&directory, allowed.join("out")).unwrap();
        for sneaky in [
            directory.clone(),
            allowed.join("inner/../.."),
            allowed.join("out"),
            allowed.join("out/sandbox"),
        ] {
            for name in ["other", "/other"] {
                let why = see(&sneaky, name).unwrap_err().to_string();
                assert!(why.contains("--host-path"), "{why}");
            }
        }
        see(&allowed.join("inner"), "witness").unwrap();
        fs::write(sandbox.join("taken"), "").unwrap();
        assert!(see(&allowed, "taken").is_err());
        assert!(see(&allowed, "../up").is_err());
        std::os::unix::fs::symlink("inner", allowed.join("link")).unwrap();
        let link = allowed.join("link");
        let why = see(&link, link.to_str().unwrap()).unwrap_err().to_string();
        assert!(why.contains("leads through a link"), "{why}");
        // Elsewhere it is the target that the link had at the check.
        let moved = see(&link, "/conf/").unwrap();
        let expected = HostPath {
            from: allowed.join("inner"),
            to: "/conf".into(),
            read_only: false,
            owners: OwnerMapping::Mapped,
        };
        assert_eq!(moved, [expected]);
    }

    #[test]
    fn possible_root_users_get_unmapped_read_only_paths() {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap();
        let see = |read_only, viewer| {
            let wanted = v1::HostPath {
                read_only,
                ..wanted(&path, "/conf")
            };
            host_paths(&path, &[wanted], std::slice::from_ref(&path), viewer)
        };
        let root = HostPathUser {
            may_be_root: true,
            ..CONFINED
        };
        let owners = |read_only, viewer| see(read_only, viewer).unwrap()[0].owners;
        assert_eq!(owners(true, CONFINED), OwnerMapping::Mapped);
        assert_eq!(owners(true, root), OwnerMapping::Unmapped);
        assert_eq!(
            owners(false, root),
            OwnerMapping::Mapped,
            "for isolation to refuse"
        );
        let bare = HostPathUser {
            is_confined: false,
            ..CONFINED
        };
        for read_only in [true, false] {
            let why = see(read_only, bare).unwrap_err().to_string();
            assert!(why.contains("isolates in full"), "{why}");
        }
    }
}
