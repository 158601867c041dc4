//! Samples of a lost agent with administrative state.

use std::sync::Arc;

use super::{agent_info, offer_id, revision, texts};
use crate::agent::{
    Administration, Agent, AgentAdministration, AgentReport, Reachability, UsedOffers,
};
use crate::ids::{AgentId, OrderIndex, Timestamp};

pub(super) fn agent() -> Agent {
    Agent {
        id: AgentId(3),
        nonce: 0x11,
        principal: None,
        report: Arc::new(AgentReport {
            incarnation: 0x22,
            boot_id: "boot".to_owned(),
            info: agent_info(),
        }),
        admin: AgentAdministration {
            administration: Administration::Deactivated,
            since: Timestamp(97),
            deadline: Some(Timestamp(100)),
            attributes: texts("zone", "z"),
            revision: revision(41, 0),
        },
        reachability: Reachability::Unreachable {
            since: Timestamp(99),
        },
        orders: OrderIndex(12),
        offer_revision: revision(5, 1),
        used_offers: UsedOffers {
            floor: offer_id(45, 9),
            ids: [offer_id(45, 10), offer_id(45, 12)].into(),
        },
        revision: revision(44, 2),
    }
}

/// Returns an agent that is bound to a principal.
pub(super) fn bound() -> Agent {
    Agent {
        id: AgentId(5),
        principal: Some("agent/host-1".parse().unwrap()),
        ..agent()
    }
}
