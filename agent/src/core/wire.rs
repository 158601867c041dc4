//! Task states as numbers of the wire; the wire's other enums are passed on as they are.

use argosy_proto::convert::state_from;
use argosy_proto::v1;
use argosy_state::task::TaskState;

/// The state behind a number; one that this release does not know counts as UNKNOWN.
pub(crate) fn task_state(number: i32) -> TaskState {
    state_from(number).unwrap_or(TaskState::Unknown)
}

/// The number of a state.
pub(crate) fn number(state: TaskState) -> i32 {
    v1::TaskState::from(state).into()
}
