//! Hooks for tests: steps at which a process exits, and isolation layers that a test disables.
//!
//! They have no effect in releases.

pub mod crash_steps;
pub mod disable_layer;
