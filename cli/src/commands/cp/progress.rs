//! One line on a terminal that shows how far a copy is, and the entries that were left out.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::output::{bytes, note, visible_line};

/// Time without progress on the terminal: most copies end before.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// Interval at which the line is written.
const INTERVAL: Duration = Duration::from_millis(200);
/// Maximum number of entries that are named when they are left out.
const MAX_NAMED: u64 = 20;

/// The state of a copy. Several files may be copied at once.
pub(super) struct Progress {
    /// Whether standard error is a terminal.
    is_shown: bool,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    files: u64,
    bytes: u64,
    left_out: u64,
    next_line: Instant,
    is_line_written: bool,
}

impl Progress {
    pub(super) fn new(is_quiet: bool) -> Self {
        Self {
            is_shown: !is_quiet && io::stderr().is_terminal(),
            counts: Mutex::new(Counts {
                files: 0,
                bytes: 0,
                left_out: 0,
                next_line: Instant::now() + QUIET_TIME,
                is_line_written: false,
            }),
        }
    }

    /// Adds copied bytes.
    pub(super) fn add_bytes(&self, count: usize) {
        let mut counts = self.counts();
        counts.bytes += count as u64;
        if !self.is_shown || Instant::now() < counts.next_line {
            return;
        }
        counts.next_line = Instant::now() + INTERVAL;
        counts.is_line_written = true;
        // A terminal that is gone needs no progress.
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "\r\x1b[K{}", counts.text());
        let _ = stderr.flush();
    }

    /// Removes bytes that are copied again.
    pub(super) fn take_back(&self, count: u64) {
        self.counts().bytes -= count;
    }

    pub(super) fn add_file(&self) {
        self.counts().files += 1;
    }

    /// Reports that an entry is not copied.
    pub(super) fn leave_out(&self, path: &str, why: &str) {
        self.clear();
        let mut counts = self.counts();
        counts.left_out += 1;
        if counts.left_out <= MAX_NAMED {
            note(&format!("not copied: {}: {why}", visible_line(path)));
        } else if counts.left_out == MAX_NAMED + 1 {
            note("further entries that are not copied are only counted");
        }
    }

    /// Prints a line of which the progress is no part.
    pub(super) fn note(&self, text: &str) {
        self.clear();
        note(text);
    }

    /// Returns the number of entries that were left out.
    pub(super) fn left_out(&self) -> u64 {
        self.counts().left_out
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        if std::mem::take(&mut self.counts().is_line_written) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }

    /// Replaces the line by a sum, if there was one.
    pub(super) fn finish(&self) {
        let has_line = self.counts().is_line_written;
        self.clear();
        if has_line {
            note(&self.counts().text());
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn text(&self) -> String {
        let noun = if self.files == 1 { "file" } else { "files" };
        format!("copied {} {noun}, {}", self.files, bytes(self.bytes))
    }
}
