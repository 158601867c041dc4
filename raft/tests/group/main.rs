//! Groups of masters in one process, over real sockets, on stores in memory.

#[cfg(feature = "rocksdb")]
mod disk;
mod failover;
mod formation;
mod frozen_leaders;
mod host;
mod levels;
mod member_changes;
mod moved;
mod replication;
#[cfg(feature = "rocksdb")]
mod restored;
mod stall;
