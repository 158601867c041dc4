//! Facts about frameworks: how long they may be away, and why they were removed.

use serde::{Deserialize, Serialize};

use argosy_state::ids::FrameworkId;

use super::super::text;

/// Which kind of command removed a framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// A teardown by an operator or by the framework.
    Teardown,
    /// Its failover timeout was over.
    Deadline,
    /// Its principal had too many frameworks: it was disconnected and had no tasks.
    Room,
}

/// A fact about a framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum FrameworkFact {
    /// Its subscription was answered; recorded by the framework.
    Subscribed {
        /// Which.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// How long it may be disconnected before it is removed.
        failover_timeout_ms: u64,
    },
    /// An applied entry recorded its absence.
    Disconnected {
        /// Which.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// Cluster time of the entry.
        at_ms: u64,
    },
    /// An applied entry began its removal.
    Removing {
        /// Which.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// By which kind of command.
        by: Removal,
        /// Cluster time of the entry.
        at_ms: u64,
    },
}
