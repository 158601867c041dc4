//! The index of executors: their tasks on an agent, and whether their resources count.
//!
//! There is no record of an executor. It is derived from its tasks, all of which describe it alike.

use super::Registry;
use super::index::Sign;
use crate::collections::persistent::{Map, Set};
use crate::ids::{AgentId, FrameworkId, TaskId, TaskKey};
use crate::task::{ExecutorSpec, Task};

/// The name of an executor on its agent: its framework and its id.
pub type ExecutorKey = (FrameworkId, TaskId);

/// The derived facts of one executor on one agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecutorIndex {
    /// The tasks of the executor that have not ended; never empty. While the executor has tasks,
    /// its agent counts its resources as used.
    pub tasks: Set<TaskKey>,
    /// The number of those tasks that are not UNREACHABLE. While it is not 0, the role and
    /// framework count the executor's resources too.
    pub reachable: usize,
}

/// The changes in the accounting of an executor's resources that a task causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AccountingChange {
    /// Whether the agent begins or ceases to count them.
    pub(super) agent: bool,
    /// Whether the role and framework begin or cease to count them.
    pub(super) role: bool,
}

/// Adds or removes a task that has not ended.
pub(super) fn count(
    executors: &mut Map<ExecutorKey, ExecutorIndex>,
    executor: &ExecutorSpec,
    key: &TaskKey,
    reachable: bool,
    sign: Sign,
) -> AccountingChange {
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
    AccountingChange {
        agent: former.0 != present.0,
        role: former.1 != present.1,
    }
}

impl Registry {
    /// Returns a task of this executor on this agent, if there is one.
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
