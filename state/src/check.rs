//! Invariants of the registry.
