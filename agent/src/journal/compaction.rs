//! A journal's successor: a new file with equivalent contents in fewer records.
//!
//! It is written on a separate thread while records still go to the old file; these are copied to
//! its end. The old file is complete until the successor replaces it: a successor that cannot be
//! written is discarded.

use std::io;
use std::thread::JoinHandle;

use argosy_host::crash_point;
use argosy_state::planted_bug;

use super::seal::copies;
use super::storage::{AppendTarget, JournalStorage};
use super::{frame, record};
use crate::core::JournalRecord;

/// A successor that is being written.
#[derive(Debug)]
pub(super) struct Compaction {
    writing: InitialWrite,
    salt: u64,
    /// Encoded records since it began. Bounded by what is appended while the successor is written.
    appended: Vec<Vec<u8>>,
}

/// The writer of the initial records.
#[derive(Debug)]
enum InitialWrite {
    Thread(JoinHandle<io::Result<(AppendTarget, u64)>>),
    /// Memory does not block: it was written immediately.
    Written(io::Result<(AppendTarget, u64)>),
}

/// A successor with all records, synced.
#[derive(Debug)]
pub(super) struct CompactedJournal {
    pub(super) file: AppendTarget,
    pub(super) bytes: u64,
    pub(super) salt: u64,
}

impl Compaction {
    /// Begins a successor of a file with this salt. Without a thread there is none; the old file
    /// continues to grow.
    pub(super) fn begin(
        place: &JournalStorage,
        salt: u64,
        records: Vec<JournalRecord>,
    ) -> Option<Self> {
        let salt = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        let may_block = place.may_block();
        let place = place.clone();
        let write = move || {
            let written = create(&place, salt, &records);
            crash_point!("journal.successor-written");
            written
        };
        let writing = if may_block {
            let thread = std::thread::Builder::new().name("compaction".into());
            InitialWrite::Thread(thread.spawn(write).ok()?)
        } else {
            InitialWrite::Written(write())
        };
        Some(Self {
            writing,
            salt,
            appended: Vec::new(),
        })
    }

    /// Adds an encoded record that was also appended to the old file.
    pub(super) fn append(&mut self, payload: Vec<u8>) {
        self.appended.push(payload);
    }

    pub(super) fn is_ready(&self) -> bool {
        match &self.writing {
            InitialWrite::Thread(thread) => thread.is_finished(),
            InitialWrite::Written(_) => true,
        }
    }

    /// Waits for its thread, whose file may then be removed.
    pub(super) fn abandon(self) {
        if let InitialWrite::Thread(thread) = self.writing {
            drop(thread.join().expect("a compaction never panics"));
        }
    }

    /// Appends the records added since it began, and syncs. Waits for the thread if it is not
    /// ready.
    pub(super) fn finish(self) -> io::Result<CompactedJournal> {
        let (mut file, bytes) = match self.writing {
            InitialWrite::Thread(thread) => thread.join().expect("a compaction never panics"),
            InitialWrite::Written(written) => written,
        }?;
        let mut rest = Vec::new();
        for payload in &self.appended {
            frame::put(&mut rest, self.salt, payload);
        }
        file.append(&rest)?;
        if file.is_short() {
            // The old file has its reserve.
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.sync()?;
        Ok(CompactedJournal {
            file,
            bytes: bytes + rest.len() as u64,
            salt: self.salt,
        })
    }
}

/// Creates a complete successor with these records, on disk.
pub(super) fn create(
    place: &JournalStorage,
    salt: u64,
    records: &[JournalRecord],
) -> io::Result<(AppendTarget, u64)> {
    let mut file = place.create()?;
    let mut bytes = frame::head(frame::VERSION, salt).to_vec();
    let mut written = 0;
    for record in records {
        planted_bug!(CompactionLosesTask if is_lost(record) => continue);
        let payload = record::encode(record);
        (0..copies(record)).for_each(|_| frame::put(&mut bytes, salt, &payload));
        if bytes.len() > 1 << 20 {
            file.append(&bytes)?;
            written += bytes.len() as u64;
            bytes.clear();
        }
    }
    file.append(&bytes)?;
    file.sync()?;
    Ok((file, written + bytes.len() as u64))
}

/// Implements the planted bug `CompactionLosesTask`.
fn is_lost(record: &JournalRecord) -> bool {
    matches!(record, JournalRecord::Task { instance, .. } if instance.order.0 % 10 == 7)
}
