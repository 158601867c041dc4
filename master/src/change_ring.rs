//! The newest changes of the registry: a bounded ring, identical on every master.
//!
//! Every applied entry adds the records that it changed, in their stored form. The position of a
//! change is its index among the changes of its entry. So (log index, position) identifies the same
//! key and bytes on every master. A reader that has read up to an index can continue at any master.
//! The ring is empty after a start and after a snapshot is installed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_raft::RecordWrite;
use argosy_state::ids::Revision;
use bytes::Bytes;
use metrics::gauge;

/// The capacity of the ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingBounds {
    /// Maximum number of changes.
    pub(crate) records: usize,
    /// Maximum bytes of keys and records, with [`OVERHEAD`] for each.
    pub(crate) bytes: usize,
}

impl Default for RingBounds {
    fn default() -> Self {
        Self {
            records: 100_000,
            bytes: 64 << 20,
        }
    }
}

/// Memory of a change in addition to its bytes.
const OVERHEAD: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordChange {
    pub(crate) revision: Revision,
    /// The stored form of the key: [`argosy_state::encode::key`].
    pub(crate) key: Bytes,
    /// The stored form of the record; `None` if it was removed.
    pub(crate) value: Option<Bytes>,
}

/// The changes of one entry, in the order of their positions. Never empty.
type EntryChanges = Arc<[RecordChange]>;

/// Changes after a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangePage {
    /// Whole entries, in the order of the log.
    pub(crate) entries: Vec<EntryChanges>,
    /// The log index up to which nothing is missing: the start of the next page.
    pub(crate) through: u64,
}

/// The requested changes are no longer kept, or never were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("changes up to log index {oldest} are no longer kept here")]
pub(crate) struct HistoryLost {
    /// A reader that has everything up to this log index can continue.
    pub(crate) oldest: u64,
}

#[derive(Debug)]
struct Ring {
    bounds: RingBounds,
    entries: VecDeque<EntryChanges>,
    records: usize,
    bytes: usize,
    /// The ring holds nothing up to and including this log index.
    floor: u64,
    /// The keys of the entry at the floor. Empty if its changes were never here.
    floor_keys: Vec<Bytes>,
    /// The ring holds everything after the floor and up to this log index.
    newest: u64,
}

impl Ring {
    fn new(bounds: RingBounds, floor: u64) -> Self {
        Self {
            bounds,
            entries: VecDeque::new(),
            records: 0,
            bytes: 0,
            floor,
            floor_keys: Vec::new(),
            newest: floor,
        }
    }

    /// Adds the changes of the entry at `index`. An entry at or before the newest one adds nothing.
    fn add(&mut self, index: u64, writes: &[RecordWrite]) {
        if index <= self.newest {
            return;
        }
        self.newest = index;
        if writes.is_empty() {
            return;
        }
        let changes = (0..).zip(writes).map(|(position, write)| RecordChange {
            revision: Revision { index, position },
            key: write.key.clone(),
            value: write.value.clone(),
        });
        let entry: EntryChanges = changes.collect();
        self.records += entry.len();
        self.bytes += size(&entry);
        self.entries.push_back(entry);
        let mut dropped = None;
        while (self.records > self.bounds.records || self.bytes > self.bounds.bytes)
            && let Some(oldest) = self.entries.pop_front()
        {
            self.records -= oldest.len();
            self.bytes -= size(&oldest);
            self.floor = oldest[0].revision.index;
            dropped = Some(oldest);
        }
        if let Some(dropped) = dropped {
            self.floor_keys = dropped.iter().map(|change| change.key.clone()).collect();
        }
    }

    fn keys_after(&self, change: Revision) -> Option<Vec<Bytes>> {
        let skipped = (change.position as usize).saturating_add(1);
        if change.index == self.floor && !self.floor_keys.is_empty() {
            return Some(self.floor_keys.iter().skip(skipped).cloned().collect());
        }
        let index_of = |entry: &EntryChanges| entry[0].revision.index;
        let at = self.entries.binary_search_by_key(&change.index, index_of);
        let rest = self.entries[at.ok()?].iter().skip(skipped);
        Some(rest.map(|change| change.key.clone()).collect())
    }

