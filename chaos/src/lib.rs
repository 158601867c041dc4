//! The chaos harness: a history format, checkers, a simulation of the whole system, and real
//! processes under real faults. It contains no production code.
//!
//! Reading order: `history` (recorded events, and the independent witness), `linearizability`,
//! `invariants` (one file for each rule), `audit` (leftovers on a host), `bugs` (the planted bugs).
//! Then `faults` (the choice of the next fault, and partitions between masters), `workload`
//! (recorded calls). Then `ledger` (all runs), `mutants` (the search for planted bugs), `sim`,
//! `real`, `vm` (kernel limits and power cuts).

#[cfg(not(tokio_unstable))]
compile_error!(
    "argosy-chaos needs --cfg tokio_unstable, which .cargo/config.toml sets: unset RUSTFLAGS"
);

pub mod audit;
pub mod bugs;
mod faults;
pub mod history;
pub mod invariants;
pub mod ledger;
pub mod linearizability;
pub mod mutants;
pub mod real;
mod rng;
pub mod sim;
pub mod vm;
mod workload;
