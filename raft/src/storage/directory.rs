//! The data directory of a master: its owner, its lock, and its format.
//!
//! Checks come before changes: nothing is written into a foreign directory, and nothing of a newer
//! format is opened.

use std::error::Error;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::durable_file;
use super::record::FORMAT;
use super::rejoin;

pub(crate) const LOCK: &str = "lock";
pub(crate) const FORMAT_FILE: &str = "FORMAT";
const FORMAT_TEXT: &str = "argosy master directory, format ";

/// Entries that a new data directory may already contain, and that stay when data are discarded:
/// the lock, the audit log of this or of a former master, and entries of a fresh file system.
pub(crate) const HARMLESS: [&str; 3] = [LOCK, "audit", "lost+found"];

type BoxError = Box<dyn Error + Send + Sync>;

/// The error of opening a master's data.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory open.
    #[error("{} is in use by process {pid}: stop that process, or give this master another --data-dir", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The process id that the other process wrote into the lock file.
        pid: String,
    },
    /// The directory belongs to something else.
    #[error("{} is not the directory of a master, it contains {found:?}: give --data-dir an empty directory, or one that a master has made", path.display())]
    NotMaster {
        /// The directory.
        path: PathBuf,
        /// A name found in it.
        found: String,
    },
    /// The directory must be empty for this purpose.
    #[error("{} is in use, it contains {found:?}: give --data-dir an empty directory; nothing was changed", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// A name found in it.
        found: String,
    },
    /// The directory of a master has no registry.
    #[error("{} has no registry: no master has applied an entry in it", path.display())]
    Empty {
        /// The data directory.
        path: PathBuf,
    },
    /// The stored data must not be served any more.
    #[error("the data in {} must not be served: {why}", path.display())]
    MustRejoin {
        /// The data directory.
        path: PathBuf,
        /// The finding, and the remedy.
        why: String,
    },
    /// The data was written by a newer program.
    #[error("{} has format {found}, this program knows up to format {known}: start a newer argosy on it", path.display())]
    Newer {
        /// The data directory.
        path: PathBuf,
        /// Its format.
        found: String,
        /// The newest format known here.
        known: u8,
    },
    /// The stored data differs from what was written.
    #[error("the data in {} is damaged: {what}; this master must not serve it: move the directory away and join the group again as a new member (`argosy master rejoin`)", path.display())]
    Damaged {
        /// The directory or file.
        path: PathBuf,
        /// The damaged part, with the index of the entry or the name of the file.
        what: String,
    },
    /// The operating system returned an error.
    #[error("cannot {what} {}{}", path.display(), remedy(source))]
    Io {
        /// The operation, as in "cannot … the path".
        what: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// The cause.
        source: BoxError,
    },
    /// This program was built without a store for disks.
    #[error("cannot keep data in {}: this program was built without the feature rocksdb", path.display())]
    NoDisk {
        /// The requested directory.
        path: PathBuf,
    },
    /// The task that owns the registry ended before it had loaded the stored data.
    #[error("the owner of the registry ended before it had loaded it")]
    Owner,
}

impl OpenError {
    pub(crate) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> OpenError + use<> {
        let path = path.to_owned();
        move |source| OpenError::Io {
            what,
            path,
            source: source.into(),
        }
    }
}

/// Returns a remedy for this cause, if one is known. RocksDB reports causes as texts.
fn remedy(cause: &BoxError) -> &'static str {
    let is_full = cause.to_string().contains("No space left on device");
    if is_full {
        ": make room there, then start this master again"
    } else {
        ""
    }
}

/// The lock of a data directory. All clones are one lock.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryLock(
    #[allow(dead_code, reason = "it is held until it is dropped")] Arc<LockedFile>,
);

/// A locked file. Dropping it releases the lock, also if a child process that has not executed its
/// program yet has inherited the file.
#[derive(Debug)]
struct LockedFile(File);

impl Drop for LockedFile {
    fn drop(&mut self) {
        // If it fails, the lock ends with the last descriptor of the file.
        let _ = self.0.unlock();
    }
}

/// A data directory that only this process has open. Dropping it releases the lock.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Released before that is announced: fields are dropped in this order.
    _lock: DirectoryLock,
    unlocked: AnnouncedDrop,
}

/// Cancels its token when it is dropped.
#[derive(Debug, Default)]
struct AnnouncedDrop(CancellationToken);

impl Drop for AnnouncedDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Directory {
    /// Returns the directory that is already locked, and whose format is written.
    #[cfg_attr(
        not(feature = "rocksdb"),
        allow(dead_code, reason = "only a store on disk has a directory")
    )]
    pub(crate) fn locked(path: &Path, lock: DirectoryLock) -> Directory {
        Directory {
            path: path.to_owned(),
            _lock: lock,
            unlocked: AnnouncedDrop::default(),
        }
    }

    /// Opens the directory, or creates it.
    #[cfg_attr(
        not(feature = "rocksdb"),
        allow(dead_code, reason = "only a store on disk has a directory")
    )]
    pub(crate) fn open(path: &Path) -> Result<Directory, OpenError> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        made.map_err(OpenError::io("make the directory", path))?;
        rejoin::refuse_forbidden(path)?;
        refuse_foreign(path)?;
        let lock = lock(path)?;
        let format = path.join(FORMAT_FILE);
        match fs::read_to_string(&format) {
            Ok(text) => check_format(path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_format(path).map_err(OpenError::io("write", &format))?;
            }
            Err(error) => return Err(OpenError::io("read", &format)(error)),
        }
        Ok(Directory::locked(path, lock))
    }

    /// Returns a token that is cancelled when this handle is dropped. The lock is released then,
    /// unless there is another handle on it.
    #[cfg_attr(
        not(feature = "rocksdb"),
        allow(dead_code, reason = "only a store on disk has a directory")
    )]
    pub(crate) fn unlocked(&self) -> CancellationToken {
        self.unlocked.0.clone()
    }

    #[cfg_attr(
        not(feature = "rocksdb"),
        allow(dead_code, reason = "only a store on disk has a directory")
    )]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of RocksDB.
    #[cfg_attr(
        not(feature = "rocksdb"),
        allow(dead_code, reason = "only a store on disk has a directory")
    )]
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Returns the path of the high-water record: what this master had synced.
    #[cfg_attr(
        not(feature = "rocksdb"),
        allow(dead_code, reason = "only a store on disk has a directory")
    )]
    pub(crate) fn high_water(&self) -> PathBuf {
        self.path.join("high-water")
    }

    /// Returns the path of the snapshots.
    #[cfg_attr(
        not(feature = "rocksdb"),
        allow(dead_code, reason = "only a store on disk has a directory")
    )]
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

