//! Snapshots of the registry for readers: a copy costs constant time and does not change while
//! `apply` continues.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Deref};
use std::sync::Arc;

use super::Registry;
use crate::agent::Agent;
use crate::ids::{AgentId, TaskKey};
use crate::task::Task;

/// The registry after one entry. Clones share it.
///
/// It has every fact and index, but not the data that only [`Registry::take_changes`] needs.
#[derive(Debug, Clone, Default)]
pub struct RegistrySnapshot(Arc<Registry>);

impl Deref for RegistrySnapshot {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.0
    }
}

impl Registry {
    /// Returns a copy that shares its records with this registry. While the snapshot exists, the
    /// next change of a record or index entry copies it, together with its path in the tree.
    #[must_use]
    pub fn snapshot(&self) -> RegistrySnapshot {
        RegistrySnapshot(Arc::new(Self {
            applied: self.applied,
            time: self.time,
            cluster: self.cluster.clone(),
            agents: self.agents.clone(),
            weights: self.weights.clone(),
            secrets: self.secrets.clone(),
            frameworks: self.frameworks.clone(),
            tasks: self.tasks.clone(),
            transitions: self.transitions.clone(),
            answers: self.answers.clone(),
            operator_answers: self.operator_answers.clone(),
            finished_tasks: self.finished_tasks.clone(),
            finished_frameworks: self.finished_frameworks.clone(),
            access: self.access.clone(),
            index: self.index.clone(),
            changed: BTreeSet::new(),
            marks: BTreeMap::new(),
            digest: self.digest,
        }))
    }

    /// Returns the agents above `after` in ascending order, as snapshots share them. While a
    /// reference to a record is held, weak or not, a change creates a new record at another
    /// address. So data derived from the old one is recognized as outdated.
    pub fn shared_agents_after(&self, after: AgentId) -> impl Iterator<Item = &Arc<Agent>> {
        let above = (Bound::Excluded(after), Bound::Unbounded);
        self.agents.range_shared(above)
    }

    /// Returns the tasks after `after`, or all, in ascending order, as snapshots share them: see
    /// [`Registry::shared_agents_after`].
    pub fn shared_tasks_after<'a>(
        &'a self,
        after: Option<&'a TaskKey>,
    ) -> impl Iterator<Item = &'a Arc<Task>> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.tasks
            .range_shared::<TaskKey, _>((after, Bound::Unbounded))
    }

    /// Returns a task as snapshots share it: see [`Registry::shared_agents_after`].
    #[must_use]
    pub fn shared_task(&self, key: &TaskKey) -> Option<&Arc<Task>> {
        self.tasks.get_shared(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    /// Derived data is cached by the address of its record. This test verifies that the address
    /// identifies the record.
    #[test]
    fn a_record_with_a_weak_reference_is_moved_when_it_changes() {
        let mut world = World::new();
        let id = world.register("cpus:1");
        for held_by_snapshot in [false, true] {
            let snapshot = held_by_snapshot.then(|| world.registry.snapshot());
            let shared = |world: &World| {
                let agent = world.registry.shared_agents_after(AgentId(0)).next();
                Arc::downgrade(agent.expect("it is registered"))
            };
            let before = shared(&world);
            assert!(shared(&world).ptr_eq(&before));
            world
                .registry
                .agents
                .get_mut(&id)
                .expect("it is registered")
                .orders
                .0 += 1;
            assert!(!shared(&world).ptr_eq(&before));
            assert_eq!(before.upgrade().is_some(), held_by_snapshot);
            drop(snapshot);
        }
    }
}
