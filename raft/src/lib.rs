//! Consensus: openraft behind `Node`, log and registry on RocksDB, snapshots, transport.
//!
//! No type of openraft or RocksDB is visible outside this crate. Reading order: `types`,
//! `settings`, `node`, `proposer`, `state_machine`, `export`. Then `bootstrap` and `membership`
//! (how a group is formed and changes), `liveness` and `election` (how it keeps and replaces a
//! leader). Last, `port` and `transport` (communication between masters), and `storage` (the data
//! of a master on disk). No two modules depend on each other.

mod bootstrap;
mod concurrency;
mod election;
mod error;
mod export;
mod fatal;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod liveness;
mod log_size;
mod membership;
mod metrics;
mod node;
mod port;
mod progress;
mod proposer;
mod read_index;
mod runtime;
mod settings;
mod state_machine;
mod status;
mod status_reporter;
mod storage;
#[cfg(test)]
mod tests;
mod transport;
mod types;

pub use error::{LearnerProgress, MembershipError, ProposeError, ReadError, StartError};
pub use export::RegistryView;
pub use membership::MembershipGuard;
pub use node::{ListedMember, MemoryStore, Node, RegistryRecords, StoredVote};
pub use progress::LogProgress;
pub use proposer::{ENTRY_LIMIT_BYTES, Proposal};
pub use settings::{NodeConfig, NodeEnvironment, SnapshotPolicy, Timing};
pub use state_machine::TURN_WORK;
pub use status::{AddressMismatch, FailoverPhases, RaftStatus};
pub use storage::directory::OpenError;
pub use storage::disk::memory::DurableEntry;
pub use storage::rejoin::{LockedDirectory, forbid_start};
pub use storage::restored::{LogPosition, StoppedData};
pub use storage::saved_snapshot::{
    SavedSnapshotEncoder, SavedSnapshotError, SavedSnapshotHeader, read_saved_snapshot,
};
pub use storage::usage::StoreUsage;
pub use types::{CommittedEntry, Member, OwnerRequest, RecordWrite};
