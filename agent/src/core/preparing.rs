//! Preparation of starts while their orders are being synced.

use super::Core;
use super::effect::ContainerEffect;
use super::facts::{Instance, TaskFacts};

impl Core {
    /// Prepares a plain start while its order is being synced.
    pub(super) fn prepare(&mut self, instance: Instance) {
        let task = self.facts.tasks.get(&instance);
        let is_plain = |task: &TaskFacts| {
            let launch = &task.launch;
            let is_valid = !launch.never_start && launch.defect.is_none();
            is_valid && task.executor().is_none() && !launch.needs_fetch()
        };
        if task.is_some_and(is_plain)
            && self.group(instance).is_none()
            && self.no_space_end().is_none()
        {
            if let Some(state) = self.instances.get_mut(&instance) {
                state.acquire_host();
            }
            let start = self.description(instance);
            self.effects.push(ContainerEffect::Prepare(start));
        }
    }
}
