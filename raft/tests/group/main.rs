//! Groups of masters in one process, over real sockets, on stores in memory.

mod changes;
mod failover;
mod forming;
mod host;
mod replication;
