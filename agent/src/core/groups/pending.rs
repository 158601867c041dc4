//! Steps of task groups that wait: for orders, for the end of a grace period, or for the release of
//! shared resources.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::Timestamp;
use argosy_state::resources::Range;

use super::TaskGroupOrders;
use crate::core::deadlines::InstanceDeadlines;
use crate::core::facts::{ContainerName, Instance};

/// The steps of all groups that wait.
#[derive(Debug, Default)]
pub(in crate::core) struct PendingGroups {
    /// Groups with orders that have not arrived.
    incomplete: BTreeSet<TaskGroupOrders>,
    /// The times of the next kills in groups.
    kills: InstanceDeadlines,
    /// Groups without tasks whose shared resources are being released, with the ports of their
    /// tasks.
    releasing: BTreeMap<ContainerName, Vec<Range>>,
}

impl PendingGroups {
    /// Makes a group wait for its other orders.
    pub(super) fn wait_for_orders(&mut self, group: TaskGroupOrders) {
        self.incomplete.insert(group);
    }

    /// Removes and returns the groups that no longer wait for orders.
    pub(super) fn take_delivered(
        &mut self,
        is_delivered: impl Fn(TaskGroupOrders) -> bool,
    ) -> BTreeSet<TaskGroupOrders> {
        let groups = self.incomplete.iter();
        let (delivered, others) = groups.partition(|group| is_delivered(**group));
        self.incomplete = others;
        delivered
    }

    /// Sets the time after which the next task of a group is killed.
    pub(super) fn kill_next_at(&mut self, at: Timestamp, instance: Instance) {
        self.kills.insert(at, instance);
    }

    /// Returns the next task whose grace period is over.
    pub(super) fn next_kill(&mut self, now: Timestamp) -> Option<Instance> {
        self.kills.pop_due(now)
    }

    /// Returns the next deadline.
    pub(in crate::core) fn deadline(&self) -> Option<Timestamp> {
        self.kills.next()
    }

    /// Begins the release of the shared resources of a group whose tasks had these ports. Returns
    /// false if it has begun already.
    pub(super) fn release(&mut self, name: ContainerName, ports: Vec<Range>) -> bool {
        self.releasing.insert(name, ports).is_none()
    }

    /// Completes a release. Returns false if this is not the name of a group that is released.
    pub(super) fn released(&mut self, name: ContainerName) -> bool {
        self.releasing.remove(&name).is_some()
    }

    /// Returns the groups whose shared resources are being released, with the ports of their tasks.
    pub(in crate::core) fn releasing(&self) -> impl Iterator<Item = (ContainerName, &[Range])> {
        let groups = self.releasing.iter();
        groups.map(|(name, ports)| (*name, ports.as_slice()))
    }

    /// Returns whether no release is in progress.
    pub(in crate::core) fn are_released(&self) -> bool {
        self.releasing.is_empty()
    }
}
