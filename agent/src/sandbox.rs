//! Working directories of tasks: made before a start, one for each instance.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use argosy_isolation::{User, crash};
use argosy_proto::v1;
use nix::unistd::{Gid, Uid};

/// Why a sandbox cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The folder could not be made.
    #[error("cannot make the sandbox {path}: {source}; mend the disk or make room")]
    Make { path: PathBuf, source: io::Error },
    /// A host path is not one that tasks may see.
    #[error("host_paths {path:?} is not allowed here: {rule}")]
    HostPath { path: String, rule: String },
}

/// Makes the folder, for its user alone. One that is there already is taken.
pub(crate) fn make(path: &Path, owner: Option<&User>) -> Result<(), SandboxError> {
    let failed = |source| SandboxError::Make {
        path: path.to_owned(),
        source,
    };
    // The task's user must be able to pass through the folders above.
    let parent = path.parent().unwrap_or(path);
    DirBuilder::new()
        .mode(0o711)
        .recursive(true)
        .create(parent)
        .map_err(failed)?;
    match DirBuilder::new().mode(0o750).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    crash::passed("sandbox.folder-made");
    match owner {
        Some(user) => {
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            nix::unistd::chown(path, Some(uid), Some(gid)).map_err(|errno| failed(errno.into()))
        }
        None => Ok(()),
    }
}

/// Makes host paths visible, and returns them as the host names them. Tasks see the host's files under their own names, so that an absolute
/// container path must be the host's, and one in the sandbox becomes a link.
pub(crate) fn link_host_paths(
    sandbox: &Path,
    host_paths: &[v1::HostPath],
    allowed: &[PathBuf],
) -> Result<Vec<PathBuf>, SandboxError> {
    let mut seen = Vec::new();
    for wanted in host_paths {
        let refuse = |rule: String| SandboxError::HostPath {
            path: wanted.host_path.clone(),
            rule,
        };
        let host =
            fs::canonicalize(&wanted.host_path).map_err(|error| refuse(error.to_string()))?;
        let below = |prefix: &PathBuf| {
            fs::canonicalize(prefix).is_ok_and(|prefix| host.starts_with(prefix))
        };
        if !allowed.iter().any(below) {
            return Err(refuse(
                "the agent must be started with a --host-path that it is below".to_owned(),
            ));
        }
        if wanted.read_only {
            let rule =
                "this release cannot keep a task from writing to it; ask for it without read_only";
            return Err(refuse(rule.to_owned()));
        }
        let inside = Path::new(&wanted.container_path);
        if inside.is_absolute() {
            if inside == host {
                seen.push(host);
                continue;
            }
            if inside == Path::new(&wanted.host_path) {
                // What a link leads to could change before it is mounted.
                return Err(refuse(format!(
                    "it leads through a link: name {} itself",
                    host.display()
                )));
            }
            return Err(refuse(format!(
                "it cannot be seen at {}: use the same path, or one in the sandbox",
                inside.display()
            )));
        }
        let plain = inside
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || inside.as_os_str().is_empty() || inside.components().count() > 1 {
            return Err(refuse(format!(
                "{:?} is not one plain name in the sandbox",
                wanted.container_path
            )));
        }
        let link = sandbox.join(inside);
        match std::os::unix::fs::symlink(&host, &link) {
            Ok(()) => {}
            Err(_) if fs::read_link(&link).is_ok_and(|target| target == host) => {}
            Err(source) => return Err(SandboxError::Make { path: link, source }),
        }
        seen.push(host);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(host: &Path, container: &str) -> v1::HostPath {
        v1::HostPath {
            host_path: host.to_string_lossy().into_owned(),
            container_path: container.to_owned(),
            read_only: false,
        }
    }

    #[test]
    fn a_host_path_is_seen_only_below_what_the_agent_allows() {
        let folder = tempfile::tempdir().unwrap();
        let allowed = folder.path().join("allowed");
        let sandbox = folder.path().join("sandbox");
        fs::create_dir_all(allowed.join("inner")).unwrap();
        make(&sandbox, None).unwrap();
        let link = |path: &Path, name: &str| {
            link_host_paths(
                &sandbox,
                &[wanted(path, name)],
                std::slice::from_ref(&allowed),
            )
        };
        link(&allowed.join("inner"), "witness").unwrap();
        assert!(sandbox.join("witness").is_dir());
        let outside = link(folder.path(), "other").unwrap_err().to_string();
        assert!(outside.contains("--host-path"), "{outside}");
        let sneaky = link(&allowed.join("inner/../.."), "other")
            .unwrap_err()
            .to_string();
        assert!(sneaky.contains("--host-path"), "{sneaky}");
        link(&allowed.join("inner"), "witness").unwrap();
        fs::write(sandbox.join("taken"), "").unwrap();
        assert!(link(&allowed, "taken").is_err());
        let mut guarded = wanted(&allowed, "guarded");
        guarded.read_only = true;
        assert!(link_host_paths(&sandbox, &[guarded], std::slice::from_ref(&allowed)).is_err());
        assert!(link(&allowed, "../up").is_err());
        assert!(link(&allowed, "/elsewhere").is_err());
    }
}
