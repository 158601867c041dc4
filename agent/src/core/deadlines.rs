//! Deadlines of instances.

use std::collections::BTreeSet;

use argosy_state::ids::Timestamp;

use super::facts::{Instance, TaskFacts};

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

/// Returns the deadline of a task that was started, if it has one.
pub(super) fn of_completion(task: &TaskFacts) -> Option<Timestamp> {
    let limit_ms = task.launch.spec.max_completion_ms;
    let started = task.started.filter(|_| limit_ms > 0)?;
    Some(started.at.plus_ms(limit_ms))
}
