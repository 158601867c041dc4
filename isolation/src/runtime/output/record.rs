//! The record of stream offsets: the offset of the first byte of each output file, by which a
//! reader finds its position.
//!
//! The byte at offset n is the n-th that was written to the stream's files since the command
//! started, notes included. The record is written with the first rotation, so that a command that
//! writes little costs no file: without one, `stdout` and `stderr` start at 0. It is replaced
//! atomically before any file is renamed, and after the last byte of the full file. Files are
//! identified by inode and birth time, independent of their current names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use argosy_host::atomic_file::{self, Durability, WriteOptions};
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

/// The written format; others are not read.
const VERSION: u32 = 1;
/// The maximum size of a record that is read.
const MAX_BYTES: u64 = 64 * 1024;
/// The maximum number of files of a stream in a record that is read.
const MAX_FILES: usize = 100;
/// The highest offset in a record that is read.
const MAX_OFFSET: u64 = 1 << 62;

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
    /// was rotated. A record that a power cut truncated counts as none, and so does one that no
    /// supervisor writes.
    ///
    /// # Errors
    /// If it cannot be read, or is not a regular file.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let Some(file) = open_record(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Returns the record of these bytes, if a supervisor may have written it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let record: Option<Self> = serde_json::from_slice(bytes).ok();
        record.filter(Self::is_valid)
    }

    /// Whether a supervisor may have written it. Readers open its files, and add to its offsets.
    fn is_valid(&self) -> bool {
        let mut streams = [&self.stdout, &self.stderr].into_iter();
        self.version == VERSION
            && streams.all(|stream| {
                let parts = &stream.parts;
                parts.len() <= MAX_FILES
                    && parts.is_sorted_by(|a, b| a.begin < b.begin)
                    && parts.iter().all(|part| part.begin <= MAX_OFFSET)
                    && stream.end <= MAX_OFFSET
            })
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

/// Opens a record of output; `None` if there is none. A task can replace it in the modes in which
/// the task is a user of the agent's host: it may be a FIFO, whose reader would wait for a writer.
pub(super) fn open_record(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = File::options();
    match options.read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("the record of output is no regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
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
    fn a_record_that_no_supervisor_writes_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        let file = FileId {
            inode: 1,
            born_ns: 2,
        };
        let is_read = |begins: &[u64], end| {
            let mut record = OutputRecord::new();
            let begins = begins.iter();
            record.stdout.parts = begins.map(|&begin| StreamFile { file, begin }).collect();
            record.stdout.end = end;
            record.write(&path).unwrap();
            OutputRecord::read(&path).unwrap().is_some()
        };
        let many: Vec<_> = (0..101).collect();
        assert!(is_read(&many[..100], MAX_OFFSET));
        assert!(!is_read(&many, 0));
        assert!(!is_read(&[5, 5], 9) && !is_read(&[6, 5], 9));
        assert!(!is_read(&[MAX_OFFSET + 1], 0) && !is_read(&[], u64::MAX));
        // As large as its sparse file is, it is not loaded into memory.
        assert!(is_read(&[0], 1));
        let record = File::options().write(true).open(&path).unwrap();
        record.set_len(1 << 40).unwrap();
        assert_eq!(OutputRecord::read(&path).unwrap(), None);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        OutputRecord::read(&path).unwrap_err();
    }

    #[test]
    fn only_the_newest_files_name_a_stream() {
        assert_eq!(StreamName::of_file("stderr"), Some(StreamName::Stderr));
        assert_eq!(StreamName::of_file("stdout.1"), None);
        assert_eq!(StreamName::Stdout.file(0), "stdout");
        assert_eq!(StreamName::Stdout.file(4), "stdout.4");
    }
}
