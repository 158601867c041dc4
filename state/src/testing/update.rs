//! Updates that agents report.

use crate::command::AgentUpdate;
use crate::task::{CheckResults, Reason, Task, TaskState, UpdateSource};

/// Returns the next update of a task from its agent, with this state and nothing else.
#[must_use]
pub fn next_update(task: &Task, state: TaskState) -> AgentUpdate {
    AgentUpdate {
        key: task.key.clone(),
        order: task.order,
        number: task.reported + 1,
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
