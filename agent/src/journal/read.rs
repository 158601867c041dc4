//! Reads a journal: all intact records in order, and a report of the damaged parts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::frame::{self, FRAME_BYTES, HEAD_BYTES, HeaderStatus, JournalHeader};
use super::storage::MemoryDisk;
use super::{JournalError, record};
use crate::core::{AgentState, ExecutorRecord, Instance, JournalRecord, OrderBody};

#[derive(Debug, Default)]
pub struct JournalContents {
    /// The facts of its intact records, applied in order.
    pub facts: AgentState,
    /// The number of intact records.
    pub records: u64,
    /// Whether one bit of the file's head was wrong, which lost nothing.
    pub head_repaired: bool,
    /// The damaged parts in the middle.
    pub damage: Vec<CorruptRange>,
    /// Tasks and executors whose remaining records all need an earlier one, which was lost.
    pub lost: BTreeSet<Instance>,
    /// Bytes after the last intact record: a write that a crash interrupted.
    pub torn_bytes: u64,
    /// Whether it contains a launch without an agent id, written by 0.1.
    pub(super) has_old_launches: bool,
    /// The position and the salt for appending; `None` if there is no file yet.
    pub(super) end: Option<IntactEnd>,
}

impl JournalContents {
    fn apply(&mut self, record: &JournalRecord) {
        self.facts.apply(record);
        self.records += 1;
        let Some(instance) = record.instance() else {
            return;
        };
        let is_over = matches!(
            record,
            JournalRecord::Released { .. }
                | JournalRecord::Executor(ExecutorRecord::Cleared { .. })
        );
        let facts = &self.facts;
        if is_over || facts.tasks.contains_key(&instance) || facts.executors.contains_key(&instance)
        {
            self.lost.remove(&instance);
        } else {
            self.lost.insert(instance);
        }
    }

    /// Whether one more damaged record could affect more than one task: then the journal is
    /// rewritten immediately.
    pub(super) fn is_fragile(&self) -> bool {
        self.head_repaired || !self.damage.is_empty() || self.has_old_launches
    }
}

/// The end of a file's intact part.
#[derive(Debug, Clone, Copy)]
pub(super) struct IntactEnd {
    pub(super) offset: u64,
    pub(super) salt: u64,
    /// The format in its head.
    pub(super) version: u32,
}

/// A damaged part of the file, with intact records after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorruptRange {
    /// Its offset, in bytes.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// Reads the journal at `path`. A missing file is an empty journal.
