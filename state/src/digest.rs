//! Hashes over sets: the sum of a mark for each member, so that a change costs only one member.
//!
//! The hashed bytes are a canonical form of this crate, not protobuf.

use sha2::{Digest, Sha256};

use crate::ids::{OrderIndex, TaskKey};

/// Returns the mark of a stored record.
#[must_use]
pub fn record_mark(key: &[u8], value: &[u8]) -> u128 {
    mark(&[b"record", key, value])
}

/// Returns the mark of a task that an agent holds. It covers the instance, and the last update that
/// is committed for it. Agents and masters sum the marks, wrapping; equal sums mean equal sets.
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

/// A kind of object that agents hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DigestKind {
    /// Tasks: see [`task_mark`].
    Task,
}

impl DigestKind {
    /// All variants, in order of declaration.
    pub const ALL: [Self; 1] = [Self::Task];

    /// Returns the name that agents and masters use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
        }
    }

    /// Returns the kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The digests of the objects that an agent holds, or should hold: for each kind the wrapping sum
/// of the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests([u128; DigestKind::ALL.len()]);

impl Digests {
    /// Returns the sum of one kind.
    #[must_use]
    pub fn of(&self, kind: DigestKind) -> u128 {
        self.0[kind as usize]
    }

    /// Adds a member.
    pub fn add(&mut self, kind: DigestKind, mark: u128) {
        let sum = &mut self.0[kind as usize];
        *sum = sum.wrapping_add(mark);
    }

    /// Removes a member.
    pub fn remove(&mut self, kind: DigestKind, mark: u128) {
        let sum = &mut self.0[kind as usize];
        *sum = sum.wrapping_sub(mark);
    }
}

/// Returns the first half of the SHA-256 of the parts, each prefixed by its length.
fn mark(parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let bytes = hash.finalize();
    u128::from_be_bytes(bytes[..16].try_into().expect("SHA-256 has 32 bytes"))
}
