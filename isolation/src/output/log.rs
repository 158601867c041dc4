//! One stream on its way into files: up to a size each, at a bounded pace, with a note where something is missing.
//!
//! A line is split between two files only if a part of it came before and is in the first one already, or if it is longer than
//! a file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::rate_limit::Allowance;
use super::record::StreamName;
use super::store::Store;

/// A stream.
#[derive(Debug)]
pub(super) struct Log {
    stream: StreamName,
    file: File,
    /// Bytes in `file`.
    written: u64,
    /// The last of them ended a line.
    is_line_over: bool,
    allowance: Allowance,
    /// Bytes dropped since the last note of it, because they came too fast.
    hasty: u64,
    /// Bytes dropped since the last note of it, because no file took them.
    unwritten: u64,
}

impl Log {
    pub(super) fn create(store: &mut Store, stream: StreamName) -> io::Result<Self> {
        Ok(Self {
            stream,
            file: store.begin(stream)?,
            written: 0,
            is_line_over: true,
            allowance: Allowance::new(store.limits.bytes_per_second),
            hasty: 0,
            unwritten: 0,
        })
    }

    /// The last bytes of the newest file, at most so many; none if they cannot be read.
    pub(super) fn tail(&self, most_bytes: usize) -> Vec<u8> {
        let length = self.written.min(most_bytes as u64);
        let mut bytes = vec![0; length as usize];
        let read = self.file.read_exact_at(&mut bytes, self.written - length);
        read.map_or_else(|_| Vec::new(), |()| bytes)
    }

    pub(super) fn stream(&self) -> StreamName {
        self.stream
    }

    /// Bytes of the whole stream that were written so far.
    pub(super) fn length(&self, store: &Store) -> u64 {
        store.begin_of_newest(self.stream) + self.written
    }

    /// Takes what is allowed now, and drops the rest.
    pub(super) fn take(&mut self, store: &mut Store, now: Instant, bytes: &[u8]) {
        let granted = self.allowance.grant(now, bytes.len());
        if granted > 0 {
            self.tell_dropped(store);
            let put = self.put(store, &bytes[..granted]);
            self.unwritten += (granted - put) as u64;
        }
        self.hasty += (bytes.len() - granted) as u64;
    }

    /// Whether something was dropped of which there is no note yet.
    pub(super) fn owes_note(&self) -> bool {
        self.hasty > 0 || self.unwritten > 0
    }

    /// Writes the note that is owed, though no byte follows, once the second is over in which it grew.
    pub(super) fn settle(&mut self, store: &mut Store, now: Instant) {
        if self.allowance.is_over(now) {
            self.tell_dropped(store);
        }
    }

    /// After the last byte.
    pub(super) fn finish(&mut self, store: &mut Store) {
        self.tell_dropped(store);
        store.end(self.stream, self.written);
    }

    /// A note that does not get through itself is for later.
    fn tell_dropped(&mut self, store: &mut Store) {
        if self.hasty > 0 {
            let limit = store.limits.bytes_per_second;
            let why = format!("they came faster than {limit} bytes a second");
            if self.tell(store, self.hasty, &why) {
                self.hasty = 0;
            }
        }
        if self.unwritten > 0 && self.tell(store, self.unwritten, "they could not be written") {
            self.unwritten = 0;
        }
    }

    fn tell(&mut self, store: &mut Store, count: u64, why: &str) -> bool {
        let note = format!("\n[argosy: {count} bytes of output are missing here: {why}]\n");
        self.put(store, note.as_bytes()) == note.len()
    }

    /// Returns how many of them a file has taken.
    fn put(&mut self, store: &mut Store, bytes: &[u8]) -> usize {
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
                // Tried again with the next bytes.
                Err(_) => return done,
            }
        }
    }

    /// Returns how many are written.
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
            self.is_line_over = *last == b'\n';
        }
        self.written += done as u64;
        done
    }

    /// As much as there is room for, to the end of a line if there is one.
    fn fitting<'a>(&self, bytes: &'a [u8], room: u64) -> &'a [u8] {
        let room = match usize::try_from(room) {
            Ok(room) if room < bytes.len() => room,
            _ => return bytes,
        };
        let line = bytes[..room].iter().rposition(|byte| *byte == b'\n');
        match line {
            Some(end) => &bytes[..=end],
            None if self.is_line_over && self.written > 0 => &[],
            None => &bytes[..room],
        }
    }
}
