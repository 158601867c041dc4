//! The agent: the tasks of one host, their updates, journal and sandboxes. Makes no decisions for
//! the cluster.
//!
//! Reading order: `core` (all decisions), `wire`, `paths`, `journal`, `runner`, `uplink`, `host`,
//! `start`, `environment`, `agent` (the loop), then `broker_client`, `broker`, `sandbox`, `reach`,
//! `disk`, `gc`, `statistics`, `files`, `exec`, `executors`, `api`, `inventory`, `traces`,
//! `config`. No two of them import each other, directly or through others.

mod agent;
mod api;
mod broker;
mod broker_client;
pub mod config;
pub mod core;
pub mod crash;
mod descriptors;
mod disk;
mod environment;
pub mod error;
mod exec;
mod executors;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gc;
mod host;
mod inbox;
pub mod inventory;
pub mod journal;
mod metrics;
pub mod paths;
mod reach;
mod revoked_keys;
mod runner;
mod sandbox;
mod start;
mod statistics;
mod traces;
mod uplink;
pub mod wire;

pub use self::core::Adoption;
pub use agent::{AgentDependencies, run};
pub use argosy_content::fetcher::FetchAllow;
pub use argosy_content::fetcher::{ClusterAuthorities, ClusterTls};
pub use argosy_content::images;
pub use argosy_content::service::{
    ClusterAuthoritySource, ServiceCommand, run_from_fd as serve_content,
};
pub use broker::separate_privileges;
pub use broker_client::BrokerLink;
pub use config::{
    CniSettings, Config, Devices, DiskEnforcement, ImageRoots, IsolationMode, NetworkSettings,
    TaskAllow, TaskSubnet6,
};
pub use environment::{BootClock, Environment, EventSender, MessageObserver, SimulatedHost};
pub use error::RunError;
pub use runner::{ContainerRuntime, HelperCommands, LauncherCommand};
pub use start::remove_tree;
