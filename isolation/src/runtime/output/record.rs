//! The record of stream offsets: the offset of the first byte of each output file, by which a
//! reader finds its position.
//!
//! The byte at offset n is the n-th that was written to the stream's files since the command
//! started, notes included. The record is written with the first rotation, so that a command that
//! writes little costs no file: without one, `stdout` and `stderr` start at 0. It is replaced
//! atomically before any file is renamed, and after the last byte of the full file. Files are
//! identified by inode and birth time, independent of their current names.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use argosy_host::atomic_file::{self, Durability, WriteOptions};
use serde::{Deserialize, Serialize};

/// The written format; others are not read.
const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamName {
    Stdout,
    Stderr,
}

impl StreamName {
    /// Returns the stream whose newest file has this name.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        match name {
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            _ => None,
        }
    }

    /// Returns the name of the current file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Returns the name of a file after this many rotations.
    #[must_use]
    pub fn file(self, rotations: usize) -> String {
        match rotations {
            0 => self.name().to_owned(),
            _ => format!("{}.{rotations}", self.name()),
        }
    }
}

/// The identity of a file in the sandbox's file system. A later file has another one, except a file
/// that reuses the inode within the same few milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// The inode number, which may be reused after the file is removed.
    pub inode: u64,
    /// The birth time, in nanoseconds since 1970; 0 where the file system does not record it.
    pub born_ns: u64,
}

impl FileId {
    /// Returns the identity of an open file.
    #[must_use]
    pub fn of(file: &fs::Metadata) -> Self {
        let born = file.created().ok();
        let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Self {
            inode: file.ino(),
            born_ns: born.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap_or(u64::MAX)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFile {
    pub file: FileId,
    /// The offset of its first byte. No two parts of a stream have the same.
    pub begin: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamFiles {
    /// The files that are kept, oldest first: each ends where the next begins.
    pub parts: Vec<StreamFile>,
    /// The minimum length of the stream in bytes; once the command has ended, the exact length.
    pub end: u64,
}

/// The files of both streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRecord {
    version: u32,
    stdout: StreamFiles,
    stderr: StreamFiles,
}

impl OutputRecord {
    pub(super) fn new() -> Self {
        Self {
            version: VERSION,
            stdout: StreamFiles::default(),
            stderr: StreamFiles::default(),
        }
    }

    /// Reads the record at `path`, which `LaunchSpec::output_record` names; `None` while no file
    /// was rotated. A record that a power cut truncated counts as none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => {
                let record: Option<Self> = serde_json::from_slice(&bytes).ok();
                Ok(record.filter(|record| record.version == VERSION))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the files of one stream.
    #[must_use]
    pub fn of(&self, stream: StreamName) -> &StreamFiles {
        match stream {
            StreamName::Stdout => &self.stdout,
            StreamName::Stderr => &self.stderr,
        }
    }

    pub(super) fn of_mut(&mut self, stream: StreamName) -> &mut StreamFiles {
        match stream {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
        }
    }

    /// Replaces the record atomically. It is not synced: its container does not survive a power
    /// cut.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_added_extension("draft");
        let options = WriteOptions {
            mode: 0o644,
            durability: Durability::Cached,
        };
        atomic_file::replace(path, &draft, &serde_json::to_vec(self)?, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips_and_invalid_ones_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        assert_eq!(OutputRecord::read(&path).unwrap(), None);
        let mut record = OutputRecord::new();
        let metadata = fs::metadata(directory.path()).unwrap();
        let part = StreamFile {
            file: FileId::of(&metadata),
            begin: 10,
        };
        record.of_mut(StreamName::Stderr).parts.push(part);
        record.write(&path).unwrap();
        assert_eq!(OutputRecord::read(&path).unwrap(), Some(record.clone()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        record.version = 2;
        record.write(&path).unwrap();
        assert_eq!(OutputRecord::read(&path).unwrap(), None);
        fs::write(&path, "{\"version\":1,\"std").unwrap();
        assert_eq!(OutputRecord::read(&path).unwrap(), None);
    }

    #[test]
    fn only_the_newest_files_name_a_stream() {
        assert_eq!(StreamName::of_file("stderr"), Some(StreamName::Stderr));
        assert_eq!(StreamName::of_file("stdout.1"), None);
        assert_eq!(StreamName::Stdout.file(0), "stdout");
        assert_eq!(StreamName::Stdout.file(4), "stdout.4");
    }
}
