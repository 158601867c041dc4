//! Updates that agents report.

use crate::command::AgentUpdate;
use crate::ids::{OrderIndex, TaskKey};
use crate::task::{CheckResults, Reason, Task, TaskState, UpdateSource};

/// Returns the next update of a task from its agent, with this state and nothing else.
#[must_use]
pub fn next_update(task: &Task, state: TaskState) -> AgentUpdate {
    update(task.key.clone(), task.order, task.reported + 1, state)
}

/// Returns an update of the instance that was started by this order, with this number and state and
/// nothing else.
#[must_use]
pub fn update(key: TaskKey, order: OrderIndex, number: u64, state: TaskState) -> AgentUpdate {
    AgentUpdate {
        key,
        order,
        number,
        state,
        source: UpdateSource::Agent,
        reason: Reason::None,
        causes: Vec::new(),
        message: String::new(),
        exit: None,
        standing: CheckResults::default(),
        limits: None,
        wall_ms: 0,
    }
}
