//! Conversion of offers and answers, as a framework gets them, to facts of a history.

use argosy_client::resources::from_wire;
use argosy_client::scheduler::CallResult;
use argosy_proto::v1;
use argosy_state::ids::{FrameworkId, Role};

use crate::history::{OfferFact, OperationResponse, RejectedLaunch};

/// Returns the offer as its framework received it; `None` if it is invalid.
pub(crate) fn offer_made(
    offer: &v1::Offer,
    framework: FrameworkId,
    session: u64,
) -> Option<OfferFact> {
    Some(OfferFact::Made {
        offer: offer.offer_id.parse().ok()?,
        framework,
        session,
        agent: offer.agent_id.parse().ok()?,
        role: Role::new(&offer.role).ok()?,
        resources: from_wire(&offer.resources)?,
    })
}

/// Returns the response to a call that was done, with the launches that were refused.
pub(crate) fn response(answer: &CallResult, refused: &[v1::Refused]) -> OperationResponse {
    if answer.task_ids.is_empty() {
        return OperationResponse::Done;
    }
    let refusal = |one: &v1::Refused| RejectedLaunch {
        position: one.position,
        code: one.code.clone(),
    };
    OperationResponse::Accepted {
        refused: refused.iter().map(refusal).collect(),
    }
}
