//! Real processes under real faults: masters, agents and schedulers, each in its own network
//! namespace. A nemesis injects the faults, and the checkers check the recorded history.
//!
//! Reading order: `arguments`, `run`, `programs`, `testbed`, `session`, `nemesis`, `faults`,
//! `inject`, `cluster`, `members`, `network`, `processes`, `folder`; then the workloads
//! (`framework`, `registers`), `audit`, `check`, `report`.

mod agent_swarm;
mod arguments;
mod audit;
mod cgroups;
mod check;
mod clock;
mod cluster;
mod failover;
mod faults;
mod folder;
mod framework;
mod html;
mod inject;
mod live_cluster;
mod master_recorder;
mod members;
mod nemesis;
mod network;
mod partitions;
mod process_faults;
mod processes;
mod programs;
mod progress;
mod proxy;
mod registers;
mod registry_observer;
mod report;
mod run;
mod run_log;
mod script;
mod session;
mod testbed;
mod tracer;
mod watch;

pub use arguments::{ReportArguments, RunArguments};
pub use failover::{FailoverArguments, failover};
pub use framework::port::{HoldArguments, hold};
pub use framework::{FrameworkArguments, run as run_framework};
pub use report::{
    EpochRecord, FaultLine, OperationCounts, Outage, ReportedViolation, RunReport, TaskCount,
};
pub use run::{faults, report, run};
