//! The chaos harness: one history format, checkers that judge it, a simulation of the whole system, and
//! real processes under real faults. Nothing that runs in production is defined here.
//!
//! Reading order: `history` (what happened, and the independent witness), `linearizability`,
//! `invariants` (what must hold, one file a rule), `audit` (what is left behind), `bugs` (planted, to be
//! found), `ledger` (all runs), `prove`, `sim`, `real`, `vm` (kernel limits and cuts of power).

#[cfg(not(tokio_unstable))]
compile_error!(
    "argosy-chaos needs --cfg tokio_unstable, which .cargo/config.toml sets: unset RUSTFLAGS"
);

pub mod audit;
pub mod bugs;
pub mod history;
pub mod invariants;
pub mod ledger;
pub mod linearizability;
pub mod mutants;
pub mod real;
mod rng;
pub mod sim;
pub mod vm;
