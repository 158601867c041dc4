//! Consensus: openraft behind Node, log and registry on RocksDB, snapshots, transport.
//!
//! No type of openraft or RocksDB leaves this crate. Reading order: `types`, `settings`, `node`, `proposer`; then how a group
//! comes about and changes (`starting`, `founding`, `forming`, `membership`), how it talks (`wire`, `connections`, `frames`, `network`, `held`, `distance`, `service`,
//! `shipping`), how it keeps and loses a
//! leader (`liveness`, `failover`, `campaign`, `detector`, `suspicion`, `hearing`); then what it keeps (`directory`, `rejoin`, `store`, `log`, `machine`, `unwritten`,
//! `snapshot`, `image`).

mod campaign;
mod codec;
mod connections;
mod detector;
mod directory;
mod disk;
mod distance;
mod entry;
mod error;
mod failover;
mod fatal;
mod forming;
mod forwarding;
mod founding;
mod frames;
mod growth;
mod hearing;
mod held;
mod image;
mod install;
mod liveness;
mod log;
mod machine;
mod membership;
mod network;
mod node;
mod progress;
mod proposer;
mod reader;
mod record;
mod rejoin;
mod runtime;
mod service;
mod settings;
mod shelf;
mod shipping;
mod snapshot;
mod starting;
mod status;
mod store;
mod suspicion;
#[cfg(test)]
mod tests;
mod types;
mod unwritten;
mod versions;
mod wire;
mod writer;

pub use directory::OpenError;
pub use disk::memory::Durable;
pub use error::{MembershipError, ProposeError, ReadError, StartError};
pub use machine::TURN_WORK;
pub use membership::HeldMembers;
pub use node::{ListedMember, MemoryStore, Node, Records, StoredVote};
pub use progress::Progress;
pub use proposer::{ENTRY_LIMIT_BYTES, Proposal};
pub use rejoin::{Discarding, forbid_start};
pub use settings::{NodeConfig, SnapshotPolicy, Surroundings, Timing};
pub use status::{Phases, Status};
pub use types::{Committed, Member, OwnerRequest, RecordWrite};
