//! Conversion of wire messages to facts of a history.

use argosy_client::resources::from_wire;
use argosy_proto::v1;
use argosy_state::ids::{OfferId, Role};
use argosy_state::task::TaskState;

use crate::history::OfferFact;

/// Returns the offer ids. Invalid ones are left out.
pub(super) fn offer_ids(ids: &[String]) -> Vec<OfferId> {
    ids.iter().filter_map(|id| id.parse().ok()).collect()
}

/// Returns the offer as its framework received it.
pub(super) fn made(offer: &v1::Offer, session: u64) -> Option<OfferFact> {
    Some(OfferFact::Made {
        offer: offer.offer_id.parse().ok()?,
        framework: offer.framework_id.parse().ok()?,
        session,
        agent: offer.agent_id.parse().ok()?,
        role: Role::new(&offer.role).ok()?,
        resources: from_wire(&offer.resources)?,
    })
}

/// Returns the state; `None` for a state that no task can have.
pub(super) fn state_of(state: v1::TaskState) -> Option<TaskState> {
    use v1::TaskState as Wire;
    Some(match state {
        Wire::Unspecified => return None,
        Wire::Staging => TaskState::Staging,
        Wire::Starting => TaskState::Starting,
        Wire::Running => TaskState::Running,
        Wire::Killing => TaskState::Killing,
        Wire::Finished => TaskState::Finished,
        Wire::Failed => TaskState::Failed,
        Wire::Killed => TaskState::Killed,
        Wire::Error => TaskState::Error,
        Wire::Dropped => TaskState::Dropped,
        Wire::Gone => TaskState::Gone,
        Wire::GoneByOperator => TaskState::GoneByOperator,
        Wire::Unreachable => TaskState::Unreachable,
        Wire::Unknown => TaskState::Unknown,
    })
}
