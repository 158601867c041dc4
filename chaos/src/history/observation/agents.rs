//! Facts about agents: registration, modes, epochs, orders, accounts.

use serde::{Deserialize, Serialize};

use argosy_state::agent::AgentMode;
use argosy_state::ids::{AgentId, Epoch, OrderIndex, TaskKey};
use argosy_state::resources::Resources;

use super::super::text;

/// What an order is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderAction {
    /// Start a task.
    Launch,
    /// End a task.
    Kill,
    /// Anything else.
    Other,
}

/// A fact about an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum AgentFact {
    /// The registry took an incarnation of it for the registered one.
    Registered {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
        /// One life of its process and disk.
        incarnation: u64,
        /// The one that it was registered with before, as the agent itself says; 0 for none.
        former: u64,
        /// Of its host's kernel.
        boot_id: String,
    },
    /// A hello was refused.
    Refused {
        /// Under which id.
        #[serde(with = "text")]
        agent: AgentId,
        /// Of which life.
        incarnation: u64,
        /// `Rejection::code`.
        code: String,
    },
    /// The cluster makes this of it from now on.
    Mode {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
        /// What.
        #[serde(with = "text")]
        mode: AgentMode,
    },
    /// It has this reign on its disk as the highest it has seen.
    EpochStored {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
        /// The reign.
        #[serde(with = "text")]
        epoch: Epoch,
    },
    /// It acts on an order (also one that it has acted on before and does nothing for again, with
    /// `repeated`).
    OrderTaken {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
        /// The reign that the order names.
        #[serde(with = "text")]
        epoch: Epoch,
        /// Its number.
        #[serde(with = "text")]
        order: OrderIndex,
        /// What for.
        action: OrderAction,
        /// For which task.
        #[serde(with = "text::option", default)]
        task: Option<TaskKey>,
        /// At or below its floor: known, and nothing was done.
        repeated: bool,
    },
    /// It refused an order or a link of a reign that is over.
    OrderRefused {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
        /// The reign that was named.
        #[serde(with = "text")]
        epoch: Epoch,
    },
    /// What becomes of its resources after an applied entry, as a leader counts.
    Account {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
        /// After this entry.
        index: u64,
        /// All that it gives.
        #[serde(with = "text")]
        total: Resources,
        /// By tasks that have not ended.
        #[serde(with = "text")]
        used: Resources,
        /// In live offers of this leader.
        #[serde(with = "text")]
        offered: Resources,
        /// Neither.
        #[serde(with = "text")]
        free: Resources,
    },
}
