//! The stored registry: its records, and the position up to which they are applied.
//!
//! The content of a record is opaque here.

use std::io;
use std::ops::ControlFlow;

use super::disk::{DiskRead, KeySpace};
use super::record::{self, SnapshotMetaRecord};
use super::snapshot::KeyValue;
use crate::types::SnapshotMeta;

pub(crate) const APPLIED: &[u8] = b"applied";

/// Returns all records, and the position up to which they are applied.
pub(crate) fn read(
    disk: &dyn DiskRead,
) -> Result<(SnapshotMeta, Vec<KeyValue>), RegistryReadError> {
    let applied = applied(disk)?;
    let mut records = Vec::new();
    disk.scan(KeySpace::Registry, b"", &mut |key, value| {
        records.push((key.to_vec(), value.to_vec()));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((applied, records))
}

/// Returns the position up to which the registry on this disk is applied.
pub(crate) fn applied(disk: &dyn DiskRead) -> Result<SnapshotMeta, RegistryReadError> {
    match disk.get(KeySpace::RegistryMeta, APPLIED)? {
        None => Ok(SnapshotMeta::default()),
        Some(bytes) => Ok(record::unseal::<SnapshotMetaRecord>(&bytes)?.try_into()?),
    }
}

pub(crate) fn seal_applied(applied: &SnapshotMeta) -> Vec<u8> {
    record::seal(&SnapshotMetaRecord::from(applied))
}

/// The error of a stored registry that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryReadError {
    #[error("the registry cannot be read")]
    Read(#[from] io::Error),
    #[error("the record of the registry's applied index is damaged")]
    Applied(#[from] record::RecordError),
}
