//! Launches while the disk of the journal is full.
//!
//! A task could not write its output, and its launch may be large. The launch is recorded without
//! the parts that only its start needs, and fails. The reserve of the journal is left to kills and
//! to the ends of other tasks. If the agent ends before the end of this task is recorded, and finds
//! space at its next start, it refuses the task as invalid: it has no command.

use argosy_state::task::{Code, Explanation, Reason, TaskState};

use super::Core;
use super::outcome::TaskEnd;

impl Core {
    /// Returns the end of a launch for which the disk has no space; `None` if there is space.
    pub(super) fn no_space_end(&self) -> Option<TaskEnd> {
        self.durability.is_full().then(|| {
            TaskEnd::by_agent(
                TaskState::Failed,
                Reason::ContainerLaunchFailed,
                Explanation::of(Code::AgentDiskFull, &[]),
            )
        })
    }
}
