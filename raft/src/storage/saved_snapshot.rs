//! The format of a saved snapshot: the frames of [`super::snapshot`], with a header that describes
//! the cluster, for files that leave the masters.
//!
//! The content of a record is opaque here. A reader may use records only after the whole file is
//! verified.

use std::io::{self, Read, Write};

use prost::Message;

use super::record::RecordError;
use super::snapshot::{self, KeyValue, SnapshotEncoder, SnapshotError};

const MAGIC: &[u8; 8] = b"ARGOSYSV";

/// The format that this program writes, and the newest one that it reads.
const FORMAT: u32 = 1;

/// The description of a saved snapshot.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SavedSnapshotHeader {
    /// The format of the file; set when it is written.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// The id of the cluster, as text.
    #[prost(string, tag = "2")]
    pub cluster_id: String,
    /// The feature level of the cluster.
    #[prost(uint32, tag = "3")]
    pub feature_level: u32,
    /// The log index of the last entry that the records contain.
    #[prost(uint64, tag = "4")]
    pub index: u64,
    /// The term of that entry.
    #[prost(uint64, tag = "5")]
    pub term: u64,
    /// The epoch of the last leader.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    /// The cluster time, in milliseconds.
    #[prost(uint64, tag = "7")]
    pub cluster_time_ms: u64,
    /// The wall clock of the master that saved it, in milliseconds of the Unix epoch.
    #[prost(int64, tag = "8")]
    pub saved_at_ms: i64,
    /// The release of the master that saved it.
    #[prost(string, tag = "9")]
    pub release: String,
    /// The master that saved it, as `master-2`.
    #[prost(string, tag = "10")]
    pub saved_by: String,
}

/// The error of a file that is not a valid saved snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SavedSnapshotError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The file is of another kind.
    #[error("it is not a saved snapshot")]
    OtherKind,
    /// The file is incomplete, or was changed.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The file was written by a newer program.
    #[error("it has format {0}, newer than format {FORMAT} of this program: use a newer argosy")]
    Newer(u32),
}

impl From<SnapshotError> for SavedSnapshotError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Read(error) => Self::Read(error),
            SnapshotError::Magic => Self::OtherKind,
            SnapshotError::Damaged(what) => Self::Damaged(what.to_owned()),
            SnapshotError::Record(error) => Self::Damaged(error.to_string()),
            SnapshotError::Newer(format) => Self::Newer(format),
        }
    }
}

/// An encoder of a saved snapshot, record by record.
pub struct SavedSnapshotEncoder<W>(SnapshotEncoder<W>);

impl<W: Write> SavedSnapshotEncoder<W> {
    /// Begins a saved snapshot.
    ///
    /// # Errors
    /// As the destination.
    pub fn new(out: W, header: SavedSnapshotHeader) -> io::Result<Self> {
        let header = SavedSnapshotHeader {
            format: FORMAT,
            ..header
        };
        SnapshotEncoder::with_header(out, MAGIC, &header).map(Self)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// As the destination, or if the record is larger than a frame may be.
    pub fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.0.record(key, value)
    }

    /// Writes the trailer, and returns the destination.
    ///
    /// # Errors
    /// As the destination.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

/// Reads a whole saved snapshot, verifies it, and visits its records in order. The visited records
/// are valid only if this returns `Ok`.
///
/// # Errors
/// [`SavedSnapshotError`].
pub fn read_saved_snapshot(
    from: impl Read,
    visit: &mut dyn FnMut(KeyValue),
) -> Result<SavedSnapshotHeader, SavedSnapshotError> {
    Ok(snapshot::decode_kind(from, MAGIC, read_header, visit)?)
}

fn read_header(body: &[u8]) -> Result<SavedSnapshotHeader, SnapshotError> {
    let header = SavedSnapshotHeader::decode(body).map_err(RecordError::from)?;
    match header.format {
        0 => Err(RecordError::Missing("format").into()),
        format if format > FORMAT => Err(SnapshotError::Newer(format)),
        _ => Ok(header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SavedSnapshotHeader {
        SavedSnapshotHeader {
            format: FORMAT,
            cluster_id: "0123".to_owned(),
            feature_level: 3,
            index: 40,
            term: 2,
            epoch: 7,
            cluster_time_ms: 5_000,
            saved_at_ms: 1_700_000_000_000,
            release: "0.2.0".to_owned(),
            saved_by: "master-2".to_owned(),
        }
    }

    fn saved(records: u32) -> Vec<u8> {
        let mut encoder = SavedSnapshotEncoder::new(Vec::new(), header()).unwrap();
        for number in 0..records {
            encoder.record(&number.to_be_bytes(), &[7; 100]).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn refused(bytes: &[u8]) -> SavedSnapshotError {
        read_saved_snapshot(bytes, &mut |_| {}).unwrap_err()
    }

    #[test]
    fn header_and_records_round_trip() {
        for records in [0, 1, 2_000] {
            let bytes = saved(records);
            let mut seen = Vec::new();
            let read = read_saved_snapshot(&*bytes, &mut |record| seen.push(record)).unwrap();
            assert_eq!(read, header());
            let expected = (0..records).map(|number| (number.to_be_bytes().to_vec(), vec![7; 100]));
            assert_eq!(seen, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_file_with_a_flipped_bit_or_a_cut_is_rejected() {
        let bytes = saved(3);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            drop(refused(&flipped));
        }
        for length in 0..bytes.len() {
            let error = refused(&bytes[..length]).to_string();
            assert_eq!(error, "it is damaged: it is truncated", "cut at {length}");
        }
    }

    #[test]
    fn another_kind_of_file_and_a_newer_format_are_named() {
        assert!(matches!(
            refused(b"ARGOSYSN and more"),
            SavedSnapshotError::OtherKind
        ));
        let newer = SavedSnapshotHeader {
            format: FORMAT + 1,
            ..header()
        };
        let encoder = SnapshotEncoder::with_header(Vec::new(), MAGIC, &newer).unwrap();
        let text = refused(&encoder.finish().unwrap()).to_string();
        assert_eq!(
            text,
            "it has format 2, newer than format 1 of this program: use a newer argosy"
        );
        let none = SavedSnapshotHeader {
            format: 0,
            ..header()
        };
        let encoder = SnapshotEncoder::with_header(Vec::new(), MAGIC, &none).unwrap();
        let error = refused(&encoder.finish().unwrap());
        assert!(matches!(error, SavedSnapshotError::Damaged(_)), "{error}");
    }
}
