//! The record of output times: when the bytes of a command's output were written.
//!
//! The record divides each stream into *spans*. A span begins at an offset, and all its bytes were
//! written between two times, which are [`SPAN_MS`] apart unless spans were merged. The file has a
//! header and then one entry for the begin of each span of both streams, in the order of writing.
//! An entry is about four bytes long:
//!
//! 1. the distance from the stream's former entry in bytes, the stream, and whether the span was
//!    merged, as one number that is never 0;
//! 2. the distance from the first time of the former entry of either stream, which is negative
//!    after a clock was set back;
//! 3. of a merged span, its length in milliseconds;
//! 4. a check byte over all entries so far.
//!
//! Numbers are in base 128, with the least significant digits first. An entry that does not fit its
//! check byte ends the record: damage loses times, and the output does not depend on them. A task
//! can write to the file in the modes in which it is a user of the agent's host, so its content is
//! untrusted, and at most [`MAX_BYTES`] of it are read.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::record::{StreamName, open_record};

/// The length of a span, in milliseconds. The next byte after this time begins another span.
pub const SPAN_MS: i64 = 100;
/// The maximum size of a record that is read.
pub(super) const MAX_BYTES: u64 = 2 * 1024 * 1024;
/// The first bytes of a record.
pub(super) const HEADER: [u8; 8] = *b"argtime1";
/// The maximum length of an entry.
const MAX_ENTRY: usize = 31;
/// The number of bytes that are read at a time.
const READ_BYTES: usize = 4 * 1024;

/// Returns the path of the record of times that belongs to this record of offsets.
#[must_use]
pub fn times_path(output_record: &Path) -> PathBuf {
    output_record.with_extension("times")
}

/// A part of a stream, up to the offset of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputSpan {
    /// The offset of its first byte. It is not lower than that of the span before.
    pub offset: u64,
    /// The time at which its first byte was written, in milliseconds since 1970.
    pub first_ms: i64,
    /// A time that none of its bytes exceeds.
    pub last_ms: i64,
}

impl OutputSpan {
    /// Returns a span that begins at this offset and time.
    #[must_use]
    pub fn at(offset: u64, wall_ms: i64) -> Self {
        Self {
            offset,
            first_ms: wall_ms,
            last_ms: wall_ms.saturating_add(SPAN_MS),
        }
    }

    /// Returns the length in time.
    pub(super) fn length_ms(self) -> i64 {
        self.last_ms.saturating_sub(self.first_ms)
    }

    /// Returns a span of both. Its times contain all times of the two, whatever the clock did.
    pub(super) fn merged(self, later: Self) -> Self {
        Self {
            offset: self.offset,
            first_ms: self.first_ms.min(later.first_ms),
            last_ms: self.last_ms.max(later.last_ms),
        }
    }
}

/// Returns a record of these spans, as a supervisor writes it.
#[must_use]
pub fn encode_times(spans: &[(StreamName, OutputSpan)]) -> Vec<u8> {
    let mut bytes = HEADER.to_vec();
    let mut codec = EntryCodec::new();
    for (stream, span) in spans {
        codec.encode(*stream, *span, &mut bytes);
    }
    bytes
}

/// Returns the spans at the begin of a record, up to the first invalid entry, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) fn decode_times(bytes: &[u8]) -> Vec<(StreamName, OutputSpan)> {
    let mut rest = bytes.strip_prefix(&HEADER).unwrap_or_default();
    let mut codec = EntryCodec::new();
    let mut spans = Vec::new();
    while let DecodedEntry::Span(stream, span, length) = codec.decode(rest) {
        spans.push((stream, span));
        rest = &rest[length..];
    }
    spans
}

/// The context of an entry: the entries before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryCodec {
    offsets: [u64; 2],
    first_ms: i64,
    hash: u32,
}

/// The result of decoding the begin of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DecodedEntry {
    /// An entry of this length.
    Span(StreamName, OutputSpan, usize),
    /// The bytes end before the entry does.
    Incomplete,
    Invalid,
}

impl EntryCodec {
    /// Returns the state before the first entry.
    pub(super) fn new() -> Self {
        Self {
            offsets: [0; 2],
            first_ms: 0,
            // The basis of FNV-1a.
            hash: 0x811c_9dc5,
        }
    }

    /// Appends an entry. Offsets of one stream must not decrease.
    pub(super) fn encode(&mut self, stream: StreamName, span: OutputSpan, into: &mut Vec<u8>) {
        let begin = into.len();
        let former = &mut self.offsets[stream as usize];
        let distance = span.offset.saturating_sub(*former);
        let is_merged = span != OutputSpan::at(span.offset, span.first_ms);
        let place = distance << 2 | (stream as u64) << 1 | u64::from(is_merged);
        put_number(into, place.saturating_add(1));
        put_number(into, zigzag(span.first_ms.wrapping_sub(self.first_ms)));
        if is_merged {
            put_number(into, span.last_ms.wrapping_sub(span.first_ms) as u64);
        }
        *former += distance;
        self.first_ms = span.first_ms;
        let check = self.check(&into[begin..]);
        into.push(check);
    }

