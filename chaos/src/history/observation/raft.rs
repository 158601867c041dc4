//! Facts about masters: terms, votes, logs, digests, epochs.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{Epoch, NodeId};

use super::super::text;

/// The data from which a master computed its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Committed entries, one after the other.
    Log,
    /// An installed snapshot.
    Snapshot,
    /// The master's disk, replayed after a start.
    Replay,
}

/// A fact about a master. `chain` is a hash over all entries up to an index, in any form that all
/// masters of a run share. Equal chains mean equal logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum RaftFact {
    /// A master process started and found this state on its disk.
    Started {
        #[serde(with = "text")]
        node: NodeId,
        /// The stored term.
        term: u64,
        /// The last stored entry.
        last_index: u64,
        /// The stored commit index.
        committed: u64,
    },
    /// The progress of a master, recorded at any interval.
    Progress {
        #[serde(with = "text")]
        node: NodeId,
        term: u64,
        /// The last entry that it knows to be committed.
        committed: u64,
        /// The last entry that it has applied.
        applied: u64,
    },
    /// The master gave its vote, and the vote is on its disk.
    Voted {
        #[serde(with = "text")]
        node: NodeId,
        /// The term of the vote.
        term: u64,
        /// The candidate that received the vote.
        #[serde(with = "text")]
        candidate: NodeId,
    },
    /// The master became leader.
    Led {
        #[serde(with = "text")]
        node: NodeId,
        /// The term of its leadership.
        term: u64,
        /// The last entry of its log at that moment.
        last_index: u64,
    },
    /// The master applied a committed entry.
    Applied {
        #[serde(with = "text")]
        node: NodeId,
        /// The index of the entry.
        index: u64,
        /// The term of the entry.
        term: u64,
        /// The hash over the log up to here, or the hash of the entry alone if no master has more.
        chain: String,
    },
    /// The end of the master's synced log: after each sync, and after a start the surviving part.
    Durable {
        #[serde(with = "text")]
        node: NodeId,
        /// The last synced entry.
        last_index: u64,
    },
    /// A leader reported an entry as committed.
    Committed {
        /// The leader.
        #[serde(with = "text")]
        node: NodeId,
        /// The entry. All earlier ones are committed, too.
        index: u64,
        /// The voters at that moment.
        #[serde(with = "text::list")]
        voters: Vec<NodeId>,
    },
    /// The digest of the master's registry.
    Digest {
        #[serde(with = "text")]
        node: NodeId,
        /// The last entry that the registry includes.
        index: u64,
        /// The digest as text. Equal texts mean equal registries.
        digest: String,
        /// The source of the registry.
        origin: Origin,
    },
    /// The members of the group, as this master knows them.
    Members {
        #[serde(with = "text")]
        node: NodeId,
        /// The entry that made the change.
        index: u64,
        /// The members that vote.
        #[serde(with = "text::list")]
        voters: Vec<NodeId>,
        /// The members that do not vote.
        #[serde(with = "text::list")]
        learners: Vec<NodeId>,
    },
    /// An epoch began: its `OpenEpoch` entry was applied.
    EpochOpened {
        /// The leader of the epoch.
        #[serde(with = "text")]
        node: NodeId,
        #[serde(with = "text")]
        epoch: Epoch,
        /// The Raft term of the epoch.
        term: u64,
        /// The nonce of the leader's process.
        life: u64,
    },
    /// The master stopped because it cannot trust its state. `why` is its last log message.
    Refused {
        #[serde(with = "text")]
        node: NodeId,
        /// The last log message.
        why: String,
    },
}
