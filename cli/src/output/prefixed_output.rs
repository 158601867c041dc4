//! The output of one task of a group, with its name before each line.

use std::io::{self, Write as _};

use super::note;
use crate::files::{FileChunk, ReadError};

/// The longest line that is kept together, in bytes.
const LINE_BYTES: usize = 64 * 1024;

/// The destination of the output.
type ChunkWriter = Box<dyn FnMut(FileChunk<'_>) -> io::Result<()> + Send>;

/// Adds a prefix to what a task writes to one file.
pub(crate) struct PrefixedOutput {
    out: ChunkWriter,
    /// Text before each line. If empty, the output is passed on unchanged.
    label: String,
    /// A line without its end.
    partial: Vec<u8>,
}

impl PrefixedOutput {
    /// Writes to the file of this program that has the same name.
    pub(crate) fn new(file: &'static str, label: String) -> Self {
        Self::to(Box::new(move |piece| write_chunk(file, piece)), label)
    }

    fn to(out: ChunkWriter, label: String) -> Self {
        Self {
            out,
            label,
            partial: Vec::new(),
        }
    }

    pub(crate) fn pass(&mut self, piece: FileChunk<'_>) -> io::Result<()> {
        let bytes = match piece {
            FileChunk::Bytes(bytes) if !self.label.is_empty() => bytes,
            FileChunk::Bytes(_) | FileChunk::Missing(_) => return (self.out)(piece),
        };
        let lines = self.lines(bytes);
        if lines.is_empty() {
            return Ok(());
        }
        (self.out)(FileChunk::Bytes(&lines))
    }

    /// Ends the output. A last line without a newline is printed too, also after an interruption.
    pub(crate) fn finish(mut self, followed: Result<(), ReadError>) -> Result<(), ReadError> {
        if self.partial.is_empty() {
            return followed;
        }
        let lines = self.lines(b"\n");
        let shown = (self.out)(FileChunk::Bytes(&lines));
        followed.and(shown.map_err(ReadError::Sink))
    }

    /// Returns all complete lines, and an incomplete one that is too long.
    fn lines(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(bytes.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(part);
            let has_ended = part.ends_with(b"\n");
            if has_ended || self.partial.len() >= LINE_BYTES {
                whole.extend_from_slice(self.label.as_bytes());
                whole.append(&mut self.partial);
                if !has_ended {
                    whole.push(b'\n');
                }
            }
        }
        whole
    }
}

/// Writes a chunk of a task's output to the stream of this program that has the same name.
pub(crate) fn write_chunk(file: &str, piece: FileChunk<'_>) -> io::Result<()> {
    let bytes = match piece {
        FileChunk::Bytes(bytes) => bytes,
        FileChunk::Missing(count) => {
            note(&FileChunk::missing(count, file));
            return Ok(());
        }
    };
    if file == "stdout" {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    } else {
        io::stderr().lock().write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_prefixed_when_complete_or_too_long() {
        let mut own = PrefixedOutput::new("stdout", "web | ".to_owned());
        assert_eq!(own.lines(b"one\ntw"), b"web | one\n");
        assert_eq!(own.lines(b"o\n\nthree"), b"web | two\nweb | \n");
        assert_eq!(own.lines(b"\n"), b"web | three\n");
        let long = vec![b'x'; LINE_BYTES];
        let marked = own.lines(&long);
        assert_eq!(marked.len(), LINE_BYTES + "web | \n".len());
        assert!(own.partial.is_empty());
    }

    #[test]
    fn an_incomplete_last_line_is_printed_also_after_an_interruption() {
        for followed in [Ok(()), Err(ReadError::Broken("lost".to_owned()))] {
            let (shown, seen) = std::sync::mpsc::channel();
            let out = move |piece: FileChunk<'_>| {
                if let FileChunk::Bytes(bytes) = piece {
                    shown.send(bytes.to_vec()).unwrap();
                }
                Ok(())
            };
            let mut own = PrefixedOutput::to(Box::new(out), "web | ".to_owned());
            own.pass(FileChunk::Bytes(b"one\ntwo")).unwrap();
            let is_whole = followed.is_ok();
            assert_eq!(own.finish(followed).is_ok(), is_whole);
            let all: Vec<u8> = seen.iter().flatten().collect();
            assert_eq!(all, b"web | one\nweb | two\n");
        }
    }
}
