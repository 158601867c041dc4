//! What becomes of launches while the disk of the journal is full.
//!
//! A task could not write its output, and its launch may be large: it is recorded without what only its start needs, and
//! has failed. What is reserved of the disk is left to kills and to the ends of other tasks.

use argosy_proto::v1;
use argosy_state::task::TaskState;

use super::Core;
use super::end::End;

/// Removes what only the start of a task needs: what is left is small and names the task. Without a command it cannot be
/// started: should the agent end before it has recorded the end of this task, and the next one find space, that one
/// refuses it as invalid.
pub(super) fn strip(launch: &mut v1::LaunchOrder) {
    if let Some(spec) = launch.spec.take() {
        launch.spec = Some(v1::TaskSpec {
            task_id: spec.task_id,
            resources: spec.resources,
            group: spec.group,
            ..v1::TaskSpec::default()
        });
    }
}

impl Core {
    /// How a launch ends for which there is no space on the disk; `None` if there is.
    pub(super) fn has_no_space(&self) -> Option<End> {
        self.journal_is_full.then(|| {
            End::by_agent(
                TaskState::Failed,
                v1::Reason::LimitDisk,
                "not started: the disk of this agent is full; make room, or launch it on another agent",
            )
        })
    }
}
