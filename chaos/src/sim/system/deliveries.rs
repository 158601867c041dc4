//! The launches that had been delivered when the kill of their task was committed.
//!
//! Observers report launches as agents receive them, and the log reports kills as they are
//! committed. If a launch arrives over a link that was dialed after the sender had applied the
//! kill, it was not in flight before the kill.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use argosy_state::ids::{Epoch, TaskKey};

/// The deliveries of launches. Cheap to clone; all clones share one state.
#[derive(Clone, Default)]
// One thread runs the simulation. The lock satisfies the types of asynchronous code.
pub(super) struct Deliveries(Arc<Mutex<DeliveryState>>);

#[derive(Default)]
struct DeliveryState {
    received: BTreeSet<TaskKey>,
    /// Kills whose launch no agent has received: the epoch and the index of the entry.
    killed: BTreeMap<TaskKey, (Epoch, u64)>,
}

/// The newest epoch, and the last entry that its leader had applied when an agent dialed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LeaderAtDial {
    pub(super) epoch: Epoch,
    pub(super) applied: u64,
}

impl Deliveries {
    fn state(&self) -> MutexGuard<'_, DeliveryState> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records the first committed kill of a task. Returns whether its launch was delivered before,
    /// once that is known.
    pub(super) fn killed(&self, task: &TaskKey, epoch: Epoch, index: u64) -> Option<bool> {
        let mut known = self.state();
        if known.received.contains(task) {
            return Some(true);
        }
        known.killed.entry(task.clone()).or_insert((epoch, index));
        None
    }

    /// Records that an agent receives a launch of this epoch over a link that was dialed then.
    /// Returns whether it was delivered before the kill of its task, if there was one and this was
    /// unknown.
    pub(super) fn received(
        &self,
        task: &TaskKey,
        epoch: Epoch,
        dialed: LeaderAtDial,
    ) -> Option<bool> {
        let mut known = self.state();
        known.received.insert(task.clone());
        let (of, index) = known.killed.remove(task)?;
        // A later leader begins with all entries that were committed before it.
        let sender_knew =
            epoch > of || epoch == of && dialed.epoch == of && dialed.applied >= index;
        Some(!sender_knew)
    }

    /// Returns killed tasks whose launch no agent has received until the end.
    pub(super) fn never_received(&self) -> Vec<TaskKey> {
        self.state().killed.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::{FrameworkId, TaskId};

    use super::*;

    const TWO: Epoch = Epoch(20);

    fn task() -> TaskKey {
        TaskKey {
            framework: FrameworkId(3),
            task: TaskId::new("web").unwrap(),
        }
    }

    fn dialed(applied: u64) -> LeaderAtDial {
        let epoch = TWO;
        LeaderAtDial { epoch, applied }
    }

    /// Returns the result for a kill in entry 25 whose launch is received afterwards.
    fn is_delivered(epoch: Epoch, dialed: LeaderAtDial) -> Option<bool> {
        let deliveries = Deliveries::default();
        assert_eq!(deliveries.killed(&task(), TWO, 25), None);
        assert_eq!(deliveries.never_received(), [task()]);
        let delivered = deliveries.received(&task(), epoch, dialed);
        assert_eq!(deliveries.never_received(), []);
        delivered
    }

    #[test]
    fn a_launch_received_before_its_kill_was_delivered() {
        let deliveries = Deliveries::default();
        assert_eq!(deliveries.received(&task(), TWO, dialed(21)), None);
        assert_eq!(deliveries.killed(&task(), TWO, 25), Some(true));
        assert_eq!(deliveries.received(&task(), TWO, dialed(30)), None);
        assert_eq!(deliveries.never_received(), []);
    }

    #[test]
    fn a_launch_on_a_link_older_than_the_kill_may_have_been_in_flight() {
        assert_eq!(is_delivered(TWO, dialed(24)), Some(true));
        assert_eq!(is_delivered(TWO, LeaderAtDial::default()), Some(true));
        assert_eq!(is_delivered(Epoch(10), dialed(30)), Some(true));
    }

    #[test]
    fn a_launch_sent_by_a_leader_that_knew_the_kill_was_not_delivered_before() {
        assert_eq!(is_delivered(TWO, dialed(25)), Some(false));
        assert_eq!(
            is_delivered(Epoch(30), LeaderAtDial::default()),
            Some(false)
        );
    }
}
