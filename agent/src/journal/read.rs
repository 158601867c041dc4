//! Reads a journal: all intact records in order, and a report of the damaged parts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::frame::{self, FRAME_BYTES, HEAD_BYTES, Head, Known};
use super::storage::MemoryDisk;
use super::{JournalError, record};
use crate::core::{ExecutorRecord, Facts, Instance, Record, Taken};

/// The contents of a journal.
#[derive(Debug, Default)]
pub struct Contents {
    /// The facts of its intact records, applied in order.
    pub facts: Facts,
    /// The number of intact records.
    pub records: u64,
    /// Whether one bit of the file's head was wrong, which lost nothing.
    pub head_repaired: bool,
    /// The damaged parts in the middle.
    pub damage: Vec<Damage>,
    /// Tasks and executors whose remaining records all need an earlier one, which was lost.
    pub lost: BTreeSet<Instance>,
    /// Bytes after the last intact record: a write that a crash interrupted.
    pub torn_bytes: u64,
    /// Whether it contains a launch without an agent id, written by 0.1.
    pub(super) has_old_launches: bool,
    /// The position and the salt for appending; `None` if there is no file yet.
    pub(super) end: Option<End>,
}

impl Contents {
    fn follow(&mut self, record: &Record) {
        self.facts.apply(record);
        self.records += 1;
        let Some(instance) = record.instance() else {
            return;
        };
        let is_over = matches!(
            record,
            Record::Released { .. } | Record::Executor(ExecutorRecord::Cleared { .. })
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
pub(super) struct End {
    pub(super) offset: u64,
    pub(super) salt: u64,
    /// The format in its head.
    pub(super) version: u32,
}

/// A damaged part of the file, with intact records after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Its offset, in bytes.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// Reads the journal at `path`. A missing file is an empty journal.
///
/// # Errors
/// If it cannot be read, is of a newer format or has a record of an unknown kind, or is no journal.
pub fn read(path: &Path) -> Result<Contents, JournalError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
        Err(source) => {
            return Err(JournalError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    judge(&bytes, path)
}

/// Reads the journal on a disk in memory.
///
/// # Errors
/// As [`read`].
pub fn read_memory(disk: &MemoryDisk) -> Result<Contents, JournalError> {
    match disk.bytes() {
        Some(bytes) => judge(&bytes, Path::new("in memory")),
        None => Ok(Contents::default()),
    }
}

/// Reads the journal of a disk in memory as after a power loss.
///
/// # Errors
/// As [`read`].
pub fn read_synced(disk: &MemoryDisk) -> Result<Contents, JournalError> {
    match disk.synced() {
        Some(bytes) => judge(&bytes, Path::new("in memory")),
        None => Ok(Contents::default()),
    }
}

pub(super) fn judge(bytes: &[u8], path: &Path) -> Result<Contents, JournalError> {
    let path = path.to_owned();
    match frame::read_head(bytes) {
        Head::Known(head) => contents(bytes, head).map_err(|why| match why {
            Refused::Unknown { offset } => JournalError::Unknown { path, offset },
            Refused::NoIdentity { offset } => JournalError::NoIdentity { path, offset },
        }),
        Head::Newer { version } => Err(JournalError::Newer {
            path,
            found: version,
        }),
        Head::Damaged => Err(JournalError::Head { path }),
        Head::Foreign => Err(JournalError::Foreign { path }),
    }
}

/// The reason why a journal is rejected.
enum Refused {
    /// An intact record of a kind that only a newer release knows: its content must not be ignored.
    Unknown { offset: u64 },
    /// The journal is damaged, and the records with the agent's identity are lost.
    NoIdentity { offset: u64 },
}

/// The evidence of the agent's identity in the records read so far.
#[derive(Default)]
struct Names {
    has_identity: bool,
    has_ownerless_launch: bool,
}

impl Names {
    /// Checks a record that is about to be applied.
    fn look(&mut self, facts: &Facts, record: &Record) {
        match record {
            Record::Identity(_) | Record::Forgot(_) => self.has_identity = true,
            Record::Took {
                what: Taken::Launch { agent: None, .. },
                ..
            } => self.has_ownerless_launch |= facts.identity.agent.is_none(),
            Record::Took { .. }
            | Record::Started { .. }
            | Record::Updated { .. }
            | Record::Committed { .. }
            | Record::Released { .. }
            | Record::Stray { .. }
            | Record::Retried { .. }
            | Record::Floor(_)
            | Record::Task { .. }
            | Record::Executor(_) => {}
        }
    }

    fn are_lost(&self) -> bool {
        !self.has_identity || self.has_ownerless_launch
    }
}

fn contents(bytes: &[u8], head: Known) -> Result<Contents, Refused> {
    let Known { version, salt, .. } = head;
    let mut contents = Contents {
        head_repaired: head.is_repaired,
        ..Contents::default()
    };
    let mut names = Names::default();
    let mut at = HEAD_BYTES;
    while at < bytes.len() {
        if let Some(payload) = frame::get(&bytes[at..], salt) {
            if let Some(record) = record::decode(payload) {
                names.look(&contents.facts, &record);
                contents.has_old_launches |= is_old_launch(&record);
                contents.follow(&record);
                at += FRAME_BYTES + payload.len();
                continue;
            }
            if record::is_of_unknown_kind(payload) {
                return Err(Refused::Unknown { offset: at as u64 });
            }
        }
        let Some(next) = frame::find(bytes, salt, at + 1) else {
            contents.torn_bytes = (bytes.len() - at) as u64;
            break;
        };
        contents.damage.push(Damage {
            offset: at as u64,
            bytes: (next - at) as u64,
        });
        at = next;
    }
    if let Some(first) = contents.damage.first() {
        if names.are_lost() {
            return Err(Refused::NoIdentity {
                offset: first.offset,
            });
        }
        // The damaged part has no space for more records than that.
        let bytes: u64 = contents.damage.iter().map(|damage| damage.bytes).sum();
        contents.facts.skip_numbers(bytes / FRAME_BYTES as u64);
    } else {
        contents.lost.clear();
    }
    contents.end = Some(End {
        offset: at as u64,
        salt,
        version,
    });
    Ok(contents)
}

fn is_old_launch(record: &Record) -> bool {
    matches!(
        record,
        Record::Took {
            what: Taken::Launch { agent: None, .. },
            ..
        }
    )
}
