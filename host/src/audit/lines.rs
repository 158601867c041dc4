//! The writer of lines: serial numbers, chain values, rotation, and the lines that report what is
//! missing. Times are arguments, and the files are those of a [`Storage`].

use std::io;

use super::chain::ChainValue;
use super::entry::{AuditEntry, AuditEvent, AuditLine, FORMAT, FileHead};

/// The files of a log.
pub(super) trait Storage {
    /// Creates the file of this number with its first line, durably, and makes it the current one.
    /// Without success, there is no such file.
    fn begin(&mut self, number: u64, line: &str) -> io::Result<()>;

    /// Appends a line to the current file; without success, nothing of it.
    fn append(&mut self, line: &str) -> io::Result<()>;

    /// Makes all lines of the current file durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Removes files with lower numbers than this one.
    fn remove_before(&mut self, number: u64) -> io::Result<()>;
}

/// The bounds of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The size of a file, in bytes, after which the next one begins.
    pub(super) file_bytes: u64,
    /// The number of files that are kept.
    pub(super) files: u64,
}

/// The end of a log that is continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogEnd {
    /// The number of the last file; 0 if there is none.
    pub(super) number: u64,
    /// Whether the next line is appended to the last file; otherwise a new file is begun.
    pub(super) is_open: bool,
    /// The size of the last file.
    pub(super) bytes: u64,
    /// The number of the oldest file; 0 if there is none.
    pub(super) oldest: u64,
    /// The serial number of the last line.
    pub(super) serial: u64,
    /// The chain value of the last line.
    pub(super) chain: ChainValue,
}

impl LogEnd {
    /// The end of a log without files.
    pub(super) const NONE: Self = Self {
        number: 0,
        is_open: false,
        bytes: 0,
        oldest: 0,
        serial: 0,
        chain: ChainValue::ZERO,
    };
}

/// The writer of the lines of one log.
pub(super) struct LineWriter<S> {
    pub(super) storage: S,
    bounds: Bounds,
    end: LogEnd,
    /// Entries that are missing since the last line that has reported some.
    missing: u64,
    /// The reason of the newest missing entry.
    cause: String,
    /// Lines that may not be durable yet.
    unsynced: u64,
    /// The error of the last removal of old files.
    not_removed: Option<io::Error>,
}

impl<S: Storage> LineWriter<S> {
    pub(super) fn new(storage: S, bounds: Bounds, end: LogEnd) -> Self {
        Self {
            storage,
            bounds,
            end,
            missing: 0,
            cause: String::new(),
            unsynced: 0,
            not_removed: None,
        }
    }

    /// Notes entries that are missing, which the next line reports.
    pub(super) fn miss(&mut self, entries: u64, cause: &str) {
        if entries > 0 {
            self.missing = self.missing.saturating_add(entries);
            cause.clone_into(&mut self.cause);
        }
    }

    /// Writes the line of an entry, after that of missing ones. Without success, the entry is one
    /// more that is missing.
    pub(super) fn write(&mut self, entry: AuditEntry) -> io::Result<()> {
        let now_ms = entry.at_ms;
        let count = entry.count;
        let written = self
            .report_missing(now_ms)
            .and_then(|()| self.write_line(entry));
        written.inspect_err(|error| self.miss(count, &error.to_string()))
    }

    /// Writes a line about missing entries, if there are any.
    pub(super) fn report_missing(&mut self, now_ms: i64) -> io::Result<()> {
        if self.missing == 0 {
            return Ok(());
        }
        self.write_line(AuditEntry {
            count: self.missing,
            outcome: self.cause.clone(),
            ..AuditEntry::new(now_ms, AuditEvent::Lost)
        })?;
        self.missing = 0;
        Ok(())
    }

    fn write_line(&mut self, entry: AuditEntry) -> io::Result<()> {
        if !self.end.is_open || self.end.bytes >= self.bounds.file_bytes {
            self.begin_file(entry.at_ms)?;
        }
        let (line, chain) = self.next_line(entry.bounded(), None);
        self.storage.append(&line)?;
        self.written(&line, chain);
        Ok(())
    }

    /// Returns the text of the next line, and its chain value.
    fn next_line(&self, entry: AuditEntry, file: Option<FileHead>) -> (String, ChainValue) {
        let line = AuditLine {
            // A damaged line may have the largest number. Its repetition is a break, which the
            // verification finds.
            serial: self.end.serial.saturating_add(1),
            entry,
            file,
        };
        let body = line.body();
        let chain = self.end.chain.next(&body);
        (chain.seal(&body), chain)
    }

    fn written(&mut self, line: &str, chain: ChainValue) {
        self.end.serial = self.end.serial.saturating_add(1);
        self.end.chain = chain;
        self.end.bytes += line.len() as u64;
        self.unsynced += 1;
    }

    /// Begins the next file, and removes those that are too many.
    fn begin_file(&mut self, now_ms: i64) -> io::Result<()> {
        if self.end.is_open {
            self.sync()?;
        }
        let number = self.end.number.saturating_add(1);
        let first = if self.end.oldest == 0 {
            number
        } else {
            self.end.oldest
        };
        let oldest = first.max(number.saturating_add(1).saturating_sub(self.bounds.files));
        let head = FileHead {
            format: FORMAT,
            number,
            oldest,
            previous: self.end.chain,
        };
        let entry = AuditEntry::new(now_ms, AuditEvent::FileBegun);
        let (line, chain) = self.next_line(entry, Some(head));
        self.storage.begin(number, &line)?;
        (self.end.number, self.end.is_open, self.end.bytes) = (number, true, 0);
        self.end.oldest = oldest;
        self.written(&line, chain);
        // It was created durably.
        self.unsynced = 0;
        // The next file tries again.
        self.not_removed = self.storage.remove_before(oldest).err();
        Ok(())
    }

