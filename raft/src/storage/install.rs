//! Replacement of the registry by a snapshot. A crash in the middle leaves either the old registry
//! or work that the next start finishes.
//!
//! Only complete, verified snapshots are installed.

use std::io;
use std::time::Duration;

use argosy_state::buggify;
use argosy_state::planted_bug;

use super::disk::{self, ChangeBatch, Disk, DiskRead, Durability, KeySpace};
use super::parts::StoreParts;
use super::record::{self, SnapshotNameRecord};
use super::registry;
use super::snapshot::{KeyValue, SnapshotError};
use super::snapshot_store::{SnapshotFile, SnapshotStore};
use crate::types::SnapshotMeta;

const INSTALLING: &[u8] = b"installing";

/// The maximum size of the records written in one batch, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The pause of the planted bug `InstallNotNoted`.
const BUG_PAUSE: Duration = Duration::from_millis(200);
/// The smaller limit that a simulation uses occasionally.
const FEW_BYTES: usize = 256;

/// Installs the snapshot and returns its records.
pub(crate) async fn install(parts: &StoreParts, image: SnapshotFile) -> io::Result<Vec<KeyValue>> {
    // The consensus has removed log entries that conflict with the snapshot, without a sync. They
    // must not return after a loss of power that the snapshot survives: nothing can start on both.
    parts.writer.write(not_begun(), Durability::Synced).await?;
    let snapshot_store = parts.snapshots.clone();
    let may_block = image.may_block();
    let prepared = move || -> Result<_, SnapshotError> {
        let records = image.records()?;
        let name = snapshot_store.put(&image)?;
        Ok((name, image.meta().clone(), records))
    };
    let (name, meta, records) = disk::run(may_block, prepared).await?;
    planted_bug!(InstallNotNoted, note_start(parts, name).await?, ());
    planted_bug!(InstallNotNoted => write_position_first(parts, &meta).await?);
    let mut swap = RegistryReplacement::new(&records);
    swap.batch_bytes = buggify!(SmallSwap, BATCH_BYTES, FEW_BYTES);
    for changes in swap {
        parts.writer.write(changes, Durability::Buffered).await?;
    }
    parts.writer.write(end(&meta), Durability::Synced).await?;
    Ok(records)
}

/// Notes on the disk that an install has started.
async fn note_start(parts: &StoreParts, name: String) -> io::Result<()> {
    parts.writer.write(begin(name), Durability::Synced).await
}

/// Implements the planted bug `InstallNotNoted`: the applied position is on the disk before the
/// records. The registries of simulations are small: without a pause no crash comes in between.
async fn write_position_first(parts: &StoreParts, meta: &SnapshotMeta) -> io::Result<()> {
    parts.writer.write(end(meta), Durability::Buffered).await?;
    tokio::time::sleep(BUG_PAUSE).await;
    Ok(())
}

/// Finishes an install that a crash interrupted. Runs at startup, before the registry is read.
pub(crate) fn finish_interrupted(
    disk: &dyn Disk,
    snapshot_store: &SnapshotStore,
) -> Result<(), ResumeError> {
    let Some(bytes) = disk.get(KeySpace::Meta, INSTALLING)? else {
        return Ok(());
    };
    let SnapshotNameRecord { name } = record::unseal(&bytes)?;
    let open = || -> Result<_, SnapshotError> {
        let image = snapshot_store.open_named(&name)?;
        Ok((image.meta().clone(), image.records()?))
    };
    let (meta, records) = open().map_err(|source| ResumeError::Image {
        name: name.clone(),
        source,
    })?;
    tracing::info!(
        snapshot = name,
        "finishing the install of a snapshot that was interrupted"
    );
    for changes in RegistryReplacement::new(&records) {
        disk.write(changes, Durability::Buffered)?;
    }
    disk.write(end(&meta), Durability::Synced)?;
    Ok(())
}

/// Returns whether a snapshot install is in progress: until it is done, the registry is neither the
/// old one nor the new one.
pub(crate) fn is_under_way(disk: &dyn DiskRead) -> bool {
    !matches!(disk.get(KeySpace::Meta, INSTALLING), Ok(None))
}

fn begin(name: String) -> ChangeBatch {
    let mut changes = ChangeBatch::default();
    changes.put(
        KeySpace::Meta,
        INSTALLING,
        record::seal(&SnapshotNameRecord { name }),
    );
    changes
}

fn not_begun() -> ChangeBatch {
    let mut changes = ChangeBatch::default();
    changes.delete(KeySpace::Meta, INSTALLING);
    changes
}

fn end(meta: &SnapshotMeta) -> ChangeBatch {
    let mut changes = ChangeBatch::default();
    let applied = registry::seal_applied(meta);
    changes.put(KeySpace::RegistryMeta, registry::APPLIED, applied);
    changes.delete(KeySpace::Meta, INSTALLING);
    changes
}

/// The batches that replace the registry. The first one empties it, so a restart from any point
/// gives the same result.
struct RegistryReplacement<'a> {
    records: &'a [KeyValue],
    is_started: bool,
    batch_bytes: usize,
}

impl<'a> RegistryReplacement<'a> {
    fn new(records: &'a [KeyValue]) -> Self {
        Self {
            records,
            is_started: false,
            batch_bytes: BATCH_BYTES,
        }
    }
}

impl Iterator for RegistryReplacement<'_> {
    type Item = ChangeBatch;

    fn next(&mut self) -> Option<ChangeBatch> {
        let mut changes = ChangeBatch::default();
        if !self.is_started {
            self.is_started = true;
            changes.clear_registry();
        }
        let mut bytes = 0;
        while bytes < self.batch_bytes
            && let Some(((key, value), rest)) = self.records.split_first()
        {
            bytes += key.len() + value.len();
            changes.put(KeySpace::Registry, key.clone(), value.clone());
            self.records = rest;
        }
        (!changes.is_empty()).then_some(changes)
    }
}

/// The error of an interrupted install that cannot be finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    #[error("the store cannot be read or written")]
    Disk(#[from] io::Error),
    #[error("the record of an interrupted install is damaged")]
    Record(#[from] record::RecordError),
    #[error("the snapshot {name}, whose install was interrupted, cannot be used")]
    Image { name: String, source: SnapshotError },
}
