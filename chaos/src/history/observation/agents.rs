//! Facts about agents: registration, modes, epochs, orders, accounts.

use serde::{Deserialize, Serialize};

use argosy_state::agent::AgentMode;
use argosy_state::ids::{AgentId, Epoch, OrderIndex, TaskKey};
use argosy_state::resources::Resources;

use super::super::text;

/// The purpose of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderAction {
    /// Starts a task.
    Launch,
    /// Kills a task.
    Kill,
    /// Any other purpose.
    Other,
}

/// A fact about an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum AgentFact {
    /// The registry accepted an incarnation as the registered one.
    Registered {
        #[serde(with = "text")]
        agent: AgentId,
        /// The number of the incarnation of its process and disk.
        incarnation: u64,
        /// The incarnation that was registered before, as reported by the agent; 0 for none.
        former: u64,
        /// The boot id of its host's kernel.
        boot_id: String,
    },
    /// A hello was rejected.
    Refused {
        /// The id in the hello.
        #[serde(with = "text")]
        agent: AgentId,
        /// The incarnation in the hello.
        incarnation: u64,
        /// `Rejection::code`.
        code: String,
    },
    /// The mode of the agent changed in the registry.
    Mode {
        #[serde(with = "text")]
        agent: AgentId,
        /// The new mode.
        #[serde(with = "text")]
        mode: AgentMode,
    },
    /// This epoch is the highest on the agent's disk.
    EpochStored {
        #[serde(with = "text")]
        agent: AgentId,
        #[serde(with = "text")]
        epoch: Epoch,
    },
    /// The agent acts on an order. With `repeated`, it has acted on the order before and does
    /// nothing.
    OrderTaken {
        #[serde(with = "text")]
        agent: AgentId,
        /// The epoch that the order names.
        #[serde(with = "text")]
        epoch: Epoch,
        /// The number of the order.
        #[serde(with = "text")]
        order: OrderIndex,
        /// The purpose of the order.
        action: OrderAction,
        /// The task that the order is about.
        #[serde(with = "text::option", default)]
        task: Option<TaskKey>,
        /// Whether the order is at or below the agent's last applied order. Then it is known, and
        /// nothing is done.
        repeated: bool,
    },
    /// The agent rejected an order or a link of an epoch that is over.
    OrderRefused {
        #[serde(with = "text")]
        agent: AgentId,
        /// The epoch that was named.
        #[serde(with = "text")]
        epoch: Epoch,
    },
    /// The use of the agent's resources after an applied entry, as a leader counts it.
    Account {
        #[serde(with = "text")]
        agent: AgentId,
        /// The index of the entry.
        index: u64,
        /// All resources of the agent.
        #[serde(with = "text")]
        total: Resources,
        /// The resources of tasks that have not ended.
        #[serde(with = "text")]
        used: Resources,
        /// The resources in open offers of this leader.
        #[serde(with = "text")]
        offered: Resources,
        /// The rest.
        #[serde(with = "text")]
        free: Resources,
    },
}
