//! Deadlines of instances.

use std::collections::BTreeSet;

use argosy_state::ids::Timestamp;

use super::facts::Instance;

/// Instances with the times at which they are due, in that order.
#[derive(Debug, Default)]
pub(super) struct InstanceDeadlines(BTreeSet<(Timestamp, Instance)>);

impl InstanceDeadlines {
    pub(super) fn insert(&mut self, at: Timestamp, instance: Instance) {
        self.0.insert((at, instance));
    }

    pub(super) fn remove(&mut self, at: Timestamp, instance: Instance) {
        self.0.remove(&(at, instance));
    }

    /// Returns the next deadline.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Removes the instance that is due first, if one is due.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<Instance> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop_first().map(|(_, instance)| instance)
    }
}