///
/// # Errors
/// If it cannot be read, is of a newer format or has a record of an unknown kind, or is no journal.
pub fn read(path: &Path) -> Result<JournalContents, JournalError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(JournalContents::default());
        }
        Err(source) => {
            return Err(JournalError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    parse_journal(&bytes, path)
}

/// Reads the journal on a disk in memory.
///
/// # Errors
/// As [`read`].
pub fn read_memory(disk: &MemoryDisk) -> Result<JournalContents, JournalError> {
    match disk.bytes() {
        Some(bytes) => parse_journal(&bytes, Path::new("in memory")),
        None => Ok(JournalContents::default()),
    }
}

/// Reads the journal of a disk in memory as after a power loss.
///
/// # Errors
/// As [`read`].
pub fn read_synced(disk: &MemoryDisk) -> Result<JournalContents, JournalError> {
    match disk.synced() {
        Some(bytes) => parse_journal(&bytes, Path::new("in memory")),
        None => Ok(JournalContents::default()),
    }
}

pub(crate) fn parse_journal(bytes: &[u8], path: &Path) -> Result<JournalContents, JournalError> {
    let path = path.to_owned();
    match frame::read_head(bytes) {
        HeaderStatus::Valid(head) => contents(bytes, head).map_err(|why| match why {
            JournalRejection::Unknown { offset } => JournalError::Unknown { path, offset },
            JournalRejection::NoIdentity { offset } => JournalError::NoIdentity { path, offset },
        }),
        HeaderStatus::Newer { version } => Err(JournalError::Newer {
            path,
            found: version,
        }),
        HeaderStatus::Damaged => Err(JournalError::Head { path }),
        HeaderStatus::Foreign => Err(JournalError::Foreign { path }),
    }
}

/// The reason why a journal is rejected.
enum JournalRejection {
    /// An intact record of a kind that only a newer release knows: its content must not be ignored.
    Unknown { offset: u64 },
    /// The journal is damaged, and the records with the agent's identity are lost.
    NoIdentity { offset: u64 },
}

/// The evidence of the agent's identity in the records read so far.
#[derive(Default)]
struct IdentityEvidence {
    has_identity: bool,
    has_ownerless_launch: bool,
}

impl IdentityEvidence {
    /// Checks a record that is about to be applied.
    fn observe(&mut self, facts: &AgentState, record: &JournalRecord) {
        match record {
            JournalRecord::Identity(_) | JournalRecord::IdentityReset(_) => {
                self.has_identity = true
            }
            JournalRecord::OrderAccepted {
                body: OrderBody::Launch { agent: None, .. },
                ..
            } => self.has_ownerless_launch |= facts.identity.agent.is_none(),
            JournalRecord::OrderAccepted { .. }
            | JournalRecord::Started { .. }
            | JournalRecord::Updated { .. }
            | JournalRecord::Committed { .. }
            | JournalRecord::Released { .. }
            | JournalRecord::Orphaned { .. }
            | JournalRecord::Retried { .. }
            | JournalRecord::Floor(_)
            | JournalRecord::Task { .. }
            | JournalRecord::Executor(_) => {}
        }
    }

    fn is_identity_lost(&self) -> bool {
        !self.has_identity || self.has_ownerless_launch
    }
}

fn contents(bytes: &[u8], head: JournalHeader) -> Result<JournalContents, JournalRejection> {
    let JournalHeader { version, salt, .. } = head;
    let mut contents = JournalContents {
        head_repaired: head.is_repaired,
        ..JournalContents::default()
    };
    let mut names = IdentityEvidence::default();
    let mut at = HEAD_BYTES;
    while at < bytes.len() {
        if let Some(payload) = frame::get(&bytes[at..], salt) {
            if let Some(record) = record::decode(payload) {
                names.observe(&contents.facts, &record);
                contents.has_old_launches |= is_old_launch(&record);
                contents.apply(&record);
                at += FRAME_BYTES + payload.len();
                continue;
            }
            if record::is_of_unknown_kind(payload) {
                return Err(JournalRejection::Unknown { offset: at as u64 });
            }
        }
        let Some(next) = frame::find(bytes, salt, at + 1) else {
            contents.torn_bytes = (bytes.len() - at) as u64;
            break;
        };
        contents.damage.push(CorruptRange {
            offset: at as u64,
            bytes: (next - at) as u64,
        });
        at = next;
    }
    if let Some(first) = contents.damage.first() {
        if names.is_identity_lost() {
            return Err(JournalRejection::NoIdentity {
                offset: first.offset,
            });
        }
        // The damaged part has no space for more records than that.
        let bytes: u64 = contents.damage.iter().map(|damage| damage.bytes).sum();
        contents.facts.skip_numbers(bytes / FRAME_BYTES as u64);
    } else {
        contents.lost.clear();
    }
    contents.end = Some(IntactEnd {
        offset: at as u64,
        salt,
        version,
    });
    Ok(contents)
}

fn is_old_launch(record: &JournalRecord) -> bool {
    matches!(
        record,
        JournalRecord::OrderAccepted {
            body: OrderBody::Launch { agent: None, .. },
            ..
        }
    )
}

/// Returns a journal of these payloads, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) fn journal_of(payloads: &[&[u8]]) -> Vec<u8> {
    let salt = 7;
    let mut bytes = frame::head(frame::VERSION, salt).to_vec();
    let payloads = payloads.iter();
    payloads.for_each(|payload| frame::put(&mut bytes, salt, payload));
    bytes
}

/// Returns a record, and the same record after it was encoded and decoded, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) fn reread_record(payload: &[u8]) -> Option<[Option<JournalRecord>; 2]> {
    let read = record::decode(payload)?;
    let again = record::decode(&record::encode(&read));
    Some([Some(read), again])
}
