//! The process that speaks to the servers of tasks: file servers and registries.
//!
//! ```text
//! agent (root) ──spawns──▶ service        its own user, no capability, no file but certificates and resolver settings,
//!     │  requests, each with the file      no further process, nothing to listen on; a control group of its own
//!     └── that it may write ──────────▶
//! ```
//! What comes from outside over a network is parsed there and nowhere else: HTTP, TLS, answers of registries. It keeps
//! nothing: it writes to descriptors that come with requests, and what it says of an image is short and checked again. A
//! service that ends, or answers nobody for 15 s, is replaced, and what it was doing is asked for again.
//!
//! Reading order: `message`, `process` (its whole life), `client` (an agent's hold on it).

mod client;
mod message;
mod process;
#[cfg(test)]
mod tests;

pub use client::{ENVIRONMENT, NAME, Service, ServiceCommand, ServiceSettings, Started, Starter};
pub use process::{ServiceError, run_from_fd};
