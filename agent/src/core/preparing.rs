//! Preparation of starts while their orders are being synced.

use argosy_proto::v1;

use super::Core;
use super::check_schedule::CheckSpecs;
use super::effect::ContainerEffect;
use super::facts::{Instance, TaskFacts};

/// Whether a launch needs files or an image.
pub(super) fn needs_fetch(launch: &v1::LaunchOrder) -> bool {
    launch.spec.as_ref().is_some_and(|spec| {
        let container = spec.container.as_ref();
        !spec.uris.is_empty() || container.is_some_and(|container| !container.image.is_empty())
    })
}

impl Core {
    /// Prepares a plain start while its order is being synced.
    pub(super) fn prepare(&mut self, instance: Instance) {
        let task = self.facts.tasks.get(&instance);
        let is_plain = |task: &TaskFacts| {
            let launch = &task.launch;
            let is_valid = !launch.never_start && CheckSpecs::of(launch).is_ok();
            is_valid && task.executor().is_none() && !needs_fetch(launch)
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
