//! Reading a journal back: all whole records in order, and an account of what was not whole.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::frame::{self, FRAME_BYTES, HEAD_BYTES, Head, Known};
use super::storage::MemoryDisk;
use super::{JournalError, record};
use crate::core::{ExecutorRecord, Facts, Instance, Record, Taken};

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its whole records, followed one after the other.
    pub facts: Facts,
    /// How many there were.
    pub records: u64,
    /// Whether one bit of the file's head was wrong, by which nothing was lost.
    pub head_repaired: bool,
    /// What was lost in the middle.
    pub damage: Vec<Damage>,
    /// Tasks and executors of which there is no record but such as need an earlier one, which was lost.
    pub lost: BTreeSet<Instance>,
    /// Bytes behind the last whole record: a write that a crash cut off.
    pub torn_bytes: u64,
    /// Whether a launch in it does not say of which agent: 0.1 wrote it.
    pub(super) has_old_launches: bool,
    /// Where appending goes on, and with which salt; `None` if there is no file yet.
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

    /// Whether one more damaged record could cost more than its own task: then it is written anew at once.
    pub(super) fn is_fragile(&self) -> bool {
        self.head_repaired || !self.damage.is_empty() || self.has_old_launches
    }
}

/// Where a file's whole part ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) offset: u64,
    pub(super) salt: u64,
    /// The format that its head names.
    pub(super) version: u32,
}

/// A part of the file that is no whole record, with whole ones behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Reads the journal at `path`. None there is the same as an empty one.
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

/// Reads what a power cut would leave of the journal of a disk in memory.
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

/// Why a journal is not followed.
enum Refused {
    /// A whole record of a kind that only a newer release knows: what it says must not be left out.
    Unknown { offset: u64 },
    /// It is damaged, and the records that say which agent this is are lost.
    NoIdentity { offset: u64 },
}

/// What the records before a place show of which agent this is.
#[derive(Default)]
struct Names {
    has_identity: bool,
    has_ownerless_launch: bool,
}

impl Names {
    /// Looks at a record that is about to be followed.
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
        // No more records than that have room in what is damaged.
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
