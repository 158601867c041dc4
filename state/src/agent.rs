//! Agents: one host each, as the registry holds them.
//!
//! What an agent reports ([`Reported`]) is separate from what the masters have agreed on ([`Agreed`]), and both from
//! whether masters hear of it ([`Reachability`]). A registration replaces the first, and never changes the second.

mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::capability::{AgentCapability, Announced};
use crate::encode::stored::stored;
use crate::ids::{AgentId, OfferId, OrderIndex, Revision, Timestamp};
use crate::registry::OrderKind;
use crate::resources::Resources;
use crate::task::{OptOuts, Sizes, TaskSpec};

pub(crate) use whole::WholeAgent;

/// Whether masters hear of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// It is heard of, or a leader has not given up on it.
    Reachable {
        /// Cluster time of the registration that made it so.
        since: Timestamp,
    },
    /// Silent for longer than the timeout; its tasks may run.
    Unreachable {
        /// Cluster time at which a leader gave up on it.
        since: Timestamp,
    },
}

impl Reachability {
    /// Cluster time of the last change.
    #[must_use]
    pub fn since(self) -> Timestamp {
        match self {
            Self::Reachable { since } | Self::Unreachable { since } => since,
        }
    }
}

/// What the masters have agreed to do with an agent, reachable or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Administration {
    /// In use.
    Active,
    /// Its tasks are being ended; nothing is offered.
    Draining,
    /// Empty after draining; nothing is offered.
    Drained,
    /// Nothing is offered; its tasks run on.
    Deactivated,
    /// Declared dead; refused for ever.
    Gone,
}

/// The state of an agent in one word, as operators and metrics have it. It follows from administration and reachability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentMode {
    /// Active and reachable.
    Registered,
    /// Unreachable, whatever its administration, unless it is gone.
    Unreachable,
    /// Draining and reachable.
    Draining,
    /// Drained and reachable.
    Drained,
    /// Deactivated and reachable.
    Deactivated,
    /// Gone, reachable or not.
    Gone,
}

impl AgentMode {
    /// Whether the registry only waits for the agent to return, or to be forgotten.
    #[must_use]
    pub fn is_lost(self) -> bool {
        match self {
            Self::Unreachable | Self::Gone => true,
            Self::Registered | Self::Draining | Self::Drained | Self::Deactivated => false,
        }
    }
}

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentInfo {
    /// Of its host.
    pub host_name: String,
    /// Of its API, `host:port`.
    pub address: String,
    /// All that it gives.
    pub resources: Resources,
    /// Free text by which frameworks choose.
    pub attributes: BTreeMap<String, String>,
    /// Its release.
    pub version: String,
    /// cgroup controllers that its host lacks.
    pub missing_controllers: Vec<String>,
    /// "full", "user-namespaces" or "processes".
    pub isolation: String,
    /// What its operator allows tasks to be let off.
    pub allowed_opt_outs: OptOuts,
    /// The largest sizes of containers that its operator gives; of agents of release 0.1 none.
    pub largest_sizes: Sizes,
    /// It takes orders that change limits, as agents of release 0.1 announce it.
    pub changes_limits: bool,
    /// What it can do; empty for agents of release 0.1.
    pub capabilities: Announced,
}

impl AgentInfo {
    /// Whether the agent has this capability.
    #[must_use]
    pub fn can(&self, capability: AgentCapability) -> bool {
        let is_announced = self.capabilities.contains(capability.name());
        match capability {
            // Agents of every release do.
            AgentCapability::Launch | AgentCapability::Kill => true,
            AgentCapability::Limits => self.changes_limits || is_announced,
            AgentCapability::KillSignal
            | AgentCapability::ImagePull
            | AgentCapability::HostPathPlaces => is_announced,
        }
    }

    /// Whether the agent can do all that a task asks for. It is sent no launch of another one.
    #[must_use]
    pub fn can_launch(&self, spec: &TaskSpec) -> bool {
        AgentCapability::needed(spec).all(|one| self.can(one))
    }

