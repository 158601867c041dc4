//! The whole system in one thread: the real masters, raft, agents and clients over simulated TCP, with
//! simulated disks, clocks and containers, and faults. One seed fixes everything.
//!
//! No type of master, agent or framework is defined here: hosts run the `run` functions that the
//! executable calls. Reading order: `network`, `links`, `run` (what every simulation shares),
//! `raft` (raft alone), `system` (everything), `command`, `alone` (a process for each seed).

pub(crate) mod alone;
pub mod command;
mod links;
mod network;
pub mod raft;
mod run;
pub mod system;
#[cfg(test)]
mod tests;

pub use run::{Counts, Verdict};
