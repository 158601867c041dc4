//! The times at which a task's output was written: the offset of a time, and the times of bytes
//! that are read.
//!
//! The record of times is untrusted in the modes in which a task can write to it, and may be absent
//! or damaged. Then times are not known; the output does not depend on them. Blocks.

use std::io;
use std::path::{Path, PathBuf};

use argosy_isolation::output::{OutputSpan, StreamName, TimesReader};

use super::FilesError;
use super::path::{FilePath, Sandbox};
use super::reader::MAX_OFFSET;

/// The length of the header of a frame.
const FRAME_HEADER_BYTES: usize = 12;
/// The time of bytes whose time is not known.
const UNKNOWN: i64 = i64::MIN;
/// Maximum number of replaced records that are followed at once. A supervisor replaces its record
/// at most once in minutes.
const MAX_REPLACED: usize = 4;

/// The parameters of a request that concern times.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimesRequest {
    /// Whether the answer has the times of its bytes.
    pub(super) times: bool,
    /// The time whose offset is requested.
    pub(super) since_ms: Option<i64>,
}

/// The answer to it.
#[derive(Debug)]
pub(super) struct FoundTimes {
    pub(super) times: Option<OutputTimes>,
    /// The offset of the requested time.
    pub(super) since: Option<u64>,
}

impl TimesRequest {
    /// Opens the times of the file at these components below the sandbox, which had this size
    /// before.
    pub(super) fn find(
        self,
        place: &FilePath,
        sandbox: &Sandbox,
        parts: &[String],
        size: u64,
    ) -> Result<FoundTimes, FilesError> {
        let mut found = FoundTimes {
            times: None,
            since: None,
        };
        if !self.times && self.since_ms.is_none() {
            return Ok(found);
        }
        let stream = match parts {
            [name] => StreamName::of_file(name),
            _ => None,
        };
        let stream = stream.ok_or_else(|| FilesError::Invalid {
            field: "path",
            value: place.path.chars().take(200).collect(),
            remedy: "only stdout and stderr have times; omit times and since_ms for other files",
        })?;
        let path = &sandbox.output_times;
        // A record that cannot be read is as good as none.
        let absent = || FilesError::NoTimes {
            path: place.path.clone(),
        };
        if self.times {
            let opened = OutputTimes::open(path, stream, size).ok().flatten();
            found.times = Some(opened.ok_or_else(absent)?);
        }
        if let Some(since_ms) = self.since_ms {
            let offset = offset_since(path, stream, since_ms, size).ok().flatten();
            let offset = offset.filter(|offset| *offset <= MAX_OFFSET);
            found.since = Some(offset.ok_or_else(absent)?);
        }
        Ok(found)
    }
}

/// Returns the offset of the first byte that was written at this time or later, or `None` if no
/// times are recorded. `size` is the length of the stream, determined before.
///
/// Whatever a clock did, no later byte is before this offset. If the first time that is known is
/// later, all bytes follow it.
fn offset_since(
    path: &Path,
    stream: StreamName,
    since_ms: i64,
    size: u64,
) -> io::Result<Option<u64>> {
    let Some(mut reader) = TimesReader::open(path)? else {
        return Ok((size == 0).then_some(0));
    };
    let mut former: Option<OutputSpan> = None;
    while let Some((of, span)) = reader.next_span()? {
        if of != stream {
            continue;
        }
        if former.is_none() && span.first_ms > since_ms {
            return Ok(Some(0));
        }
        if span.last_ms >= since_ms {
            return Ok(Some(span.offset));
        }
        former = Some(span);
    }
    Ok(match former {
        // It is not known where the last known span ends.
        Some(former) if reader.is_damaged() => Some(former.offset),
        Some(_) => Some(size),
        None => (size == 0).then_some(0),
    })
}

/// The times of a stream that is read from its begin to its end.
#[derive(Debug)]
pub(super) struct OutputTimes {
    path: PathBuf,
    stream: StreamName,
    reader: Option<TimesReader>,
    /// The span of the last byte, and the one after it if it is known.
    current: Option<OutputSpan>,
    next: Option<OutputSpan>,
}

impl OutputTimes {
    /// Opens the times of a stream of this length; `None` if there are none.
    pub(super) fn open(path: &Path, stream: StreamName, size: u64) -> io::Result<Option<Self>> {
        let mut times = Self {
            path: path.to_owned(),
            stream,
            reader: None,
            current: None,
            next: None,
        };
        times.next = times.read_next()?;
        // A stream without bytes gets a record with its first one.
        Ok((times.next.is_some() || size == 0).then_some(times))
    }

    /// Returns these bytes as frames: one for each span, with the time and the number of its bytes
    /// before them. Offsets of further calls must not be lower. An unreadable record costs no
    /// output.
    pub(super) fn frames(&mut self, mut offset: u64, mut bytes: &[u8]) -> Vec<u8> {
        let mut frames = Vec::with_capacity(bytes.len() + FRAME_HEADER_BYTES);
        while !bytes.is_empty() {
            let first_ms = self.first_ms(offset).ok().flatten();
            let length = match self.next {
                Some(next) => (next.offset - offset).min(bytes.len() as u64),
                None => bytes.len() as u64,
            };
            let (frame, rest) = bytes.split_at(length as usize);
            frames.extend(first_ms.unwrap_or(UNKNOWN).to_be_bytes());
            frames.extend((length as u32).to_be_bytes());
            frames.extend(frame);
            offset += length;
            bytes = rest;
        }
        frames
    }

    /// Returns the time of the byte at this offset, which was read before: its entry is recorded by
    /// now. The next span is after this offset.
    fn first_ms(&mut self, offset: u64) -> io::Result<Option<i64>> {
        loop {
            if self.next.is_none() {
                self.next = self.read_next()?;
            }
            match self.next {
                Some(next) if next.offset <= offset => self.current = self.next.take(),
                Some(_) => break,
                // It is not known where the current span ends.
                None if self.reader.as_ref().is_some_and(TimesReader::is_damaged) => {
                    return Ok(None);
                }
                None => break,
            }
        }
        let current = self.current.filter(|current| current.offset <= offset);
        Ok(current.map(|current| current.first_ms))
    }

    fn read_next(&mut self) -> io::Result<Option<OutputSpan>> {
        for _ in 0..MAX_REPLACED {
            if self.reader.is_none() {
                self.reader = TimesReader::open(&self.path)?;
            }
            let Some(reader) = &mut self.reader else {
                return Ok(None);
            };
            while let Some((stream, span)) = reader.next_span()? {
                if stream == self.stream {
                    return Ok(Some(span));
                }
            }
            if !reader.is_replaced(&self.path)? {
                return Ok(None);
            }
            // Its successor has the spans of all bytes that are kept, from the first one on.
            self.reader = None;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
