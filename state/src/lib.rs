//! The facts on which every master must agree, and the single function that changes them.
//!
//! The crate is pure: no IO, clock, randomness, float, async or hash map. Reading order: `limits`,
//! `collections`, `codec`, `ids`, `resources`, `subject`, `digest`, `actor`, `secret`, `task`,
//! `capability`, `agent`, `access`, `rejection`, `framework`, `command`, `level`, `event`,
//! `registry`, `encode`, `fingerprint`, `apply`, `check`. Each imports only from modules before it,
//! and from `bugs` and `buggify`.

#![warn(missing_docs)]

pub mod access;
pub mod actor;
pub mod agent;
pub mod apply;
pub mod buggify;
pub mod bugs;
pub mod capability;
pub mod check;
mod codec;
mod collections;
pub mod command;
pub mod digest;
pub mod encode;
pub mod event;
pub mod fingerprint;
pub mod framework;
pub mod ids;
pub mod level;
pub mod limits;
pub mod registry;
pub mod rejection;
pub mod resources;
pub mod secret;
pub mod subject;
pub mod task;
#[cfg(any(test, feature = "builders"))]
pub mod testing;

pub use collections::{persistent, thin_vec};
pub use registry::Registry;