    /// Decodes the entry at the begin of these bytes. Only a valid one changes the state.
    fn decode(&mut self, bytes: &[u8]) -> DecodedEntry {
        let mut rest = bytes;
        let mut numbers = [0; 3];
        let mut count = 2;
        let mut at = 0;
        while at < count {
            match take_number(&mut rest) {
                Some(Ok(number)) => numbers[at] = number,
                Some(Err(())) => return DecodedEntry::Invalid,
                None => return DecodedEntry::Incomplete,
            }
            if at == 0 {
                let Some(place) = numbers[0].checked_sub(1) else {
                    return DecodedEntry::Invalid;
                };
                numbers[0] = place;
                count += usize::from(place & 1 == 1);
            }
            at += 1;
        }
        let Some((check, _)) = rest.split_first() else {
            return DecodedEntry::Incomplete;
        };
        let mut next = *self;
        let length = bytes.len() - rest.len();
        if next.check(&bytes[..length]) != *check {
            return DecodedEntry::Invalid;
        }
        let stream = match numbers[0] & 2 {
            0 => StreamName::Stdout,
            _ => StreamName::Stderr,
        };
        let former = &mut next.offsets[stream as usize];
        let Some(offset) = former.checked_add(numbers[0] >> 2) else {
            return DecodedEntry::Invalid;
        };
        *former = offset;
        next.first_ms = self.first_ms.wrapping_add(unzigzag(numbers[1]));
        let mut span = OutputSpan::at(offset, next.first_ms);
        if count == 3 {
            span.last_ms = span.first_ms.saturating_add_unsigned(numbers[2]);
        }
        *self = next;
        DecodedEntry::Span(stream, span, length + 1)
    }

    /// Returns the check byte of an entry: the highest byte of FNV-1a over all entries.
    fn check(&mut self, entry: &[u8]) -> u8 {
        for byte in entry {
            self.hash = (self.hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
        (self.hash >> 24) as u8
    }
}

/// Maps numbers close to 0, of either sign, to low numbers.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn put_number(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// Takes a number from the begin of these bytes. Returns `None` if they end before it does, and an
/// error if it has more than 64 bits.
fn take_number(bytes: &mut &[u8]) -> Option<Result<u64, ()>> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().enumerate() {
        let digit = u64::from(byte & 0x7f);
        let shift = 7 * at as u32;
        if shift > 63 || digit << shift >> shift != digit {
            return Some(Err(()));
        }
        number |= digit << shift;
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(Ok(number));
        }
    }
    None
}

/// Reads the entries of a record one after the other, also while the record grows. Blocks.
#[derive(Debug)]
pub struct TimesReader {
    file: File,
    codec: EntryCodec,
    /// The position in the file of the next entry.
    position: u64,
    /// The bytes from the next entry on, as far as they were read.
    buffer: Vec<u8>,
    /// The position of the next entry in `buffer`.
    at: usize,
    is_damaged: bool,
}

impl TimesReader {
    /// Opens the record at this path; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be opened, or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        Ok(open_record(path)?.map(Self::new))
    }

    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            codec: EntryCodec::new(),
            position: 0,
            buffer: Vec::new(),
            at: 0,
            is_damaged: false,
        }
    }

    /// Returns the position in the file of the next entry.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Returns the next entry, or `None` if there is no further one now.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next_span(&mut self) -> io::Result<Option<(StreamName, OutputSpan)>> {
        let mut is_filled = false;
        loop {
            match self.decode() {
                DecodedEntry::Span(stream, span, length) => {
                    self.advance(length);
                    self.is_damaged = false;
                    return Ok(Some((stream, span)));
                }
                // What was read earlier may have been replaced.
                DecodedEntry::Incomplete | DecodedEntry::Invalid if !is_filled => {
                    self.fill()?;
                    is_filled = true;
                }
                DecodedEntry::Incomplete | DecodedEntry::Invalid => {
                    let is_too_long = self.position + MAX_ENTRY as u64 > MAX_BYTES;
                    self.is_damaged = is_too_long || self.at < self.buffer.len();
                    self.buffer.clear();
                    self.at = 0;
                    return Ok(None);
                }
            }
        }
    }

    /// Returns whether the last call found bytes that are no entry, or not yet. What they recorded,
    /// if anything, is not known, and neither are all later times.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Returns whether another record has the path now, which the supervisor has shortened.
    ///
    /// # Errors
    /// If the path cannot be examined.
    pub fn is_replaced(&self, path: &Path) -> io::Result<bool> {
        let own = self.file.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(named) => Ok((named.dev(), named.ino()) != (own.dev(), own.ino())),
            // It was removed with its sandbox.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn decode(&mut self) -> DecodedEntry {
        if self.position == 0 {
            match self.buffer.get(..HEADER.len()) {
                Some(header) if header == HEADER => self.advance(HEADER.len()),
                Some(_) => return DecodedEntry::Invalid,
                None => return DecodedEntry::Incomplete,
            }
        }
        self.codec.decode(&self.buffer[self.at..])
    }

    fn advance(&mut self, length: usize) {
        self.at += length;
        self.position += length as u64;
    }

    fn fill(&mut self) -> io::Result<()> {
        let length = (READ_BYTES as u64).min(MAX_BYTES.saturating_sub(self.position));
        self.buffer.resize(length as usize, 0);
        self.at = 0;
        let mut count = 0;
        while count < self.buffer.len() {
            let position = self.position + count as u64;
            match self.file.read_at(&mut self.buffer[count..], position) {
                Ok(0) => break,
                Ok(read) => count += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
