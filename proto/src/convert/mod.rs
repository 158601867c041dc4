//! Conversion between wire messages and `state`: shape is checked here, meaning in `state::apply`.
//!
//! Reading order: `resources`, `tasks`, `operations`, `agents`, `frameworks`, `access`.

mod access;
mod agents;
mod checks;
mod containers;
mod discovery;
mod executors;
mod frameworks;
mod groups;
mod kill_policy;
mod operations;
mod resources;
mod security_options;
mod tasks;
mod uris;
mod volumes;

use std::str::FromStr;

use argosy_state::ids::{InvalidId, Revision};

use crate::v1;

pub use access::{
    create_token_from, policy, policy_from, revoked_key, set_policy_from, set_rate_limit_from,
    subject_limit, token,
};
pub use agents::{
    agent_info, agent_info_from, explanation_from, held_task, key, mode_from, order_kill,
    order_launch, order_limits, order_void, reported_text, reported_text_from, to_wire_causes,
    update_from,
};
pub use checks::{check_from, health_check_from};
pub use containers::{image_pull_from, network};
pub use frameworks::{call_kind, framework_info, framework_info_from, offer, offer_terms, roles};
pub use groups::group_from;
pub use kill_policy::{kill_signal, kill_signal_from};
pub use operations::{operations_from, refused, refused_position, shape};
pub use resources::{offered_from, resource, resources, resources_from};
pub use security_options::{limits, limits_from, opt_outs, opt_outs_from, sizes, sizes_from};
pub use tasks::{
    exit_from, reason_from, source_from, spec, spec_from, state_from, status, task, task_history,
    valid_parts_from,
};

/// The error of a message with an invalid shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {text}")]
pub struct InvalidMessage {
    /// The path of the field, as `offers[2].offer.agent_id`.
    pub field: String,
    /// The defect, and a valid form.
    pub text: String,
}

impl InvalidMessage {
    /// Returns an error of `field`, described by `text`.
    pub fn new(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            text: text.into(),
        }
    }

    /// Returns the same error with the path seen from one level up.
    #[must_use]
    pub fn inside(self, outer: &str) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            text: self.text,
        }
    }
}

/// The first defect of a message that is read as far as it is valid.
#[derive(Debug, Default)]
struct FirstDefect(Option<InvalidMessage>);

impl FirstDefect {
    /// Returns a part, or its default if it is invalid.
    fn part<T: Default>(&mut self, read: Result<T, InvalidMessage>) -> T {
        self.part_or(read, T::default())
    }

    /// Returns a part, or `other` if it is invalid.
    fn part_or<T>(&mut self, read: Result<T, InvalidMessage>, other: T) -> T {
        read.unwrap_or_else(|defect| {
            self.0.get_or_insert(defect);
            other
        })
    }
}

/// Reads an id.
///
/// # Errors
/// Names `field` and the rule.
pub fn id<T: FromStr<Err = InvalidId>>(field: &str, text: &str) -> Result<T, InvalidMessage> {
    text.parse()
        .map_err(|error: InvalidId| InvalidMessage::new(field, error.to_string()))
}

/// Returns the revision on the wire.
#[must_use]
pub fn revision(revision: Revision) -> v1::Revision {
    v1::Revision {
        index: revision.index,
        position: revision.position,
    }
}

/// Reads the revision of a message; an absent one is the first.
#[must_use]
pub fn revision_from(revision: Option<v1::Revision>) -> Revision {
    revision.map_or_else(Revision::default, |wire| Revision {
        index: wire.index,
        position: wire.position,
    })
}
