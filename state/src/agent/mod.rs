//! Agents in the registry: one record for each host.
//!
//! The facts that an agent reports ([`AgentReport`]) are separate from the decisions of the masters
//! ([`AgentAdministration`]). Both are separate from reachability ([`Reachability`]). A
//! registration replaces the first and never changes the second.

mod orders;
mod single_record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::actor::Principal;
use crate::capability::{AgentCapability, CapabilityNames};
use crate::codec::scalars::numbered;
use crate::codec::stored::stored;
use crate::ids::{AgentId, OfferId, OrderIndex, Revision, Timestamp};
use crate::resources::Resources;
use crate::task::{SecurityOptions, Sizes, TaskSpec};

pub use orders::{Order, OrderKind};
pub(crate) use single_record::WholeAgent;

/// Whether heartbeats of an agent arrive at the masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// Heartbeats arrive, or no leader has declared the agent unreachable yet.
    Reachable {
        /// The cluster time of the registration that made the agent reachable.
        since: Timestamp,
    },
    /// No heartbeat has arrived within the timeout; the tasks may still run.
    Unreachable {
        /// The cluster time at which a leader declared the agent unreachable.
        since: Timestamp,
    },
}

impl Reachability {
    /// Returns the cluster time of the last change.
    #[must_use]
    pub fn since(self) -> Timestamp {
        match self {
            Self::Reachable { since } | Self::Unreachable { since } => since,
        }
    }
}

/// The administrative state of an agent, which is independent of its reachability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Administration {
    /// The agent is in use.
    Active,
    /// The agent's tasks are being killed; its resources are not offered.
    Draining,
    /// The agent is empty after draining; its resources are not offered.
    Drained,
    /// The agent's resources are not offered; its tasks continue to run.
    Deactivated,
    /// An operator or a leader declared the agent gone. It is rejected permanently.
    Gone,
}

/// The state of an agent in one word, as operators and metrics show it. It follows from
/// administration and reachability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentMode {
    /// Active and reachable.
    Registered,
    /// Unreachable and not gone, whatever the administrative state.
    Unreachable,
    /// Draining and reachable.
    Draining,
    /// Drained and reachable.
    Drained,
    /// Deactivated and reachable.
    Deactivated,
    /// Gone, whether reachable or not.
    Gone,
}

impl AgentMode {
    /// Returns whether the registry only waits for the agent to return or to be removed.
    #[must_use]
    pub fn is_lost(self) -> bool {
        match self {
            Self::Unreachable | Self::Gone => true,
            Self::Registered | Self::Draining | Self::Drained | Self::Deactivated => false,
        }
    }
}

/// The description of an agent, as the agent reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentInfo {
    /// The name of the host.
    pub host_name: String,
    /// The address of the agent's API, `host:port`.
    pub address: String,
    /// All resources that the agent provides.
    pub resources: Resources,
    /// Free text by which frameworks select agents.
    pub attributes: BTreeMap<String, String>,
    /// The release of the agent.
    pub version: String,
    /// The cgroup controllers that the host lacks.
    pub missing_controllers: Vec<String>,
    /// The isolation mode: "full", "user-namespaces" or "processes".
    pub isolation: String,
    /// The security options that the agent's operator allows tasks to request.
    pub allowed_security_options: SecurityOptions,
    /// The largest container sizes that the agent's operator allows. Agents of release 0.1 report
    /// none.
    pub largest_sizes: Sizes,
    /// Whether the agent accepts orders that change limits, as agents of release 0.1 announce it.
    pub changes_limits: bool,
    /// The capabilities of the agent; empty for agents of release 0.1.
    pub capabilities: CapabilityNames,
}

impl AgentInfo {
    /// Returns whether the agent has this capability.
    #[must_use]
    pub fn can(&self, capability: AgentCapability) -> bool {
        self.capabilities.contains(capability.name())
            || capability.is_of_every_release()
            || (capability == AgentCapability::LIMITS && self.changes_limits)
    }

    /// Returns whether the agent supports everything that a task requests. A task that it does not
    /// support is not launched on it.
    #[must_use]
    pub fn can_launch(&self, spec: &TaskSpec) -> bool {
        AgentCapability::needed(spec).all(|one| self.can(one))
    }

    /// Returns whether the agent accepts orders of this kind. It is sent no others.
    #[must_use]
    pub fn takes(&self, kind: OrderKind) -> bool {
        self.can(kind.capability())
    }
}

