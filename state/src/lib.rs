//! The facts on which every master must agree, and the single function that changes them.
//!
//! The crate is pure: no IO, clock, randomness, float, async or hash map. Reading order: `ids`,
//! `actor`, `seldom`, `resources`, `task`, `capability`, `agent`, `framework`, `subject`,
//! `command`, `event`, `persistent`, `registry`, `apply`, `check`, `digest`, `encode`,
//! `fingerprint`.

#![warn(missing_docs)]

pub mod actor;
pub mod agent;
pub mod apply;
pub mod buggify;
pub mod bugs;
pub mod capability;
pub mod check;
mod codec;
pub mod command;
pub mod digest;
pub mod encode;
pub mod event;
pub mod fingerprint;
pub mod framework;
pub mod ids;
pub mod level;
pub mod limits;
pub mod persistent;
pub mod registry;
pub mod rejection;
pub mod resources;
pub mod subject;
pub mod task;
#[cfg(any(test, feature = "builders"))]
pub mod testing;
pub mod thin_vec;

pub use registry::Registry;
