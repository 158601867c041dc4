//! Saved snapshots of the registry: reading, encryption, and the registry of the new cluster that
//! is made of one.
//!
//! Nothing here opens a file, or reads a clock or random numbers: callers pass them.

mod encryption;

use std::collections::BTreeMap;
use std::io::Read;

use argosy_raft::{
    LogPosition, RegistryRecords, SavedSnapshotError, SavedSnapshotHeader, StoppedData,
    read_saved_snapshot,
};
use argosy_state::Registry;
use argosy_state::encode::DecodeError;
use argosy_state::ids::ClusterId;
use argosy_state::registry::NotRestorable;

use crate::comparison::apply_quietly;

pub use encryption::{EncryptionError, SnapshotDecryptor, SnapshotEncryptor};

/// A saved snapshot that is verified as a whole.
#[derive(Debug)]
pub struct SavedSnapshot {
    /// The description of the snapshot.
    pub header: SavedSnapshotHeader,
    /// The records of the registry.
    pub records: RegistryRecords,
}

/// The error of a saved snapshot that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableSnapshot {
    /// The file is invalid.
    #[error(transparent)]
    File(#[from] SavedSnapshotError),
    /// The records are not those of a registry that this program can read.
    #[error("its records are not a registry: {0}")]
    Records(#[from] DecodeError),
    /// The header contradicts the records.
    #[error("it is damaged: its header names another {0} than its records")]
    Header(&'static str),
    /// The registry cannot become that of another cluster.
    #[error(transparent)]
    NotRestorable(#[from] NotRestorable),
    /// An entry of the log cannot be applied.
    #[error("an entry of the log cannot be applied: {0}")]
    Entry(String),
}

impl SavedSnapshot {
    /// Reads a saved snapshot and verifies all of it: its checksums, that its records are a valid
    /// registry, and that its header describes them.
    ///
    /// # Errors
    /// [`UnusableSnapshot`].
    pub fn read(from: impl Read) -> Result<(Self, Registry), UnusableSnapshot> {
        let mut records = Vec::new();
        let header = read_saved_snapshot(from, &mut |record| records.push(record))?;
        let registry = Registry::load(header.index, records.iter().cloned())?;
        let cluster = registry.cluster();
        let named = [
            ("cluster", header.cluster_id == cluster.facts.id.to_string()),
            ("feature level", header.feature_level == cluster.level.0),
            ("epoch", header.epoch == cluster.epoch.0),
        ];
        if let Some((what, _)) = named.iter().find(|(_, is_equal)| !is_equal) {
            return Err(UnusableSnapshot::Header(what));
        }
        Ok((Self { header, records }, registry))
    }

    /// Returns the registry of a stopped master with all entries of its log applied. Entries that
    /// were not committed count, too: one of them may have been acknowledged by a leader that is
    /// lost.
    ///
    /// # Errors
    /// [`UnusableSnapshot`].
    pub fn of_stopped(data: StoppedData) -> Result<Self, UnusableSnapshot> {
        let StoppedData {
            records,
            applied: LogPosition { index, term },
            entries,
        } = data;
        let mut registry = Registry::load(index, records.iter().cloned())?;
        let mut records: BTreeMap<_, _> = records.into_iter().collect();
        let mut last = LogPosition { index, term };
        let mut writes = Vec::new();
        for entry in &entries {
            apply_quietly(&mut registry, entry, &mut writes).map_err(UnusableSnapshot::Entry)?;
            let writes = writes.drain(..);
            let writes = writes.map(|write| (write.key.into(), write.value.map(Into::into)));
            store(&mut records, writes);
            last = LogPosition {
                index: entry.index,
                term: entry.term,
            };
        }
        let cluster = registry.cluster();
        let header = SavedSnapshotHeader {
            cluster_id: cluster.facts.id.to_string(),
            feature_level: cluster.level.0,
            index: last.index,
            term: last.term,
            epoch: cluster.epoch.0,
            cluster_time_ms: registry.time().0,
            ..SavedSnapshotHeader::default()
        };
        let records = records.into_iter().collect();
        Ok(Self { header, records })
    }

    /// Returns the position of the records in the log.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        LogPosition {
            index: self.header.index,
            term: self.header.term,
        }
    }

    /// Returns the same registry as that of a new cluster, which names this one as its ancestor.
    /// `id` and `offer_key` must be random.
    ///
    /// # Errors
    /// [`UnusableSnapshot`].
    pub fn restored(
        self,
        id: ClusterId,
        offer_key: [u8; 32],
    ) -> Result<SavedSnapshot, UnusableSnapshot> {
        let Self {
            mut header,
            records,
        } = self;
        let mut registry = Registry::load(header.index, records.iter().cloned())?;
        registry.restore(id, offer_key)?;
        let mut records = records.into_iter().collect();
        let changes = registry.take_changes().into_iter();
        store(&mut records, changes.map(|write| (write.key, write.value)));
        header.cluster_id = id.to_string();
        let records = records.into_iter().collect();
        Ok(Self { header, records })
    }
}

/// Changes records as a master would.
fn store(
    records: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    writes: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
) {
    for (key, value) in writes {
        match value {
            Some(value) => drop(records.insert(key, value)),
            None => drop(records.remove(&key)),
        }
    }
}

#[cfg(test)]
mod tests;
