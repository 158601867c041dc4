//! At which byte of its stream each file of a command's output begins: what tells a reader where it is.
//!
//! The byte at offset n is the n-th that was written to the stream's files, notes included, since the command began. The
//! record is written with the first rotation, so that a command that writes little costs no file: without one, `stdout` and
//! `stderr` begin at 0. It is replaced as a whole before any file gets another name, and after the last byte of the file
//! that was full; files are known by what they are, whatever they are called meanwhile.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// The format that is written; others are not read.
const VERSION: u32 = 1;

/// One of a command's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamName {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StreamName {
    /// The stream whose newest file has this name.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        match name {
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            _ => None,
        }
    }

    /// The name of the file that is being written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// The name of a file that was rotated so many times.
    #[must_use]
    pub fn file(self, rotations: usize) -> String {
        match rotations {
            0 => self.name().to_owned(),
            _ => format!("{}.{rotations}", self.name()),
        }
    }
}

/// Which file of the sandbox's file system one is. What is made later is another one, but for what takes its number within
/// the same few milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// Its number, which another file gets when this one is gone.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 where the file system does not tell.
    pub born_ns: u64,
}

impl FileId {
    /// Of an open file.
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

/// A file of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which one.
    pub file: FileId,
    /// The offset of its first byte. No two parts of a stream have the same.
    pub begin: u64,
}

/// The files of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rotated {
    /// Those that are kept, oldest first: each ends where the next begins.
    pub parts: Vec<Part>,
    /// How many bytes the stream has at least; once the command has ended, exactly.
    pub end: u64,
}

/// The files of both streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    stdout: Rotated,
    stderr: Rotated,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            version: VERSION,
            stdout: Rotated::default(),
            stderr: Rotated::default(),
        }
    }

    /// What is at `path`, as `Spec::output_record` names it; `None` while nothing was rotated. One that a power cut tore
    /// counts as none.
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

    /// The files of one stream.
    #[must_use]
    pub fn of(&self, stream: StreamName) -> &Rotated {
        match stream {
            StreamName::Stdout => &self.stdout,
            StreamName::Stderr => &self.stderr,
        }
    }

    pub(super) fn of_mut(&mut self, stream: StreamName) -> &mut Rotated {
        match stream {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
        }
    }

    /// Whoever reads finds the former one or this one, whole. Not synced: its container does not survive a power cut.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_added_extension("draft");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let written = options
            .open(&draft)
            .and_then(|mut file| file.write_all(&serde_json::to_vec(self)?))
            .and_then(|()| fs::rename(&draft, path));
        if written.is_err() {
            // A leftover draft is written over by the next.
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_torn_or_strange_one_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        assert_eq!(Record::read(&path).unwrap(), None);
        let mut record = Record::new();
        let metadata = fs::metadata(folder.path()).unwrap();
        let part = Part {
            file: FileId::of(&metadata),
            begin: 10,
        };
        record.of_mut(StreamName::Stderr).parts.push(part);
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(record.clone()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        record.version = 2;
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), None);
        fs::write(&path, "{\"version\":1,\"std").unwrap();
        assert_eq!(Record::read(&path).unwrap(), None);
    }

    #[test]
    fn only_the_newest_files_name_a_stream() {
        assert_eq!(StreamName::of_file("stderr"), Some(StreamName::Stderr));
        assert_eq!(StreamName::of_file("stdout.1"), None);
        assert_eq!(StreamName::Stdout.file(0), "stdout");
        assert_eq!(StreamName::Stdout.file(4), "stdout.4");
    }
}
