//! A file as a sequence of bytes; a task's output as one sequence over all files that it is rotated
//! into.
//!
//! An offset in `stdout` or `stderr` counts the bytes that were written since the task began, in
//! whichever file they are by now. Each byte is read at its offset or, when its file is removed,
//! not at all: then there is a gap, and the reader receives the offset of its end. A file that is
//! open here can be read to its end after it is renamed or removed, so a reader that keeps up loses
//! nothing. Blocks; independent of HTTP.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use argosy_isolation::output::{FileId, OutputRecord, StreamName};

use super::FilesError;
use super::path::{FilePath, Sandbox, open_below};

/// The highest offset at which bytes are read. No file is so long. The kernel rejects a read whose
/// offset and length together exceed a signed 64-bit number.
pub(super) const MAX_OFFSET: u64 = 1 << 62;
/// Bytes read at a time.
const CHUNK_BYTES: u64 = 64 * 1024;
/// Number of names beyond the recorded ones that are checked: files are renamed during the search.
const NAMES_BEYOND: usize = 2;

#[derive(Debug)]
struct SequenceFile {
    file: File,
    id: FileId,
    /// The offset of its first byte.
    begin: u64,
    /// The offset after its last byte; `None` while it may grow.
    end: Option<u64>,
}

impl SequenceFile {
    /// Returns the offset after the last existing byte.
    fn present(&self) -> io::Result<u64> {
        let there = self.begin + self.file.metadata()?.len();
        Ok(self.end.map_or(there, |end| end.min(there)))
    }
}

/// The location of a rotated stream.
#[derive(Debug, Clone)]
struct StreamLocation {
    path: FilePath,
    sandbox: Sandbox,
    stream: StreamName,
}

/// The retained files of a stream.
struct RetainedFiles {
    parts: Vec<SequenceFile>,
    /// The number of bytes of the stream when that was recorded.
    end: u64,
    /// The offset at which the newest file begins.
    newest: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadResult {
    /// The next bytes, at least one.
    Bytes(Vec<u8>),
    /// No more bytes exist now.
    Nothing,
    /// The next bytes are removed; a new reader finds those after them.
    Gap,
}

/// A sequence of bytes and a position in it.
#[derive(Debug)]
pub(super) struct StreamReader {
    source: Option<StreamLocation>,
    /// Ascending; those before the offset are closed.
    parts: Vec<SequenceFile>,
    /// The beginning of the newest file that was recorded when the parts were opened.
    newest: u64,
    offset: u64,
    size: u64,
}

impl StreamReader {
    /// Opens the file at these components below the sandbox, at offset 0.
    pub(super) fn open(
        place: &FilePath,
        sandbox: &Sandbox,
        parts: &[String],
    ) -> Result<Self, FilesError> {
        let stream = match parts {
            [name] => StreamName::of_file(name),
            _ => None,
        };
        let source = stream.map(|stream| StreamLocation {
            path: place.clone(),
            sandbox: sandbox.clone(),
            stream,
        });
        let failed = |source| place.failed(source);
        if let Some(rotated) = Self::rotated(source.as_ref()).map_err(failed)? {
            return Ok(rotated);
        }
        let file = open_below(place, &sandbox.directory, parts)?;
        let metadata = file.metadata().map_err(failed)?;
        // If it has been rotated by now, this might not be its first file.
        if let Some(rotated) = Self::rotated(source.as_ref()).map_err(failed)? {
            return Ok(rotated);
        }
        if metadata.is_dir() {
            return Err(place.of_kind("a directory; browse lists it"));
        }
        let part = SequenceFile {
            file,
            id: FileId::of(&metadata),
            begin: 0,
            end: None,
        };
        Ok(Self {
            source,
            parts: vec![part],
            newest: 0,
            offset: 0,
            size: metadata.len(),
        })
    }

    /// Opens a stream with more than one file.
    fn rotated(source: Option<&StreamLocation>) -> io::Result<Option<Self>> {
        let Some(source) = source else {
            return Ok(None);
        };
        let Some(record) = source.record()? else {
            return Ok(None);
        };
        let kept = source.open_retained(&record, Vec::new())?;
        let present = kept.parts.last().map(SequenceFile::present).transpose()?;
        Ok(Some(Self {
            size: present.unwrap_or(0).max(kept.end),
            source: Some(source.clone()),
            parts: kept.parts,
            newest: kept.newest,
            offset: 0,
        }))
    }

    /// Returns the number of bytes in the sequence when it was opened.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the current offset.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves to this offset, or, if its bytes are removed, to the next one that is retained. With
    /// `ended` no more will be written, so it moves to the end if all that follows is removed.
    pub(super) fn seek(&mut self, offset: u64, ended: bool) -> io::Result<()> {
        self.offset = offset;
        for part in &self.parts {
            if part.begin > offset {
                self.offset = part.begin;
                return Ok(());
            }
            let may_grow = part.end.is_none() && !ended;
            if may_grow || part.present()? > offset {
                return Ok(());
            }
        }
        if ended {
            self.offset = offset.max(self.size);
        }
        Ok(())
    }

