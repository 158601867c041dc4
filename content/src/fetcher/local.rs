//! Files of this host that tasks may fetch: those below the operator's `--fetch-dir` that the
//! task's user can read.
//!
//! The agent opens them with its own privileges, which may exceed the task's and are root's if the
//! agent stays root. So both rules are checked on the opened descriptors, one component after
//! another, and no symbolic link is followed. A path that changes during the check fails or leads
//! to a file that was checked.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use argosy_isolation::ContainerUser;
use argosy_proto::uri::RedactedUri;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;

use super::error::FetchError;

/// Path resolution within one directory.
const RESOLVE_BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
/// Flags for opening a directory: no right to read it is needed.
const DIR_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// A file to be read. A pipe or a terminal neither blocks nor attaches.
const FILE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// The user whose permissions decide whether a task may fetch a file of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadIdentity {
    /// The agent's user, which is not root: the kernel decides.
    Agent,
    User(ContainerUser),
    /// A user that owns nothing and is in no group. A task never gets root's rights.
    Unmapped,
}

impl ReadIdentity {
    /// Returns the reader for a task whose files belong to `owner` (`None`: to the agent's user).
    pub(super) fn of(owner: Option<&ContainerUser>) -> Self {
        match owner {
            Some(user) if user.uid != 0 => Self::User(user.clone()),
            None if !nix::unistd::geteuid().is_root() => Self::Agent,
            Some(_) | None => Self::Unmapped,
        }
    }

    /// Whether this user has the permission `bit` (4: read, 1: search).
    fn has(&self, bit: u32, of: &Stat) -> bool {
        let shift = match self {
            Self::Agent => return true,
            Self::User(user) if of.st_uid == user.uid => 6,
            Self::User(user) if of.st_gid == user.gid || user.groups.contains(&of.st_gid) => 3,
            Self::User(_) | Self::Unmapped => 0,
        };
        (of.st_mode >> shift) & bit != 0
    }

    fn name(&self) -> String {
        match self {
            Self::Agent => "the agent's user".to_owned(),
            Self::User(user) => format!("the task's user on the host, {},", user.uid),
            Self::Unmapped => "a task without a user of the host".to_owned(),
        }
    }
}

/// The directories that the operator names with `--fetch-dir`.
#[derive(Debug, Clone)]
pub(super) struct FetchDirs(pub(super) Vec<PathBuf>);

impl FetchDirs {
    /// Opens the regular file that the URI names, and returns it with its length. Blocks.
    pub(super) fn open(&self, uri: &str, reader: &ReadIdentity) -> Result<(File, u64), FetchError> {
        let invalid = |rule: String| FetchError::Invalid {
            uri: RedactedUri::of(uri),
            rule,
        };
        let path = local_path(uri)?;
        let (directory, below) = self.allowed_dir(&path).map_err(invalid)?;
        let failed = |error: PathError| match error {
            PathError::Denied(rule) => invalid(rule),
            PathError::Failed(source) => FetchError::Open {
                uri: RedactedUri::of(uri),
                source,
            },
        };
        let directory = std::fs::canonicalize(directory).map_err(|error| failed(error.into()))?;
        walk(&directory, &below, reader).map_err(failed)
    }

    /// Returns the directory that a path is below, and the names from there to the file.
    fn allowed_dir<'a>(&'a self, path: &'a Path) -> Result<(&'a Path, Vec<&'a OsStr>), String> {
        let elsewhere = "or serve it by http:// or https://";
        if self.0.is_empty() {
            return Err(format!(
                "this agent gives tasks no files of its host; start the agent with --fetch-dir and the file's directory, \
                 {elsewhere}"
            ));
        }
        let below = |directory: &'a PathBuf| {
            Some((directory.as_path(), path.strip_prefix(directory).ok()?))
        };
        let Some((directory, below)) = self.0.iter().find_map(below) else {
            let named: Vec<_> = self.0.iter().map(|path| path.to_string_lossy()).collect();
            return Err(format!(
                "it is in none of the directories of which this agent gives tasks files ({}); move it there, start the \
                 agent with another --fetch-dir, {elsewhere}",
                named.join(", ")
            ));
        };
        let names = below.components().map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let names = names.collect::<Option<Vec<_>>>();
        let names = names.ok_or("its path has .. in it; write it without")?;
        Ok((directory, names))
    }
}

/// The reason why a path cannot be followed to a file.
enum PathError {
    Denied(String),
    Failed(io::Error),
}

impl From<io::Error> for PathError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Errno> for PathError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::LOOP => Self::Denied(
                "a part of its path is a symbolic link, which agents do not follow; name the file itself"
                    .to_owned(),
            ),
            other => Self::Failed(other.into()),
        }
    }
}

/// Follows `names` from `directory`, which is absolute and has no links, with the reader's
/// permissions.
fn walk(
    directory: &Path,
    names: &[&OsStr],
    reader: &ReadIdentity,
) -> Result<(File, u64), PathError> {
    let not_a_file = || PathError::Denied("it is not a regular file".to_owned());
    let (last, directories) = names.split_last().ok_or_else(not_a_file)?;
    let mut at = PathBuf::from("/");
    let mut here = openat2(CWD, "/", DIR_FLAGS, Mode::empty(), ResolveFlags::empty())?;
    search(&here, &at, reader)?;
    let above = directory
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        });
    for name in above.chain(directories.iter().copied()) {
        here = openat2(&here, name, DIR_FLAGS, Mode::empty(), RESOLVE_BENEATH)?;
        at.push(name);
        search(&here, &at, reader)?;
    }
    let file = openat2(&here, *last, FILE_FLAGS, Mode::empty(), RESOLVE_BENEATH)?;
    let found = fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(not_a_file());
    }
    if !reader.has(0o4, &found) {
        at.push(last);
        return Err(denied(reader, "read", &at));
    }
    Ok((File::from(file), u64::try_from(found.st_size).unwrap_or(0)))
}

/// Checks that the reader may search a directory.
fn search(directory: &OwnedFd, path: &Path, reader: &ReadIdentity) -> Result<(), PathError> {
    match reader.has(0o1, &fstat(directory.as_fd())?) {
        true => Ok(()),
        false => Err(denied(reader, "search", path)),
    }
}

fn denied(reader: &ReadIdentity, verb: &str, path: &Path) -> PathError {
    let bit = if verb == "read" { "r" } else { "x" };
    let (reader, path) = (reader.name(), path.display());
    PathError::Denied(format!(
        "{reader} may not {verb} {path}; allow it with chmod o+{bit} {path}, or move the file to a directory that all may \
         search"
    ))
}

fn local_path(uri: &str) -> Result<PathBuf, FetchError> {
    let path = Path::new(uri.strip_prefix("file://").unwrap_or(uri));
    if path.is_absolute() && !uri.contains('\0') {
        return Ok(path.to_owned());
    }
    Err(FetchError::Invalid {
        uri: RedactedUri::of(uri),
        rule: "give an absolute path, file:///…, http://… or https://…".to_owned(),
    })
}
