//! The record of output times of one command, as it is written: one entry for each begin of a span,
//! and fewer of the oldest when the file is full.
//!
//! Each entry is written before the first byte of its span. So a reader that has read a byte finds
//! its entry, unless the record could not be written. Failures cost times only.
//!
//! The cost is bounded whatever the command writes. A byte that continues a span costs a comparison
//! of two times, and no read of the wall clock. A stream begins at most ten spans a second, each
//! with a write of about four bytes. When the file has reached its maximum size, it is replaced by
//! a shorter one, without the spans of removed output. If that does not suffice, spans of its older
//! half that are close to each other are merged. So old times become coarser, and new ones do not.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::record::StreamName;
use super::times::{EntryCodec, HEADER, MAX_BYTES, OutputSpan, SPAN_MS, TimesReader, times_path};
use crate::spec::OutputLimits;

/// Readable for all, writable for the supervisor.
const MODE: u32 = 0o644;
/// The part of the command's stored output by which the size of the record is limited.
const SHARE_OF_OUTPUT: u64 = 64;
const SMALLEST_LIMIT: u64 = 16 * 1024;
const LARGEST_LIMIT: u64 = MAX_BYTES / 2;
/// The number of spans that are recorded together after the file could not be shortened, so that a
/// full disk does not cost a copy of the file for each of them.
const SKIPPED_SPANS: u32 = 600;
/// The maximum length of merged spans: the first that is tried if it does not suffice to drop the
/// spans of removed output, and the last one before any length is accepted (a month).
const FIRST_MERGED_MS: i64 = 4 * SPAN_MS;
const LAST_MERGED_MS: i64 = 30 * 24 * 3_600_000;
const SPAN: Duration = Duration::from_millis(SPAN_MS as u64);

#[derive(Debug)]
pub(super) struct TimeLog {
    path: PathBuf,
    max_bytes: u64,
    /// Created with the first span.
    file: Option<RecordFile>,
    /// The time at which the newest span of each stream began.
    began: [Option<Instant>; 2],
    /// A span of each stream whose entry could not be written.
    missed: [Option<OutputSpan>; 2],
    /// The number of spans that do not try to shorten the file.
    skipped: u32,
}

/// An open record, and its end.
#[derive(Debug)]
struct RecordFile {
    file: File,
    codec: EntryCodec,
    length: u64,
}

impl TimeLog {
    /// Returns the log that belongs to this record of offsets. A former one of the same container
    /// is removed.
    pub(super) fn open(output_record: &Path, limits: OutputLimits) -> Self {
        let share = limits.max_bytes() / SHARE_OF_OUTPUT;
        let path = times_path(output_record);
        // Most often there is none. If it cannot be removed, it cannot be created either.
        let _ = fs::remove_file(&path);
        Self {
            path,
            max_bytes: share.clamp(SMALLEST_LIMIT, LARGEST_LIMIT),
            file: None,
            began: [None; 2],
            missed: [None; 2],
            skipped: 0,
        }
    }

    /// Returns whether a byte that is written now begins a span. If so, [`TimeLog::add`] records
    /// it.
    pub(super) fn begins_span(&mut self, stream: StreamName, now: Instant) -> bool {
        let began = &mut self.began[stream as usize];
        if began.is_some_and(|began| now.saturating_duration_since(began) < SPAN) {
            return false;
        }
        *began = Some(now);
        true
    }

    /// Makes no byte begin a span.
    #[cfg(test)]
    pub(super) fn disable(&mut self) {
        let never = Instant::now() + Duration::from_hours(24 * 365);
        self.began = [Some(never); 2];
    }

    /// Records a span. `kept` has the offset of the first byte of each stream that is still stored.
    pub(super) fn add(&mut self, stream: StreamName, span: OutputSpan, kept: [u64; 2]) {
        let index = stream as usize;
        if let Some(missed) = self.missed[index] {
            // Its bytes were written at any time until now.
            if self.write(stream, missed.merged(span), kept).is_err() {
                return;
            }
            self.missed[index] = None;
        }
        if self.write(stream, span, kept).is_err() {
            self.missed[index] = Some(span);
        }
    }

