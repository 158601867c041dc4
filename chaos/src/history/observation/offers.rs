//! Facts about offers, and about what roles hold.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{AgentId, FrameworkId, OfferId, Role, TaskKey};
use argosy_state::resources::Resources;

use super::super::text;

/// An offer on a leader's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedOffer {
    /// Its name.
    #[serde(with = "text")]
    pub offer: OfferId,
    /// Of which agent.
    #[serde(with = "text")]
    pub agent: AgentId,
    /// What.
    #[serde(with = "text")]
    pub resources: Resources,
}

/// A fact about an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum OfferFact {
    /// A framework has it: recorded by the framework that received it, or by the leader that sent it.
    Made {
        /// Its name; the epoch in it says which reign made it.
        #[serde(with = "text")]
        offer: OfferId,
        /// To whom.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// In which session.
        session: u64,
        /// Of which agent.
        #[serde(with = "text")]
        agent: AgentId,
        /// In which role.
        #[serde(with = "text")]
        role: Role,
        /// What.
        #[serde(with = "text")]
        resources: Resources,
    },
    /// A new leader keeps an offer of a former one.
    Kept {
        /// Which.
        #[serde(with = "text")]
        offer: OfferId,
    },
    /// It is void: withdrawn, or its time is over. Recorded when the framework knows.
    Rescinded {
        /// Which.
        #[serde(with = "text")]
        offer: OfferId,
    },
    /// All offers that a leader has open at one moment, as it lists them; the revision of the event says how far that
    /// leader's registry was.
    Listed {
        /// All of them.
        offers: Vec<ListedOffer>,
    },
    /// A committed acceptance used it; the revision of the event says when.
    Used {
        /// Which.
        #[serde(with = "text")]
        offer: OfferId,
        /// By whom.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// In which session.
        session: u64,
        /// What was launched on it.
        #[serde(with = "text::list")]
        tasks: Vec<TaskKey>,
    },
    /// What a role holds after an allocation, as a leader counts.
    RoleAccount {
        /// Which.
        #[serde(with = "text")]
        role: Role,
        /// Never more than this, if it is limited.
        #[serde(with = "text::option", default)]
        limit: Option<Resources>,
        /// By tasks that have not ended.
        #[serde(with = "text")]
        used: Resources,
        /// In live offers.
        #[serde(with = "text")]
        offered: Resources,
    },
    /// What is nobody's at the end, of what could be offered: it must be on offer or free.
    Pool {
        /// All that reachable agents give.
        #[serde(with = "text")]
        total: Resources,
        /// By tasks that have not ended.
        #[serde(with = "text")]
        used: Resources,
        /// In live offers.
        #[serde(with = "text")]
        offered: Resources,
        /// Free.
        #[serde(with = "text")]
        free: Resources,
    },
}