    /// Moves to the first offset, from the given one on, from which all bytes to the end are
    /// retained; returns that end.
    pub(super) fn seek_whole(&mut self, offset: u64) -> io::Result<u64> {
        let mut whole = None;
        for part in &self.parts {
            let present = part.present()?;
            let (begin, _) = whole
                .filter(|(_, end)| *end == part.begin)
                .unwrap_or((part.begin, part.begin));
            whole = Some((begin, present));
        }
        // All of it is removed: the command itself has deleted its files.
        let (begin, end) = whole.unwrap_or((self.size, self.size));
        self.offset = offset.clamp(begin, end);
        Ok(end)
    }

    /// Reads on, but not beyond `until`.
    pub(super) fn next(&mut self, until: u64) -> io::Result<ReadResult> {
        let mut has_looked = false;
        loop {
            let offset = self.offset;
            self.parts
                .retain(|part| part.end.is_none_or(|end| end > offset));
            if offset >= until {
                return Ok(ReadResult::Nothing);
            }
            if let Some(part) = self.parts.first() {
                if part.begin > offset {
                    return Ok(ReadResult::Gap);
                }
                let end = part.end.unwrap_or(u64::MAX).min(until);
                let bytes = read_at(part, offset, end - offset)?;
                if !bytes.is_empty() {
                    self.offset += bytes.len() as u64;
                    return Ok(ReadResult::Bytes(bytes));
                }
                if part.end.is_some() {
                    return Ok(ReadResult::Gap);
                }
            }
            if has_looked || !self.refresh()? {
                return Ok(ReadResult::Nothing);
            }
            has_looked = true;
        }
    }

    /// Finds files that were begun since. Returns false if there are none.
    fn refresh(&mut self) -> io::Result<bool> {
        let Some(source) = &self.source else {
            return Ok(false);
        };
        let Some(record) = source.record()? else {
            return Ok(false);
        };
        let recorded = record.of(source.stream).parts.last();
        let has_newest = self.parts.last().is_some_and(|part| part.end.is_none());
        if has_newest && recorded.is_none_or(|newest| newest.begin == self.newest) {
            return Ok(false);
        }
        let kept = source.open_retained(&record, std::mem::take(&mut self.parts))?;
        (self.parts, self.newest) = (kept.parts, kept.newest);
        Ok(true)
    }
}

impl StreamLocation {
    fn record(&self) -> io::Result<Option<OutputRecord>> {
        OutputRecord::read(&self.sandbox.output_record)
    }

    /// Opens the retained files that are not open already. `before` is the current record.
    fn open_retained(
        &self,
        before: &OutputRecord,
        mut held: Vec<SequenceFile>,
    ) -> io::Result<RetainedFiles> {
        let before = &before.of(self.stream).parts;
        let mut found = self.files(before.len() + NAMES_BEYOND)?;
        // A file that is recorded before and after existed all the time, and its inode number was
        // not reused.
        let after = self.record()?;
        let (after, end) = match &after {
            Some(record) => (&record.of(self.stream).parts, record.of(self.stream).end),
            // Its sandbox is being removed.
            None => (before, 0),
        };
        let mut parts = Vec::new();
        for (at, part) in after.iter().enumerate() {
            let same = |held: &SequenceFile| (held.begin, held.id) == (part.begin, part.file);
            let file = match held.iter().position(same) {
                Some(at) => Some(held.remove(at).file),
                None => found.remove(&part.file).filter(|_| before.contains(part)),
            };
            let (id, begin) = (part.file, part.begin);
            let end = after.get(at + 1).map(|next| next.begin);
            parts.extend(file.map(|file| SequenceFile {
                file,
                id,
                begin,
                end,
            }));
        }
        // Those that are no longer retained are full, and are read as long as they are open.
        let first = after.first().map_or(0, |part| part.begin);
        held.retain(|part| part.begin < first);
        for part in &mut held {
            part.end = Some(part.present()?);
        }
        held.extend(parts);
        Ok(RetainedFiles {
            parts: held,
            end,
            newest: after.last().map_or(0, |part| part.begin),
        })
    }

    /// Opens the files under the names of the stream. From the newest name to the oldest, the
    /// direction in which files are renamed: none is missed.
    fn files(&self, names: usize) -> io::Result<HashMap<FileId, File>> {
        let mut found = HashMap::new();
        for rotations in 0..names {
            let name = [self.stream.file(rotations)];
            let file = match open_below(&self.path, &self.sandbox.directory, &name) {
                Ok(file) => file,
                Err(FilesError::Read { source, .. })
                    if source.kind() != io::ErrorKind::WouldBlock =>
                {
                    return Err(source);
                }
                // Removed, or replaced by the command.
                Err(_) => continue,
            };
            let metadata = file.metadata()?;
            if metadata.is_file() {
                found.insert(FileId::of(&metadata), file);
            }
        }
        Ok(found)
    }
}

fn read_at(part: &SequenceFile, offset: u64, most: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(most.min(CHUNK_BYTES)).expect("a chunk is small");
    let mut buffer = vec![0; length];
    let length = part.file.read_at(&mut buffer, offset - part.begin)?;
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests;
