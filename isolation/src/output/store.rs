//! The files of a command's output in its sandbox: made, shifted and removed below the open folder.
//!
//! The folder is the command's, so that anything may stand under any name at any time. Every name is one component, nothing
//! is opened but what was just made here, and no link is followed. Knows nothing of what is in the files.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::OutputLimits;
use super::record::{FileId, Part, Record, StreamName};

/// For all to read, and for the supervisor to write.
const MODE: Mode = Mode::from_bits_truncate(0o644);

/// Where the files are.
#[derive(Debug)]
pub(super) struct Store {
    folder: OwnedFd,
    pub(super) limits: OutputLimits,
    path: PathBuf,
    record: Record,
    /// The record is at its path.
    is_recorded: bool,
}

impl Store {
    pub(super) fn open(sandbox: &Path, record: &Path, limits: OutputLimits) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self {
            folder: open(sandbox, flags, Mode::empty())?,
            limits,
            path: record.to_owned(),
            record: Record::new(),
            is_recorded: false,
        })
    }

    /// The first file of a stream. One that is there already is replaced: an earlier try of this start has left it, or the
    /// task's description has put it there.
    pub(super) fn begin(&mut self, stream: StreamName) -> io::Result<File> {
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
                "the sandbox holds a link, folder or special file of this name; call that something other than {name}"
            )),
            errno => errno.into(),
        })?;
        let part = Part {
            file: FileId::of(&file.metadata()?),
            begin: 0,
        };
        self.record.of_mut(stream).parts.push(part);
        Ok(file)
    }

    /// The next file of a stream whose newest one has so many bytes. If there is none, nothing has changed.
    pub(super) fn rotate(&mut self, stream: StreamName, written: u64) -> io::Result<File> {
        let draft = format!(".{}.next", stream.name());
        self.clear(&draft);
        let file = self.create(&draft)?;
        let id = FileId::of(&file.metadata()?);
        if let Err(error) = self.enter(stream, id, written) {
            self.clear(&draft);
            return Err(error);
        }
        for rotations in (1..self.limits.files as usize).rev() {
            self.shift(&stream.file(rotations - 1), &stream.file(rotations));
        }
        // Where that is impossible, since the command has put a full folder there, the file has the draft's name: nobody
        // finds it, and readers are told that these bytes are missing.
        self.shift(&draft, stream.name());
        Ok(file)
    }

    /// Puts a new file into the record, and the oldest out if there are too many.
    fn enter(&mut self, stream: StreamName, file: FileId, written: u64) -> io::Result<()> {
        let files = self.record.of_mut(stream);
        let former = files.clone();
        let begin = former.parts.last().map_or(0, |part| part.begin) + written;
        files.parts.push(Part { file, begin });
        let excess = files.parts.len().saturating_sub(self.limits.files as usize);
        files.parts.drain(..excess);
        files.end = begin;
        let saved = self.save();
        if saved.is_err() {
            *self.record.of_mut(stream) = former;
        }
        saved
    }

    /// At which byte of its stream the newest file begins.
    pub(super) fn begin_of_newest(&self, stream: StreamName) -> u64 {
        let newest = self.record.of(stream).parts.last();
        newest.map_or(0, |part| part.begin)
    }

    /// Notes how long a stream is at its end, if its newest file has so many bytes.
    pub(super) fn end(&mut self, stream: StreamName, written: u64) {
        let files = self.record.of_mut(stream);
        files.end = files.parts.last().map_or(0, |part| part.begin) + written;
    }

    /// After both have ended.
    pub(super) fn finish(&mut self) {
        if self.is_recorded {
            // The former one stays: only what a command did to its own newest file would go unnoticed.
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
        let file = openat(&self.folder, name, flags, MODE)?;
        // Whatever the agent's mask is.
        fchmod(&file, MODE)?;
        Ok(File::from(file))
    }

    fn is_file(&self, name: &str) -> bool {
        let kind = fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        kind.is_ok_and(|kind| kind.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits())
    }

    /// Gives a file another name, in place of what has it. What cannot be moved stays, and is written over by the next.
    fn shift(&self, from: &str, to: &str) {
        let rename = || renameat(&self.folder, from, &self.folder, to);
        match rename() {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(_) => {
                self.clear(to);
                let _ = rename();
            }
        }
    }

    /// Removes what has this name, but for a folder that is not empty.
    fn clear(&self, name: &str) {
        let unlink = |flags| unlinkat(&self.folder, name, flags);
        if unlink(UnlinkatFlags::NoRemoveDir) == Err(Errno::EISDIR) {
            // Whoever needs the name finds out.
            let _ = unlink(UnlinkatFlags::RemoveDir);
        }
    }
}
