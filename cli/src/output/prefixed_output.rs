//! The output of one of several tasks, with its name before each line.

use std::io::{self, Write as _};

use super::note;
use crate::files::{FileChunk, ReadError};

/// The longest line that is kept together, in bytes.
const LINE_BYTES: usize = 64 * 1024;

/// The destination of the output.
type ChunkWriter = Box<dyn FnMut(FileChunk<'_>) -> io::Result<()> + Send>;

/// The streams of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandardStream {
    Output,
    Error,
}

impl StandardStream {
    /// Returns the stream that has the same name as this file of a task.
    pub(crate) fn of_file(file: &str) -> Self {
        match file {
            "stdout" => Self::Output,
            _ => Self::Error,
        }
    }
}

/// Adds a prefix to what a task writes to one file.
pub(crate) struct PrefixedOutput {
    out: ChunkWriter,
    /// Text before each line. If empty, the output is passed on unchanged.
    label: String,
    /// A line without its end.
    partial: Vec<u8>,
}

impl PrefixedOutput {
    /// Writes what a task writes to `file` to this stream. The label ends with a separator.
    pub(crate) fn new(stream: StandardStream, file: &'static str, label: String) -> Self {
        let noted = label.clone();
        let out = move |piece: FileChunk<'_>| match piece {
            FileChunk::Bytes(bytes) => write_bytes(stream, bytes),
            FileChunk::Missing(count) => {
                note(&format!("{noted}{}", FileChunk::missing(count, file)));
                Ok(())
            }
        };
        Self::to(Box::new(out), label)
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
            FileChunk::Missing(_) if !self.partial.is_empty() => {
                // The rest of this line is missing.
                let lines = self.lines(b"\n");
                (self.out)(FileChunk::Bytes(&lines))?;
                return (self.out)(piece);
            }
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
    match piece {
        FileChunk::Bytes(bytes) => write_bytes(StandardStream::of_file(file), bytes),
        FileChunk::Missing(count) => {
            note(&FileChunk::missing(count, file));
            Ok(())
        }
    }
}

fn write_bytes(stream: StandardStream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        StandardStream::Output => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        StandardStream::Error => io::stderr().lock().write_all(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_prefixed_when_complete_or_too_long() {
        let mut own = PrefixedOutput::new(StandardStream::Output, "stdout", "web | ".to_owned());
        assert_eq!(own.lines(b"one\ntw"), b"web | one\n");
        assert_eq!(own.lines(b"o\n\nthree"), b"web | two\nweb | \n");
        assert_eq!(own.lines(b"\n"), b"web | three\n");
        let long = vec![b'x'; LINE_BYTES];
        let marked = own.lines(&long);
        assert_eq!(marked.len(), LINE_BYTES + "web | \n".len());
        assert!(own.partial.is_empty());
    }

    #[test]
    fn a_line_ends_at_missing_bytes() {
        let (shown, seen) = std::sync::mpsc::channel();
        let out = move |piece: FileChunk<'_>| {
            shown.send(format!("{piece:?}")).unwrap();
            Ok(())
        };
        let mut own = PrefixedOutput::to(Box::new(out), "web | ".to_owned());
        own.pass(FileChunk::Bytes(b"on")).unwrap();
        own.pass(FileChunk::Missing(7)).unwrap();
        own.pass(FileChunk::Bytes(b"two\n")).unwrap();
        drop(own);
        let all: Vec<_> = seen.iter().collect();
        let line = |text: &str| format!("{:?}", FileChunk::Bytes(text.as_bytes()));
        let missing = format!("{:?}", FileChunk::Missing(7));
        assert_eq!(all, [line("web | on\n"), missing, line("web | two\n")]);
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
