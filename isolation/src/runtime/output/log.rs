//! One output stream into files: each up to a maximum size, at a limited rate, with a note where
//! bytes are missing.
//!
//! A line is split between two files in two cases: a part of it arrived earlier and is already in
//! the first one, or it is longer than a file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::rate_limit::RateLimit;
use super::record::StreamName;
use super::store::OutputStore;
use super::times::OutputSpan;

#[derive(Debug)]
pub(super) struct OutputLog {
    stream: StreamName,
    file: File,
    /// Bytes in `file`.
    written: u64,
    /// Whether the last byte ended a line.
    is_line_complete: bool,
    rate_limit: RateLimit,
    /// Bytes dropped since the last note because of the rate limit.
    over_limit: u64,
    /// Bytes dropped since the last note because no file accepted them.
    unwritten: u64,
}

impl OutputLog {
    pub(super) fn create(store: &mut OutputStore, stream: StreamName) -> io::Result<Self> {
        Ok(Self {
            stream,
            file: store.create_first(stream)?,
            written: 0,
            is_line_complete: true,
            rate_limit: RateLimit::new(store.limits.bytes_per_second),
            over_limit: 0,
            unwritten: 0,
        })
    }

    /// Returns the last bytes of the newest file, at most this many; none if they cannot be read.
    pub(super) fn tail(&self, max_bytes: usize) -> Vec<u8> {
        let length = self.written.min(max_bytes as u64);
        let mut bytes = vec![0; length as usize];
        let read = self.file.read_exact_at(&mut bytes, self.written - length);
        read.map_or_else(|_| Vec::new(), |()| bytes)
    }

    pub(super) fn stream(&self) -> StreamName {
        self.stream
    }

    /// Returns the number of bytes of the whole stream that were written so far.
    pub(super) fn length(&self, store: &OutputStore) -> u64 {
        store.newest_offset(self.stream) + self.written
    }

    /// Writes what the rate limit allows now, and drops the rest.
    pub(super) fn accept(&mut self, store: &mut OutputStore, now: Instant, bytes: &[u8]) {
        let granted = self.rate_limit.grant(now, bytes.len());
        if granted > 0 {
            self.record_time(store, now);
            self.write_notes(store);
            let put = self.append(store, &bytes[..granted]);
            self.unwritten += (granted - put) as u64;
        }
        self.over_limit += (bytes.len() - granted) as u64;
    }

    /// Whether bytes were dropped that no note reports yet.
    pub(super) fn has_pending_note(&self) -> bool {
        self.over_limit > 0 || self.unwritten > 0
    }

    /// Writes the pending note, even if no byte follows, once its second is over.
    pub(super) fn flush_note(&mut self, store: &mut OutputStore, now: Instant) {
        if self.rate_limit.is_over(now) {
            self.record_time(store, now);
            self.write_notes(store);
        }
    }

    /// Writes the pending notes after the last byte.
    pub(super) fn finish(&mut self, store: &mut OutputStore, now: Instant) {
        if self.has_pending_note() {
            self.record_time(store, now);
            self.write_notes(store);
        }
        store.set_end(self.stream, self.written);
    }

    /// Records the time of the next byte if it begins a span. Most bytes do not, and read no clock
    /// for it.
    fn record_time(&self, store: &mut OutputStore, now: Instant) {
        if store.times.begins_span(self.stream, now) {
            let span = OutputSpan::at(self.length(store), wall_clock_ms());
            let kept = store.kept_offsets();
            store.times.add(self.stream, span, kept);
        }
    }

    /// A note that cannot be written stays pending.
    fn write_notes(&mut self, store: &mut OutputStore) {
        if self.over_limit > 0 {
            let limit = store.limits.bytes_per_second;
            let why = format!("they came faster than {limit} bytes a second");
            if self.write_note(store, self.over_limit, &why) {
                self.over_limit = 0;
            }
        }
        if self.unwritten > 0 && self.write_note(store, self.unwritten, "they could not be written")
        {
            self.unwritten = 0;
        }
    }

    fn write_note(&mut self, store: &mut OutputStore, count: u64, why: &str) -> bool {
        let note = format!("\n[argosy: {count} bytes of output are missing here: {why}]\n");
        self.append(store, note.as_bytes()) == note.len()
    }

    /// Returns the number of bytes that a file has accepted.
    fn append(&mut self, store: &mut OutputStore, bytes: &[u8]) -> usize {
        let mut done = 0;
        loop {
            let rest = &bytes[done..];
            let room = store.limits.file_bytes.saturating_sub(self.written);
            let piece = self.fitting(rest, room);
            let written = self.write(piece);
            done += written;
            if written < piece.len() || done == bytes.len() {
                return done;
            }
            match store.rotate(self.stream, self.written) {
                Ok(file) => (self.file, self.written) = (file, 0),
                // Retried with the next bytes.
                Err(_) => return done,
            }
        }
    }

    /// Returns the number of bytes written.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if let Some(last) = bytes[..done].last() {
            self.is_line_complete = *last == b'\n';
        }
        self.written += done as u64;
        done
    }

    /// Returns as many bytes as fit, up to the end of a line if there is one.
    fn fitting<'a>(&self, bytes: &'a [u8], room: u64) -> &'a [u8] {
        let room = match usize::try_from(room) {
            Ok(room) if room < bytes.len() => room,
            _ => return bytes,
        };
        let line = bytes[..room].iter().rposition(|byte| *byte == b'\n');
        match line {
            Some(end) => &bytes[..=end],
            None if self.is_line_complete && self.written > 0 => &[],
            None => &bytes[..room],
        }
    }
}

/// Returns milliseconds since 1970, for display.
fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
