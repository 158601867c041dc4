//! The whole system in one thread: the real masters, raft, agents and clients over simulated TCP, with
//! simulated disks, clocks and containers, and faults. One seed fixes everything.
//!
//! No type of master, agent or framework is defined here: hosts run the `run` functions that the
//! executable calls. Reading order: `network`, `links`, `process`, `run` (what every simulation shares),
//! `raft` (raft alone), `graphs`, `system` (everything), `command`, `minimum` (what a batch must show), `alone` (a
//! process for each seed).

pub mod command;
pub(crate) mod graphs;
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

pub use run::{Counts, Verdict};
