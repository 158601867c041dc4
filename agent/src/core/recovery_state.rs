//! The state of a recovery: unknown facts about the previous run.

use std::collections::BTreeSet;

use argosy_state::ids::Timestamp;

use super::deadlines::InstanceDeadlines;
use super::facts::Instance;

/// The containers of the previous run that are not resolved.
#[derive(Debug, Default)]
pub(super) struct RecoveryState {
    /// The time until which the hello waits for the containers of the previous run.
    deadline: Option<Timestamp>,
    /// The times at which containers that could not be queried are queried again.
    retries: InstanceDeadlines,
    /// Recovered launches that never started; they wait for a registration.
    unstarted: BTreeSet<Instance>,
}

impl RecoveryState {
    /// Makes the hello wait until this time at most.
    pub(super) fn wait_until(&mut self, at: Timestamp) {
        self.deadline = Some(at);
    }

    /// Returns whether the hello has waited until its deadline, and then forgets the deadline.
    pub(super) fn times_out(&mut self, now: Timestamp) -> bool {
        self.deadline.take_if(|at| *at <= now).is_some()
    }

    pub(super) fn query_at(&mut self, at: Timestamp, instance: Instance) {
        self.retries.insert(at, instance);
    }

    /// Returns the next container that is queried again now.
    pub(super) fn next_query(&mut self, now: Timestamp) -> Option<Instance> {
        self.retries.pop_due(now)
    }

    /// Makes a launch that never started wait for a registration.
    pub(super) fn start_later(&mut self, instance: Instance) {
        self.unstarted.insert(instance);
    }

    /// Removes a launch that has ended.
    pub(super) fn forget(&mut self, instance: Instance) {
        self.unstarted.remove(&instance);
    }

    /// Returns all launches that wait for a registration.
    pub(super) fn take_unstarted(&mut self) -> BTreeSet<Instance> {
        std::mem::take(&mut self.unstarted)
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let both = [self.deadline, self.retries.next()];
        both.into_iter().flatten().min()
    }
}
