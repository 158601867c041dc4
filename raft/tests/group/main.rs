//! Groups of masters in one process, over real sockets, on stores in memory.

mod changes;
#[cfg(feature = "rocksdb")]
mod disk;
mod failover;
mod forming;
mod host;
mod levels;
mod replication;
mod silence;
mod stall;
