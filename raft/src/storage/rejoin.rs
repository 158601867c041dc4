//! The marker that forbids serving a data directory, and the removal of such data.
//!
//! The marker outlives the process, so that no service manager starts a master on wrong data. It is
//! removed last, when no part of that data is left.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use argosy_host::atomic_file::sync_directory;

use super::directory::{self, DirectoryLock, FORMAT_FILE, HARMLESS, OpenError, check_format};
use super::durable_file;

/// The marker file. It contains the reason, which is shown at each attempt to start a master.
pub(crate) const MARKER_FILE: &str = "MUST-REJOIN";
const UNFINISHED_REJOIN: &str = "an `argosy master rejoin` has begun to discard it and was interrupted: run `argosy master rejoin` on this host again";

/// Forbids every further start on this data directory. Durable on return.
///
/// # Errors
/// If the marker cannot be written.
pub fn forbid_start(directory: &Path, why: &str) -> io::Result<()> {
    let text = format!("{why}\n");
    durable_file::write(&directory.join(MARKER_FILE), text.as_bytes())
}

pub(crate) fn refuse_forbidden(directory: &Path) -> Result<(), OpenError> {
    match reason(directory)? {
        Some(why) => Err(OpenError::MustRejoin {
            path: directory.to_owned(),
            why,
        }),
        None => Ok(()),
    }
}

/// Returns the reason of the marker; `None` if there is no marker.
pub(crate) fn reason(directory: &Path) -> Result<Option<String>, OpenError> {
    let note = directory.join(MARKER_FILE);
    match fs::read(&note) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io("read", &note)(error)),
    }
}

/// Removes the marker. Durable on return.
pub(crate) fn permit_start(directory: &Path) -> Result<(), OpenError> {
    let note = directory.join(MARKER_FILE);
    fs::remove_file(&note).map_err(OpenError::io("remove", &note))?;
    sync_directory(directory).map_err(OpenError::io("sync", directory))
}

/// A data directory that no master has open, locked until it is dropped. Its data may be damaged.
#[derive(Debug)]
pub struct LockedDirectory {
    path: PathBuf,
    lock: DirectoryLock,
}

impl LockedDirectory {
    /// Locks the directory of a stopped master, or creates an empty one. Removes nothing.
    ///
    /// # Errors
    /// If a master has it open, it belongs to something else, or it is of a newer release.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        made.map_err(OpenError::io("make the directory", path))?;
        // A directory without its format belongs to a master if the marker shows that it was being
        // discarded.
        if refuse_forbidden(path).is_ok() {
            directory::refuse_foreign(path)?;
        }
        let lock = directory::lock(path)?;
        if let Ok(text) = fs::read_to_string(path.join(FORMAT_FILE))
            && let Err(newer @ OpenError::Newer { .. }) = check_format(path, &text)
        {
            return Err(newer);
        }
        Ok(Self {
            path: path.to_owned(),
            lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns another handle on the lock, for a store in the directory.
    pub(crate) fn lock(&self) -> DirectoryLock {
        self.lock.clone()
    }

    /// Removes all data of the master. If interrupted, it leaves a directory that no master starts
    /// on, and that can be discarded again.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn discard(&self) -> Result<(), OpenError> {
        let note = self.path.join(MARKER_FILE);
        if !note.exists() {
            forbid_start(&self.path, UNFINISHED_REJOIN).map_err(OpenError::io("write", &note))?;
        }
        let list = fs::read_dir(&self.path).map_err(OpenError::io("read", &self.path))?;
        for entry in list {
            let entry = entry.map_err(OpenError::io("read", &self.path))?;
            let name = entry.file_name();
            if HARMLESS.iter().any(|kept| name == *kept) || name == MARKER_FILE {
                continue;
            }
            remove(&entry).map_err(OpenError::io("remove", &entry.path()))?;
        }
        self.sync()?;
        permit_start(&self.path)
    }

    fn sync(&self) -> Result<(), OpenError> {
        let synced = sync_directory(&self.path);
        synced.map_err(OpenError::io("sync", &self.path))
    }
}

/// Removes an entry. A symbolic link is removed, not its target.
fn remove(entry: &fs::DirEntry) -> io::Result<()> {
    if entry.file_type()?.is_dir() {
        fs::remove_dir_all(entry.path())
    } else {
        fs::remove_file(entry.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::directory::Directory;

    /// Creates the directory of a stopped master.
    fn used() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        for dir in [directory.store(), directory.snapshots()] {
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("data"), "old").unwrap();
        }
        place
    }

    fn names(path: &Path) -> Vec<String> {
        let list = fs::read_dir(path).unwrap();
        let mut names: Vec<String> = list
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_forbidden_start_reports_its_reason_until_the_data_is_discarded() {
        let place = used();
        forbid_start(place.path(), "it differs; run `argosy master rejoin`").unwrap();
        for _ in 0..2 {
            let refused = Directory::open(place.path()).unwrap_err().to_string();
            assert!(
                refused.ends_with("must not be served: it differs; run `argosy master rejoin`"),
                "{refused}"
            );
        }
        // The audit log is evidence, and no data of the group.
        fs::create_dir(place.path().join("audit")).unwrap();
        LockedDirectory::open(place.path())
            .unwrap()
            .discard()
            .unwrap();
        assert_eq!(names(place.path()), ["audit", directory::LOCK]);
        Directory::open(place.path()).unwrap();
    }

    #[test]
    fn the_directory_of_a_running_master_is_not_opened_or_changed() {
        let place = used();
        let running = Directory::open(place.path()).unwrap();
        let refused = LockedDirectory::open(place.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
        drop(running);
        assert!(place.path().join("store/data").exists());
    }

    #[test]
    fn an_interrupted_discard_forbids_a_start_and_can_be_repeated() {
        let place = used();
        let whole = names(place.path());
        for gone in ["FORMAT", "store", "snapshots"] {
            let place = used();
            assert_eq!(names(place.path()), whole);
            // The state after a process that ended right after removing this entry.
            forbid_start(place.path(), UNFINISHED_REJOIN).unwrap();
            let path = place.path().join(gone);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            let refused = Directory::open(place.path()).unwrap_err();
            assert!(matches!(refused, OpenError::MustRejoin { .. }), "{refused}");
            LockedDirectory::open(place.path())
                .unwrap()
                .discard()
                .unwrap();
            assert_eq!(names(place.path()), [directory::LOCK]);
        }
    }

    #[test]
    fn only_directories_of_a_master_can_be_discarded_even_if_damaged() {
        let damaged = used();
        fs::write(damaged.path().join(FORMAT_FILE), "argosy mas").unwrap();
        LockedDirectory::open(damaged.path())
            .unwrap()
            .discard()
            .unwrap();
        let newer = used();
        let text = "argosy master directory, format 99\n";
        fs::write(newer.path().join(FORMAT_FILE), text).unwrap();
        let refused = LockedDirectory::open(newer.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Newer { .. }), "{refused}");
        let foreign = tempfile::tempdir().unwrap();
        fs::write(foreign.path().join("letters.txt"), "dear").unwrap();
        let refused = LockedDirectory::open(foreign.path()).unwrap_err();
        assert!(matches!(refused, OpenError::NotMaster { .. }), "{refused}");
        assert!(foreign.path().join("letters.txt").exists());
    }
}
