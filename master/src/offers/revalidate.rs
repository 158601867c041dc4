//! Revalidation: whether an offer made in an earlier epoch is still valid under the new leader.
//!
//! This module checks facts only; the token is verified earlier. An adopted offer is a hint like
//! any other: `apply` checks it again when it is accepted.

use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use argosy_state::command::OfferTerms;
use argosy_state::ids::{AgentId, FrameworkId, Role, Timestamp};

use super::{OfferBook, OfferState};

/// The reason for which an offer that a framework still holds is rescinded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RescindReason {
    #[error("it has expired")]
    Expired,
    #[error("no {0} in this cluster")]
    UnknownFramework(FrameworkId),
    #[error("another session of {0} holds it")]
    OtherSession(FrameworkId),
    #[error("the framework has left role {0}")]
    LeftRole(Role),
    #[error("no {0} in this cluster")]
    UnknownAgent(AgentId),
    #[error("{0} is {1:?}")]
    AgentNotActive(AgentId, AgentMode),
    #[error("the resources of {0} have changed")]
    Outdated(AgentId),
    #[error("it was used, declined or rescinded, or is from too long ago")]
    Used,
    #[error("an acceptance of it is in flight")]
    InFlight,
    #[error("the promised resources of {0} are in use")]
    NotFree(AgentId),
}

impl RescindReason {
    /// Returns a machine-readable code of a closed set.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::UnknownFramework(_) => "unknown-framework",
            Self::OtherSession(_) => "other-session",
            Self::LeftRole(_) => "left-role",
            Self::UnknownAgent(_) => "unknown-agent",
            Self::AgentNotActive(..) => "agent-not-active",
            Self::Outdated(_) => "outdated",
            Self::Used => "used",
            Self::InFlight => "taken",
            Self::NotFree(_) => "not-free",
        }
    }
}

/// Checks whether an offer of these `terms` may be adopted into `book`. An offer that is already
/// open there is valid: adopting it again changes nothing.
///
/// # Errors
/// The first failing check, to be sent to the framework.
pub fn revalidate(
    registry: &Registry,
    book: &OfferBook,
    terms: &OfferTerms,
    now: Timestamp,
) -> Result<(), RescindReason> {
    if terms.expires <= now {
        return Err(RescindReason::Expired);
    }
    check_framework(registry, terms)?;
    match book.get(terms.id) {
        Some((known, OfferState::Open)) if **known == *terms => return Ok(()),
        Some((_, OfferState::Pending)) => return Err(RescindReason::InFlight),
        Some((_, OfferState::Open)) => return Err(RescindReason::Used),
        // All offers of this epoch are in the book, so a missing one has been closed.
        None if terms.id.epoch >= book.epoch() => return Err(RescindReason::Used),
        None => {}
    }
    check_agent(registry, terms)?;
    let free = registry
        .free(terms.agent)
        .minus_saturating(&book.offered_on(terms.agent));
    if free.contains(&terms.resources) {
        Ok(())
    } else {
        Err(RescindReason::NotFree(terms.agent))
    }
}

fn check_framework(registry: &Registry, terms: &OfferTerms) -> Result<(), RescindReason> {
    let framework = registry
        .framework(terms.framework)
        .filter(|framework| !framework.removing)
        .ok_or(RescindReason::UnknownFramework(terms.framework))?;
    if framework.session != terms.session {
        return Err(RescindReason::OtherSession(terms.framework));
    }
    if !framework.info.roles.contains(&terms.role) {
        return Err(RescindReason::LeftRole(terms.role.clone()));
    }
    Ok(())
}

fn check_agent(registry: &Registry, terms: &OfferTerms) -> Result<(), RescindReason> {
    let agent = registry
        .agent(terms.agent)
        .ok_or(RescindReason::UnknownAgent(terms.agent))?;
    if agent.mode() != AgentMode::Registered {
        return Err(RescindReason::AgentNotActive(terms.agent, agent.mode()));
    }
    if agent.offer_revision != terms.offer_revision {
        return Err(RescindReason::Outdated(terms.agent));
    }
    let window = &agent.used_offers;
    if terms.id <= window.floor || window.ids.contains(&terms.id) {
        return Err(RescindReason::Used);
    }
    Ok(())
}
