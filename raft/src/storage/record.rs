//! Protobuf records with a checksum, for data that consensus stores and sends.
//!
//! Fields are added, never given another meaning. Decoding is total: damaged or foreign bytes are
//! an error, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use prost::{Message, Oneof};

use crate::types::{
    Batch, CommittedLeaderId, Entry, LeaderId, LogId, Member, Membership, Payload, SnapshotMeta,
    StoredMembership, Vote,
};

/// The layout of records and log entries that this program writes, and the newest one that it
/// reads.
pub(crate) const FORMAT: u8 = 1;

/// The error of stored bytes that are not a valid record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is truncated at {0} bytes")]
    Short(usize),
    #[error("it has format {0}, newer than format {FORMAT} of this program")]
    Newer(u8),
    #[error("it cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    #[error("its field {0} is missing")]
    Missing(&'static str),
    #[error("it has an invalid set of members: {0}")]
    Members(String),
}

/// Returns the stored form of a single value: CRC32C of the rest, format byte, message.
pub(crate) fn seal(message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, FORMAT];
    message.encode(&mut bytes).expect("a vector grows");
    let checksum = crc_fast::crc32_iscsi(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Opens the bytes that [`seal`] made.
pub(crate) fn unseal<M: Message + Default>(bytes: &[u8]) -> Result<M, RecordError> {
    let body = checked(bytes)?;
    Ok(M::decode(body)?)
}

/// Checks checksum and format, and returns the bytes that follow them.
pub(crate) fn checked(bytes: &[u8]) -> Result<&[u8], RecordError> {
    let Some((checksum, covered)) = bytes.split_first_chunk::<4>() else {
        return Err(RecordError::Short(bytes.len()));
    };
    if crc_fast::crc32_iscsi(covered) != u32::from_le_bytes(*checksum) {
        return Err(RecordError::Checksum);
    }
    match covered.split_first() {
        None => Err(RecordError::Short(bytes.len())),
        Some((format, _)) if *format > FORMAT => Err(RecordError::Newer(*format)),
        Some((_, body)) => Ok(body),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct LogIdRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct VoteRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) voted_for: u64,
    /// Whether a quorum has granted the vote.
    #[prost(bool, tag = "3")]
    pub(crate) committed: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct VotersRecord {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct NodeRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) member: Option<Member>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct MembershipRecord {
    /// One set of voters; two while the group changes from the first to the second.
    #[prost(message, repeated, tag = "1")]
    pub(crate) configs: Vec<VotersRecord>,
    /// Voters and learners.
    #[prost(message, repeated, tag = "2")]
    pub(crate) nodes: Vec<NodeRecord>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct StoredMembershipRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) log_id: Option<LogIdRecord>,
    #[prost(message, optional, tag = "2")]
    pub(crate) membership: Option<MembershipRecord>,
}

/// The position up to which the registry is applied, and the members at that point. Also the
/// description of a snapshot.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct SnapshotMetaRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) last_log_id: Option<LogIdRecord>,
    #[prost(message, optional, tag = "2")]
    pub(crate) last_membership: Option<StoredMembershipRecord>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct EntryRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) log_id: Option<LogIdRecord>,
    #[prost(oneof = "PayloadRecord", tags = "2, 3, 4")]
    pub(crate) payload: Option<PayloadRecord>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub(crate) enum PayloadRecord {
    #[prost(message, tag = "2")]
    Blank(BlankRecord),
    #[prost(message, tag = "3")]
    Batch(Batch),
    #[prost(message, tag = "4")]
    Membership(MembershipRecord),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct BlankRecord {}

/// The identity of this data directory.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct DirectoryIdentity {
    #[prost(uint64, tag = "1")]
    pub(crate) incarnation: u64,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) node_id: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) cluster_key: Option<u64>,
}

/// The last purged entry of the log, and its hash: the start of the chain of entries.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct PurgedRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) log_id: Option<LogIdRecord>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) link: Vec<u8>,
}

/// The number of times that entries were truncated from the end of the log.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct TruncationsRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) count: u64,
}

