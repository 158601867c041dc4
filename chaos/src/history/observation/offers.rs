//! Facts about offers, and about the resources of roles.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{AgentId, FrameworkId, OfferId, Role, TaskKey};
use argosy_state::resources::Resources;

use super::super::text;

/// An offer in a leader's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedOffer {
    #[serde(with = "text")]
    pub offer: OfferId,
    /// The agent whose resources are offered.
    #[serde(with = "text")]
    pub agent: AgentId,
    /// The offered resources.
    #[serde(with = "text")]
    pub resources: Resources,
}

/// A fact about an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum OfferFact {
    /// A framework has the offer. Recorded by the framework that received it, or by the leader that
    /// sent it.
    Made {
        /// The id of the offer. The epoch in it identifies the leader that made it.
        #[serde(with = "text")]
        offer: OfferId,
        /// The framework that received it.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// The session that received it.
        session: u64,
        /// The agent whose resources are offered.
        #[serde(with = "text")]
        agent: AgentId,
        /// The role of the offer.
        #[serde(with = "text")]
        role: Role,
        /// The offered resources.
        #[serde(with = "text")]
        resources: Resources,
    },
    /// A new leader keeps an offer of an earlier one.
    #[serde(rename = "kept")]
    Revalidated {
        #[serde(with = "text")]
        offer: OfferId,
    },
    /// The offer was rescinded or has expired. Recorded when the framework is notified.
    Rescinded {
        #[serde(with = "text")]
        offer: OfferId,
    },
    /// All open offers of a leader at one moment, as it lists them. The revision of the event is
    /// the last entry that the leader's registry had applied.
    Listed { offers: Vec<ListedOffer> },
    /// A committed acceptance used the offer, at the revision of the event.
    Used {
        #[serde(with = "text")]
        offer: OfferId,
        /// The framework that accepted it.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// The session that accepted it.
        session: u64,
        /// The tasks that were launched on it.
        #[serde(with = "text::list")]
        tasks: Vec<TaskKey>,
    },
    /// The resources of a role after an allocation, as a leader counts them.
    RoleAccount {
        #[serde(with = "text")]
        role: Role,
        /// The limit of the role, if it has one.
        #[serde(with = "text::option", default)]
        limit: Option<Resources>,
        /// The resources of tasks that have not ended.
        #[serde(with = "text")]
        used: Resources,
        /// The resources in open offers.
        #[serde(with = "text")]
        offered: Resources,
    },
    /// The unallocated resources at the end. All resources that could be offered must be offered or
    /// free.
    Pool {
        /// All resources of reachable agents.
        #[serde(with = "text")]
        total: Resources,
        /// The resources of tasks that have not ended.
        #[serde(with = "text")]
        used: Resources,
        /// The resources in open offers.
        #[serde(with = "text")]
        offered: Resources,
        #[serde(with = "text")]
        free: Resources,
    },
}
