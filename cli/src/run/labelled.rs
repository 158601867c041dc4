//! What one task of a group writes, a line at a time behind its name.

use std::io;

use super::typing::write;
use crate::files::Piece;

/// The longest line that is kept together, in bytes.
const LINE_BYTES: usize = 64 * 1024;

/// Passes on what a task writes to one file.
pub(super) struct Labelled {
    file: &'static str,
    /// Before each line; empty passes everything on as it comes.
    label: String,
    /// A line that has not ended.
    begun: Vec<u8>,
}

impl Labelled {
    pub(super) fn new(file: &'static str, label: String) -> Self {
        Self {
            file,
            label,
            begun: Vec::new(),
        }
    }

    pub(super) fn pass(&mut self, piece: Piece<'_>) -> io::Result<()> {
        let bytes = match piece {
            Piece::Bytes(bytes) if !self.label.is_empty() => bytes,
            Piece::Bytes(_) | Piece::Missing(_) => return write(self.file, piece),
        };
        let lines = self.lines(bytes);
        if lines.is_empty() {
            return Ok(());
        }
        write(self.file, Piece::Bytes(&lines))
    }

    /// A last line that no newline ends.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.begun.is_empty() {
            return Ok(());
        }
        let lines = self.lines(b"\n");
        write(self.file, Piece::Bytes(&lines))
    }

    /// All lines that have ended, and one that is too long to wait for.
    fn lines(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(bytes.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            let has_ended = part.ends_with(b"\n");
            if has_ended || self.begun.len() >= LINE_BYTES {
                whole.extend_from_slice(self.label.as_bytes());
                whole.append(&mut self.begun);
                if !has_ended {
                    whole.push(b'\n');
                }
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_marked_once_they_have_ended_or_are_too_long() {
        let mut own = Labelled::new("stdout", "web | ".to_owned());
        assert_eq!(own.lines(b"one\ntw"), b"web | one\n");
        assert_eq!(own.lines(b"o\n\nthree"), b"web | two\nweb | \n");
        assert_eq!(own.lines(b"\n"), b"web | three\n");
        let long = vec![b'x'; LINE_BYTES];
        let marked = own.lines(&long);
        assert_eq!(marked.len(), LINE_BYTES + "web | \n".len());
        assert!(own.begun.is_empty());
    }
}
