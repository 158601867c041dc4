//! Invariants of task groups: complete or absent, on one agent, and charged to one role.

use std::collections::{BTreeMap, BTreeSet};

use super::{InvariantViolation, ensure};
use crate::Registry;
use crate::ids::{AgentId, FrameworkId, GroupId, OrderIndex};
use crate::limits;
use crate::task::Task;

/// The permanent name of a group. Its framework may reuse the group id once all tasks are history.
type GroupKey<'a> = (FrameworkId, &'a GroupId, AgentId, OrderIndex);

fn name(task: &Task) -> Option<GroupKey<'_>> {
    let group = task.spec.group.as_deref()?;
    Some((
        task.key.framework,
        &group.id,
        task.agent,
        group.first(task.order),
    ))
}

impl Registry {
    pub(super) fn check_groups(&self) -> Result<(), InvariantViolation> {
        let indexes = &self.index.frameworks;
        if indexes.values().all(|index| index.groups.is_empty()) {
            return Ok(());
        }
        let mut past: BTreeMap<GroupKey<'_>, usize> = BTreeMap::new();
        let history = self.finished_tasks.values();
        for name in history.filter_map(|finished| name(&finished.task)) {
            *past.entry(name).or_default() += 1;
        }
        for (framework, index) in indexes.iter() {
            for id in index.groups.keys() {
                self.check_whole_group(*framework, id, &past)?;
            }
        }
        Ok(())
    }

    /// Checks the tasks of a group that are in the registry. One launch has at most
    /// [`limits::TASKS_PER_GROUP`]; more are reported.
    pub(super) fn check_group_tasks(
        &self,
        framework: FrameworkId,
        id: &GroupId,
    ) -> Result<(), InvariantViolation> {
        let what = &format!("{framework}/{id}");
        let tasks: Vec<_> = self.group(framework, id).collect();
        let mut places = BTreeSet::new();
        let mut names = BTreeSet::new();
        let mut kinds = BTreeSet::new();
        for task in &tasks {
            let Some(group) = &task.spec.group else {
                return ensure(false, what, "its tasks belong to it");
            };
            let fits = group.place < group.size && group.size as usize <= limits::TASKS_PER_GROUP;
            ensure(fits, what, "each of its tasks has a place in it")?;
            let is_alone = places.insert(group.place);
            ensure(is_alone, what, "no two of its tasks have the same place")?;
            names.extend(name(task));
            kinds.insert((group.size, &task.role));
        }
        ensure(
            names.len() == 1,
            what,
            "its tasks are on one agent, by consecutive orders",
        )?;
        ensure(kinds.len() == 1, what, "its tasks agree on size and role")
    }

    fn check_whole_group(
        &self,
        framework: FrameworkId,
        id: &GroupId,
        past: &BTreeMap<GroupKey<'_>, usize>,
    ) -> Result<(), InvariantViolation> {
        self.check_group_tasks(framework, id)?;
        let tasks: Vec<_> = self.group(framework, id).collect();
        let name = tasks.first().and_then(|task| name(task));
        let gone = name.and_then(|name| past.get(&name)).unwrap_or(&0);
        let group = tasks.first().and_then(|task| task.spec.group.as_deref());
        let size = group.map_or(0, |group| group.size as usize);
        // The history drops its oldest tasks. Only then may a task be in neither place.
        let given = self.finished_tasks.len() + self.finished_frameworks.len();
        let is_complete = given as u64 == self.cluster.last_finished;
        ensure(
            !is_complete || tasks.len() + gone == size,
            &format!("{framework}/{id}"),
            "it was launched as a whole",
        )
    }
}
