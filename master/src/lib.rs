//! Leading: one task owns the registry; links, offers, allocator and deadlines are pure; services
//! at the rim decide nothing.
//!
//! Reading order: `config`, `run`, `inbox`, `replica`, `comparison`, `checks`, `clock`, `failovers`, `watchdog`, `leader`,
//! `offers`, `allocator`, `links`, `desk`, `service`, `http`, `exec`, `metrics`.

pub mod allocator;
mod checks;
mod clock;
mod comparison;
mod config;
mod desk;
mod exec;
mod failovers;
mod falls;
mod http;
mod inbox;
mod leader;
mod links;
mod metrics;
pub mod offers;
mod replica;
mod run;
mod service;
mod watchdog;

pub use comparison::Divergence;
pub use config::Config;
pub use run::{Parts, RunError, run};
