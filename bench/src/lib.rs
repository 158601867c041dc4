//! Workloads and peers: the cost of Argosy, compared with others in the same run.
//!
//! Verdicts depend on ratios only, never on absolute times. Reading order: `arguments`, `report`,
//! `machine`, `cluster` (which uses the crate `testbed`), `writer`, `load`, `agents`,
//! `full_cluster`, then the workloads, which `workloads` lists, and `leader_loss`, a measurement
//! with its own arguments.

mod agents;
mod allocator;
mod arguments;
mod bench;
mod cluster;
mod commands;
mod containers;
mod cpu;
mod crowd;
mod events;
mod failover;
mod flood;
mod framework;
mod full_cluster;
mod idle;
mod latency;
mod leader_loss;
mod load;
mod low_priority;
mod machine;
mod pages;
mod registry;
mod report;
mod scale;
mod scrape;
mod stall;
mod start;
mod state_read;
mod statistics;
mod tasks;
mod turns;
mod workloads;
mod writer;

pub use arguments::Arguments;
pub use workloads::run;
