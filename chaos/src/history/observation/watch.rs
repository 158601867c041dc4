//! Facts about the change feed: what a reader received, in its order.
//!
//! The event around a fact has its revision: of a change that of the feed, whose position counts
//! the changed records of the entry.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{Revision, TaskKey};
use argosy_state::task::TaskState;

use super::super::text;

/// A message that a reader of the change feed received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum WatchFact {
    /// A snapshot begins: the reader has discarded everything.
    SnapshotBegun,
    /// The snapshot has this task, with its newest update.
    TaskListed {
        #[serde(with = "text")]
        task: TaskKey,
        #[serde(with = "text")]
        update: Revision,
        #[serde(with = "text")]
        state: TaskState,
    },
    /// The snapshot is complete.
    SnapshotEnded,
    /// A task has changed. This is its newest update; absent if the registry has dropped the task.
    TaskChanged {
        #[serde(with = "text")]
        task: TaskKey,
        #[serde(
            with = "text::option",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        update: Option<Revision>,
        #[serde(
            with = "text::option",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        state: Option<TaskState>,
    },
    /// The master no longer has all changes after the position of the reader.
    HistoryLost {
        /// The log index after which it has them.
        oldest: u64,
    },
    /// Everything up to the index was sent.
    Progress,
}
