//! Decisions about access: whether a caller may perform an action on an object.
//!
//! Everything here is pure. The leader decides in its step, by its own registry. Masters that serve
//! reads decide by the copy that they serve. Reading order: `object`, `decision`, `cache`,
//! `denial`, `expectation`, `owner`, `table`, `operations`, `images`, `users`, `launches`, `sight`.

mod cache;
mod decision;
mod denial;
mod expectation;
mod images;
mod launches;
mod object;
mod operations;
mod owner;
mod sight;
mod table;
#[cfg(test)]
mod tests;
mod users;

pub(crate) use cache::PermitCache;
pub(crate) use decision::{Decision, decide, decide_all};
pub(crate) use denial::{DENIED, Denial, UNPROVEN};
pub use expectation::{Expectation, InvalidExpectation};
pub(crate) use launches::denied_launch;
pub(crate) use object::Object;
pub(crate) use operations::denied_operation;
pub(crate) use owner::is_owner;
pub(crate) use sight::{FollowedSights, Reader, Sight, Sights};
#[cfg(test)]
pub(crate) use table::CALLS;
pub(crate) use table::{Check, check_of_call};
