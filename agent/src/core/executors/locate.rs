//! Location of a task for file access and exec: in its container, or in its executor's.

use argosy_state::ids::TaskKey;

use super::lifecycle::executor_key;
use crate::core::Core;
use crate::core::facts::Instance;
use crate::core::lifecycle::{InstancePhase, InstanceState};
use crate::core::views::TaskView;

impl Core {
    /// Returns the held task of this name; else the executor of this id, which is treated as a
    /// task.
    pub(crate) fn locate(&self, key: &TaskKey) -> TaskView {
        match self.facts.by_key.get(key) {
            Some(instance) => self.locate_task(*instance, key),
            None => self.locate_executor(key),
        }
    }

    fn locate_task(&self, instance: Instance, key: &TaskKey) -> TaskView {
        let state = self.instances.get(&instance);
        let ended = state.is_none_or(InstanceState::has_ended);
        let phase = state.map(|state| state.phase.name());
        let Some(executor) = self.facts.tasks.get(&instance).and_then(executor_key) else {
            return TaskView {
                sandbox_key: key.clone(),
                container: self.facts.container(instance),
                ended,
                phase,
            };
        };
        // A task that has ended has left its executor, which may still exist; or there is a new
        // executor of its name, which cannot be distinguished from the former.
        let hosted = state.and_then(|state| state.hosted.as_deref());
        let present = hosted.and_then(|hosted| hosted.executor);
        let container = match present {
            Some(executor) => self.facts.executor_container(executor),
            None => self.locate_executor(&executor).container,
        };
        TaskView {
            sandbox_key: executor,
            container,
            ended,
            phase,
        }
    }

    fn locate_executor(&self, key: &TaskKey) -> TaskView {
        let named = self.facts.executor_named(key).map(|(instance, _)| instance);
        let phase = named.and_then(|instance| self.executors.phase(instance));
        TaskView {
            sandbox_key: key.clone(),
            container: named.and_then(|instance| self.facts.executor_container(instance)),
            ended: phase.is_none_or(|phase| phase == InstancePhase::Ended),
            phase: phase.map(InstancePhase::name),
        }
    }
}
