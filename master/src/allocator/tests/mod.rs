//! Tests of the allocator on real facts: every world is a registry to which commands were applied.

mod declines;
mod fairness;
mod filters;
pub(crate) mod fixture;
mod merging;
pub(crate) mod random;
mod reasons;
mod visibility;
mod waits;