pub(crate) fn refuse_foreign(path: &Path) -> Result<(), OpenError> {
    if path.join(FORMAT_FILE).exists() {
        return Ok(());
    }
    let read = OpenError::io("read", path);
    let mut names = Vec::new();
    for file in fs::read_dir(path).map_err(read)? {
        let file = file.map_err(OpenError::io("read", path))?;
        names.push(file.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let foreign = names.into_iter().find(|name| {
        let name = name.as_str();
        !HARMLESS.contains(&name) && !is_unfinished(Path::new(name))
    });
    match foreign {
        None => Ok(()),
        Some(found) => Err(OpenError::NotMaster {
            path: path.to_owned(),
            found,
        }),
    }
}

/// Returns whether a file with this name was left by an interrupted write of the format or of the
/// marker. It has no effect, and the next write replaces it.
pub(crate) fn is_unfinished(name: &Path) -> bool {
    let small = [FORMAT_FILE, rejoin::MARKER_FILE];
    small
        .iter()
        .any(|file| durable_file::unfinished(Path::new(file)) == name)
}

pub(crate) fn lock(path: &Path) -> Result<DirectoryLock, OpenError> {
    let file_path = path.join(LOCK);
    let mut options = File::options();
    let opened = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file_path);
    let mut file = opened.map_err(OpenError::io("open", &file_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message; the kernel holds the lock and releases it when its holder
            // exits.
            let _ = file.read_to_string(&mut pid);
            let pid = match pid.trim() {
                "" => "unknown".to_owned(),
                pid => pid.to_owned(),
            };
            let path = path.to_owned();
            return Err(OpenError::Locked { path, pid });
        }
        Err(TryLockError::Error(error)) => return Err(OpenError::io("lock", &file_path)(error)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(OpenError::io("write", &file_path))?;
    Ok(DirectoryLock(Arc::new(LockedFile(file))))
}

pub(crate) fn check_format(path: &Path, text: &str) -> Result<(), OpenError> {
    let damaged = || OpenError::Damaged {
        path: path.join(FORMAT_FILE),
        what: format!("its content is {text:?}"),
    };
    let found = text
        .trim_end()
        .strip_prefix(FORMAT_TEXT)
        .ok_or_else(damaged)?;
    match found.parse::<u8>() {
        Ok(format) if format <= FORMAT => Ok(()),
        Ok(_) => Err(newer(path, found.to_owned())),
        // A number that is too large to parse is a newer format too.
        Err(_) if !found.is_empty() && found.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(newer(path, found.to_owned()))
        }
        Err(_) => Err(damaged()),
    }
}

pub(crate) fn newer(path: &Path, found: String) -> OpenError {
    OpenError::Newer {
        path: path.to_owned(),
        found,
        known: FORMAT,
    }
}

pub(crate) fn write_format(path: &Path) -> io::Result<()> {
    let text = format!("{FORMAT_TEXT}{FORMAT}\n");
    durable_file::write(&path.join(FORMAT_FILE), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        Directory::open(path).unwrap_err().to_string()
    }

    #[test]
    fn new_directory_is_created_and_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/master");
        drop(Directory::open(&path).unwrap());
        drop(Directory::open(&path).unwrap());
        let text = fs::read_to_string(path.join(FORMAT_FILE)).unwrap();
        assert_eq!(text, "argosy master directory, format 1\n");
    }

    #[test]
    fn second_opener_gets_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Directory::open(dir.path()).unwrap();
        let pid = std::process::id();
        let text = refused(dir.path());
        assert!(text.contains(&format!("in use by process {pid}")), "{text}");
        drop(first);
        Directory::open(dir.path()).unwrap();
    }

    #[test]
    fn the_lock_is_released_although_a_child_process_has_inherited_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        let inherited = first.0.0.try_clone().unwrap();
        drop(first);
        lock(dir.path()).unwrap();
        drop(inherited);
    }

    #[test]
    fn foreign_directory_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letters.txt"), "dear").unwrap();
        let text = refused(dir.path());
        assert!(text.contains("it contains \"letters.txt\""), "{text}");
        assert!(!dir.path().join(LOCK).exists());
    }

    #[test]
    fn a_newer_directory_format_is_rejected_and_a_torn_one_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        drop(Directory::open(dir.path()).unwrap());
        let format = dir.path().join(FORMAT_FILE);
        for found in ["2", "70000"] {
            fs::write(&format, format!("{FORMAT_TEXT}{found}\n")).unwrap();
            let text = refused(dir.path());
            let expected = format!("has format {found}, this program knows up to format 1");
            assert!(text.contains(&expected), "{text}");
        }
        fs::write(&format, "argosy mas").unwrap();
        assert!(refused(dir.path()).contains("is damaged"));
    }
}
