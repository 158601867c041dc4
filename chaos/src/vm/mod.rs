//! A small virtual machine: what this host's kernel lacks, and what only a cut of power shows.
//!
//! Reading order: `report` (what the guest says), `disk` and `nbd` (disks that forget what was not
//! flushed), `machine` (QEMU), `cases`, then `judge` and `cuts` (power), `guest` (inside), `command`.
//! What a cut proves and what not is written at `disk`.

mod cases;
mod check;
mod command;
mod disk;
mod guest;
mod machine;
mod nbd;
mod power_cuts;
mod report;
mod summary;

pub use command::{Arguments, run};
