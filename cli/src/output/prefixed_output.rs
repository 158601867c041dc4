//! The output of one of several tasks, with its name before each line, and the time if requested.

use std::io::{self, Write as _};

use super::timeline::utc;
use super::{note, status_line};
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
    /// Text before each line. If empty, lines are not kept together.
    label: String,
    /// A line without its end.
    partial: Vec<u8>,
    /// The times of the lines, if each begins with its own.
    times: Option<LineTimes>,
}

/// The times of lines, as texts with a space at the end.
struct LineTimes {
    /// The time of the next byte, and of the first byte of `partial`.
    next: String,
    partial: String,
    /// Whether the last byte that was passed on ended a line.
    is_line_complete: bool,
}

impl LineTimes {
    /// Returns `2026-11-27T03:04:05.678Z`, or as many characters for a time that is not known.
    fn text(wall_ms: Option<i64>) -> String {
        let text = wall_ms.map_or_else(|| "-".to_owned(), |ms| utc(ms).replacen(' ', "T", 1));
        format!("{text:<24} ")
    }

    /// Returns these bytes with the time before each line that begins in them.
    fn stamped(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut stamped = Vec::with_capacity(bytes.len() + self.next.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.is_line_complete {
                stamped.extend_from_slice(self.next.as_bytes());
            }
            stamped.extend_from_slice(part);
            self.is_line_complete = part.ends_with(b"\n");
        }
        stamped
    }
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
            FileChunk::Time(_) => Ok(()),
        };
        Self::to(Box::new(out), label)
    }

    fn to(out: ChunkWriter, label: String) -> Self {
        Self {
            out,
            label,
            partial: Vec::new(),
            times: None,
        }
    }

    /// Returns the same output with the time of its first byte before each line. A reader [with
    /// times](crate::files::FileReader::with_times) passes the times on.
    pub(crate) fn with_times(self) -> Self {
        let unknown = LineTimes::text(None);
        Self {
            times: Some(LineTimes {
                next: unknown.clone(),
                partial: unknown,
                is_line_complete: true,
            }),
            ..self
        }
    }

    pub(crate) fn pass(&mut self, piece: FileChunk<'_>) -> io::Result<()> {
        match piece {
            FileChunk::Bytes(bytes) => {
                let lines = match &mut self.times {
                    Some(times) if self.label.is_empty() => times.stamped(bytes),
                    None if self.label.is_empty() => return (self.out)(piece),
                    _ => self.lines(bytes),
                };
                match lines.is_empty() {
                    true => Ok(()),
                    false => (self.out)(FileChunk::Bytes(&lines)),
                }
            }
            FileChunk::Missing(_) => {
                // The rest of this line is missing.
                let is_stamped_line = self
                    .times
                    .as_ref()
                    .is_some_and(|times| self.label.is_empty() && !times.is_line_complete);
                if is_stamped_line || !self.partial.is_empty() {
                    self.pass(FileChunk::Bytes(b"\n"))?;
                }
                (self.out)(piece)
            }
            FileChunk::Time(wall_ms) => {
                if let Some(times) = &mut self.times {
                    times.next = LineTimes::text(wall_ms);
                }
                Ok(())
            }
        }
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
            if let Some(times) = &mut self.times
                && self.partial.is_empty()
            {
                times.partial.clone_from(&times.next);
            }
            self.partial.extend_from_slice(part);
            let has_ended = part.ends_with(b"\n");
            if has_ended || self.partial.len() >= LINE_BYTES {
                let time = self.times.as_ref().map(|times| times.partial.as_bytes());
                whole.extend_from_slice(time.unwrap_or_default());
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
        FileChunk::Time(_) => Ok(()),
    }
}

fn write_bytes(stream: StandardStream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        StandardStream::Output => {
            status_line::erase();
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        StandardStream::Error => {
            // One lock, so that no status line is written in between.
            let mut stderr = io::stderr().lock();
            status_line::erase();
            stderr.write_all(bytes)
        }
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

    /// Returns what is printed of these pieces, with times.
    fn printed(label: &str, pieces: &[FileChunk<'_>]) -> String {
        let (shown, seen) = std::sync::mpsc::channel();
        let out = move |piece: FileChunk<'_>| {
            shown
                .send(match piece {
                    FileChunk::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    other => format!("{other:?}"),
                })
                .unwrap();
            Ok(())
        };
        let mut own = PrefixedOutput::to(Box::new(out), label.to_owned()).with_times();
        for piece in pieces {
            own.pass(*piece).unwrap();
        }
        own.finish(Ok(())).unwrap();
        seen.iter().collect()
    }

    #[test]
    fn lines_begin_with_the_time_of_their_first_byte() {
        let pieces = [
            FileChunk::Time(Some(1_795_770_000_250)),
            FileChunk::Bytes(b"one\ntw"),
            FileChunk::Time(Some(1_795_770_009_999)),
            FileChunk::Bytes(b"o\n\n"),
            FileChunk::Time(None),
            FileChunk::Bytes(b"\0\xff\nfour"),
            FileChunk::Missing(7),
            FileChunk::Time(Some(-1)),
            FileChunk::Bytes(b"five"),
        ];
        let lines = [
            "2026-11-27T09:00:00.250Z one",
            "2026-11-27T09:00:00.250Z two",
            "2026-11-27T09:00:09.999Z ",
            "-                        \0\u{fffd}",
            "-                        four",
            "Missing(7)1969-12-31T23:59:59.999Z five",
        ];
        assert_eq!(printed("", &pieces), lines.join("\n"));
        let labelled = [
            "2026-11-27T09:00:00.250Z web | one\n",
            "2026-11-27T09:00:00.250Z web | two\n",
            "2026-11-27T09:00:09.999Z web | \n",
            "-                        web | \0\u{fffd}\n",
            "-                        web | four\n",
            "Missing(7)1969-12-31T23:59:59.999Z web | five\n",
        ];
        assert_eq!(printed("web | ", &pieces), labelled.concat());
    }

    #[test]
    fn a_long_line_has_one_time_alone_and_one_for_each_part_among_others() {
        let half = vec![b'x'; LINE_BYTES / 2];
        let times = [0, 1_000, 2_000, 3_000].map(|ms| FileChunk::Time(Some(ms)));
        let pieces = times
            .into_iter()
            .flat_map(|time| [time, FileChunk::Bytes(&half)]);
        let pieces: Vec<_> = pieces.collect();
        let alone = printed("", &pieces);
        assert_eq!(alone.len(), 4 * half.len() + 25);
        assert!(alone.starts_with("1970-01-01T00:00:00.000Z x"));
        let among = printed("web | ", &pieces);
        let begins: Vec<_> = among.lines().map(|line| &line[..31]).collect();
        let expected = [
            "1970-01-01T00:00:00.000Z web | ",
            "1970-01-01T00:00:02.000Z web | ",
        ];
        assert_eq!(begins, expected);
    }
}
