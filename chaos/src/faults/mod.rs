//! The parts of fault injection that simulations and real processes share: the choice of the next
//! fault, and the connectivity graphs of masters.
//!
//! Each harness has a table of the faults that it can inject: `sim::system`, `sim::raft` and
//! `real::faults`. All of them record the kinds of `history`.

pub(crate) mod choice;
pub(crate) mod graphs;