    /// Returns the error of the last removal of old files, once.
    pub(super) fn take_not_removed(&mut self) -> Option<io::Error> {
        self.not_removed.take()
    }

    /// Makes the lines durable, if there are new ones.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced == 0 {
            return Ok(());
        }
        // The kernel reports each failure once, and may have dropped the lines.
        let lines = std::mem::take(&mut self.unsynced);
        self.storage
            .sync()
            .inspect_err(|error| self.miss(lines, &format!("not synced: {error}")))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Files in memory, whose operations fail on request.
    #[derive(Debug, Default)]
    pub(crate) struct MemoryFiles {
        pub(crate) files: BTreeMap<u64, String>,
        pub(crate) is_full: bool,
        pub(crate) fails_to_sync: bool,
        synced: u64,
    }

    impl Storage for MemoryFiles {
        fn begin(&mut self, number: u64, line: &str) -> io::Result<()> {
            self.append_to(number, line)
        }

        fn append(&mut self, line: &str) -> io::Result<()> {
            let number = *self.files.keys().next_back().unwrap();
            self.append_to(number, line)
        }

        fn sync(&mut self) -> io::Result<()> {
            if self.fails_to_sync {
                return Err(io::Error::other("input/output error"));
            }
            self.synced += 1;
            Ok(())
        }

        fn remove_before(&mut self, number: u64) -> io::Result<()> {
            self.files.retain(|other, _| *other >= number);
            Ok(())
        }
    }

    impl MemoryFiles {
        fn append_to(&mut self, number: u64, line: &str) -> io::Result<()> {
            if self.is_full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.files.entry(number).or_default().push_str(line);
            Ok(())
        }

        fn events(&self) -> Vec<(AuditEvent, u64)> {
            let lines = self.files.values().flat_map(|text| text.lines());
            let lines = lines.map(|line| serde_json::from_str::<AuditLine>(line).unwrap());
            lines
                .map(|line| (line.entry.event, line.entry.count))
                .collect()
        }
    }

    fn writer(file_bytes: u64, files: u64) -> LineWriter<MemoryFiles> {
        let bounds = Bounds { file_bytes, files };
        LineWriter::new(MemoryFiles::default(), bounds, LogEnd::NONE)
    }

    fn exec() -> AuditEntry {
        AuditEntry::new(7, AuditEvent::Exec)
    }

    #[test]
    fn a_file_that_is_full_is_followed_by_the_next_and_old_ones_are_removed() {
        let mut writer = writer(1, 3);
        for _ in 0..10 {
            writer.write(exec()).unwrap();
        }
        let kept: Vec<_> = writer.storage.files.keys().copied().collect();
        assert_eq!(kept, [8, 9, 10]);
        let text = &writer.storage.files[&10];
        let first: AuditLine = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let head = first.file.unwrap();
        assert_eq!((head.number, head.oldest, first.serial), (10, 8, 19));
        let former = writer.storage.files[&9].lines().last().unwrap();
        let (_, chain) = ChainValue::unseal(former).unwrap();
        assert_eq!(head.previous, chain);
    }

    #[test]
    fn what_a_full_disk_has_lost_is_counted_in_the_next_line() {
        let mut writer = writer(1 << 20, 3);
        writer.write(exec()).unwrap();
        writer.storage.is_full = true;
        let several = AuditEntry { count: 5, ..exec() };
        for entry in [exec(), several] {
            let failed = writer.write(entry).unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        }
        writer.storage.is_full = false;
        writer.write(exec()).unwrap();
        writer.write(exec()).unwrap();
        use AuditEvent::{Exec, FileBegun, Lost};
        let expected = [(FileBegun, 1), (Exec, 1), (Lost, 6), (Exec, 1), (Exec, 1)];
        assert_eq!(writer.storage.events(), expected);
    }

    #[test]
    fn a_log_whose_last_line_has_the_largest_serial_number_is_continued() {
        for is_open in [true, false] {
            let mut writer = writer(1 << 20, 3);
            writer.end = LogEnd {
                number: 1,
                is_open,
                serial: u64::MAX,
                oldest: 1,
                ..LogEnd::NONE
            };
            writer.storage.files.insert(1, String::new());
            writer.write(exec()).unwrap();
            writer.write(exec()).unwrap();
            let events = writer.storage.events();
            assert_eq!(events.last(), Some(&(AuditEvent::Exec, 1)), "{is_open}");
        }
    }

    #[test]
    fn a_log_begins_on_a_disk_that_was_full() {
        let mut writer = writer(1 << 20, 3);
        writer.storage.is_full = true;
        writer.write(exec()).unwrap_err();
        writer.report_missing(8).unwrap_err();
        writer.storage.is_full = false;
        writer.report_missing(9).unwrap();
        use AuditEvent::{FileBegun, Lost};
        assert_eq!(writer.storage.events(), [(FileBegun, 1), (Lost, 1)]);
    }

    #[test]
    fn lines_that_were_not_synced_are_counted() {
        let mut writer = writer(1 << 20, 3);
        writer.write(exec()).unwrap();
        writer.write(exec()).unwrap();
        writer.storage.fails_to_sync = true;
        writer.sync().unwrap_err();
        writer.storage.fails_to_sync = false;
        writer.report_missing(8).unwrap();
        writer.sync().unwrap();
        writer.sync().unwrap();
        assert_eq!(writer.storage.synced, 1);
        assert_eq!(writer.storage.events().last(), Some(&(AuditEvent::Lost, 2)));
    }
}
