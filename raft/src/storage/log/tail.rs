//! The newest entries in memory, and the budget of a read.

use std::collections::VecDeque;

use argosy_state::buggify;

use crate::types::{Entry, Payload};

/// Recent entries stay in memory, so that replication and apply of fresh entries read no disk: at
/// most this many bytes of commands …
const TAIL_BYTES: usize = 16 << 20;

/// … and this many entries. Beyond either limit the oldest written entries are dropped; they are
/// then read from the disk.
const TAIL_ENTRIES: usize = if cfg!(feature = "shuttle") { 1 } else { 4096 };

/// The newest entries, without a gap, up to the last one of the log.
#[derive(Default)]
pub(super) struct LogTail {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The first entry that the disk may not have yet: from here on this is the only place to read
    /// from.
    unwritten: u64,
}

impl LogTail {
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
        self.shrink();
    }

    /// Records that the disk has everything below `end`.
    pub(super) fn mark_written(&mut self, end: u64) {
        self.unwritten = self.unwritten.max(end);
        self.shrink();
    }

    fn shrink(&mut self) {
        let most = buggify!(ShortTail, TAIL_ENTRIES, 0);
        while (self.bytes > TAIL_BYTES || self.entries.len() > most)
            && self.first().is_some_and(|first| first < self.unwritten)
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= weight(&entry);
        }
    }

    pub(super) fn drop_through(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.drop_first();
        }
    }

    pub(super) fn drop_from(&mut self, index: u64) {
        self.unwritten = self.unwritten.min(index);
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.log_id.index >= index)
        {
            let entry = self.entries.pop_back().expect("it has a last entry");
            self.bytes -= weight(&entry);
        }
    }

    pub(super) fn first(&self) -> Option<u64> {
        Some(self.entries.front()?.log_id.index)
    }

    /// Copies the stored entries from `start` up to `end` or the budget.
    pub(super) fn take(
        &self,
        start: u64,
        end: u64,
        budget: &mut TailReadBudget,
        into: &mut Vec<Entry>,
    ) {
        let Some(first) = self.first() else { return };
        let skipped = usize::try_from(start - first).expect("the tail is short");
        for entry in self.entries.iter().skip(skipped) {
            if entry.log_id.index >= end || !budget.spend(entry) {
                return;
            }
            into.push(entry.clone());
        }
    }
}

/// The bytes of commands that a read may still take. The first entry is always granted.
pub(super) struct TailReadBudget(Option<usize>, bool);

impl TailReadBudget {
    pub(super) fn new(bytes: Option<usize>) -> Self {
        Self(bytes, false)
    }

    pub(super) fn spend(&mut self, entry: &Entry) -> bool {
        let TailReadBudget(Some(left), started) = self else {
            return true;
        };
        let weight = weight(entry);
        if *started && weight > *left {
            *left = 0;
            return false;
        }
        *started = true;
        *left = left.saturating_sub(weight);
        true
    }
}

fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(batch) => batch.bytes() + 64,
        Payload::Blank => 64,
        Payload::Membership(_) => 1024,
    }
}
