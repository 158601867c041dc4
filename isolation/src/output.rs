//! What a command writes: from its pipes into files, each up to a cap.
//!
//! Never holds the command up: after the cap, and on a full disk, what comes is read and discarded.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::spec::User;

/// How much is moved at a time, in bytes: at first little, as most commands write little, then as much as a
/// pipe holds.
const CHUNK_BYTES: [usize; 2] = [4 * 1024, 64 * 1024];
/// How many chunks one turn moves, so that a command that never stops writing holds up no order.
const CHUNKS_A_TURN: usize = 16;

/// A file that takes at most so many bytes.
#[derive(Debug)]
struct CappedFile {
    file: File,
    written: u64,
    limit: u64,
    cut: bool,
}

impl CappedFile {
    fn note(&self) -> String {
        format!(
            "\n[argosy: the limit of {} bytes is reached; output after this line is discarded]\n",
            self.limit
        )
    }

    /// Takes what fits; the first byte too many is replaced by a note, for which room was kept.
    ///
    /// A write that fails (a full disk) loses this output rather than stopping the command.
    fn take(&mut self, bytes: &[u8]) {
        if self.cut {
            return;
        }
        let note = self.note();
        let room = self.limit.saturating_sub(note.len() as u64 + self.written);
        let kept = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let mut written = self.file.write_all(&bytes[..kept]);
        if kept < bytes.len() {
            self.cut = true;
            written = written.and_then(|()| self.file.write_all(note.as_bytes()));
        }
        self.written = match written {
            Ok(()) => self.written + kept as u64,
            // Part of it may be there.
            Err(_) => self.file.stream_position().unwrap_or(self.limit),
        };
    }
}

/// One of a command's two output streams.
#[derive(Debug)]
pub(crate) struct Output {
    pipe: Option<OwnedFd>,
    file: CappedFile,
}

impl Output {
    /// Makes the file in the sandbox, and returns the end of the pipe that the command writes to.
    pub(crate) fn create(
        path: &Path,
        limit: u64,
        owner: Option<&User>,
    ) -> io::Result<(Self, OwnedFd)> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        // A link left there by somebody else would lead the write out of the sandbox.
        options.custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path)?;
        if let Some(user) = owner {
            fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        let (pipe, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let file = CappedFile {
            file,
            written: 0,
            limit,
            cut: false,
        };
        let pipe = Some(pipe);
        Ok((Self { pipe, file }, writer))
    }

    /// The pipe to wait for; `None` once every writer has closed it.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Moves what is there, up to a turn's worth. True if there may be more at once.
    ///
    /// `buffer` is the caller's only to be kept for the next call.
    pub(crate) fn pump(&mut self, buffer: &mut Vec<u8>) -> bool {
        for _ in 0..CHUNKS_A_TURN {
            let Some(pipe) = &self.pipe else { return false };
            if buffer.is_empty() {
                buffer.resize(CHUNK_BYTES[0], 0);
            }
            match nix::unistd::read(pipe, buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.file.take(&buffer[..length]);
                    if length == CHUNK_BYTES[0] {
                        buffer.resize(CHUNK_BYTES[1], 0);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                Err(_) => self.pipe = None,
            }
        }
        self.pipe.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn output_up_to_the_cap_is_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        let (mut output, writer) = Output::create(&path, 1000, None).unwrap();
        let mut writer = File::from(writer);
        let mut buffer = Vec::new();
        writer.write_all(b"hello ").unwrap();
        assert!(!output.pump(&mut buffer));
        writer.write_all(b"world").unwrap();
        drop(writer);
        assert!(!output.pump(&mut buffer));
        assert!(output.pipe().is_none());
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
    }

    #[test]
    fn beyond_the_cap_output_is_discarded_with_one_note_and_nobody_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        let (mut output, writer) = Output::create(&path, 1000, None).unwrap();
        let mut writer = File::from(writer);
        let mut buffer = Vec::new();
        for _ in 0..100 {
            writer.write_all(&[b'x'; 3000]).unwrap();
            output.pump(&mut buffer);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 1000, "the note counts too");
        assert_eq!(text.matches("is discarded").count(), 1);
        assert!(text.ends_with("discarded]\n"));
        assert!(text.starts_with("xxx"));
    }

    #[test]
    fn a_link_in_place_of_the_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Output::create(&path, 1000, None).is_err());
    }
}
