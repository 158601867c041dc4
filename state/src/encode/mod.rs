//! Stored bytes, with a version from the first day.

use crate::Registry;
use crate::registry::RecordKey;

/// Version of the format of stored bytes.
pub const FORMAT: u32 = 1;

/// The stored name of a record.
#[must_use]
pub fn key(name: &RecordKey) -> Vec<u8> {
    format!("{name:?}").into_bytes()
}

pub(crate) fn record(_registry: &Registry, _name: &RecordKey) -> Option<Vec<u8>> {
    None
}
