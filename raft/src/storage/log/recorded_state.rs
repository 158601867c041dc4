//! The state of the log that is compared with the high-water record, and the count of truncations
//! that belongs to it.

use std::io;

use super::{LogStore, TRUNCATIONS};
use crate::storage::disk::high_water::StoreState;
use crate::storage::disk::{ChangeBatch, Durability, KeySpace};
use crate::storage::record::{self, TruncationsRecord};
use crate::types::LogId;

impl LogStore {
    /// Returns the state to compare with the high-water record.
    pub(crate) fn store_state(&self) -> StoreState {
        let state = self.state();
        StoreState {
            vote: *state.vote.borrow(),
            last: state.last,
            truncations: state.truncations,
        }
    }

    /// Returns the last purged entry.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.state().purged
    }

    /// Starts to count truncations: from now on this store has a high-water record. Must precede
    /// all other writes.
    pub(crate) fn count_truncations(&self) -> io::Result<()> {
        let mut changes = ChangeBatch::default();
        count(&mut changes, 0);
        self.0.disk.write(changes, Durability::Synced)?;
        self.state().truncations = Some(0);
        Ok(())
    }
}

pub(super) fn count(changes: &mut ChangeBatch, truncations: u64) {
    let record = TruncationsRecord { count: truncations };
    changes.put(KeySpace::Meta, TRUNCATIONS, record::seal(&record));
}
