//! Conversion of wire messages to facts of a history.

use argosy_proto::v1;
use argosy_state::ids::OfferId;
use argosy_state::task::TaskState;

use crate::history::ProcessExit;

/// Returns the offer ids. Invalid ones are left out.
pub(super) fn offer_ids(ids: &[String]) -> Vec<OfferId> {
    ids.iter().filter_map(|id| id.parse().ok()).collect()
}

/// Returns the state; `None` for a state that no task can have.
pub(super) fn state_of(state: v1::TaskState) -> Option<TaskState> {
    use v1::TaskState as Wire;
    Some(match state {
        Wire::Unspecified => return None,
        Wire::Staging => TaskState::Staging,
        Wire::Starting => TaskState::Starting,
        Wire::Running => TaskState::Running,
        Wire::Killing => TaskState::Killing,
        Wire::Finished => TaskState::Finished,
        Wire::Failed => TaskState::Failed,
        Wire::Killed => TaskState::Killed,
        Wire::Error => TaskState::Error,
        Wire::Dropped => TaskState::Dropped,
        Wire::Gone => TaskState::Gone,
        Wire::GoneByOperator => TaskState::GoneByOperator,
        Wire::Unreachable => TaskState::Unreachable,
        Wire::Unknown => TaskState::Unknown,
    })
}

/// Returns how the process of a task ended; `None` if the update does not report it.
pub(super) fn exit_of(status: &v1::TaskStatus) -> Option<ProcessExit> {
    match status.exit?.how? {
        v1::exit::How::Code(code) => Some(ProcessExit::Code(code)),
        v1::exit::How::Signal(signal) => Some(ProcessExit::Signal(signal)),
    }
}

/// Logs why a task could not be started. Histories have no texts.
pub(super) fn log_failure(status: &v1::TaskStatus) {
    let is_failure = matches!(
        status.state(),
        v1::TaskState::Failed | v1::TaskState::Error | v1::TaskState::Dropped
    );
    if is_failure && exit_of(status).is_none() {
        let reason = status.reason().as_str_name();
        eprintln!("{} failed: {reason}: {}", status.task_id, status.message);
    }
}
