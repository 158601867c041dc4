//! Replacement of the registry by a snapshot. A crash in the middle leaves either the old registry
//! or work that the next start finishes.
//!
//! Only complete, verified snapshots are installed.

use std::io;

use argosy_state::buggify::{self, Rare};
use argosy_state::bugs::{self, Bug};

use super::disk::{self, Changes, Disk, Durability, Family, Read};
use super::record::{self, ImageNameRecord};
use super::snapshot::{ImageError, KeyValue};
use super::snapshot_store::{Image, Shelf};
use crate::state_machine::{self, Parts};
use crate::types::SnapshotMeta;

const INSTALLING: &[u8] = b"installing";

/// The maximum size of the records written in one batch, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The smaller limit that a simulation uses occasionally.
const FEW_BYTES: usize = 256;

/// Installs the snapshot and returns its records.
pub(crate) async fn install(parts: &Parts, image: Image) -> io::Result<Vec<KeyValue>> {
    let shelf = parts.shelf.clone();
    let may_block = image.may_block();
    let prepared = move || -> Result<_, ImageError> {
        let records = image.records()?;
        let name = shelf.put(&image)?;
        Ok((name, image.meta().clone(), records))
    };
    let (name, meta, records) = disk::run(may_block, prepared)
        .await
        .map_err(state_machine::invalid)?;
    if !bugs::is_on(Bug::InstallNotNoted) {
        let begun = begin(name);
        parts.writer.write(begun, Durability::Synced).await?;
    }
    let mut swap = Swap::new(&records);
    swap.batch_bytes = buggify::or(Rare::SmallSwap, BATCH_BYTES, FEW_BYTES);
    for changes in swap {
        parts.writer.write(changes, Durability::Buffered).await?;
    }
    parts.writer.write(end(&meta), Durability::Synced).await?;
    Ok(records)
}

/// Finishes an install that a crash interrupted. Runs at startup, before the registry is read.
pub(crate) fn finish_interrupted(disk: &dyn Disk, shelf: &Shelf) -> Result<(), ResumeError> {
    let Some(bytes) = disk.get(Family::Meta, INSTALLING)? else {
        return Ok(());
    };
    let ImageNameRecord { name } = record::unseal(&bytes)?;
    let open = || -> Result<_, ImageError> {
        let image = shelf.named(&name)?;
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
    for changes in Swap::new(&records) {
        disk.write(changes, Durability::Buffered)?;
    }
    disk.write(end(&meta), Durability::Synced)?;
    Ok(())
}

/// Returns whether a snapshot install is in progress: until it is done, the registry is neither the
/// old one nor the new one.
pub(crate) fn is_under_way(disk: &dyn Read) -> bool {
    !matches!(disk.get(Family::Meta, INSTALLING), Ok(None))
}

fn begin(name: String) -> Changes {
    let mut changes = Changes::default();
    changes.put(
        Family::Meta,
        INSTALLING,
        record::seal(&ImageNameRecord { name }),
    );
    changes
}

fn end(meta: &SnapshotMeta) -> Changes {
    let mut changes = Changes::default();
    let applied = state_machine::seal_applied(meta);
    changes.put(Family::RegistryMeta, state_machine::APPLIED, applied);
    changes.delete(Family::Meta, INSTALLING);
    changes
}

/// The batches that replace the registry. The first one empties it, so a restart from any point
/// gives the same result.
struct Swap<'a> {
    records: &'a [KeyValue],
    begun: bool,
    batch_bytes: usize,
}

impl<'a> Swap<'a> {
    fn new(records: &'a [KeyValue]) -> Self {
        Self {
            records,
            begun: false,
            batch_bytes: BATCH_BYTES,
        }
    }
}

impl Iterator for Swap<'_> {
    type Item = Changes;

    fn next(&mut self) -> Option<Changes> {
        let mut changes = Changes::default();
        if !self.begun {
            self.begun = true;
            changes.clear_registry();
        }
        let mut bytes = 0;
        while bytes < self.batch_bytes
            && let Some(((key, value), rest)) = self.records.split_first()
        {
            bytes += key.len() + value.len();
            changes.put(Family::Registry, key.clone(), value.clone());
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
    Image { name: String, source: ImageError },
}