    fn since(&self, after: u64, most: usize) -> Result<ChangePage, HistoryLost> {
        if after < self.floor {
            return Err(HistoryLost { oldest: self.floor });
        }
        let first = self
            .entries
            .partition_point(|entry| entry[0].revision.index <= after);
        let entries: Vec<EntryChanges> = self
            .entries
            .range(first..)
            .take(most.max(1))
            .cloned()
            .collect();
        let is_last = first + entries.len() == self.entries.len();
        let upto = match entries.last() {
            Some(last) if !is_last => last[0].revision.index,
            Some(_) | None => self.newest.max(after),
        };
        Ok(ChangePage {
            entries,
            through: upto,
        })
    }
}

fn size(entry: &[RecordChange]) -> usize {
    let bytes = |change: &RecordChange| {
        OVERHEAD + change.key.len() + change.value.as_ref().map_or(0, Bytes::len)
    };
    entry.iter().map(bytes).sum()
}

/// The ring, shared by the owner, which adds changes, and by readers. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ChangeRing(
    // A lock, because there are many readers and the owner must not wait for their turns. It is
    // held to add one entry, or to count up references to the entries of a page.
    Arc<Mutex<Ring>>,
);

impl ChangeRing {
    /// Creates an empty ring for a registry in which everything up to `floor` is applied.
    pub(crate) fn new(bounds: RingBounds, floor: u64) -> Self {
        Self(Arc::new(Mutex::new(Ring::new(bounds, floor))))
    }

    /// Adds the changes of the entry at `index`, in the order in which the registry reports them.
    pub(crate) fn add(&self, index: u64, writes: &[RecordWrite]) {
        self.ring().add(index, writes);
    }

    /// Empties the ring for a registry in which everything up to `floor` is applied.
    pub(crate) fn restart(&self, floor: u64) {
        let mut ring = self.ring();
        let empty = Ring::new(ring.bounds, floor);
        let former = std::mem::replace(&mut *ring, empty);
        drop(ring);
        // Freed after the lock is released.
        drop(former);
    }

    /// Returns the changes after the log index `after`, of at most `entries` entries. An index that
    /// is not applied yet has none.
    ///
    /// # Errors
    /// [`HistoryLost`] if some of them are no longer kept: the reader needs a snapshot.
    pub(crate) fn since(&self, after: u64, most: usize) -> Result<ChangePage, HistoryLost> {
        self.ring().since(after, most)
    }

    /// Returns the keys of the changes after this one in its entry. Those of the newest dropped
    /// entry are still known. `None` if they are not known, or the entry has no changes.
    pub(crate) fn keys_after(&self, change: Revision) -> Option<Vec<Bytes>> {
        self.ring().keys_after(change)
    }