    /// Whether the agent takes orders of this kind. It is sent no others.
    #[must_use]
    pub fn takes(&self, kind: OrderKind) -> bool {
        self.can(kind.capability())
    }
}

/// Which offers of an agent were used, so that none is used twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsedOffers {
    /// This one and all before it count as used.
    pub floor: OfferId,
    /// Used ones above the floor; at most [`crate::limits::USED_OFFERS`].
    pub ids: BTreeSet<OfferId>,
}

/// What an agent reports. Each registration replaces it as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// One life of its process and disk; a stranger with the same id shows another.
    pub incarnation: u64,
    /// Of its host's kernel.
    pub boot_id: String,
    /// Addresses, resources, attributes and capabilities.
    pub info: AgentInfo,
}

/// What the masters have agreed on about an agent. No registration changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// Whether it is in use.
    pub administration: Administration,
    /// Cluster time at which `administration` was entered.
    pub since: Timestamp,
    /// Cluster time at which `administration` is over, if it ends by itself.
    pub deadline: Option<Timestamp>,
    /// Attributes set by operators; they win over reported ones.
    pub attributes: BTreeMap<String, String>,
    /// When one of these last changed. What release 0.1.0 wrote has none.
    pub revision: Revision,
}

/// An agent in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Made by the registry.
    pub id: AgentId,
    /// The random number of its first registration.
    pub nonce: u64,
    /// What it reports; shared with copies of the registry.
    pub reported: Arc<Reported>,
    /// What the masters have agreed on.
    pub agreed: Agreed,
    /// Whether masters hear of it.
    pub reachability: Reachability,
    /// The last order made for it.
    pub orders: OrderIndex,
    /// When totals or attributes last changed: offers made before promise something else.
    pub promise: Revision,
    /// Used offers.
    pub used_offers: UsedOffers,
    /// When anything of it but orders and used offers last changed.
    pub revision: Revision,
}

impl Agent {
    /// Its state in one word.
    #[must_use]
    pub fn mode(&self) -> AgentMode {
        match (self.agreed.administration, self.reachability) {
            (Administration::Gone, _) => AgentMode::Gone,
            (_, Reachability::Unreachable { .. }) => AgentMode::Unreachable,
            (Administration::Active, Reachability::Reachable { .. }) => AgentMode::Registered,
            (Administration::Draining, Reachability::Reachable { .. }) => AgentMode::Draining,
            (Administration::Drained, Reachability::Reachable { .. }) => AgentMode::Drained,
            (Administration::Deactivated, Reachability::Reachable { .. }) => AgentMode::Deactivated,
        }
    }

    /// Cluster time at which its mode was entered.
    #[must_use]
    pub fn mode_since(&self) -> Timestamp {
        match self.mode() {
            AgentMode::Gone => self.agreed.since,
            AgentMode::Unreachable => self.reachability.since(),
            AgentMode::Registered
            | AgentMode::Draining
            | AgentMode::Drained
            | AgentMode::Deactivated => self.reachability.since().max(self.agreed.since),
        }
    }

    /// All that it gives to tasks: what it reports, as what is agreed on shapes it.
    #[must_use]
    pub fn total(&self) -> &Resources {
        &self.reported.info.resources
    }

    /// Attributes as frameworks see them.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut all = self.reported.info.attributes.clone();
        all.extend(self.agreed.attributes.clone());
        all
    }
}

stored!(message Agreed {
    1 administration: Number,
    2 since: Number,
    3 deadline: MaybeNumber,
    4 attributes: TextMap,
    5 revision: Part,
});

stored!(message AgentInfo {
    1 host_name: Text,
    2 address: Text,
    3 resources: Part,
    4 attributes: TextMap,
    5 version: Text,
    6 missing_controllers: TextList,
    7 isolation: Text,
    13 allowed_opt_outs: PartOrDefault,
    14 largest_sizes: PartOrDefault,
    40 changes_limits: Number,
    50 capabilities: TextList,
});
