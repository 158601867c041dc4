//! The high-water record: how far this master had synced, in a file next to the store. At startup
//! the store must not be behind it.
//!
//! A separate thread writes the file some time after a sync, so no commit waits for it. It is
//! therefore never ahead of what is synced, and up to [`WRITE_INTERVAL`] behind it. Two slots
//! alternate: a write that a power cut interrupts leaves the other one.

mod file;

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use prost::Message;

use crate::storage::record::{LogIdRecord, VoteRecord};
use crate::types::{LogId, Vote};

#[cfg(feature = "rocksdb")]
pub(super) use file::{HighWaterThread, read};

/// The minimum interval between two writes of the file.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);

/// The interval at which the manifest is checked without changes to the log: flushes and
/// compactions change it.
const MAX_WAIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct HighWaterRecord {
    /// The number of writes of this file: the slot with the larger number is newer.
    #[prost(uint64, tag = "1")]
    pub(super) count: u64,
    /// The key that distinguishes the marks in this store's write-ahead logs from other bytes.
    #[prost(uint64, tag = "2")]
    pub(super) key: u64,
    /// The sequence number of RocksDB up to which everything was synced.
    #[prost(uint64, tag = "3")]
    pub(super) sequence: u64,
    #[prost(message, optional, tag = "4")]
    pub(super) vote: Option<VoteRecord>,
    /// The last entry of the log that was synced.
    #[prost(message, optional, tag = "5")]
    pub(super) last: Option<LogIdRecord>,
    /// The number of truncations of the log at that time: a truncation removes entries
    /// intentionally.
    #[prost(uint64, tag = "6")]
    pub(super) truncations: u64,
    #[prost(message, optional, tag = "7")]
    pub(super) manifest: Option<Manifest>,
    /// The number of the newest write-ahead log, for messages.
    #[prost(uint64, tag = "8")]
    pub(super) newest_log: u64,
}

/// The part of the manifest that was synced.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Manifest {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(uint64, tag = "2")]
    pub(super) bytes: u64,
}

/// The state of the log of a store.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StoreState {
    pub(crate) vote: Option<Vote>,
    pub(crate) last: Option<LogId>,
    /// `None` in a store that never had a high-water record.
    pub(crate) truncations: Option<u64>,
}

/// The error of a store that no longer has what was synced.
#[derive(Debug, thiserror::Error)]
#[error("{missing}; its write-ahead logs are {logs}")]
pub(crate) struct DataLossError {
    missing: MissingData,
    logs: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum MissingData {
    #[error("the file high-water, which records what was synced, is missing")]
    Record,
    #[error("its vote is of term {found}, and a vote of term {synced} was synced before")]
    Vote { found: u64, synced: u64 },
    #[error(
        "its log ends at entry {} of term {}, and entry {} of term {} was synced before",
        found.index, found.term, synced.index, synced.term
    )]
    Entries {
        found: LogIdRecord,
        synced: LogIdRecord,
    },
}

impl HighWaterRecord {
    fn check(&self, state: &StoreState) -> Result<(), MissingData> {
        if let Some(synced) = self.vote.map(Vote::from)
            && !state.vote.is_some_and(|vote| vote >= synced)
        {
            return Err(MissingData::Vote {
                found: state.vote.map_or(0, |vote| vote.leader_id.term),
                synced: synced.leader_id.term,
            });
        }
        // A truncation is not recorded yet: the entries that it left are unknown here.
        if state.truncations > Some(self.truncations) {
            return Ok(());
        }
        match self.last {
            Some(synced) if state.last < Some(LogId::from(synced)) => Err(MissingData::Entries {
                found: state.last.map(|last| (&last).into()).unwrap_or_default(),
                synced,
            }),
            _ => Ok(()),
        }
    }

    fn update(&mut self, state: &StoreState) {
        self.vote = state.vote.as_ref().map(VoteRecord::from);
        self.last = state.last.as_ref().map(LogIdRecord::from);
        self.truncations = state.truncations.unwrap_or(0);
    }
}

/// A handle on the recorded state; all clones share it.
#[derive(Clone)]
pub(crate) struct HighWater(Arc<Shared>);

struct Shared {
    /// Whether the file existed at startup.
    was_found: bool,
    /// The write-ahead logs at startup.
    logs: String,
    recorded: Mutex<RecordedState>,
    changed: Condvar,
}

struct RecordedState {
    record: HighWaterRecord,
    /// Whether the file is outdated.
    is_new: bool,
    is_closed: bool,
}

impl HighWater {
    pub(super) fn new(found: Option<HighWaterRecord>, key: u64, logs: String) -> HighWater {
        let was_found = found.is_some();
        let record = found.unwrap_or(HighWaterRecord {
            key,
            ..HighWaterRecord::default()
        });
        HighWater(Arc::new(Shared {
            was_found,
            logs,
            recorded: Mutex::new(RecordedState {
                record,
                is_new: false,
                is_closed: false,
            }),
            changed: Condvar::new(),
        }))
    }

