//! Facts about masters: terms, votes, logs, digests, reigns.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{Epoch, NodeId};

use super::super::text;

/// From what a master computed its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Entry by entry, as they were committed.
    Log,
    /// A snapshot that it installed.
    Snapshot,
    /// Its own disk, replayed after a start.
    Replay,
}

/// A fact about a master. `chain` is a hash over all entries up to an index, in any one form that
/// all masters of a run share: equal chains mean equal logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum RaftFact {
    /// A life of a master begins; this is what it found on its disk.
    Started {
        /// Which.
        #[serde(with = "text")]
        node: NodeId,
        /// The term on its disk.
        term: u64,
        /// The last entry on its disk.
        last_index: u64,
        /// Of what it knew to be committed.
        committed: u64,
    },
    /// How far it is; recorded as often as one likes.
    Progress {
        /// Which.
        #[serde(with = "text")]
        node: NodeId,
        /// Its term.
        term: u64,
        /// What it knows to be committed.
        committed: u64,
        /// What it has applied.
        applied: u64,
    },
    /// It gave its vote, and the vote is on its disk.
    Voted {
        /// Who.
        #[serde(with = "text")]
        node: NodeId,
        /// In which term.
        term: u64,
        /// For whom.
        #[serde(with = "text")]
        candidate: NodeId,
    },
    /// It became leader.
    Led {
        /// Who.
        #[serde(with = "text")]
        node: NodeId,
        /// In which term.
        term: u64,
        /// The end of its log at that moment.
        last_index: u64,
    },
    /// It applied a committed entry.
    Applied {
        /// Who.
        #[serde(with = "text")]
        node: NodeId,
        /// The entry.
        index: u64,
        /// The term that the entry is of.
        term: u64,
        /// Over the log up to here; or the hash of the entry alone, if no master has more.
        chain: String,
    },
    /// Its synced log reaches this far: after each sync, and after a start what survived.
    Durable {
        /// Whose.
        #[serde(with = "text")]
        node: NodeId,
        /// The last synced entry.
        last_index: u64,
    },
    /// A leader told somebody that an entry is committed.
    Committed {
        /// Which leader.
        #[serde(with = "text")]
        node: NodeId,
        /// The entry, and all before it.
        index: u64,
        /// The voters of that moment.
        #[serde(with = "text::list")]
        voters: Vec<NodeId>,
    },
    /// The digest of its registry.
    Digest {
        /// Whose.
        #[serde(with = "text")]
        node: NodeId,
        /// After this entry.
        index: u64,
        /// As text; equal texts mean equal registries.
        digest: String,
        /// How it came to it.
        origin: Origin,
    },
    /// Who votes, as this master has it.
    Members {
        /// Which master.
        #[serde(with = "text")]
        node: NodeId,
        /// The entry that made it so.
        index: u64,
        /// Who votes.
        #[serde(with = "text::list")]
        voters: Vec<NodeId>,
        /// Who only follows.
        #[serde(with = "text::list")]
        learners: Vec<NodeId>,
    },
    /// A reign began: its `OpenEpoch` was applied.
    EpochOpened {
        /// Whose.
        #[serde(with = "text")]
        node: NodeId,
        /// The reign.
        #[serde(with = "text")]
        epoch: Epoch,
        /// In which term.
        term: u64,
        /// The nonce of the leader's process.
        life: u64,
    },
    /// It stopped itself rather than serve what it cannot trust; `why` are its last words.
    Refused {
        /// Who.
        #[serde(with = "text")]
        node: NodeId,
        /// Its last words.
        why: String,
    },
}
