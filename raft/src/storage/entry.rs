//! The stored form of a log entry: checksum, link to the previous entry, content.
//!
//! The link is the SHA-256 of the previous entry. It reveals not only a flipped bit, but also a
//! lost, old or foreign entry in the middle of the log. It is valid for one disk: after a snapshot
//! each master starts its own chain.

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use super::record::{self, EntryRecord, LogIdRecord, RecordError};
use crate::types::{Entry, LogId};

/// CRC32C of everything that follows, format byte, link.
pub(crate) const HEAD: usize = 4 + 1 + 32;

/// The hash of an entry, which covers all entries before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHash([u8; 32]);

impl EntryHash {
    /// The start of the chain of an empty log.
    pub(crate) const ORIGIN: EntryHash = EntryHash([0; 32]);

    /// Returns the start of the chain after `purged`, when that entry was never stored because a
    /// snapshot covers it.
    pub(crate) fn after_snapshot(purged: &LogId) -> EntryHash {
        let mut hash = Sha256::new();
        hash.update(b"argosy log after snapshot");
        hash.update(purged.leader_id.term.to_be_bytes());
        hash.update(purged.index.to_be_bytes());
        EntryHash(hash.finalize().into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<EntryHash> {
        Some(EntryHash(bytes.try_into().ok()?))
    }
}

/// An entry that was read back, with its position in the chain.
#[derive(Debug)]
pub(crate) struct DecodedEntry {
    pub(crate) entry: Entry,
    /// The link of the previous entry, as written.
    pub(crate) previous: EntryHash,
    /// The link of this entry.
    pub(crate) link: EntryHash,
}

/// Returns the stored bytes of `entry` after an entry with the link `previous`, and the link of
/// `entry`.
pub(crate) fn seal(previous: &EntryHash, entry: &Entry) -> (Vec<u8>, EntryHash) {
    let record = EntryRecord::from(entry);
    let mut bytes = Vec::with_capacity(HEAD + record.encoded_len());
    bytes.extend_from_slice(&[0, 0, 0, 0, record::FORMAT]);
    bytes.extend_from_slice(&previous.0);
    record.encode(&mut bytes).expect("a vector grows");
    let checksum = crc_fast::crc32_iscsi(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    let link = EntryHash(Sha256::digest(&bytes[5..]).into());
    (bytes, link)
}

/// Opens the bytes that [`seal`] made for the entry at `index`.
pub(crate) fn open(index: u64, bytes: Vec<u8>) -> Result<DecodedEntry, EntryError> {
    let damaged = |source| EntryError::Damaged { index, source };
    let body = record::checked(&bytes).map_err(damaged)?;
    let Some((previous, _)) = body.split_first_chunk::<32>() else {
        return Err(damaged(RecordError::Short(bytes.len())));
    };
    let previous = EntryHash(*previous);
    let link = EntryHash(Sha256::digest(body).into());
    // Commands stay slices of this one buffer: nothing is copied.
    let record = EntryRecord::decode(Bytes::from(bytes).slice(HEAD..));
    let record = record.map_err(|error| damaged(error.into()))?;
    if record.log_id.unwrap_or_default().index != index {
        return Err(EntryError::Misplaced {
            index,
            found: record.log_id.unwrap_or_default(),
        });
    }
    let entry = Entry::try_from(record).map_err(damaged)?;
    Ok(DecodedEntry {
        entry,
        previous,
        link,
    })
}

/// The error of a log entry that cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("entry {index} of the log is damaged")]
    Damaged { index: u64, source: RecordError },
    #[error("entry {index} of the log holds entry {} of term {}", found.index, found.term)]
    Misplaced { index: u64, found: LogIdRecord },
    #[error("entry {index} of the log does not continue the entry before it")]
    Unchained { index: u64 },
    #[error("entry {index} of the log is missing")]
    Missing { index: u64 },
}

#[cfg(test)]
mod tests {
    use crate::types::{Batch, CommittedLeaderId, Payload};

    use super::*;

    fn entry(index: u64) -> Entry {
        let commands = vec![Bytes::from_static(b"launch"), Bytes::from_static(b"kill")];
        Entry {
            log_id: LogId {
                leader_id: CommittedLeaderId::new(3),
                index,
            },
            payload: Payload::Normal(Batch { at_ms: 7, commands }),
        }
    }

    #[test]
    fn an_entry_round_trips_with_its_chain_hashes() {
        let (first, first_link) = seal(&EntryHash::ORIGIN, &entry(1));
        let (second, second_link) = seal(&first_link, &entry(2));
        let first = open(1, first).unwrap();
        assert_eq!(
            (first.entry, first.previous, first.link),
            (entry(1), EntryHash::ORIGIN, first_link)
        );
        let second = open(2, second).unwrap();
        assert_eq!(
            (second.entry, second.previous, second.link),
            (entry(2), first_link, second_link)
        );
    }

    #[test]
    fn an_entry_with_a_flipped_bit_or_a_cut_is_rejected() {
        let (bytes, _) = seal(&EntryHash::ORIGIN, &entry(1));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(1, flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(
                open(1, bytes[..length].to_vec()).is_err(),
                "cut at {length}"
            );
        }
    }

    #[test]
    fn entry_at_another_index_is_rejected() {
        let (bytes, _) = seal(&EntryHash::ORIGIN, &entry(1));
        let error = open(2, bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "entry 2 of the log holds entry 1 of term 3"
        );
    }
}