    /// Sets the gauges.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn export_metrics(&self) {
        let (records, bytes, floor) = {
            let ring = self.ring();
            (ring.records, ring.bytes, ring.floor)
        };
        gauge!("argosy_change_ring_records").set(records as f64);
        gauge!("argosy_change_ring_bytes").set(bytes as f64);
        gauge!("argosy_change_ring_oldest_revision").set(floor as f64);
    }

    /// Locks the ring, which is consistent between two calls, so a poisoned lock is harmless.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: Option<&str>) -> RecordWrite {
        RecordWrite {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        }
    }

    fn changes(records: usize, bytes: usize, floor: u64) -> ChangeRing {
        ChangeRing::new(RingBounds { records, bytes }, floor)
    }

    /// Formats each change as "index.position key=value"; a removal has no value.
    fn read(page: &ChangePage) -> Vec<String> {
        let changes = page.entries.iter().flat_map(|entry| entry.iter());
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        changes
            .map(|change| {
                let Revision { index, position } = change.revision;
                let value = change.value.as_ref().map(text).unwrap_or_default();
                format!("{index}.{position} {}={value}", text(&change.key))
            })
            .collect()
    }

    #[test]
    fn changes_are_read_in_the_order_of_the_log_with_removals() {
        let changes = changes(100, 1 << 20, 5);
        changes.add(6, &[write("a", Some("1")), write("b", Some("2"))]);
        changes.add(7, &[]);
        changes.add(9, &[write("a", None)]);
        let all = changes.since(5, 10).unwrap();
        assert_eq!(read(&all), ["6.0 a=1", "6.1 b=2", "9.0 a="]);
        assert_eq!(all.through, 9);
        // An entry is never split, and a page ends where the next one begins.
        let first = changes.since(5, 1).unwrap();
        assert_eq!((read(&first).len(), first.through), (2, 6));
        let second = changes.since(first.through, 1).unwrap();
        assert_eq!(
            (read(&second), second.through),
            (vec!["9.0 a=".to_owned()], 9)
        );
        for caught_up in [9, 20] {
            let nothing = changes.since(caught_up, 10).unwrap();
            assert_eq!((read(&nothing).len(), nothing.through), (0, caught_up));
        }
    }

    #[test]
    fn overflow_drops_oldest_entries_and_reports_history_lost() {
        let changes = changes(3, 1 << 20, 0);
        for index in 1..=3 {
            changes.add(index, &[write("a", Some("1")), write("b", Some("1"))]);
        }
        // Two entries of two changes exceed three changes.
        assert_eq!(changes.since(1, 10), Err(HistoryLost { oldest: 2 }));
        assert_eq!(read(&changes.since(2, 10).unwrap()).len(), 2);
        let large = "x".repeat(1_000);
        let bounded = self::changes(100, 3 * (1_001 + OVERHEAD), 0);
        for index in 1..=10 {
            bounded.add(index, &[write("a", Some(&large))]);
        }
        assert_eq!(bounded.since(6, 10), Err(HistoryLost { oldest: 7 }));
        assert_eq!(bounded.since(7, 10).unwrap().entries.len(), 3);
        // An entry that is larger than the ring leaves nothing.
        bounded.add(11, &[write("a", Some(&large.repeat(9)))]);
        assert_eq!(bounded.since(10, 10), Err(HistoryLost { oldest: 11 }));
        assert_eq!(read(&bounded.since(11, 10).unwrap()).len(), 0);
    }

    #[test]
    fn the_keys_of_the_newest_dropped_entry_are_known() {
        let changes = changes(3, 1 << 20, 0);
        let keys = |index, position| {
            let keys = changes.keys_after(Revision { index, position })?;
            Some(String::from_utf8(keys.concat()).unwrap())
        };
        for index in 1..=3 {
            changes.add(index, &[write("a", Some("1")), write("b", None)]);
        }
        assert_eq!(keys(1, 0), None, "entry 2 was dropped after it");
        for index in [2, 3] {
            assert_eq!(keys(index, 0).as_deref(), Some("b"));
            for position in [1, 7, u32::MAX] {
                assert_eq!(keys(index, position).as_deref(), Some(""));
            }
        }
        assert_eq!(keys(4, 0), None);
        changes.restart(3);
        assert_eq!(keys(3, 0), None);
    }

    #[test]
    fn restart_keeps_only_the_index() {
        let changes = changes(100, 1 << 20, 0);
        changes.add(1, &[write("a", Some("1"))]);
        changes.restart(40);
        assert_eq!(changes.since(1, 10), Err(HistoryLost { oldest: 40 }));
        assert_eq!(changes.since(40, 10).unwrap().through, 40);
        // An entry that is added twice is stored once.
        changes.add(40, &[write("a", Some("1"))]);
        changes.add(41, &[write("a", Some("2"))]);
        changes.add(41, &[write("a", Some("2"))]);
        assert_eq!(read(&changes.since(40, 10).unwrap()), ["41.0 a=2"]);
    }
}
