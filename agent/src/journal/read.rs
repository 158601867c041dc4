//! Reading a journal back: all whole records in order, and an account of what was not whole.

use std::fs;
use std::io;
use std::path::Path;

use super::frame::{self, FRAME_BYTES, HEAD_BYTES, Head};
use super::place::MemoryDisk;
use super::{JournalError, record};
use crate::core::Facts;

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its whole records, followed one after the other.
    pub facts: Facts,
    /// How many there were.
    pub records: u64,
    /// What was lost in the middle.
    pub damage: Vec<Damage>,
    /// Bytes behind the last whole record: a write that a crash cut off.
    pub torn_bytes: u64,
    /// Where appending goes on, and with which salt; `None` if there is no file yet.
    pub(super) end: Option<End>,
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

fn judge(bytes: &[u8], path: &Path) -> Result<Contents, JournalError> {
    let path = path.to_owned();
    match frame::read_head(bytes) {
        Head::Known { version, salt } => contents(bytes, version, salt)
            .map_err(|Unknown { offset }| JournalError::Unknown { path, offset }),
        Head::Newer { version } => Err(JournalError::Newer {
            path,
            found: version,
        }),
        Head::Foreign => Err(JournalError::Foreign { path }),
    }
}

/// A whole record of a kind that only a newer release knows: nobody may go on behind it, and leave out what it said.
struct Unknown {
    offset: u64,
}

fn contents(bytes: &[u8], version: u32, salt: u64) -> Result<Contents, Unknown> {
    let mut contents = Contents::default();
    let mut at = HEAD_BYTES;
    while at < bytes.len() {
        if let Some(payload) = frame::get(&bytes[at..], salt) {
            if let Some(record) = record::decode(payload) {
                contents.facts.apply(&record);
                contents.records += 1;
                at += FRAME_BYTES + payload.len();
                continue;
            }
            if record::is_of_unknown_kind(payload) {
                return Err(Unknown { offset: at as u64 });
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
    contents.end = Some(End {
        offset: at as u64,
        salt,
        version,
    });
    Ok(contents)
}
