//! The parts of the workloads that simulations and real processes share: reads and writes of
//! registers, calls that need rights, and the facts that a framework records about its calls.
//!
//! The schedulers differ: those of a simulation choose tasks of a simulated machine, those of real
//! processes start programs.

pub(crate) mod calls;
pub(crate) mod registers;
pub(crate) mod rights;
