//! Real processes under real faults: masters, agents and schedulers, each in a network namespace of
//! its own, hit by a nemesis and judged by the checkers.
//!
//! Reading order: `arguments`, `run`, `stage`, `session`, `nemesis`, `faults`, `inflict`, `cluster`, `network`,
//! `processes`, `folder`; then the workloads (`framework`, `registers`), `audit`, `judge`, `report`.

mod arguments;
mod audit;
mod clock;
mod cluster;
mod cuts;
mod failover;
mod faults;
mod folder;
mod framework;
mod herd;
mod historian;
pub(crate) mod host_tools;
mod html;
mod inflict;
mod judge;
mod ledger;
mod nemesis;
mod network;
mod processes;
mod proxy;
mod registers;
mod rehearsal;
mod report;
mod run;
mod screen;
mod script;
mod session;
mod stage;
mod tampering;
mod watch;

pub use arguments::{ReportArguments, RunArguments};
pub use failover::{FailoverArguments, failover};
pub use framework::port::{HoldArguments, hold};
pub use framework::{FrameworkArguments, run as run_framework};
pub use report::{FaultLine, Operations, Outage, Reign, Report, TaskCount, Violation};
pub use run::{faults, report, run};
