//! Consensus: openraft behind Node, log and registry on RocksDB, snapshots, transport.

mod types;

pub use types::{Committed, Member, OwnerRequest, RecordWrite};
