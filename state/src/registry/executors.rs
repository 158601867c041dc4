//! What is derived of executors: which tasks keep one on an agent, and whether it counts.
//!
//! There is no record of an executor: it follows from its tasks, all of which describe it alike.

use super::Registry;
use super::index::Sign;
use crate::ids::{AgentId, FrameworkId, TaskId, TaskKey};
use crate::persistent::{Map, Set};
use crate::task::{ExecutorSpec, Task};

/// Names an executor on its agent: whose it is, and its id there.
pub type ExecutorKey = (FrameworkId, TaskId);

/// What is derived of one executor on one agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecutorIndex {
    /// Its tasks that have not ended; never empty. As long as there are any, its agent counts its own resources as used.
    pub tasks: Set<TaskKey>,
    /// How many of them are not UNREACHABLE. As long as there are any, its role and framework count them too.
    pub reachable: usize,
}

/// What of an executor's own resources begins or ceases to count with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turned {
    /// For its agent.
    pub(super) agent: bool,
    /// For its role and framework.
    pub(super) role: bool,
}

/// Counts a task that has not ended in or out.
pub(super) fn count(
    executors: &mut Map<ExecutorKey, ExecutorIndex>,
    executor: &ExecutorSpec,
    key: &TaskKey,
    reachable: bool,
    sign: Sign,
) -> Turned {
    let name = (key.framework, executor.executor.clone());
    let index = executors.or_default(name.clone());
    let former = (!index.tasks.is_empty(), index.reachable > 0);
    sign.set(&mut index.tasks, key.clone());
    if reachable {
        sign.count(&mut index.reachable);
    }
    let present = (!index.tasks.is_empty(), index.reachable > 0);
    if !present.0 {
        executors.remove(&name);
    }
    Turned {
        agent: former.0 != present.0,
        role: former.1 != present.1,
    }
}

impl Registry {
    /// A task that keeps this executor on this agent, if there is one.
    #[must_use]
    pub fn task_of_executor(
        &self,
        agent: AgentId,
        framework: FrameworkId,
        executor: &TaskId,
    ) -> Option<&Task> {
        let index = self.index.agents.get(&agent)?;
        let found = index.executors.get(&(framework, executor.clone()))?;
        self.tasks.get(found.tasks.first()?)
    }
}
