//! Resolves a path of the API to a file: `tasks/<framework>/<task>/…`, one component at a time.
//!
//! Every component is opened relative to the one before, without following links: no name and no
//! race can escape a sandbox.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use argosy_proto::file_path::FileTarget;
use argosy_proto::ticket::{SandboxPath, TicketScope};
use argosy_state::ids::TaskKey;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use rustix::fs::FileType;

use super::FilesError;
use crate::core::ContainerName;
use crate::inbox::QueryHandle;
use crate::paths::Paths;

/// A parsed path of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilePath {
    /// The path as given.
    pub(super) path: String,
    pub(super) target: FileTarget,
}

impl FilePath {
    pub(super) fn parse(path: &str) -> Result<Self, FilesError> {
        let target = FileTarget::parse(path).map_err(|remedy| FilesError::Invalid {
            field: "path",
            value: path.chars().take(200).collect(),
            remedy,
        })?;
        Ok(Self {
            path: path.to_owned(),
            target,
        })
    }

    pub(super) fn missing(&self, why: impl Into<String>) -> FilesError {
        FilesError::Missing {
            path: self.path.clone(),
            why: why.into(),
        }
    }

    pub(super) fn of_kind(&self, what: &'static str) -> FilesError {
        FilesError::Kind {
            path: self.path.clone(),
            what,
        }
    }

    pub(super) fn failed(&self, source: std::io::Error) -> FilesError {
        FilesError::Read {
            path: self.path.clone(),
            source,
        }
    }
}

/// Returns the object of a ticket that a path of the API names; `None` for the lists of tasks, and
/// for invalid paths.
pub(crate) fn ticket_object(path: &str) -> Option<TicketScope> {
    match FilePath::parse(path).ok()?.target {
        FileTarget::Frameworks | FileTarget::Tasks(_) => None,
        FileTarget::Sandbox(task, parts) if parts.is_empty() => Some(TicketScope::Task(task)),
        FileTarget::Sandbox(task, parts) => {
            let path = SandboxPath::new(&parts.join("/"))?;
            Some(TicketScope::Path(task, path))
        }
    }
}

/// A task's newest sandbox.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    pub(super) directory: PathBuf,
    /// The record of its output files, once they were rotated.
    pub(super) output_record: PathBuf,
    /// The record of the times of its output, once there is any.
    pub(super) output_times: PathBuf,
    /// Whether no more output will follow.
    pub(super) ended: bool,
}

/// Finds the newest sandbox of a task, held or ended: that of its executor, if it has one.
pub(super) async fn sandbox(
    path: &FilePath,
    key: &TaskKey,
    paths: &Paths,
    asker: &QueryHandle,
) -> Result<Sandbox, FilesError> {
    let view = asker.task(key.clone()).await.ok_or(FilesError::Stopping)?;
    let home = &view.sandbox_key;
    let name = match view.container {
        Some(name) => Some(name),
        None => {
            let task = paths.task(home);
            let found = tokio::task::spawn_blocking(move || newest(&task)).await;
            found.expect("listing a directory never panics")
        }
    };
    let Some(name) = name else {
        return Err(path.missing(format!(
            "{key} has never run on this agent, or its output was removed (--log-retention-age, --log-retention-bytes)"
        )));
    };
    Ok(Sandbox {
        directory: paths.sandbox(home, name),
        output_record: paths.output_record(home, name),
        output_times: paths.output_times(home, name),
        ended: view.ended,
    })
}

fn newest(directory: &Path) -> Option<ContainerName> {
    let entries = fs::read_dir(directory).ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .max()
}

/// Opens the file at these components below `directory`: a regular file, or a directory.
pub(super) fn open_below(
    place: &FilePath,
    dir: &Path,
    parts: &[String],
) -> Result<File, FilesError> {
    // Such a descriptor only names a file. To open a FIFO or a device could block, and would be
    // noticed at its other end.
    let named = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = named | OFlag::O_DIRECTORY;
    let opened = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let explain = |errno: Errno| match errno {
        Errno::ENOENT => place.missing("no such file"),
        Errno::ENOTDIR => place.missing("a component is not a directory, or is a link"),
        Errno::ENAMETOOLONG => place.missing("a component is too long"),
        Errno::EACCES => place.of_kind("a file that the agent may not read"),
        other => place.failed(other.into()),
    };
    let Some((name, directories)) = parts.split_last() else {
        let own = opened | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        return open(dir, own, Mode::empty())
            .map(File::from)
            .map_err(explain);
    };
    let mut at: OwnedFd = open(dir, directory, Mode::empty()).map_err(explain)?;
    for part in directories {
        at = openat(at.as_fd(), part.as_str(), directory, Mode::empty()).map_err(explain)?;
    }
    let found = openat(at.as_fd(), name.as_str(), named, Mode::empty()).map_err(explain)?;
    let mode = fstat(&found).map_err(explain)?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile | FileType::Directory => {}
        FileType::Symlink => return Err(place.of_kind("a link")),
        _ => return Err(place.of_kind("a special file")),
    }
    // The same file, whatever has its name by now.
    let file = format!("/proc/self/fd/{}", found.as_raw_fd());
    open(file.as_str(), opened, Mode::empty())
        .map(File::from)
        .map_err(explain)
}
