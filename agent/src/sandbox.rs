//! Sandboxes: working directories of tasks, created before a start, one for each instance.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use argosy_host::crash_point;
use argosy_isolation::division::HostUser;
use argosy_isolation::{ContainerUser, HostPath, OwnerMapping};
use argosy_proto::host_path::without_detours;
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

/// Number of attempts to create a directory whose parent is removed concurrently.
const ATTEMPTS: u32 = 100;

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

    /// Creates a directory by `builder`, and its parents. An existing directory is left unchanged.
    pub(crate) fn make_below(self, path: &Path, builder: &DirBuilder) -> io::Result<()> {
        let parent = path.parent().unwrap_or(path);
        let mut attempts = 1;
        loop {
            match self.make(parent).and_then(|()| builder.create(path)) {
                // Garbage collection has removed the parent because it was empty.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {
                    attempts += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                made => return made,
            }
        }
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
    let made = above.make_below(path, DirBuilder::new().mode(0o750));
    made.map_err(failed)?;
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

/// Returns the path without links, if it is below a permitted one. Links are allowed above the
/// permitted one only: masters compare the rest with rules as text, and tasks can create links.
fn resolve_permitted(wanted: &v1::HostPath, allowed: &[PathBuf]) -> Result<PathBuf, SandboxError> {
    let host = fs::canonicalize(&wanted.host_path);
    let host = host.map_err(|error| refused(wanted, error.to_string()))?;
    if host.to_str().is_none() {
        return Err(refused(wanted, "it leads to a path that is not UTF-8"));
    }
    let named = PathBuf::from(without_detours(&wanted.host_path));
    let mut is_below = false;
    for prefix in allowed {
        let Ok(resolved) = fs::canonicalize(prefix) else {
            continue;
        };
        is_below |= host.starts_with(&resolved);
        let rest = named.strip_prefix(prefix);
        if rest.is_ok_and(|rest| resolved.join(rest) == host) {
            return Ok(host);
        }
    }
    let rule = match is_below {
        true => {
            "it leads through a link, or to a --host-path of the agent by another name: name it without links, as the agent's --host-path begins"
        }
        false => "the agent must be started with a --host-path that it is below",
    };
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
            let rule = "the agent's --host-path leads through a link: mount it by a plain name in the sandbox";
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
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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

    #[test]
    fn a_parent_that_is_collected_concurrently_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().join("task");
        let ended = AtomicBool::new(false);
        // A garbage collection removes a parent once. Without a limit, this thread may win each of
        // the attempts.
        let removals = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    if removals.load(Ordering::Relaxed) < 50 && fs::remove_dir(&parent).is_ok() {
                        removals.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let sandbox = parent.join("1");
            let made = (0..500).map(|_| {
                removals.store(0, Ordering::Relaxed);
                let made = make(&sandbox, None, ParentDirMode::own());
                let _ = fs::remove_dir(&sandbox);
                made
            });
            let failed = made.filter_map(Result::err).next();
            ended.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
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
        symlink(&directory, allowed.join("out")).unwrap();
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
        let moved = see(&allowed.join("inner/../inner"), "/conf/").unwrap();
        let expected = HostPath {
            from: allowed.join("inner"),
            to: "/conf".into(),
            read_only: false,
            owners: OwnerMapping::Mapped,
        };
        assert_eq!(moved, [expected]);
    }

    #[test]
    fn links_below_a_host_path_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let directory = fs::canonicalize(directory.path()).unwrap();
        let (allowed, real) = (directory.join("allowed"), directory.join("real"));
        fs::create_dir_all(real.join("web")).unwrap();
        fs::create_dir_all(real.join("payroll")).unwrap();
        // By the operator, above; the others by a task, below.
        symlink(&real, &allowed).unwrap();
        symlink("../payroll", real.join("web/x")).unwrap();
        let strange = real.join(OsStr::from_bytes(b"\xff"));
        fs::create_dir(&strange).unwrap();
        symlink(&strange, real.join("web/strange")).unwrap();
        let see = |path: &str| {
            let path = wanted(&allowed.join(path), "/conf");
            host_paths(&real, &[path], std::slice::from_ref(&allowed), CONFINED)
        };
        assert_eq!(see("payroll").unwrap()[0].from, real.join("payroll"));
        for (path, reason) in [
            ("web/x", "through a link"),
            ("web/x/../web/x", "through a link"),
            ("../real/payroll", "through a link"),
            ("web/strange", "not UTF-8"),
        ] {
            let why = see(path).unwrap_err().to_string();
            assert!(why.contains(reason), "{path}: {why}");
        }
        // Its own path has the operator's link.
        let own = allowed.join("payroll");
        let own = wanted(&own, own.to_str().unwrap());
        let refused = host_paths(&real, &[own], std::slice::from_ref(&allowed), CONFINED);
        assert!(refused.unwrap_err().to_string().contains("plain name"));
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
