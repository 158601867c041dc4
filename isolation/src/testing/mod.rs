//! Hooks for tests: steps at which a process exits, and isolation layers that a test disables.
//!
//! Releases do not contain them.

pub mod crash_points;
pub mod disable_layer;
