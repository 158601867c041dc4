//! Location of a task for file access and exec: in its container, or in its executor's.

use argosy_state::ids::TaskKey;

use super::lifecycle::executor_key;
use crate::core::Core;
use crate::core::facts::Instance;
use crate::core::lifecycle::{InstancePhase, InstanceState};
use crate::inbox::TaskView;

impl Core {
    /// Returns the held task of this name; else the executor of this id, which is treated as a
    /// task.
    pub(crate) fn locate(&self, key: &TaskKey) -> TaskView {
        match self.facts.held.get(key) {
            Some(instance) => self.whereabouts_of(*instance, key),
            None => self.whereabouts_of_executor(key),
        }
    }

    fn whereabouts_of(&self, instance: Instance, key: &TaskKey) -> TaskView {
        let course = self.courses.get(&instance);
        let ended = course.is_none_or(InstanceState::has_ended);
        let Some(executor) = self.facts.tasks.get(&instance).and_then(executor_key) else {
            return TaskView {
                home: key.clone(),
                container: self.facts.container(instance),
                ended,
            };
        };
        // A task that has ended has left its executor, which may still exist; or there is a new
        // executor of its name, which cannot be distinguished from the former.
        let hosted = course.and_then(|course| course.hosted.as_deref());
        let present = hosted.and_then(|hosted| hosted.executor);
        let container = match present {
            Some(executor) => self.facts.executor_container(executor),
            None => self.whereabouts_of_executor(&executor).container,
        };
        TaskView {
            home: executor,
            container,
            ended,
        }
    }

    fn whereabouts_of_executor(&self, key: &TaskKey) -> TaskView {
        let named = self.facts.executor_named(key).map(|(instance, _)| instance);
        let phase = named.and_then(|instance| self.executors.phase(instance));
        TaskView {
            home: key.clone(),
            container: named.and_then(|instance| self.facts.executor_container(instance)),
            ended: phase.is_none_or(|phase| phase == InstancePhase::Ended),
        }
    }
}
