//! The decoders of this crate, for fuzz targets. Only with the feature `fuzzing`.
//!
//! Each function decodes bytes, checks what must hold for the result, and returns whether the bytes
//! were accepted. Checksums are computed here, so that random bytes get past them.

use bytes::Bytes;
use futures::FutureExt as _;
use prost::Message;
use tokio::io::{join, sink};

use argosy_proto::transport::Connection;

use crate::storage::disk;
use crate::storage::entry::{self, EntryHash};
use crate::storage::record::{
    self, DirectoryIdentity, EntryRecord, PurgedRecord, SnapshotMetaRecord, SnapshotNameRecord,
    StoredMembershipRecord, TruncationsRecord, VoteRecord,
};
use crate::storage::snapshot::{self, SnapshotEncoder};
use crate::transport::codec;
use crate::transport::frames::{FrameStatus, FramedConnection, decoded};
use crate::transport::wire::{self, proto};
use crate::types::{SnapshotMeta, StoredMembership, Vote};

/// Returns a record with a valid checksum: `prefix` and `body` after the format.
fn sealed(prefix: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, record::FORMAT];
    bytes.extend_from_slice(prefix);
    bytes.extend_from_slice(body);
    let checksum = crc_fast::crc32_iscsi(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// An entry of the log: its message.
#[must_use]
pub fn log_entry(bytes: &[u8]) -> bool {
    // With random bytes in place of the checksum and the link, too.
    drop(entry::open(0, bytes.to_vec()));
    let index = EntryRecord::decode(bytes).ok().and_then(|read| read.log_id);
    let index = index.map_or(0, |id| id.index);
    let Ok(read) = entry::open(index, sealed(EntryHash::ORIGIN.as_bytes(), bytes)) else {
        return false;
    };
    let (again, link) = entry::seal(&read.previous, &read.entry);
    let reread = entry::open(index, again).expect("an encoded entry is decoded");
    assert_eq!((reread.entry, reread.link), (read.entry, link));
    true
}

/// A record of a master's store: the first byte selects its kind, its message follows.
#[must_use]
pub fn store_record(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    drop(record::unseal::<VoteRecord>(body));
    match kind {
        0 => message::<VoteRecord>(body).is_some_and(|read| {
            let vote = Vote::from(read);
            Vote::from(VoteRecord::from(&vote)) == vote
        }),
        1 => message::<SnapshotMetaRecord>(body).is_some_and(|read| is_meta(read).is_some()),
        2 => message::<StoredMembershipRecord>(body).is_some_and(|read| {
            let Ok(stored) = StoredMembership::try_from(read) else {
                return false;
            };
            let again = StoredMembership::try_from(StoredMembershipRecord::from(&stored));
            assert_eq!(again.expect("an encoded membership is decoded"), stored);
            true
        }),
        3 => message::<DirectoryIdentity>(body).is_some(),
        4 => message::<PurgedRecord>(body).is_some_and(|read| {
            let link = EntryHash::from_bytes(&read.link);
            link.is_some_and(|link| link.as_bytes() == read.link)
        }),
        5 => message::<TruncationsRecord>(body).is_some(),
        6 => message::<SnapshotNameRecord>(body).is_some(),
        _ => false,
    }
}

fn message<M: Message + Default + PartialEq + std::fmt::Debug>(body: &[u8]) -> Option<M> {
    let read: M = record::unseal(&sealed(&[], body)).ok()?;
    let again = record::unseal(&record::seal(&read)).expect("an encoded record is decoded");
    assert_eq!(read, again);
    Some(read)
}

fn is_meta(read: SnapshotMetaRecord) -> Option<SnapshotMeta> {
    let meta = SnapshotMeta::try_from(read).ok()?;
    let again = SnapshotMeta::try_from(SnapshotMetaRecord::from(&meta));
    assert_eq!(again.expect("an encoded description is decoded"), meta);
    Some(meta)
}

/// A message between masters: the first byte selects its kind.
#[must_use]
pub fn peer_message(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    let body = Bytes::copy_from_slice(body);
    match kind {
        0 => append(body).is_some(),
        1 => vote(body).is_some(),
        2 => transfer(body).is_some(),
        3 => {
            let answer = decoded(body).and_then(wire::append_answer_from);
            answer.is_ok_and(|answer| wire::append_answer_from(wire::append_answer(answer)).is_ok())
        }
        4 => {
            let answer = decoded(body).and_then(wire::vote_answer_from);
            answer.is_ok_and(|answer| {
                let again = wire::vote_answer_from(wire::vote_answer(&answer));
                again.is_ok_and(|again| again == answer)
            })
        }
        5 => decoded::<FrameStatus>(body).is_ok_and(|status| {
            let status = tonic::Status::from(status);
            status.message().len() <= 1 << 10
        }),
        _ => false,
    }
}

fn append(body: Bytes) -> Option<()> {
    let read = decoded(body).and_then(wire::append_from).ok()?;
    let (message, taken) = wire::append(proto::Header::default(), &read);
    assert_eq!(message.entries.len(), taken);
    let again = wire::append_from(message).expect("an encoded request is decoded");
    assert_eq!(again.entries, read.entries[..taken]);
    assert_eq!(
        (again.vote, again.prev_log_id, again.leader_commit),
        (read.vote, read.prev_log_id, read.leader_commit)
    );
    Some(())
}

fn vote(body: Bytes) -> Option<()> {
    let read = decoded(body).and_then(wire::vote_request_from).ok()?;
    let message = wire::vote_request(proto::Header::default(), &read, false);
    let again = wire::vote_request_from(message).expect("an encoded request is decoded");
    assert_eq!(again, read);
    Some(())
}

fn transfer(body: Bytes) -> Option<()> {
    let read = decoded(body).and_then(wire::transfer_from).ok()?;
    let message = wire::transfer(proto::Header::default(), &read);
    let again = wire::transfer_from(message).expect("an encoded request is decoded");
    assert_eq!(again, read);
    Some(())
}

/// A plain connection between masters: its bytes. With a first byte of 1, each part is the kind and
/// the message of a frame, to which length and checksum are added.
#[must_use]
pub fn frames(is_raw: bool, parts: &[&[u8]]) -> bool {
    let mut stream = Vec::new();
    for part in parts {
        if is_raw {
            stream.extend_from_slice(part);
        } else {
            let length = u32::try_from(part.len() + 4).expect("inputs are short");
            stream.extend_from_slice(&length.to_le_bytes());
            stream.extend_from_slice(part);
            stream.extend_from_slice(&codec::checksum(part).to_le_bytes());
        }
    }
    let received = stream.len();
    let stream = join(std::io::Cursor::new(stream), sink());
    let mut connection = FramedConnection::new(Connection::new(stream));
    let (mut is_any, mut bytes) = (false, 0);
    loop {
        let read = connection.read().now_or_never();
        match read.expect("all bytes are there") {
            Ok(Some((_, message))) => {
                is_any = true;
                bytes += message.len();
                assert!(bytes <= received, "more bytes than were received");
            }
            Ok(None) => return is_any,
            Err(_) => return false,
        }
    }
}

/// A snapshot of the registry: its bytes, if there is one part. Otherwise the first part is its
/// description, and each pair of further parts is a record.
#[must_use]
pub fn snapshot(parts: &[&[u8]]) -> bool {
    let [description, records @ ..] = parts else {
        return false;
    };
    let mut bytes = 0;
    let raw = snapshot::decode(*description, &mut |(key, value)| {
        bytes += key.len() + value.len();
    });
    assert!(bytes <= description.len(), "more bytes than were read");
    if raw.is_ok() {
        return true;
    }
    let meta = SnapshotMetaRecord::decode(*description).ok();
    let Some(meta) = meta.and_then(is_meta) else {
        return false;
    };
    let mut encoder = SnapshotEncoder::new(Vec::new(), &meta).expect("a vector grows");
    for pair in records.chunks_exact(2) {
        encoder.record(pair[0], pair[1]).expect("a vector grows");
    }
    let encoded = encoder.finish().expect("a vector grows");
    let mut found = Vec::new();
    let read = snapshot::decode(encoded.as_slice(), &mut |record| found.push(record));
    assert_eq!(read.expect("an encoded snapshot is decoded"), meta);
    let pairs = found.iter().flat_map(|(key, value)| [key, value]);
    let pairs: Vec<&[u8]> = pairs.map(Vec::as_slice).collect();
    assert_eq!(pairs, records[..records.len() / 2 * 2]);
    true
}

/// Write-ahead logs of RocksDB, one in each part. Checksums are added to the fragments of the first
/// one if `is_raw` is false. Returns whether they are intact.
#[must_use]
pub fn write_ahead_logs(is_raw: bool, parts: &[&[u8]]) -> bool {
    disk::check_logs(is_raw, parts)
}

/// Returns samples for `log_entry`, `store_record`, `peer_message` and the description of
/// `snapshot`.
#[must_use]
pub fn samples() -> [Vec<Vec<u8>>; 4] {
    use std::collections::{BTreeMap, BTreeSet};

    use crate::types::{Batch, CommittedLeaderId, Entry, LeaderId, LogId, Member, Membership};
    use openraft::EntryPayload;
    use openraft::raft::{AppendEntriesRequest, VoteRequest};

    let id = |index| LogId::new(CommittedLeaderId { term: 3 }, index);
    let member = Member {
        raft_address: "10.0.0.1:5052".to_owned(),
        api_address: "10.0.0.1:5050".to_owned(),
        incarnation: 9,
    };
    let voters = vec![BTreeSet::from([1]), BTreeSet::from([1, 4])];
    let nodes = BTreeMap::from([(1, member.clone()), (4, member)]);
    let members = Membership::new(voters, nodes).expect("all voters are members");
    let commands = vec![Bytes::from_static(b"launch"), Bytes::from_static(b"kill")];
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Batch { at_ms: 7, commands }),
        EntryPayload::Membership(members.clone()),
    ];
    let entries = (7..).zip(payloads).map(|(index, payload)| Entry {
        log_id: id(index),
        payload,
    });
    let entries: Vec<Entry> = entries.collect();
    let vote = Vote {
        leader_id: LeaderId {
            term: 3,
            voted_for: 2,
        },
        committed: true,
    };
    let stored = StoredMembership::new(Some(id(1)), members);
    let meta = SnapshotMetaRecord::from(&SnapshotMeta {
        last_log_id: Some(id(40)),
        last_membership: stored.clone(),
    });
    let identity = DirectoryIdentity {
        incarnation: 5,
        node_id: Some(1),
        cluster_key: Some(7),
    };
    let purged = PurgedRecord {
        log_id: Some((&id(6)).into()),
        link: EntryHash::after_snapshot(&id(6)).as_bytes().to_vec(),
    };
    let name = SnapshotNameRecord {
        name: "snapshot-3-40".to_owned(),
    };
    let kind = |kind: u8, body: Vec<u8>| [vec![kind], body].concat();
    let records = vec![
        kind(0, VoteRecord::from(&vote).encode_to_vec()),
        kind(1, meta.encode_to_vec()),
        kind(2, StoredMembershipRecord::from(&stored).encode_to_vec()),
        kind(3, identity.encode_to_vec()),
        kind(4, purged.encode_to_vec()),
        kind(5, TruncationsRecord { count: 2 }.encode_to_vec()),
        kind(6, name.encode_to_vec()),
    ];
    let header = proto::Header::default();
    let request = AppendEntriesRequest {
        vote,
        prev_log_id: Some(id(6)),
        entries: entries.clone(),
        leader_commit: Some(id(5)),
    };
    let election = VoteRequest::new(vote, Some(id(6)));
    let messages = vec![
        kind(0, wire::append(header.clone(), &request).0.encode_to_vec()),
        kind(
            1,
            wire::vote_request(header, &election, false).encode_to_vec(),
        ),
    ];
    let encoded = entries
        .iter()
        .map(|entry| EntryRecord::from(entry).encode_to_vec());
    [
        encoded.collect(),
        records,
        messages,
        vec![meta.encode_to_vec()],
    ]
}
