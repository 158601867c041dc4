//! Consensus: openraft behind Node, log and registry on RocksDB, snapshots, transport.

mod directory;
mod disk;
mod entry;
mod fatal;
mod install;
mod log;
mod machine;
mod record;
mod shelf;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub use directory::OpenError;
pub use types::{Committed, Member, OwnerRequest, RecordWrite};
