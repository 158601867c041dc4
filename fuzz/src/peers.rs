//! Targets for decoders of the Raft group: stored records, snapshots and messages between masters.

use argosy_raft::fuzzing;

use crate::input::{parts, variant};

/// An entry of the log.
pub fn log_entry(bytes: &[u8]) -> bool {
    fuzzing::log_entry(bytes)
}

/// A record of a master's store.
pub fn store_record(bytes: &[u8]) -> bool {
    fuzzing::store_record(bytes)
}

/// A message between masters.
pub fn peer_message(bytes: &[u8]) -> bool {
    fuzzing::peer_message(bytes)
}

/// The bytes of a connection between masters, or the contents of its frames.
pub fn peer_frames(bytes: &[u8]) -> bool {
    let (kind, parts) = variant(bytes);
    fuzzing::frames(kind == 0, &parts)
}

/// A snapshot of the registry.
pub fn snapshot(bytes: &[u8]) -> bool {
    fuzzing::snapshot(&parts(bytes)) || fuzzing::snapshot(&[bytes])
}

/// Write-ahead logs, or the fragments of one.
pub fn write_ahead_logs(bytes: &[u8]) -> bool {
    let (kind, parts) = variant(bytes);
    !parts.is_empty() && fuzzing::write_ahead_logs(kind == 0, &parts)
}
