//! Leading: one task owns the registry; links, offers, allocator and deadlines are pure; services
//! at the rim decide nothing.
//!
//! Reading order: `config`, `run`, `replica`, `leader`, `offers`, `allocator`, `links`, `desk`,
//! `service`, `http`, `metrics`.

pub mod allocator;
mod config;
mod desk;
mod http;
mod leader;
mod links;
mod metrics;
pub mod offers;
mod replica;
mod run;
mod service;

pub use config::Config;
pub use run::{Parts, RunError, run};
