//! Layout of records in the file.
//!
//! ```text
//! file   "ARGOSYJ\n"  version u32  salt u64  CRC-32C u32 of these 20 bytes
//! frame  mark u32     length u32   CRC-32C u32 of salt, length and payload   payload
//! ```
//! All numbers are little-endian. After a damaged frame the next whole one is found by its mark and
//! checksum; the salt, random for each file, prevents a task's own bytes from being mistaken for a
//! frame.

use crc_fast::{CrcAlgorithm, Digest};

/// The newest format that this release reads, and the one it writes; older ones are read, too, and
/// rewritten immediately. It grows with each kind of record, and with each field that a release
/// without it must not lose.
///
/// | | |
/// |---|---|
/// | 1 | tasks, without checks, executors and limits that change |
/// | 2 | all records of today; a launch names its agent since 0.2.0, which no reader needs unless records are damaged |
pub(super) const VERSION: u32 = 2;
/// Length of the file's head, in bytes.
pub(super) const HEAD_BYTES: usize = 24;
/// Length of a frame without its payload, in bytes.
pub(super) const FRAME_BYTES: usize = 12;
/// Maximum length of a payload, in bytes: far above the largest order.
pub(super) const PAYLOAD_LIMIT_BYTES: usize = 16 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"ARGOSYJ\n";
const MARK: [u8; 4] = [0xa7, b'j', 0x1e, 0xc5];

/// The result of reading the first bytes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderStatus {
    /// A journal of this format or an earlier one.
    Valid(JournalHeader),
    /// A journal of a later format.
    Newer { version: u32 },
    /// A journal whose head has more than one wrong bit.
    Damaged,
    /// Not a journal.
    Foreign,
}

/// The contents of a readable head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalHeader {
    pub(super) version: u32,
    pub(super) salt: u64,
    /// Whether one bit of it was wrong.
    pub(super) is_repaired: bool,
}

/// Returns the head of a file; only tests use another than the present version.
pub(super) fn head(version: u32, salt: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&version.to_le_bytes());
    head[12..20].copy_from_slice(&salt.to_le_bytes());
    let sum = checksum(&[&head[..20]]);
    head[20..].copy_from_slice(&sum.to_le_bytes());
    head
}

/// Reads a head. The checksum is verified before the version, in which a wrong bit would look like
/// a later format: all formats have this head.
pub(super) fn read_head(bytes: &[u8]) -> HeaderStatus {
    let Some(found) = bytes.first_chunk::<HEAD_BYTES>() else {
        return HeaderStatus::Foreign;
    };
    let whole = match is_intact(found) {
        true => Some((*found, false)),
        false => repaired(found).map(|head| (head, true)),
    };
    let (head, is_repaired) = match whole {
        Some(whole) => whole,
        None if found[..8] == MAGIC[..] || bytes[HEAD_BYTES..].starts_with(&MARK) => {
            return HeaderStatus::Damaged;
        }
        None => return HeaderStatus::Foreign,
    };
    let version = word(&head[8..12]);
    if version > VERSION {
        return HeaderStatus::Newer { version };
    }
    let salt = u64::from_le_bytes(head[12..20].try_into().expect("the slice has 8 bytes"));
    HeaderStatus::Valid(JournalHeader {
        version,
        salt,
        is_repaired,
    })
}

fn is_intact(head: &[u8; HEAD_BYTES]) -> bool {
    head[..8] == MAGIC[..] && word(&head[20..]) == checksum(&[&head[..20]])
}

/// Returns the valid head that differs from this one by one bit. There is one at most: two heads
/// with correct checksums differ by more than two bits.
fn repaired(head: &[u8; HEAD_BYTES]) -> Option<[u8; HEAD_BYTES]> {
    let flipped = |bit: usize| {
        let mut head = *head;
        head[bit / 8] ^= 1 << (bit % 8);
        head
    };
    (0..HEAD_BYTES * 8).map(flipped).find(is_intact)
}

/// Appends one frame to `out`.
pub(super) fn put(out: &mut Vec<u8>, salt: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len())
        .expect("payloads are far below 4 GiB")
        .to_le_bytes();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&length);
    out.extend_from_slice(&sum(salt, length, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Returns the payload of the intact frame at the start of `bytes`, if there is one.
pub(super) fn get(bytes: &[u8], salt: u64) -> Option<&[u8]> {
    let frame = bytes
        .get(..FRAME_BYTES)
        .filter(|frame| frame[..4] == MARK)?;
    let length: [u8; 4] = frame[4..8].try_into().expect("the slice has 4 bytes");
    let size = usize::try_from(u32::from_le_bytes(length)).ok()?;
    if size > PAYLOAD_LIMIT_BYTES {
        return None;
    }
    let payload = bytes.get(FRAME_BYTES..FRAME_BYTES + size)?;
    (word(&frame[8..12]) == sum(salt, length, payload)).then_some(payload)
}

/// Returns the position of the next intact frame, at or after `from`.
pub(super) fn find(bytes: &[u8], salt: u64, from: usize) -> Option<usize> {
    let places = bytes.get(from..)?.windows(MARK.len()).enumerate();
    places
        .filter(|(_, window)| *window == MARK)
        .map(|(at, _)| from + at)
        .find(|at| get(&bytes[*at..], salt).is_some())
}

fn sum(salt: u64, length: [u8; 4], payload: &[u8]) -> u32 {
    checksum(&[&salt.to_le_bytes(), &length, payload])
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    u32::try_from(digest.finalize()).expect("a CRC-32 has 32 bits")
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("the caller gives 4 bytes"))
}
