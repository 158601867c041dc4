//! Transitions of a task between states, as its history keeps them.

use super::{Exit, Reason, TaskState, TaskUpdate, UpdateSource};
use crate::codec::stored::stored;
use crate::ids::Revision;

/// A change of a task's state. The number in its history is in the key of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskTransition {
    /// The revision at which the state became true.
    pub revision: Revision,
    /// The new state.
    pub state: TaskState,
    /// The origin of the update.
    pub source: UpdateSource,
    /// The reason for the state.
    pub reason: Reason,
    /// The exit status of the process, if it has ended.
    pub exit: Option<Exit>,
    /// The wall-clock time in milliseconds of the Unix epoch, for display only.
    pub wall_ms: i64,
}

impl TaskTransition {
    /// Returns the transition to the state of an update; `None` if `former`, the previous update,
    /// has that state. A task that has stopped itself stays UNREACHABLE, which counts.
    pub(crate) fn after(former: &TaskUpdate, update: &TaskUpdate) -> Option<Self> {
        let is_new = former.state != update.state || (update.stopped && !former.stopped);
        is_new.then(|| Self::of(update))
    }

    /// Returns the transition to the state of an update.
    #[must_use]
    pub fn of(update: &TaskUpdate) -> Self {
        Self {
            revision: update.revision,
            state: update.state,
            source: update.source,
            reason: update.reason,
            exit: update.exit,
            wall_ms: update.wall_ms,
        }
    }
}

stored!(message TaskTransition {
    1 revision: Part,
    2 state: Number or "task state",
    3 source: Number,
    4 reason: Number,
    5 exit: MaybePart,
    6 wall_ms: Number,
});
