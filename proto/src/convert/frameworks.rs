//! Conversion of frameworks, offers and calls.

use std::collections::BTreeSet;

use argosy_state::agent::Agent;
use argosy_state::command::{CallAction, OfferTerms};
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{Revision, Role, Timestamp};
use argosy_state::limits;

use super::security_options::{opt_outs, sizes};
use super::{InvalidMessage, id, offered_from, resources};
use crate::v1;

/// Returns a framework's description of itself on the wire.
#[must_use]
pub fn framework_info(info: &FrameworkInfo) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        name: info.name.clone(),
        user: info.user.clone(),
        roles: info.roles.iter().map(ToString::to_string).collect(),
        failover_timeout_ms: Some(info.failover_timeout_ms),
        principal: info.principal.clone(),
        labels: info.labels.clone().into_iter().collect(),
        detached: info.detached,
        offer_timeout_ms: info.offer_timeout_ms,
        web_url: info.web_url.clone(),
        capabilities: info.capabilities.iter().cloned().collect(),
    }
}

/// Reads a framework's description of itself.
///
/// # Errors
/// Names the field.
pub fn framework_info_from(wire: v1::FrameworkInfo) -> Result<FrameworkInfo, InvalidMessage> {
    Ok(FrameworkInfo {
        name: wire.name,
        user: wire.user,
        roles: roles("info.roles", &wire.roles)?
            .into_iter()
            .collect::<BTreeSet<_>>(),
        failover_timeout_ms: wire
            .failover_timeout_ms
            .unwrap_or(limits::FAILOVER_TIMEOUT_MS),
        principal: wire.principal,
        labels: wire.labels.into_iter().collect(),
        detached: wire.detached,
        offer_timeout_ms: if wire.offer_timeout_ms == 0 {
            limits::OFFER_TIMEOUT_MS
        } else {
            wire.offer_timeout_ms
        },
        web_url: wire.web_url,
        capabilities: wire.capabilities.into_iter().collect(),
    })
}

/// Reads roles.
///
/// # Errors
/// Names the role and the rule.
pub fn roles(field: &str, wire: &[String]) -> Result<Vec<Role>, InvalidMessage> {
    wire.iter()
        .map(|role| Role::new(role).map_err(|error| InvalidMessage::new(field, error.to_string())))
        .collect()
}

/// Returns an offer as its framework receives it, with its token.
#[must_use]
pub fn offer(terms: &OfferTerms, agent: &Agent, token: &[u8]) -> v1::Offer {
    v1::Offer {
        offer_id: terms.id.to_string(),
        framework_id: terms.framework.to_string(),
        agent_id: terms.agent.to_string(),
        host_name: agent.report.info.host_name.clone(),
        role: terms.role.to_string(),
        resources: resources(&terms.resources),
        attributes: agent.attributes().into_iter().collect(),
        expires_ms: terms.expires.0,
        token: seal(terms, token).into(),
        agent_address: agent.report.info.address.clone(),
        allowed_opt_outs: opt_outs(&agent.report.info.allowed_security_options),
        largest_sizes: sizes(agent.report.info.largest_sizes),
    }
}

/// Encodes the token, which also carries fields that its holder need not understand: session and
/// offer revision, then the proof.
fn seal(terms: &OfferTerms, token: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + token.len());
    bytes.extend(terms.session.to_be_bytes());
    bytes.extend(terms.offer_revision.index.to_be_bytes());
    bytes.extend(terms.offer_revision.position.to_be_bytes());
    bytes.extend(token);
    bytes
}

/// Reads a held offer: its terms, and the proof to be verified.
///
/// # Errors
/// Names the field.
pub fn offer_terms(wire: &v1::HeldOffer) -> Result<(OfferTerms, Vec<u8>), InvalidMessage> {
    let offer = wire
        .offer
        .as_ref()
        .ok_or_else(|| InvalidMessage::new("offer", "it is missing"))?;
    let cut = |from: usize, to: usize| offer.token.get(from..to);
    let (Some(session), Some(index), Some(position)) = (cut(0, 8), cut(8, 16), cut(16, 20)) else {
        return Err(InvalidMessage::new(
            "offer.token",
            "it is truncated: return the offer unchanged",
        ));
    };
    let terms = OfferTerms {
        id: id("offer.offer_id", &offer.offer_id)?,
        framework: id("offer.framework_id", &offer.framework_id)?,
        session: u64::from_be_bytes(session.try_into().expect("it is 8 bytes long")),
        agent: id("offer.agent_id", &offer.agent_id)?,
        role: Role::new(&offer.role)
            .map_err(|error| InvalidMessage::new("offer.role", error.to_string()))?,
        resources: offered_from("offer.resources", &offer.resources)?,
        offer_revision: Revision {
            index: u64::from_be_bytes(index.try_into().expect("it is 8 bytes long")),
            position: u32::from_be_bytes(position.try_into().expect("it is 4 bytes long")),
        },
        expires: Timestamp(offer.expires_ms),
    };
    Ok((terms, offer.token[20..].to_vec()))
}

/// Returns the name of a call in metrics and logs.
#[must_use]
pub fn call_kind(action: &CallAction) -> &'static str {
    match action {
        CallAction::Accept(_) => "accept",
        CallAction::Kill { .. } => "kill",
        CallAction::UpdateLimits { .. } => "update-limits",
        CallAction::Suppress(_) => "suppress",
        CallAction::Revive(_) => "revive",
        CallAction::Update(_) => "update-framework",
        CallAction::Teardown => "teardown",
    }
}
