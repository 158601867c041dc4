//! The format of a snapshot of the registry, one stream of bytes: header, frames of records,
//! trailer.
//!
//! Portable between versions and stores, and verified as a whole before any part is used. The files
//! are managed by `snapshot_store`.

use std::io::{self, Read, Write};

use prost::Message;
use sha2::{Digest, Sha256};

use super::record::{FORMAT, RecordError, SnapshotMetaRecord};
use crate::types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"ARGOSYSN";

/// Records are collected up to this size before a frame is written.
const FRAME_BYTES: usize = 64 << 10;

/// The maximum size of a frame: one record may be larger than [`FRAME_BYTES`].
const FRAME_LIMIT: u32 = 64 << 20;

/// Kind, length, CRC32C.
const FRAME_HEAD: usize = 1 + 4 + 4;

const HEADER: u8 = 1;
const RECORDS: u8 = 2;
const TRAILER: u8 = 3;

#[derive(Clone, PartialEq, Eq, Message)]
struct HeaderRecord {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(message, optional, tag = "2")]
    meta: Option<SnapshotMetaRecord>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct RecordsRecord {
    #[prost(message, repeated, tag = "1")]
    records: Vec<KeyValueRecord>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct KeyValueRecord {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct TrailerRecord {
    #[prost(uint64, tag = "1")]
    records: u64,
    /// SHA-256 of all bytes before this frame.
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
}

/// A record of the registry.
pub(crate) type KeyValue = (Vec<u8>, Vec<u8>);

/// The error of bytes that are not a valid snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("the snapshot cannot be read")]
    Read(#[from] io::Error),
    #[error("the file has no snapshot header")]
    Magic,
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    #[error("the snapshot holds a record that is damaged")]
    Record(#[from] RecordError),
    #[error(
        "the snapshot has format {0}, newer than format {FORMAT} of this program: run a newer argosy here"
    )]
    Newer(u32),
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> io::Error {
        match error {
            SnapshotError::Read(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// An encoder that writes a snapshot record by record.
pub(crate) struct SnapshotEncoder<W> {
    out: W,
    digest: Sha256,
    pending: RecordsRecord,
    pending_bytes: usize,
    records: u64,
}

impl<W: Write> SnapshotEncoder<W> {
    pub(crate) fn new(out: W, meta: &SnapshotMeta) -> io::Result<Self> {
        let header = HeaderRecord {
            format: u32::from(FORMAT),
            meta: Some(SnapshotMetaRecord::from(meta)),
        };
        Self::with_header(out, MAGIC, &header)
    }

    /// Begins a file of another kind with the same frames.
    pub(super) fn with_header(out: W, magic: &[u8; 8], header: &impl Message) -> io::Result<Self> {
        let mut encoder = Self {
            out,
            digest: Sha256::new(),
            pending: RecordsRecord::default(),
            pending_bytes: 0,
            records: 0,
        };
        encoder.emit(magic)?;
        encoder.frame(HEADER, header)?;
        Ok(encoder)
    }

    pub(crate) fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.records += 1;
        self.pending_bytes += key.len() + value.len();
        let (key, value) = (key.to_vec(), value.to_vec());
        self.pending.records.push(KeyValueRecord { key, value });
        match self.pending_bytes >= FRAME_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes the trailer and returns the destination of the bytes.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        let trailer = TrailerRecord {
            records: self.records,
            digest: self.digest.clone().finalize().to_vec(),
        };
        self.frame(TRAILER, &trailer)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.records.is_empty() {
            return Ok(());
        }
        self.pending_bytes = 0;
        let records = std::mem::take(&mut self.pending);
        self.frame(RECORDS, &records)
    }

    fn frame(&mut self, kind: u8, message: &impl Message) -> io::Result<()> {
        let body = message.encode_to_vec();
        let length = u32::try_from(body.len())
            .ok()
            .filter(|length| *length <= FRAME_LIMIT);
        let length =
            length.ok_or_else(|| io::Error::other("a record is larger than a frame may be"))?;
        let mut head = [0; FRAME_HEAD];
        head[0] = kind;
        head[1..5].copy_from_slice(&length.to_le_bytes());
        head[5..].copy_from_slice(&checksum(kind, &body).to_le_bytes());
        self.emit(&head)?;
        self.emit(&body)
    }

    fn emit(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Covers the kind too, so that a frame cannot pass for one of another kind.
fn checksum(kind: u8, body: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(body) ^ (u32::from(kind) << 24)
}

/// Reads a whole snapshot, verifies it, and visits its records. The visited records are valid only
/// if this returns `Ok`.
pub(crate) fn decode(
    from: impl Read,
    visit: &mut dyn FnMut(KeyValue),
) -> Result<SnapshotMeta, SnapshotError> {
    decode_kind(from, MAGIC, read_header, visit)
}

fn read_header(body: &[u8]) -> Result<SnapshotMeta, SnapshotError> {
    let header = HeaderRecord::decode(body).map_err(RecordError::from)?;
    if header.format > u32::from(FORMAT) {
        return Err(SnapshotError::Newer(header.format));
    }
    let meta = header.meta.ok_or(RecordError::Missing("meta"))?;
    Ok(meta.try_into()?)
}

/// Reads a file of this kind like [`decode`].
pub(super) fn decode_kind<H>(
    mut from: impl Read,
    kind: &[u8; 8],
    read_header: impl Fn(&[u8]) -> Result<H, SnapshotError>,
    visit: &mut dyn FnMut(KeyValue),
) -> Result<H, SnapshotError> {
    let mut digest = Sha256::new();
    let mut magic = [0; 8];
    fill(&mut from, &mut magic)?;
    if magic != *kind {
        return Err(SnapshotError::Magic);
    }
    digest.update(magic);
    let header = match next_frame(&mut from, &mut digest)? {
        SnapshotFrame::Header(body) => read_header(&body)?,
        _ => return Err(SnapshotError::Damaged("it has no header")),
    };
    let mut records = 0;
    loop {
        let before = digest.clone();
        match next_frame(&mut from, &mut digest)? {
            SnapshotFrame::Header(_) => return Err(SnapshotError::Damaged("it has two headers")),
            SnapshotFrame::Records(frame) => {
                for KeyValueRecord { key, value } in frame.records {
                    records += 1;
                    visit((key, value));
                }
            }
            SnapshotFrame::Trailer(trailer) => {
                if trailer.records != records || trailer.digest != before.finalize().as_slice() {
                    return Err(SnapshotError::Damaged(
                        "its content does not match its trailer",
                    ));
                }
                break;
            }
        }
    }
    match from.read(&mut [0])? {
        0 => Ok(header),
        _ => Err(SnapshotError::Damaged("there is data after its end")),
    }
}

enum SnapshotFrame {
    /// The message, which differs between kinds of files.
    Header(Vec<u8>),
    Records(RecordsRecord),
    Trailer(TrailerRecord),
}

fn next_frame(from: &mut impl Read, digest: &mut Sha256) -> Result<SnapshotFrame, SnapshotError> {
    let mut head = [0; FRAME_HEAD];
    fill(from, &mut head)?;
    let [kind, l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length > FRAME_LIMIT {
        return Err(SnapshotError::Damaged("a frame is too large"));
    }
    // Grows with the bytes that exist: a wrong length cannot make this process allocate 64 MiB.
    let mut body = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut body)?;
    if body.len() < length as usize {
        return Err(SnapshotError::Damaged("it is truncated"));
    }
    if checksum(kind, &body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(SnapshotError::Damaged("the checksum of a frame is wrong"));
    }
    digest.update(head);
    digest.update(&body);
    let decoded = |error: prost::DecodeError| SnapshotError::Record(error.into());
    match kind {
        HEADER => Ok(SnapshotFrame::Header(body)),
        RECORDS => Ok(SnapshotFrame::Records(
            RecordsRecord::decode(body.as_slice()).map_err(decoded)?,
        )),
        TRAILER => Ok(SnapshotFrame::Trailer(
            TrailerRecord::decode(body.as_slice()).map_err(decoded)?,
        )),
        _ => Err(SnapshotError::Damaged("a frame has an unknown kind")),
    }
}

fn fill(from: &mut impl Read, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    from.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Damaged("it is truncated"),
        _ => SnapshotError::Read(error),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use crate::types::{CommittedLeaderId, LogId, Member, Membership, StoredMembership};

    use super::*;

    fn meta() -> SnapshotMeta {
        let id = |index| LogId {
            leader_id: CommittedLeaderId::new(2),
            index,
        };
        let member = Member {
            raft_address: "10.0.0.1:5050".into(),
            api_address: "10.0.0.1:5051".into(),
            incarnation: 9,
        };
        let voters = vec![BTreeSet::from([1])];
        let members = Membership::new(voters, BTreeMap::from([(1, member)])).unwrap();
        SnapshotMeta {
            last_log_id: Some(id(40)),
            last_membership: StoredMembership::new(Some(id(1)), members),
        }
    }

    fn image(records: u32, size: usize) -> Vec<u8> {
        let mut encoder = SnapshotEncoder::new(Vec::new(), &meta()).unwrap();
        for number in 0..records {
            encoder
                .record(&number.to_be_bytes(), &vec![7; size])
                .unwrap();
        }
        encoder.finish().unwrap()
    }

    #[test]
    fn an_image_round_trips_its_records_and_description() {
        for (records, size) in [(0, 0), (1, 3), (500, 1000), (2, 200_000)] {
            let bytes = image(records, size);
            let mut seen = Vec::new();
            let read = decode(bytes.as_slice(), &mut |record| seen.push(record)).unwrap();
            assert_eq!(read, meta());
            assert_eq!(seen.len(), records as usize);
            for (number, (key, value)) in (0..records).zip(seen) {
                assert_eq!((key, value), (number.to_be_bytes().to_vec(), vec![7; size]));
            }
        }
    }

    #[test]
    fn an_image_with_a_flipped_bit_or_a_cut_is_rejected() {
        let bytes = image(5, 10);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                decode(flipped.as_slice(), &mut |_| {}).is_err(),
                "bit {bit}"
            );
        }
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            assert!(decode(cut, &mut |_| {}).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_missing_or_additional_frame_is_rejected() {
        let whole = image(200, 1000);
        let shorter = image(199, 1000);
        let tail = whole.len() - shorter.len();
        let mut spliced = whole.clone();
        let middle = whole.len() / 2;
        spliced.drain(middle..middle + tail);
        assert!(decode(spliced.as_slice(), &mut |_| {}).is_err());
        let mut longer = whole;
        longer.push(0);
        let error = decode(longer.as_slice(), &mut |_| {}).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the snapshot is damaged: there is data after its end"
        );
    }
}
