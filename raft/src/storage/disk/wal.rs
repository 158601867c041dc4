//! The check of a store's write-ahead logs: whether they are what was written, and if not, whether
//! a power cut explains the difference.
//!
//! A power cut damages only unsynced data, and in any order: a later block may be on the disk while
//! an earlier one is not. A valid record after a damaged one therefore proves nothing by itself.
//! Each record carries a mark: how far the logs were synced when it was written. Damage in data
//! that a later mark, or the high-water record, reports as synced is not the result of a power cut.

use super::frames::{self, WalRead};

/// A batch is its sequence number (8 bytes), its count (4) and its changes, each after a tag.
/// Source: `db/write_batch.cc` of RocksDB. The first change is the mark, which RocksDB keeps in the
/// log only: the tag of log data, and its length.
pub(super) const MARK_HEAD: [u8; 2] = [3, MARK as u8];
pub(super) const MARK: usize = 8 + 8;

/// Returns the mark of the next batch: everything up to the sequence number `synced` is synced. The
/// key distinguishes the marks of this store from bytes that resemble one.
pub(super) fn mark(key: u64, synced: u64) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark[..8].copy_from_slice(&key.to_le_bytes());
    mark[8..].copy_from_slice(&synced.to_le_bytes());
    mark
}

/// The header of a record of a write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WalBatch {
    /// The sequence number of its first change.
    first: u64,
    /// The sequence number of its last change.
    last: u64,
    mark: Option<(u64, u64)>,
}

impl WalBatch {
    fn of(content: &[u8]) -> Option<WalBatch> {
        let (first, rest) = content.split_first_chunk::<8>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let first = u64::from_le_bytes(*first);
        let count = u64::from(u32::from_le_bytes(*count));
        let mark = rest.strip_prefix(&MARK_HEAD).and_then(|rest| {
            let (key, rest) = rest.split_first_chunk::<8>()?;
            let (synced, _) = rest.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*key), u64::from_le_bytes(*synced)))
        });
        Some(WalBatch {
            first,
            last: first.checked_add(count)?.checked_sub(1)?,
            mark,
        })
    }
}

/// A position in one of the logs that were read, counted from the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WalPosition {
    pub(super) file: usize,
    pub(super) offset: usize,
}

/// The checker of the logs, which reads them oldest first.
#[derive(Debug)]
pub(super) struct WalChecker {
    /// The key of this store's marks; `None` for a store that never had one.
    key: Option<u64>,
    /// The sequence number up to which everything was synced, as far as is known.
    synced: Option<u64>,
    files: usize,
    /// The last sequence number before the damage.
    last: Option<u64>,
    damage: Option<WalPosition>,
    /// The first sequence number that is damaged.
    lost: Option<u64>,
    /// A record that was written after the damaged one was synced.
    witness: Option<WalPosition>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum WalCheckResult {
    /// The logs are what was written.
    Intact,
    /// The logs are what a power cut leaves: no data from there on is known to have been synced.
    Torn(WalPosition),
    /// The logs lack synced data.
    Damaged {
        at: WalPosition,
        /// The first sequence number that is missing.
        lost: u64,
        /// The record that proves it; `None` if the high-water record does.
        witness: Option<WalPosition>,
    },
}

impl WalChecker {
    pub(super) fn new(key: Option<u64>, synced: Option<u64>) -> WalChecker {
        WalChecker {
            key,
            synced,
            files: 0,
            last: None,
            damage: None,
            lost: None,
            witness: None,
        }
    }

    /// Reads the next log.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let file = self.files;
        self.files += 1;
        let from = match self.damage {
            Some(_) => 0,
            None => match self.scan(bytes) {
                None => return,
                Some(offset) => {
                    self.damage = Some(WalPosition { file, offset });
                    self.lost = self.last.map(|last| last + 1);
                    offset
                }
            },
        };
        self.search_after(file, bytes, from);
    }

