//! Real processes under real faults: masters, agents and schedulers, each in its own network
//! namespace. A nemesis injects the faults, and the checkers check the recorded history.
//!
//! The crate `testbed` starts and ends the members. Reading order: `arguments`, `run`,
//! `machine_lock`, `session`, `nemesis`, `faults`, `inject`; then the workloads (`framework`,
//! `registers`, `exec_prober`, `log_follower`, `port_prober`), `master_recorder`, `growth`,
//! `audit`, `check`, `groups`, `services`, `evidence`, `report`.

mod agent_disks;
mod agent_swarm;
mod arguments;
mod audit;
mod check;
mod cli_operator;
mod evidence;
mod exec_prober;
mod faults;
mod framework;
mod groups;
mod growth;
mod html;
mod inject;
mod inputs;
mod live_cluster;
mod log_follower;
mod machine_lock;
mod master_recorder;
mod nemesis;
mod port_prober;
mod process_faults;
mod proxy;
mod registers;
mod registry_observer;
mod report;
mod run;
mod run_log;
mod script;
mod services;
mod session;

pub use arguments::{ReportArguments, RunArguments};
pub use framework::port::{HoldArguments, hold};
pub use framework::{FrameworkArguments, run as run_framework};
pub use growth::{Growth, GrowthMeasure};
pub use report::{
    EpochRecord, FaultLine, OperationCounts, Outage, ReportedViolation, RunReport, TaskCount,
};
pub use run::{faults, report, run};