    /// Returns an error if a store with this state lacks something that was synced.
    pub(crate) fn check(&self, state: &StoreState) -> Result<(), DataLossError> {
        let checked = match (self.0.was_found, state.truncations) {
            (false, Some(_)) => Err(MissingData::Record),
            _ => self.0.lock().record.check(state),
        };
        checked.map_err(|lack| DataLossError {
            missing: lack,
            logs: self.0.logs.clone(),
        })
    }

    /// Records that everything up to this sequence number of RocksDB is synced.
    pub(super) fn record_sequence(&self, sequence: u64) {
        self.update(|record| record.sequence = sequence);
    }

    /// Records that the vote is synced.
    pub(crate) fn record_vote(&self, vote: &Vote) {
        self.update(|record| record.vote = Some(vote.into()));
    }

    /// Records that the log is synced up to this entry.
    pub(crate) fn record_append(&self, last: &LogId) {
        self.update(|record| record.last = Some(last.into()));
    }

    /// Records that entries were truncated; `last` is the last one that is left.
    pub(crate) fn record_truncation(&self, last: Option<&LogId>, truncations: u64) {
        self.update(|record| {
            record.last = last.map(LogIdRecord::from);
            record.truncations = truncations;
        });
    }

    fn update(&self, change: impl FnOnce(&mut HighWaterRecord)) {
        let mut noted = self.0.lock();
        change(&mut noted.record);
        let was_new = std::mem::replace(&mut noted.is_new, true);
        drop(noted);
        // Notified once for each write of the file: under load most updates wake no thread.
        if !was_new {
            self.0.changed.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, RecordedState> {
        self.recorded.lock().expect("no holder of the lock panics")
    }

    /// Returns the record to write, and whether it is the last one. Returns after [`MAX_WAIT`] at
    /// the latest.
    fn next(&self) -> (HighWaterRecord, bool) {
        let waiting = self
            .changed
            .wait_timeout_while(self.lock(), MAX_WAIT, |noted| {
                !noted.is_new && !noted.is_closed
            });
        let (mut noted, _) = waiting.expect("no holder of the lock panics");
        noted.is_new = false;
        (noted.record, noted.is_closed)
    }

    fn pause(&self) {
        let pausing = self
            .changed
            .wait_timeout_while(self.lock(), WRITE_INTERVAL, |noted| !noted.is_closed);
        drop(pausing.expect("no holder of the lock panics"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CommittedLeaderId, LeaderId};

    fn vote(term: u64, voted_for: u64) -> Option<Vote> {
        Some(Vote {
            leader_id: LeaderId { term, voted_for },
            committed: false,
        })
    }

    fn entry(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId { term }, index))
    }

    fn state(vote: Option<Vote>, last: Option<LogId>, truncations: u64) -> StoreState {
        StoreState {
            vote,
            last,
            truncations: Some(truncations),
        }
    }

    fn record(held: &StoreState) -> HighWaterRecord {
        let mut record = HighWaterRecord::default();
        record.update(held);
        record
    }

    #[test]
    fn a_store_that_holds_as_much_or_more_is_not_behind() {
        let noted = state(vote(3, 1), entry(2, 9), 4);
        for found in [
            noted,
            state(vote(3, 1), entry(2, 10), 4),
            state(vote(4, 2), entry(3, 5), 4),
            // The record includes a truncation that the disk had not stored.
            state(vote(3, 1), entry(2, 12), 3),
            // The disk has a truncation that the record does not include.
            state(vote(3, 1), entry(1, 2), 5),
        ] {
            assert_eq!(record(&noted).check(&found), Ok(()), "{found:?}");
        }
        assert_eq!(
            HighWaterRecord::default().check(&StoreState::default()),
            Ok(())
        );
    }

    #[test]
    fn a_store_that_lost_its_vote_or_entries_is_behind() {
        let noted = state(vote(3, 1), entry(2, 9), 4);
        for lost in [None, vote(2, 1), vote(3, 2)] {
            let found = state(lost, entry(2, 9), 4);
            assert!(matches!(
                record(&noted).check(&found),
                Err(MissingData::Vote { .. })
            ));
        }
        for lost in [None, entry(2, 8), entry(1, 20)] {
            for truncations in [3, 4] {
                let found = state(vote(3, 1), lost, truncations);
                let checked = record(&noted).check(&found);
                assert!(
                    matches!(checked, Err(MissingData::Entries { .. })),
                    "{found:?}"
                );
            }
        }
        let words = record(&noted).check(&state(vote(3, 1), entry(2, 8), 4));
        assert_eq!(
            words.unwrap_err().to_string(),
            "its log ends at entry 8 of term 2, and entry 9 of term 2 was synced before"
        );
    }
}
