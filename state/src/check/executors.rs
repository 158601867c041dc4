//! Invariants of executors.

use std::collections::BTreeMap;

use super::{InvariantViolation, ensure};
use crate::Registry;
use crate::ids::{AgentId, FrameworkId, Role, TaskId};
use crate::resources::Resources;
use crate::task::ExecutorSpec;

impl Registry {
    /// Sums the resources of an agent's executors, each counted once. Tasks that share an executor
    /// describe it alike and are charged to one role.
    pub(super) fn check_executors(&self, id: AgentId) -> Result<Resources, InvariantViolation> {
        let mut found: BTreeMap<(FrameworkId, &TaskId), (&ExecutorSpec, &Role)> = BTreeMap::new();
        let mut sum = Resources::none();
        for task in self.tasks_on(id).filter(|task| !task.is_terminal()) {
            let Some(executor) = task.spec.executor.as_deref() else {
                continue;
            };
            let own = (executor, &task.role);
            let name = (task.key.framework, &executor.executor);
            if let Some(first) = found.get(&name) {
                let rule = "tasks of one executor on one agent describe it alike, in one role";
                ensure(*first == own, &task.key, rule)?;
                continue;
            }
            found.insert(name, own);
            sum = sum
                .plus(&executor.resources)
                .ok_or(InvariantViolation::Overlap {
                    agent: id,
                    task: task.key.clone(),
                })?;
        }
        Ok(sum)
    }
}
