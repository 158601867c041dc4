//! The files of a command's output in its sandbox: created, renamed and removed below the open
//! directory.
//!
//! The command owns the directory, so any entry may exist under any name at any time. Every name is
//! one component, only files that were just created here are opened, and no link is followed. The
//! content of the files is out of scope.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::record::{FileId, OutputRecord, StreamFile, StreamName};
use super::time_log::TimeLog;
use crate::spec::OutputLimits;

/// Readable for all, writable for the supervisor.
const MODE: Mode = Mode::from_bits_truncate(0o644);

/// The directory of the files, and their records.
#[derive(Debug)]
pub(super) struct OutputStore {
    directory: OwnedFd,
    pub(super) limits: OutputLimits,
    pub(super) times: TimeLog,
    path: PathBuf,
    record: OutputRecord,
    /// Whether the record exists at its path.
    is_recorded: bool,
}

impl OutputStore {
    pub(super) fn open(sandbox: &Path, record: &Path, limits: OutputLimits) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self {
            directory: open(sandbox, flags, Mode::empty())?,
            limits,
            times: TimeLog::open(record, limits),
            path: record.to_owned(),
            record: OutputRecord::new(),
            is_recorded: false,
        })
    }

    /// Creates the first file of a stream. An existing file is replaced: an earlier attempt of this
    /// start has left it, or the task's description has put it there.
    pub(super) fn create_first(&mut self, stream: StreamName) -> io::Result<File> {
        let name = stream.name();
        let file = match self.create(name) {
            Err(Errno::EEXIST) if self.is_file(name) => {
                self.clear(name);
                self.create(name)
            }
            other => other,
        };
        let file = file.map_err(|errno| match errno {
            Errno::EEXIST => io::Error::other(format!(
                "the sandbox has a link, directory or special file of this name; use a name other than {name}"
            )),
            errno => errno.into(),
        })?;
        let part = StreamFile {
            file: FileId::of(&file.metadata()?),
            begin: 0,
        };
        self.record.of_mut(stream).parts.push(part);
        Ok(file)
    }

    /// Creates the next file of a stream whose newest one has this many bytes. On an error nothing
    /// has changed.
    pub(super) fn rotate(&mut self, stream: StreamName, written: u64) -> io::Result<File> {
        let draft = format!(".{}.next", stream.name());
        self.clear(&draft);
        let file = self.create(&draft)?;
        let id = FileId::of(&file.metadata()?);
        if let Err(error) = self.add_file(stream, id, written) {
            self.clear(&draft);
            return Err(error);
        }
        for rotations in (1..self.limits.files as usize).rev() {
            self.rename(&stream.file(rotations - 1), &stream.file(rotations));
        }
        // If the command has put a non-empty directory there, the file keeps the draft's name: no
        // reader finds it, and readers get a note that these bytes are missing.
        self.rename(&draft, stream.name());
        Ok(file)
    }

    /// Adds a new file to the record, and removes the oldest if there are too many.
    fn add_file(&mut self, stream: StreamName, file: FileId, written: u64) -> io::Result<()> {
        let files = self.record.of_mut(stream);
        let former = files.clone();
        let begin = former.parts.last().map_or(0, |part| part.begin) + written;
        files.parts.push(StreamFile { file, begin });
        let excess = files.parts.len().saturating_sub(self.limits.files as usize);
        files.parts.drain(..excess);
        files.end = begin;
        let saved = self.save();
        if saved.is_err() {
            *self.record.of_mut(stream) = former;
        }
        saved
    }

    /// Returns the offset of the newest file's first byte.
    pub(super) fn newest_offset(&self, stream: StreamName) -> u64 {
        let newest = self.record.of(stream).parts.last();
        newest.map_or(0, |part| part.begin)
    }

    /// Returns the offset of the first byte of each stream that is kept.
    pub(super) fn kept_offsets(&self) -> [u64; 2] {
        [StreamName::Stdout, StreamName::Stderr].map(|stream| {
            let oldest = self.record.of(stream).parts.first();
            oldest.map_or(0, |part| part.begin)
        })
    }

    /// Records the final length of a stream whose newest file has this many bytes.
    pub(super) fn set_end(&mut self, stream: StreamName, written: u64) {
        let files = self.record.of_mut(stream);
        files.end = files.parts.last().map_or(0, |part| part.begin) + written;
    }

    /// Writes the record after both streams have ended.
    pub(super) fn finish(&mut self) {
        if self.is_recorded {
            // On an error the former record stays: only what a command did to its newest file would
            // go unnoticed.
            let _ = self.save();
        }
    }

    fn save(&mut self) -> io::Result<()> {
        self.record.write(&self.path)?;
        self.is_recorded = true;
        Ok(())
    }

    fn create(&self, name: &str) -> Result<File, Errno> {
        let flags = OFlag::O_RDWR
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, name, flags, MODE)?;
        // Independent of the agent's umask.
        fchmod(&file, MODE)?;
        Ok(File::from(file))
    }

    fn is_file(&self, name: &str) -> bool {
        let kind = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        kind.is_ok_and(|kind| kind.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits())
    }

    /// Renames a file, replacing an existing one. A file that cannot be moved stays, and the next
    /// one overwrites it.
    fn rename(&self, from: &str, to: &str) {
        let rename = || renameat(&self.directory, from, &self.directory, to);
        match rename() {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(_) => {
                self.clear(to);
                let _ = rename();
            }
        }
    }

    /// Removes the entry of this name, except a non-empty directory.
    fn clear(&self, name: &str) {
        let unlink = |flags| unlinkat(&self.directory, name, flags);
        if unlink(UnlinkatFlags::NoRemoveDir) == Err(Errno::EISDIR) {
            // A caller that needs the name gets the error.
            let _ = unlink(UnlinkatFlags::RemoveDir);
        }
    }
}
