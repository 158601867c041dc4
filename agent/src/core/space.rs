//! Launches while the disk of the journal is full.
//!
//! A task could not write its output, and its launch may be large. The launch is recorded without
//! the parts that only its start needs, and fails, whether there is space again or not. The reserve
//! of the journal is left to kills and to the ends of other tasks.

use argosy_state::task::{Code, Explanation, Reason, TaskState};

use super::Core;
use super::launch::{LaunchOrder, OrderForm};
use super::outcome::TaskEnd;

impl Core {
    /// Returns the end of a launch for which the disk has, or had at its order, no space.
    pub(super) fn no_space_end(&self, launch: &LaunchOrder) -> Option<TaskEnd> {
        (self.durability.is_full() || launch.form == OrderForm::Stripped).then(|| {
            TaskEnd::by_agent(
                TaskState::Failed,
                Reason::ContainerLaunchFailed,
                Explanation::of(Code::AgentDiskFull, &[]),
            )
        })
    }
}