    fn write(&mut self, stream: StreamName, span: OutputSpan, kept: [u64; 2]) -> io::Result<()> {
        let record = match &mut self.file {
            Some(record) => record,
            None => self.file.insert(RecordFile::create(&self.path)?),
        };
        if record.append(stream, span, self.max_bytes)? {
            return Ok(());
        }
        if self.skipped > 0 {
            self.skipped -= 1;
        } else {
            match record.shorten(&self.path, self.max_bytes, kept) {
                Ok(shorter) => *record = shorter,
                Err(error) => {
                    self.skipped = SKIPPED_SPANS;
                    return Err(error);
                }
            }
            if record.append(stream, span, self.max_bytes)? {
                return Ok(());
            }
        }
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

impl RecordFile {
    /// Creates a record without entries.
    fn create(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(MODE);
        let file = options.open(path)?;
        // Independent of the agent's umask.
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all_at(&HEADER, 0)?;
        Ok(Self {
            file,
            codec: EntryCodec::new(),
            length: HEADER.len() as u64,
        })
    }

    /// Returns false if the entry does not fit. An entry that was written in part is overwritten by
    /// the next one.
    fn append(&mut self, stream: StreamName, span: OutputSpan, most: u64) -> io::Result<bool> {
        let mut codec = self.codec;
        let mut entry = Vec::with_capacity(16);
        codec.encode(stream, span, &mut entry);
        if self.length + entry.len() as u64 > most {
            return Ok(false);
        }
        self.file.write_all_at(&entry, self.length)?;
        self.codec = codec;
        self.length += entry.len() as u64;
        Ok(true)
    }

    /// Replaces the file by one that has at most seven eighths of the maximum size.
    fn shorten(&self, path: &Path, most: u64, kept: [u64; 2]) -> io::Result<Self> {
        let draft = path.with_added_extension("draft");
        let mut longest_ms = 0;
        let shorter = loop {
            let mut shorter = Self::create(&draft)?;
            let is_damaged = self.copy_merged(&mut shorter, kept, longest_ms)?;
            if is_damaged {
                // The last copied spans would cover the bytes of those that were lost.
                break Self::create(&draft)?;
            }
            if shorter.length <= most / 8 * 7 || longest_ms == i64::MAX {
                break shorter;
            }
            longest_ms = match longest_ms {
                0 => FIRST_MERGED_MS,
                ms if ms < LAST_MERGED_MS => ms * 4,
                // Then each stream has one span in the first half.
                _ => i64::MAX,
            };
        };
        fs::rename(&draft, path)?;
        Ok(shorter)
    }

    /// Copies the spans of stored output. In the first half of the file, spans of a stream become
    /// one if that lasts at most this long. Returns whether this file is damaged.
    fn copy_merged(&self, to: &mut Self, kept: [u64; 2], longest_ms: i64) -> io::Result<bool> {
        let mut reader = TimesReader::new(self.file.try_clone()?);
        let mut writer = BufWriter::with_capacity(16 * 1024, &to.file);
        writer.write_all(&HEADER)?;
        let mut entry = Vec::new();
        let mut put = |stream, span| {
            entry.clear();
            to.codec.encode(stream, span, &mut entry);
            to.length += entry.len() as u64;
            writer.write_all(&entry)
        };
        // The newest span of each stream.
        let mut newest: [Option<OutputSpan>; 2] = [None; 2];
        while let Some((stream, span)) = reader.next_span()? {
            let is_old = reader.position() < self.length / 2;
            let newest = &mut newest[stream as usize];
            // A former span is dropped if all its bytes are removed.
            let former = newest.filter(|_| span.offset > kept[stream as usize]);
            let merged = former.map(|former| former.merged(span));
            let merged = merged.filter(|merged| is_old && merged.length_ms() <= longest_ms);
            if let (Some(former), None) = (former, merged) {
                put(stream, former)?;
            }
            *newest = Some(merged.unwrap_or(span));
        }
        for stream in [StreamName::Stdout, StreamName::Stderr] {
            if let Some(span) = newest[stream as usize] {
                put(stream, span)?;
            }
        }
        writer.flush()?;
        Ok(reader.position() != self.length)
    }
}

#[cfg(test)]
mod tests;
