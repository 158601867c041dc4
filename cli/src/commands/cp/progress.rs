//! How far a copy is, on one line of the terminal, and the entries that were left out.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::output::{StatusLine, StatusMode, bytes, is_status_shown, note, visible_line};

/// Maximum number of entries that are named when they are left out.
const MAX_NAMED: u64 = 20;

/// The state of a copy. Several files may be copied at once.
pub(super) struct Progress {
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    files: u64,
    bytes: u64,
    left_out: u64,
    line: StatusLine,
}

impl Progress {
    pub(super) fn new(is_quiet: bool) -> Self {
        Self {
            counts: Mutex::new(Counts {
                files: 0,
                bytes: 0,
                left_out: 0,
                line: StatusLine::new(StatusMode::unless(is_quiet)),
            }),
        }
    }

    /// Adds copied bytes.
    pub(super) fn add_bytes(&self, count: usize) {
        let mut counts = self.counts();
        counts.bytes += count as u64;
        let (files, bytes) = (counts.files, counts.bytes);
        counts.line.show(|_| text(files, bytes));
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
        let mut counts = self.counts();
        counts.left_out += 1;
        if counts.left_out <= MAX_NAMED {
            note(&format!("not copied: {}: {why}", visible_line(path)));
        } else if counts.left_out == MAX_NAMED + 1 {
            note("further entries that are not copied are only counted");
        }
    }

    /// Returns the number of entries that were left out.
    pub(super) fn left_out(&self) -> u64 {
        self.counts().left_out
    }

    /// Replaces the line by a sum, if there is one.
    pub(super) fn finish(&self) {
        if is_status_shown() {
            let counts = self.counts();
            note(&text(counts.files, counts.bytes));
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(files: u64, copied_bytes: u64) -> String {
    let noun = if files == 1 { "file" } else { "files" };
    format!("copied {files} {noun}, {}", bytes(copied_bytes))
}
