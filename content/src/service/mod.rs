//! The content service: the process that connects to servers for tasks, both file servers and
//! registries.
//!
//! ```text
//! agent (root) ──spawns──▶ service        separate user and cgroup; no capability, process or
//!     │  requests, each with the file      listener; reads certificates and resolver settings
//!     └── that it may write ──────────▶
//! ```
//! All data from the network is parsed there and nowhere else: HTTP, TLS, registry responses. It
//! keeps no state. It writes to descriptors that come with requests, and its description of an
//! image is short and validated again. A service that exits, or does not answer for 15 s, is
//! replaced, and its requests are repeated.
//!
//! Reading order: `message`, `process` (the service itself), `client` (an agent's handle on it),
//! `requests` (the requests that fetcher and images make through the handle).

mod client;
mod message;
mod process;
mod requests;
#[cfg(test)]
mod tests;

pub use client::{
    ClusterAuthoritySource, ContentService, ENVIRONMENT, NAME, ServiceCommand, ServiceSettings,
    ServiceStarter, StartedService,
};
pub use process::{ServiceError, run_from_fd};
