//! Agents: one host each, as the registry holds them.

use std::collections::{BTreeMap, BTreeSet};

use crate::encode::stored::stored;
use crate::ids::{AgentId, OfferId, OrderIndex, Revision, Timestamp};
use crate::registry::OrderKind;
use crate::resources::Resources;
use crate::task::{OptOuts, Sizes};

/// What the cluster makes of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentMode {
    /// In use.
    Registered,
    /// Silent for longer than the timeout; its tasks may run.
    Unreachable,
    /// Its tasks are being ended; nothing is offered.
    Draining,
    /// Empty after draining; nothing is offered.
    Drained,
    /// Nothing is offered; its tasks run on.
    Deactivated,
    /// Declared dead by an operator; refused for ever.
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
    /// Kinds of orders that it takes, by [`OrderKind::name`]; empty for agents of release 0.1.
    pub order_kinds: BTreeSet<String>,
}

impl AgentInfo {
    /// Whether the agent takes orders of this kind. It is sent no others.
    #[must_use]
    pub fn takes(&self, kind: OrderKind) -> bool {
        match kind {
            // Agents of every release do.
            OrderKind::Launch | OrderKind::Kill => true,
            OrderKind::Limits => self.changes_limits || self.order_kinds.contains(kind.name()),
        }
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

/// An agent in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Made by the registry.
    pub id: AgentId,
    /// The random number of its first registration.
    pub nonce: u64,
    /// One life of its process and disk; a stranger with the same id shows another.
    pub incarnation: u64,
    /// Of its host's kernel.
    pub boot_id: String,
    /// What it says of itself; attributes set by operators are in `set_attributes`.
    pub info: AgentInfo,
    /// Set by operators; they win over those in `info`.
    pub set_attributes: BTreeMap<String, String>,
    /// What the cluster makes of it.
    pub mode: AgentMode,
    /// What an unreachable agent becomes when it is heard of again; else the same as `mode`.
    pub mode_when_heard: AgentMode,
    /// Cluster time at which `mode` was entered.
    pub since: Timestamp,
    /// The last order made for it.
    pub orders: OrderIndex,
    /// When totals or attributes last changed: offers made before promise something else.
    pub promise: Revision,
    /// Used offers.
    pub used_offers: UsedOffers,
    /// When its mode or what it says of itself last changed; orders and used offers do not count.
    pub revision: Revision,
}

impl Agent {
    /// Attributes as frameworks see them.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let mut all = self.info.attributes.clone();
        all.extend(self.set_attributes.clone());
        all
    }
}

stored!(message Agent as (Agent {
    id,
    nonce,
    incarnation,
    boot_id,
    info,
    set_attributes,
    mode,
    mode_when_heard,
    since,
    orders,
    promise,
    used_offers: UsedOffers { floor, ids },
    revision,
}) {
    1 id: Number,
    2 nonce: Fixed,
    3 incarnation: Fixed,
    4 boot_id: Text,
    5 info: Part,
    6 set_attributes: TextMap,
    7 mode: Number or "agent mode",
    8 since: Number,
    9 orders: Number,
    10 promise: Part or "revision",
    11 floor: Part or "floor of used offers",
    12 ids: PartList,
    13 revision: Part,
    14 mode_when_heard: Number or "agent mode",
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
    50 order_kinds: TextList,
});
