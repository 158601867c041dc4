//! Split records of an agent: reported facts, administrative state, reachability, and the counters
//! of orders and launches.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{DecodeError, invalid};
use crate::actor::Principal;
use crate::agent::{Agent, AgentAdministration, AgentReport, Reachability, UsedOffers};
use crate::codec::error::{CodecError, DecodeResult};
use crate::codec::message::Codec;
use crate::codec::stored::stored;
use crate::codec::wire::{self, FieldSlot};
use crate::ids::{AgentId, Epoch, OfferId, OrderIndex, Revision};

/// The facts that an agent reports, the random number that identifies its first registration, and
/// its principal.
pub(in crate::encode) struct AgentFacts {
    nonce: u64,
    reported: Arc<AgentReport>,
    principal: Option<Principal>,
}

stored!(message AgentFacts {
    1 nonce: Fixed,
    2 reported: Part,
    3 principal: MaybePart,
});

impl AgentFacts {
    pub(in crate::encode) fn of(agent: &Agent) -> Self {
        Self {
            nonce: agent.nonce,
            reported: Arc::clone(&agent.report),
            principal: agent.principal.clone(),
        }
    }
}

/// The facts that change with an agent's reachability.
pub(in crate::encode) struct AgentStatus {
    reachability: Reachability,
    offer_revision: Revision,
    revision: Revision,
}

stored!(message AgentStatus {
    1 | 2 reachability: OneOf,
    3 offer_revision: Part or "revision",
    4 revision: Part,
});

impl AgentStatus {
    pub(in crate::encode) fn of(agent: &Agent) -> Self {
        Self {
            reachability: agent.reachability,
            offer_revision: agent.offer_revision,
            revision: agent.revision,
        }
    }
}

/// The counters that each order for an agent and each launch on it change.
pub(in crate::encode) struct AgentCounters {
    orders: OrderIndex,
    used: UsedOffers,
}

stored!(message AgentCounters as (AgentCounters { orders, used: UsedOffers { floor, ids } }) {
    1 orders: Number,
    2 floor: Part or "floor of used offers",
    3 ids: OfferIdList,
});

impl AgentCounters {
    pub(in crate::encode) fn of(agent: &Agent) -> Self {
        Self {
            orders: agent.orders,
            used: agent.used_offers.clone(),
        }
    }
}

/// Offers in ascending order. Each is stored as its distance in epochs and in serials from the one
/// before, the first from 0. In a new epoch serials count from 0.
enum OfferIdList {}

type OfferIds = BTreeSet<OfferId>;

impl Codec<OfferIds> for OfferIdList {
    fn is_absent(offers: &OfferIds) -> bool {
        offers.is_empty()
    }

    fn write(number: u32, offers: &OfferIds, out: &mut Vec<u8>) {
        let mut former = OfferId::default();
        wire::put_message(number, out, |out| {
            for offer in offers {
                let epochs = offer.epoch.0 - former.epoch.0;
                let first = if epochs == 0 { former.serial } else { 0 };
                wire::put_varint(epochs, out);
                wire::put_varint(offer.serial - first, out);
                former = *offer;
            }
        });
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<OfferIds> {
        let mut numbers = Vec::new();
        slot.each(|raw| {
            raw.varints(|number| numbers.push(number))?;
            Ok(())
        })?;
        let mut former = OfferId::default();
        let mut offers = OfferIds::new();
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(CodecError::Invalid(wrong));
        }
        for [epochs, serials] in pairs {
            let first = if *epochs == 0 { former.serial } else { 0 };
            let epoch = former.epoch.0.checked_add(*epochs);
            let serial = first.checked_add(*serials);
            let (Some(epoch), Some(serial)) = (epoch, serial) else {
                return Err(CodecError::Invalid(wrong));
            };
            let epoch = Epoch(epoch);
            former = OfferId { epoch, serial };
            offers.insert(former);
        }
        Ok(offers)
    }
}

/// The parts of an agent that is not completely read yet.
#[derive(Default)]
pub(super) struct AgentParts {
    pub(super) facts: Option<AgentFacts>,
    pub(super) admin: Option<AgentAdministration>,
    pub(super) status: Option<AgentStatus>,
    pub(super) counters: Option<AgentCounters>,
}

impl AgentParts {
    pub(super) fn join(self, id: AgentId) -> Result<Agent, DecodeError> {
        let AgentFacts {
            nonce,
            reported,
            principal,
        } = self.facts.ok_or(invalid(COUNTERS, REPORT))?;
        let AgentStatus {
            reachability,
            offer_revision,
            revision,
        } = self.status.ok_or(invalid(REPORT, STATUS))?;
        let AgentCounters { orders, used } = self.counters.ok_or(invalid(REPORT, COUNTERS))?;
        Ok(Agent {
            id,
            nonce,
            principal,
            report: reported,
            admin: self.admin.ok_or(invalid(REPORT, ADMINISTRATION))?,
            reachability,
            orders,
            offer_revision,
            used_offers: used,
            revision,
        })
    }
}

pub(super) const COUNTERS: &str = "record of an agent's counters";
pub(super) const REPORT: &str = "record of what an agent reports";
pub(super) const ADMINISTRATION: &str = "record of what is agreed on about an agent";
pub(super) const STATUS: &str = "record of an agent's status";
