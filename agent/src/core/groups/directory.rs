//! Accounting of the group directory: it counts toward the disk usage of the group's first task,
//! even after that has ended.

use argosy_state::ids::TaskKey;

use super::{TaskGroupOrders, group_id};
use crate::core::Core;
use crate::core::facts::{ContainerName, Instance};
use crate::core::lifecycle::InstancePhase;

impl Core {
    pub(super) fn first_of(&self, group: TaskGroupOrders) -> Option<(ContainerName, TaskKey)> {
        let task = self.facts.tasks.get(&group.first)?;
        let name = self.facts.container(group.first)?;
        Some((name, task.key.clone()))
    }

    /// Returns id and name of the group whose first task this is.
    pub(in crate::core) fn led(&self, instance: Instance) -> Option<(String, ContainerName)> {
        let group = self.group(instance)?;
        let task = self.facts.tasks.get(&instance)?;
        let (_, id) = group_id(task)?;
        (group.first == instance).then(|| (id.to_string(), group.name()))
    }

    /// Returns the first task of its group, if that is another one and no longer runs.
    pub(in crate::core) fn late_first(&self, instance: Instance) -> Option<Instance> {
        let first = self.group(instance)?.first;
        (first != instance && self.phase(first) == Some(InstancePhase::Ended)).then_some(first)
    }

    /// Returns the task that is ended, with the others, because its group directory is too large:
    /// the first one, or else the next that runs.
    pub(in crate::core) fn answerable(&self, first: Instance) -> Option<Instance> {
        let group = self.group(first).filter(|group| group.first == first)?;
        let runs = |member: &Instance| self.phase(*member) == Some(InstancePhase::Running);
        group.members().find(runs)
    }
}
