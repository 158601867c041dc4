//! The steps that make the data directory of a restored master, from a saved snapshot or from the
//! data that it already has.
//!
//! Each step can be repeated. From the first change until the directory is complete, a marker
//! forbids every start on it.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use argosy_host::atomic_file::sync_directory;

use super::directory::{self, Directory, FORMAT_FILE, HARMLESS, OpenError};
use super::durable_file;
use super::rejoin::{self, LockedDirectory};
use super::restored::LogPosition;
use super::saved_snapshot::{SavedSnapshotEncoder, SavedSnapshotHeader, read_saved_snapshot};
use super::snapshot::KeyValue;

const UNFINISHED_RESTORE: &str = "an `argosy snapshot restore` into it was interrupted: run the same command again, or remove everything in this directory";
const UNFINISHED_RECOVERY: &str =
    "an `argosy master recover` was interrupted: run it again on this directory";

/// The new registry while a recovery replaces the data.
const RECOVERED_FILE: &str = "recovered.snapshot";
/// The data before a recovery.
const FORMER_DATA: &str = "before-recovery";
/// The data of a master, apart from the format.
const DATA: [&str; 3] = ["store", "snapshots", "high-water"];

impl LockedDirectory {
    /// Makes the data of a master that forms a group of one with these records, which are applied
    /// up to `last`. The directory must be empty, or that of an interrupted restore.
    ///
    /// # Errors
    /// [`OpenError`]. If the directory has other data, nothing was changed.
    pub fn restore(self, records: &[KeyValue], last: LogPosition) -> Result<(), OpenError> {
        if rejoin::reason(self.path())?.as_deref() == Some(UNFINISHED_RESTORE) {
            self.discard()?;
        }
        refuse_used(self.path())?;
        self.mark(UNFINISHED_RESTORE)?;
        self.found(records, last)
    }

    /// Returns whether a recovery of this directory was interrupted.
    ///
    /// # Errors
    /// If the marker cannot be read.
    pub fn is_recovering(&self) -> Result<bool, OpenError> {
        Ok(rejoin::reason(self.path())?.as_deref() == Some(UNFINISHED_RECOVERY))
    }

    /// Returns the path under which a recovery leaves the former data.
    #[must_use]
    pub fn former_data(&self) -> PathBuf {
        self.path().join(FORMER_DATA)
    }

    /// Begins to replace the data by these records. From here on no master starts on the former
    /// data, and [`LockedDirectory::finish_recovery`] can be repeated.
    ///
    /// # Errors
    /// [`OpenError`]; also if the data before an earlier recovery is still there.
    pub fn begin_recovery(
        &self,
        header: SavedSnapshotHeader,
        records: &[KeyValue],
    ) -> Result<(), OpenError> {
        let former = self.former_data();
        if former.exists() {
            let source = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(OpenError::io("keep the former data under", &former)(source));
        }
        let file = self.path().join(RECOVERED_FILE);
        let written = write_file(&file, header, records);
        written.map_err(OpenError::io("write", &file))?;
        self.mark(UNFINISHED_RECOVERY)
    }

    /// Replaces the data by the records of a recovery that has begun, and returns them. The former
    /// data is kept under [`LockedDirectory::former_data`].
    ///
    /// # Errors
    /// [`OpenError`]. The recovery can then be finished later.
    pub fn finish_recovery(self) -> Result<(SavedSnapshotHeader, Vec<KeyValue>), OpenError> {
        let file = self.path().join(RECOVERED_FILE);
        let (header, records) = read_file(&file)?;
        let former = self.former_data();
        fs::create_dir_all(&former).map_err(OpenError::io("make the directory", &former))?;
        for name in DATA {
            let (present, kept) = (self.path().join(name), former.join(name));
            let moved = move_or_remove(&present, &kept);
            moved.map_err(OpenError::io("move", &present))?;
        }
        sync_directory(&former).map_err(OpenError::io("sync", &former))?;
        sync_directory(self.path()).map_err(OpenError::io("sync", self.path()))?;
        let last = LogPosition {
            index: header.index,
            term: header.term,
        };
        self.found(&records, last)?;
        fs::remove_file(&file).map_err(OpenError::io("remove", &file))?;
        Ok((header, records))
    }

    fn mark(&self, why: &str) -> Result<(), OpenError> {
        let marked = rejoin::forbid_start(self.path(), why);
        marked.map_err(OpenError::io("write a marker into", self.path()))
    }

    /// Makes the store, and removes the marker.
    fn found(self, records: &[KeyValue], last: LogPosition) -> Result<(), OpenError> {
        let path = self.path().to_owned();
        let format = path.join(FORMAT_FILE);
        directory::write_format(&path).map_err(OpenError::io("write", &format))?;
        write_store(Directory::locked(&path, self.lock()), records, last)?;
        rejoin::permit_start(&path)
    }
}

#[cfg(feature = "rocksdb")]
fn write_store(
    directory: Directory,
    records: &[KeyValue],
    last: LogPosition,
) -> Result<(), OpenError> {
    let path = directory.store();
    let disk = super::disk::rocks::RocksDisk::open(directory)?;
    super::restored::write(&disk, records, last).map_err(OpenError::io("write", &path))
}

#[cfg(not(feature = "rocksdb"))]
fn write_store(
    directory: Directory,
    _records: &[KeyValue],
    _last: LogPosition,
) -> Result<(), OpenError> {
    Err(OpenError::NoDisk {
        path: directory.path().to_owned(),
    })
}

/// Refuses a directory in which anything but harmless files and interrupted writes is.
fn refuse_used(path: &Path) -> Result<(), OpenError> {
    rejoin::refuse_forbidden(path)?;
    for entry in fs::read_dir(path).map_err(OpenError::io("read", path))? {
        let name = entry.map_err(OpenError::io("read", path))?.file_name();
        let is_harmless = HARMLESS.iter().any(|harmless| name == *harmless);
        if !is_harmless && !directory::is_unfinished(Path::new(&name)) {
            return Err(OpenError::NotEmpty {
                path: path.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

/// Moves data of the former master. Data that is there although its former version was moved
/// already is from an interrupted attempt.
fn move_or_remove(present: &Path, kept: &Path) -> io::Result<()> {
    match fs::symlink_metadata(present) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) if !kept.exists() => fs::rename(present, kept),
        Ok(found) if found.is_dir() => fs::remove_dir_all(present),
        Ok(_) => fs::remove_file(present),
    }
}

/// Writes a saved snapshot as a whole. Durable on return.
fn write_file(path: &Path, header: SavedSnapshotHeader, records: &[KeyValue]) -> io::Result<()> {
    let draft = durable_file::unfinished(path);
    let out = BufWriter::new(File::create(&draft)?);
    let mut encoder = SavedSnapshotEncoder::new(out, header)?;
    for (key, value) in records {
        encoder.record(key, value)?;
    }
    let mut out = encoder.finish()?;
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn read_file(path: &Path) -> Result<(SavedSnapshotHeader, Vec<KeyValue>), OpenError> {
    let file = File::open(path).map_err(OpenError::io("open", path))?;
    let mut records = Vec::new();
    let read = read_saved_snapshot(BufReader::new(file), &mut |record| records.push(record));
    let header = read.map_err(|error| OpenError::Damaged {
        path: path.to_owned(),
        what: error.to_string(),
    })?;
    Ok((header, records))
}
