//! Conversions of wire messages that the core reads; other enums are passed on unchanged.

use argosy_proto::convert::{explanation_from, reason_from, state_from};
use argosy_proto::v1;
use argosy_state::task::{CheckResults, Explanation, Reason, TaskState};

/// Returns the state of a number; one that this release does not know counts as UNKNOWN.
pub(crate) fn task_state(number: i32) -> TaskState {
    state_from(number).unwrap_or(TaskState::Unknown)
}

pub(crate) fn number(state: TaskState) -> i32 {
    v1::TaskState::from(state).into()
}

/// Returns the reason of an update; one that this release does not know is none.
pub(crate) fn reason(update: &v1::NumberedUpdate) -> Reason {
    reason_from(update.reason)
}

/// Returns the explanation of an update.
pub(crate) fn explanation(update: &v1::NumberedUpdate) -> Explanation {
    explanation_from(
        update.causes.clone(),
        update.text.clone(),
        update.detail_bytes,
    )
}

/// Returns the check results in an update.
pub(crate) fn check_results(update: &v1::NumberedUpdate) -> CheckResults {
    CheckResults {
        healthy: update.healthy,
        ready: update.ready,
    }
}

/// Whether an update reports that its task is being ended because it is unhealthy.
pub(crate) fn is_unhealthy(update: &v1::NumberedUpdate) -> bool {
    task_state(update.state) == TaskState::Killing && reason(update) == Reason::HealthCheckFailed
}