/// The used offers of an agent, which prevent that an offer is used twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsedOffers {
    /// This offer and all before it count as used.
    pub floor: OfferId,
    /// The used offers above the floor, at most [`crate::limits::USED_OFFERS`].
    pub ids: BTreeSet<OfferId>,
}

/// The facts that an agent reports. Each registration replaces all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentReport {
    /// The incarnation of the agent's process and disk. Another agent with the same id reports
    /// another number.
    pub incarnation: u64,
    /// The boot id of the host's kernel.
    pub boot_id: String,
    /// The addresses, resources, attributes and capabilities.
    pub info: AgentInfo,
}

/// The decisions of the masters about an agent. No registration changes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentAdministration {
    /// The administrative state.
    pub administration: Administration,
    /// The cluster time at which `administration` was entered.
    pub since: Timestamp,
    /// The cluster time at which `administration` ends, if it ends by itself.
    pub deadline: Option<Timestamp>,
    /// The attributes that operators have set; they override reported ones.
    pub attributes: BTreeMap<String, String>,
    /// The revision at which one of these fields last changed. Records of release 0.1.0 have none.
    pub revision: Revision,
}

/// An agent in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The id, assigned by the registry.
    pub id: AgentId,
    /// The random number of the first registration.
    pub nonce: u64,
    /// The first proven principal that registered the agent, since level 3. No other principal may
    /// register it.
    pub principal: Option<Principal>,
    /// The reported facts, shared with copies of the registry.
    pub report: Arc<AgentReport>,
    /// The decisions of the masters.
    pub admin: AgentAdministration,
    /// Whether heartbeats arrive.
    pub reachability: Reachability,
    /// The number of the last order for this agent.
    pub orders: OrderIndex,
    /// The revision at which totals or attributes last changed. Offers made before it are outdated.
    pub offer_revision: Revision,
    /// The used offers.
    pub used_offers: UsedOffers,
    /// The revision at which the record last changed, apart from orders and used offers.
    pub revision: Revision,
}

impl Agent {
    /// Returns the state of the agent in one word.
    #[must_use]
    pub fn mode(&self) -> AgentMode {
        match (self.admin.administration, self.reachability) {
            (Administration::Gone, _) => AgentMode::Gone,
            (_, Reachability::Unreachable { .. }) => AgentMode::Unreachable,
            (Administration::Active, Reachability::Reachable { .. }) => AgentMode::Registered,
            (Administration::Draining, Reachability::Reachable { .. }) => AgentMode::Draining,
            (Administration::Drained, Reachability::Reachable { .. }) => AgentMode::Drained,
            (Administration::Deactivated, Reachability::Reachable { .. }) => AgentMode::Deactivated,
        }
    }

    /// Returns the cluster time at which the mode was entered.
    #[must_use]
    pub fn mode_since(&self) -> Timestamp {
        match self.mode() {
            AgentMode::Gone => self.admin.since,
            AgentMode::Unreachable => self.reachability.since(),
            AgentMode::Registered
            | AgentMode::Draining
            | AgentMode::Drained
            | AgentMode::Deactivated => self.reachability.since().max(self.admin.since),
        }
    }

    /// Returns all resources that the agent provides to tasks: the reported ones, as modified by
    /// decisions of the masters.
    #[must_use]
    pub fn total(&self) -> &Resources {
        &self.report.info.resources
    }

    /// Returns the attributes as frameworks see them.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut all = self.report.info.attributes.clone();
        all.extend(self.admin.attributes.clone());
        all
    }
}

stored!(message AgentAdministration {
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
    13 allowed_security_options: PartOrDefault,
    14 largest_sizes: PartOrDefault,
    40 changes_limits: Number,
    50 capabilities: TextList,
});

numbered!(
    AgentMode,
    Registered = 1,
    Unreachable = 2,
    Draining = 3,
    Drained = 4,
    Deactivated = 5,
    Gone = 6,
);

numbered!(
    Administration,
    Active = 1,
    Draining = 2,
    Drained = 3,
    Deactivated = 4,
    Gone = 5,
);

stored!(message AgentReport {
    1 incarnation: Fixed,
    2 boot_id: Text,
    3 info: Part,
});

stored!(oneof Reachability {
    1 Reachable { since } as Number,
    2 Unreachable { since } as Number,
});