    /// Reads record after record. Returns the offset at which valid records end, if that is before
    /// the end of the file.
    fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        let mut expected = None;
        loop {
            let (start, content, end) = match frames::next(bytes, at) {
                WalRead::Record {
                    start,
                    content,
                    end,
                } => (start, content, end),
                WalRead::End => return None,
                WalRead::Broken { at } => return Some(at),
            };
            // Sequence numbers have no gaps within one file: a whole record in the place of another
            // is damage too.
            let batch = WalBatch::of(&content);
            let batch = batch.filter(|batch| expected.is_none_or(|first| first == batch.first));
            let Some(batch) = batch else {
                return Some(start);
            };
            self.last = Some(batch.last);
            expected = Some(batch.last + 1);
            at = end;
        }
    }

    /// Searches for a record after the damage that was written after the damaged data was synced.
    fn search_after(&mut self, file: usize, bytes: &[u8], mut at: usize) {
        while self.witness.is_none()
            && let Some((offset, content, end)) = frames::search(bytes, at)
        {
            at = end;
            let Some(batch) = WalBatch::of(&content) else {
                continue;
            };
            let synced = match (batch.mark, self.key) {
                (Some((found, synced)), Some(key)) if found == key => synced,
                // A record of another store that was left in the file.
                (_, Some(_)) => continue,
                // A store without marks: each batch counts as synced.
                (_, None) => batch.first.saturating_sub(1),
            };
            // There is no valid record before the damage: at least the data that ends where this
            // record begins is damaged.
            let lost = *self.lost.get_or_insert(batch.first.saturating_sub(1));
            if synced >= lost && batch.first > lost {
                self.witness = Some(WalPosition { file, offset });
            }
        }
    }

    pub(super) fn result(&self) -> WalCheckResult {
        let Some(at) = self.damage else {
            return WalCheckResult::Intact;
        };
        let (lost, witness) = (self.lost, self.witness);
        match lost {
            Some(lost) if witness.is_some() || self.synced >= Some(lost) => {
                WalCheckResult::Damaged { at, lost, witness }
            }
            _ => WalCheckResult::Torn(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::frames::tests::FrameWriter;

    const KEY: u64 = 0x6b65_7931;

    /// A log that is being written, with the ends of its batches.
    #[derive(Default)]
    struct TestWal {
        frames: FrameWriter,
        ends: Vec<usize>,
    }

    impl TestWal {
        /// Writes a batch of two changes.
        fn batch(&mut self, first: u64, mark: Option<[u8; MARK]>, size: usize) {
            let mut content = first.to_le_bytes().to_vec();
            content.extend(2_u32.to_le_bytes());
            if let Some(mark) = mark {
                content.extend(MARK_HEAD);
                content.extend(mark);
            }
            content.resize(8 + 4 + 2 + MARK + size, 0x5a);
            self.frames.record(&content);
            self.ends.push(self.frames.0.len());
        }
    }

    /// Returns a log of batches of two changes from sequence number 1 on; `synced` selects the
    /// batches that a sync follows.
    fn log(batches: u64, size: usize, synced: impl Fn(u64) -> bool) -> TestWal {
        let mut log = TestWal::default();
        let mut mark_now = 0;
        for number in 0..batches {
            log.batch(number * 2 + 1, Some(mark(KEY, mark_now)), size);
            if synced(number) {
                mark_now = number * 2 + 2;
            }
        }
        log
    }

    fn check(files: &[&[u8]], synced: Option<u64>) -> WalCheckResult {
        let mut checker = WalChecker::new(Some(KEY), synced);
        files.iter().for_each(|file| checker.read(file));
        checker.result()
    }

    fn spot(offset: usize) -> WalPosition {
        WalPosition { file: 0, offset }
    }

    #[test]
    fn a_flipped_bit_before_synced_records_is_always_damage() {
        let log = log(40, 3000, |_| true);
        let bytes = &log.frames.0;
        for at in (0..log.ends[37]).step_by(61) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 16;
            let found = check(&[&flipped], None);
            let ends_before = log.ends.iter().filter(|end| **end <= at).count() as u64;
            match found {
                WalCheckResult::Damaged { lost, witness, .. } => {
                    // Without a valid record before the damage, only the end of the damaged data is
                    // known.
                    assert_eq!(lost, (ends_before * 2 + 1).max(2), "{at}");
                    assert!(witness.unwrap().offset > at.saturating_sub(8), "{at}");
                }
                WalCheckResult::Intact => {
                    assert!(bytes[at] == 0 && at % (32 << 10) > (32 << 10) - 7)
                }
                WalCheckResult::Torn(spot) => panic!("{at}: taken for torn at {spot:?}"),
            }
        }
    }

    #[test]
    fn lost_blocks_before_written_ones_after_a_power_cut_are_torn() {
        // The last sync was after batch 9; thirty more were in flight.
        let log = log(40, 3000, |number| number == 9);
        let synced = log.ends[9];
        for lost in (synced.next_multiple_of(4096)..log.frames.0.len()).step_by(4096) {
            let mut bytes = log.frames.0.clone();
            let end = bytes.len().min(lost + 4096);
            bytes[lost..end].fill(0);
            let found = check(&[&bytes], Some(20));
            assert!(
                matches!(found, WalCheckResult::Torn(spot) if spot.offset >= synced),
                "{lost}: {found:?}"
            );
        }
    }

    #[test]
    fn damage_at_the_end_is_compared_with_the_high_water_record() {
        let log = log(10, 50, |_| true);
        let mut bytes = log.frames.0;
        *bytes.last_mut().unwrap() ^= 1;
        let at = spot(log.ends[8]);
        assert_eq!(check(&[&bytes], Some(18)), WalCheckResult::Torn(at));
        let (lost, witness) = (19, None);
        let damaged = WalCheckResult::Damaged { at, lost, witness };
        assert_eq!(check(&[&bytes], Some(20)), damaged);
        bytes.truncate(log.ends[8] + 3);
        assert_eq!(check(&[&bytes], Some(20)), damaged);
    }

    #[test]
    fn later_log_proves_damage_of_an_earlier_one() {
        let first = log(10, 50, |_| true);
        let mut second = TestWal::default();
        second.batch(21, Some(mark(KEY, 18)), 50);
        let torn = &first.frames.0[..first.ends[8] + 5];
        assert_eq!(
            check(&[torn, &second.frames.0], None),
            WalCheckResult::Torn(spot(first.ends[8]))
        );
        second.batch(23, Some(mark(KEY, 20)), 50);
        let witness = Some(WalPosition {
            file: 1,
            offset: second.ends[0],
        });
        let at = spot(first.ends[8]);
        let lost = 19;
        assert_eq!(
            check(&[torn, &second.frames.0], None),
            WalCheckResult::Damaged { at, lost, witness }
        );
    }

    #[test]
    fn record_of_another_store_or_older_use_proves_nothing() {
        let log = log(3, 50, |number| number == 0);
        for (first, key) in [(5, KEY + 1), (1, KEY)] {
            let mut other = TestWal::default();
            other.batch(first, Some(mark(key, 99)), 50);
            let mut bytes = log.frames.0[..log.ends[1]].to_vec();
            bytes.extend([0; 20]);
            bytes.extend(&other.frames.0);
            assert_eq!(
                check(&[&bytes], Some(2)),
                WalCheckResult::Torn(spot(log.ends[1]))
            );
        }
    }

    #[test]
    fn without_sync_marks_any_valid_record_after_the_damage_proves_it() {
        let mut log = TestWal::default();
        (0..5).for_each(|number| log.batch(number * 2 + 1, None, 50));
        let mut bytes = log.frames.0;
        bytes[log.ends[1] + 30] ^= 1;
        let mut checker = WalChecker::new(None, None);
        checker.read(&bytes);
        assert!(matches!(
            checker.result(),
            WalCheckResult::Damaged { lost: 5, .. }
        ));
        let mut checker = WalChecker::new(None, None);
        checker.read(&bytes[..log.ends[2]]);
        assert_eq!(checker.result(), WalCheckResult::Torn(spot(log.ends[1])));
    }

    #[test]
    fn valid_record_at_a_wrong_position_is_damage() {
        let log = log(5, 50, |_| true);
        let mut bytes = log.frames.0.clone();
        let (from, to) = (log.ends[1], log.ends[2]);
        bytes.drain(from..to);
        let found = check(&[&bytes], None);
        assert!(
            matches!(found, WalCheckResult::Damaged { at, lost: 5, .. } if at.offset == from),
            "{found:?}"
        );
    }
}