/// The name of a snapshot file in the snapshot store.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct SnapshotNameRecord {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

impl From<&LogId> for LogIdRecord {
    fn from(id: &LogId) -> Self {
        Self {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> Self {
        LogId {
            leader_id: CommittedLeaderId::new(record.term),
            index: record.index,
        }
    }
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            voted_for: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Self {
        Vote {
            leader_id: LeaderId {
                term: record.term,
                voted_for: record.voted_for,
            },
            committed: record.committed,
        }
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        let voters = |ids: &BTreeSet<u64>| VotersRecord {
            ids: ids.iter().copied().collect(),
        };
        let node = |(id, member): (&u64, &Member)| NodeRecord {
            id: *id,
            member: Some(member.clone()),
        };
        Self {
            configs: membership.get_joint_config().iter().map(voters).collect(),
            nodes: membership.nodes().map(node).collect(),
        }
    }
}

impl TryFrom<MembershipRecord> for Membership {
    type Error = RecordError;

    fn try_from(record: MembershipRecord) -> Result<Self, RecordError> {
        if record.configs.is_empty() && record.nodes.is_empty() {
            return Ok(Membership::default());
        }
        let mut nodes = BTreeMap::new();
        for node in record.nodes {
            let member = node.member.ok_or(RecordError::Missing("member"))?;
            nodes.insert(node.id, member);
        }
        let configs = record.configs.into_iter();
        let configs: Vec<BTreeSet<u64>> =
            configs.map(|set| set.ids.into_iter().collect()).collect();
        Membership::new(configs, nodes).map_err(|error| RecordError::Members(error.to_string()))
    }
}

impl From<&StoredMembership> for StoredMembershipRecord {
    fn from(stored: &StoredMembership) -> Self {
        Self {
            log_id: stored.log_id().as_ref().map(LogIdRecord::from),
            membership: Some(MembershipRecord::from(stored.membership())),
        }
    }
}

impl TryFrom<StoredMembershipRecord> for StoredMembership {
    type Error = RecordError;

    fn try_from(record: StoredMembershipRecord) -> Result<Self, RecordError> {
        let membership = record.membership.unwrap_or_default().try_into()?;
        Ok(StoredMembership::new(
            record.log_id.map(LogId::from),
            membership,
        ))
    }
}

impl From<&SnapshotMeta> for SnapshotMetaRecord {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last_log_id: meta.last_log_id.as_ref().map(LogIdRecord::from),
            last_membership: Some(StoredMembershipRecord::from(&meta.last_membership)),
        }
    }
}

impl TryFrom<SnapshotMetaRecord> for SnapshotMeta {
    type Error = RecordError;

    fn try_from(record: SnapshotMetaRecord) -> Result<Self, RecordError> {
        Ok(SnapshotMeta {
            last_log_id: record.last_log_id.map(LogId::from),
            last_membership: record.last_membership.unwrap_or_default().try_into()?,
        })
    }
}

impl From<&Entry> for EntryRecord {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            Payload::Blank => PayloadRecord::Blank(BlankRecord {}),
            Payload::Normal(batch) => PayloadRecord::Batch(batch.clone()),
            Payload::Membership(membership) => PayloadRecord::Membership(membership.into()),
        };
        Self {
            log_id: Some(LogIdRecord::from(&entry.log_id)),
            payload: Some(payload),
        }
    }
}

impl TryFrom<EntryRecord> for Entry {
    type Error = RecordError;

    fn try_from(record: EntryRecord) -> Result<Self, RecordError> {
        let log_id = record.log_id.ok_or(RecordError::Missing("log_id"))?.into();
        let payload = match record.payload.ok_or(RecordError::Missing("payload"))? {
            PayloadRecord::Blank(BlankRecord {}) => Payload::Blank,
            PayloadRecord::Batch(batch) => Payload::Normal(batch),
            PayloadRecord::Membership(membership) => Payload::Membership(membership.try_into()?),
        };
        Ok(Entry { log_id, payload })
    }
}
