//! The types that consensus, storage and transport share.
//!
//! The only place that defines openraft's types of entry, node and id. The meaning of a command is
//! opaque here.

use std::fmt;

use bytes::Bytes;
use openraft::alias;
use openraft::vote::leader_id_std;
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

openraft::declare_raft_types!(
    /// The openraft configuration of this crate: one leader per term; ids and terms are plain
    /// numbers.
    pub(crate) TypeConfig:
        D = Batch,
        R = (),
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type CommittedLeaderId = alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, Payload>;
pub(crate) type Payload = openraft::EntryPayload<Batch, u64, Member>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// Commands that are proposed together: the content of one log entry.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Batch {
    /// Cluster time in milliseconds, stamped by the leader that proposed the entry.
    #[prost(uint64, tag = "1")]
    pub(crate) at_ms: u64,
    /// The commands, in the order in which they are applied.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) commands: Vec<Bytes>,
}

impl Batch {
    /// Returns the size of the commands in bytes, by which queues and messages are bounded.
    pub(crate) fn bytes(&self) -> usize {
        self.commands.iter().map(Bytes::len).sum()
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} commands of {} bytes at {} ms",
            self.commands.len(),
            self.bytes(),
            self.at_ms
        )
    }
}

/// openraft requires serde; bytes on disk and wire are encoded by prost in either case.
impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encode_to_vec())
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        Batch::decode(bytes.as_slice()).map_err(de::Error::custom)
    }
}

/// A master as the group knows it.
#[derive(Clone, PartialEq, Eq, Hash, Message, Serialize, Deserialize)]
pub struct Member {
    /// The address of its raft port, `host:port`.
    #[prost(string, tag = "1")]
    pub raft_address: String,
    /// The address for clients, `host:port`.
    #[prost(string, tag = "2")]
    pub api_address: String,
    /// The random number that was made together with its data directory: a wiped node has another.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
}

/// The group and the node id of a data directory. Assigned once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeIdentity {
    /// The key that distinguishes clusters on the wire; computed when the group is formed.
    pub(crate) cluster_key: u64,
    pub(crate) id: u64,
}

/// A committed entry, passed to the owner of the registry in order and exactly once per process
/// run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// The log index.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Cluster time in milliseconds; 0 for an entry without commands.
    pub at_ms: u64,
    /// The commands in order. Empty for entries of consensus itself (a new leader, a member
    /// change): only the index advances.
    pub commands: Vec<Bytes>,
}

/// One changed record of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordWrite {
    /// The key of the record. Its first byte, the kind of the record, is below 0xff.
    pub key: Bytes,
    /// The new value; `None` deletes the record.
    pub value: Option<Bytes>,
}

/// A request of consensus to the one task that owns the registry. The owner answers each request
/// once, in order.
#[derive(Debug)]
pub enum OwnerRequest {
    /// Loads the stored registry: at startup, and after a snapshot was installed. Replaces the
    /// owner's whole state.
    Load {
        /// The log index up to which the records are applied; 0 for an empty registry.
        last_index: u64,
        /// All records, in the order of the keys.
        records: Vec<(Vec<u8>, Vec<u8>)>,
        /// Completed when the owner has loaded them.
        done: tokio::sync::oneshot::Sender<()>,
    },
    /// Applies these entries, in order.
    Apply {
        /// At most about 1,000 commands or 1 MiB, so that a request stays short. One entry is never
        /// split.
        entries: Vec<CommittedEntry>,
        /// Completed with the records that the entries changed.
        done: tokio::sync::oneshot::Sender<Vec<RecordWrite>>,
    },
}
