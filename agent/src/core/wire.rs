//! What the core reads of the wire's messages; the other enums are passed on as they are.

use argosy_proto::convert::{explanation_from, state_from};
use argosy_proto::v1;
use argosy_state::task::{Explanation, Standing, TaskState};

/// The state behind a number; one that this release does not know counts as UNKNOWN.
pub(crate) fn task_state(number: i32) -> TaskState {
    state_from(number).unwrap_or(TaskState::Unknown)
}

/// The number of a state.
pub(crate) fn number(state: TaskState) -> i32 {
    v1::TaskState::from(state).into()
}

/// Why an update is as it is.
pub(crate) fn explanation(update: &v1::NumberedUpdate) -> Explanation {
    explanation_from(
        update.causes.clone(),
        update.text.clone(),
        update.detail_bytes,
    )
}

/// What an update says of the checks of its task.
pub(crate) fn standing(update: &v1::NumberedUpdate) -> Standing {
    Standing {
        healthy: update.healthy,
        ready: update.ready,
    }
}

/// Whether an update says that its task is being ended because it is not healthy.
pub(crate) fn is_unhealthy(update: &v1::NumberedUpdate) -> bool {
    update.state() == v1::TaskState::Killing && update.reason() == v1::Reason::HealthCheckFailed
}
