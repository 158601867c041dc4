//! A small virtual machine, for kernel features that this host lacks, and for power cuts.
//!
//! Reading order: `report` and `task_report` (the reports of the guest), `disk`, `power_switch` and
//! `nbd` (disks that lose unflushed data), `machine` (QEMU), `cases`, then `check`,
//! `acknowledged_tasks`, `cut_plan` and `power_cuts`, `guest` (inside), `command`. `disk` documents
//! what a cut proves and what it does not.

mod acknowledged_tasks;
mod cases;
mod check;
mod command;
mod cut_plan;
mod disk;
mod guest;
mod machine;
mod nbd;
mod power_cuts;
mod power_switch;
mod report;
mod summary;
mod task_report;

pub use command::{Arguments, run};
