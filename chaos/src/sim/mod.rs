//! The simulation of the whole system in one thread: the real masters, Raft, agents and clients
//! over simulated TCP, with simulated disks, clocks and containers, and faults. One seed determines
//! everything.
//!
//! It defines no type of master, agent or framework: hosts run the `run` functions that the
//! executable calls. Reading order: `host_keys`, `network`, `links`, `process`, `run` (shared by
//! every simulation), `raft` (Raft alone), `graphs`, `system` (everything), `command`, `minimum`
//! (the minimum of a batch), `subprocess` (a process for each seed).

pub mod command;
mod host_keys;
mod links;
mod log;
mod minimum;
mod network;
mod process;
pub mod raft;
mod run;
#[cfg(test)]
mod silence;
pub(crate) mod subprocess;
pub mod system;
#[cfg(test)]
mod tests;

pub use run::{SimulationCounts, SimulationResult};
