//! Hashes over sets: the sum of a mark for each member, so that a change costs one member.
//!
//! The bytes that are hashed are our own canonical form, never protobuf's.

use sha2::{Digest, Sha256};

use crate::ids::{OrderIndex, TaskKey};

/// The mark of a stored record.
#[must_use]
pub fn record_mark(key: &[u8], value: &[u8]) -> u128 {
    mark(&[b"record", key, value])
}

/// The mark of a task that an agent holds: the instance, and the last update committed for it.
/// Agents and masters add these up, wrapping; equal sums mean equal sets.
#[must_use]
pub fn task_mark(key: &TaskKey, order: OrderIndex, number: u64) -> u128 {
    let numbers = [
        key.framework.0.to_be_bytes(),
        order.0.to_be_bytes(),
        number.to_be_bytes(),
    ]
    .concat();
    mark(&[b"task", key.task.as_str().as_bytes(), &numbers])
}

/// The first half of the SHA-256 of the parts, each behind its length.
fn mark(parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let bytes = hash.finalize();
    u128::from_be_bytes(bytes[..16].try_into().expect("SHA-256 has 32 bytes"))
}
