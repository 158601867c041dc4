//! Facts about frameworks: their failover timeouts, and why they were removed.

use serde::{Deserialize, Serialize};

use argosy_state::ids::FrameworkId;

use super::super::text;

/// The kind of command that removed a framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// A teardown by an operator or by the framework.
    Teardown,
    /// The failover timeout expired.
    Deadline,
    /// The principal had too many frameworks. This one was disconnected and had no tasks.
    #[serde(rename = "room")]
    Quota,
}

/// A fact about a framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum FrameworkFact {
    /// The subscription was answered. Recorded by the framework.
    Subscribed {
        #[serde(with = "text")]
        framework: FrameworkId,
        /// The failover timeout: the framework is removed when it has been disconnected for this
        /// long.
        failover_timeout_ms: u64,
    },
    /// An applied entry recorded that the framework is disconnected.
    Disconnected {
        #[serde(with = "text")]
        framework: FrameworkId,
        /// Cluster time of the entry.
        at_ms: u64,
    },
    /// An applied entry began the removal.
    Removing {
        #[serde(with = "text")]
        framework: FrameworkId,
        /// The kind of command.
        by: Removal,
        /// Cluster time of the entry.
        at_ms: u64,
    },
}
