//! The cause for which a task group is ended: a failed or killed task, or a kill order.

use argosy_state::planted_bug;
use argosy_state::task::{Code, Explanation, Reason, TaskState};

use crate::core::facts::TaskFacts;
use crate::core::lifecycle::{InstancePhase, InstanceState};

/// The cause for which a task group is ended.
pub(super) struct GroupEndCause {
    /// The explanation for updates.
    pub(super) why: Explanation,
    /// The reason with which tasks that were not started yet become FAILED; `None` if they become
    /// KILLED.
    pub(super) failure_reason: Option<Reason>,
}

impl GroupEndCause {
    pub(super) fn new(why: Explanation, failed: Option<Reason>) -> Self {
        Self {
            why,
            failure_reason: failed,
        }
    }

    /// Returns the cause of a malformed group.
    pub(super) fn of_group(what: Explanation, failed: Reason) -> Self {
        let why = Explanation::of(Code::GroupEnded, &[]).then(what);
        Self::new(why, Some(failed))
    }
}

/// The order of precedence when several tasks name a cause: the lowest is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CausePriority {
    /// A task has failed.
    Failure,
    /// A task was killed, is to be killed, or is missing.
    Other,
    /// The group is being ended already.
    InProgress,
}

/// Returns whether the task was started, as far as this agent knows. The record of a start may be
/// lost in a crash, but only a command that was executed can finish.
pub(super) fn has_started(state: &InstanceState, task: &TaskFacts) -> bool {
    task.started.is_some()
        || state.phase == InstancePhase::Running
        || (state.has_ended() && end_report(state, task).0 == TaskState::Finished)
}

/// Returns the cause that this task gives for ending its group, if any.
pub(super) fn cause_in(
    current: &InstanceState,
    task: &TaskFacts,
) -> Option<(CausePriority, GroupEndCause)> {
    if let Some(why) = &current.group.why {
        let failed = current
            .end
            .as_ref()
            .filter(|end| end.state == TaskState::Failed);
        let cause = GroupEndCause {
            why: why.clone(),
            failure_reason: failed.map(|end| end.reason),
        };
        return Some((CausePriority::InProgress, cause));
    }
    let name = &task.key.task;
    if current.has_ended() {
        let (state, reason, why) = end_report(current, task);
        return match state {
            TaskState::Finished => None,
            TaskState::Failed if planted_bug!(GroupOutlives) && is_first(task) => None,
            TaskState::Failed | TaskState::Error => {
                let why = Explanation::of(Code::GroupTaskFailed, &[name]).then(why);
                Some((
                    CausePriority::Failure,
                    GroupEndCause::new(why, Some(reason)),
                ))
            }
            TaskState::Staging
            | TaskState::Starting
            | TaskState::Running
            | TaskState::Killing
            | TaskState::Killed
            | TaskState::Dropped
            | TaskState::Gone
            | TaskState::GoneByOperator
            | TaskState::Unreachable
            | TaskState::Unknown => {
                let why = Explanation::of(Code::GroupTaskKilled, &[name]);
                Some((CausePriority::Other, GroupEndCause::new(why, None)))
            }
        };
    }
    let is_unwanted = !task.held || task.kill_grace_ms.is_some();
    is_unwanted.then(|| {
        let why = Explanation::of(Code::GroupTaskEnding, &[name]);
        (CausePriority::Other, GroupEndCause::new(why, None))
    })
}

/// Returns state, reason and explanation of its end, from this run of the agent or from its newest
/// update.
fn end_report(state: &InstanceState, task: &TaskFacts) -> (TaskState, Reason, Explanation) {
    match (&state.end, task.updates.back()) {
        (Some(end), _) => (end.state, end.reason, end.why.clone()),
        (None, Some(update)) => (task.state, update.reason, update.text.clone().explanation()),
        (None, None) => (
            task.state,
            Reason::None,
            Explanation::of(Code::LastUpdateGone, &[]),
        ),
    }
}

/// Implements a planted defect only.
fn is_first(task: &TaskFacts) -> bool {
    let place = task.launch.spec.group.as_ref();
    place.is_some_and(|place| place.place == 0)
}
