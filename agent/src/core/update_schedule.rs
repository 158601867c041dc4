//! The times at which changes of tasks are reported.

use std::collections::BTreeSet;

use argosy_state::buggify;
use argosy_state::ids::Timestamp;

use super::facts::Instance;

/// The time for which a change waits for others to share a record, a sync and a message, in
/// milliseconds. A command that ends in this time is never reported as RUNNING: one command less
/// for the masters.
const BATCH_MS: u64 = 2;
/// The time after a report from which an agent counts as quiet, in milliseconds: the next start is
/// reported immediately.
const QUIET_MS: u64 = 50;

/// The tasks whose newest state is not in an update yet, and when they are reported.
#[derive(Debug, Default)]
pub(super) struct UpdateSchedule {
    dirty: BTreeSet<Instance>,
    report_at: Option<Timestamp>,
    /// The time at which ended tasks are reported.
    report_ends_at: Option<Timestamp>,
    reported_at: Timestamp,
}

impl UpdateSchedule {
    pub(super) fn mark(&mut self, instance: Instance, now: Timestamp) {
        self.dirty.insert(instance);
        let gather_ms = buggify!(LateReport, BATCH_MS, 300);
        self.report_at.get_or_insert(now.plus_ms(gather_ms));
    }

    /// Marks a task that has started: it is reported immediately if this agent was quiet.
    pub(super) fn mark_started(&mut self, instance: Instance, now: Timestamp) {
        let at = self
            .reported_at
            .plus_ms(buggify!(LateReport, QUIET_MS, 300));
        if self.report_at.is_none() && at <= now {
            self.report_at = Some(now);
        }
        self.mark(instance, now);
    }

    /// Marks a task that has ended. Its resources are needed, and no later change of it can save a
    /// report: it waits only as long as others have just been reported.
    pub(super) fn mark_ended(&mut self, instance: Instance, now: Timestamp) {
        self.mark(instance, now);
        let gather_ms = buggify!(LateReport, BATCH_MS, 300);
        let at = self.reported_at.plus_ms(gather_ms).max(now);
        self.report_ends_at.get_or_insert(at);
    }

    /// Removes a task that is not reported.
    pub(super) fn forget(&mut self, instance: Instance) {
        self.dirty.remove(&instance);
    }

    /// Returns all marked tasks, which are reported now.
    pub(super) fn take_all(&mut self, now: Timestamp) -> BTreeSet<Instance> {
        self.report_at = None;
        self.reported(now);
        std::mem::take(&mut self.dirty)
    }

    /// Returns the marked tasks that have ended, which are reported now.
    pub(super) fn take_ended(
        &mut self,
        now: Timestamp,
        has_ended: impl Fn(Instance) -> bool,
    ) -> BTreeSet<Instance> {
        let marked = self.dirty.iter();
        let (ended, others) = marked.partition(|instance| has_ended(**instance));
        self.dirty = others;
        if self.dirty.is_empty() {
            self.report_at = None;
        }
        self.reported(now);
        ended
    }

    fn reported(&mut self, now: Timestamp) {
        self.report_ends_at = None;
        self.reported_at = now;
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.report_at.is_some_and(|at| at <= now)
    }

    pub(super) fn are_ends_due(&self, now: Timestamp) -> bool {
        self.report_ends_at.is_some_and(|at| at <= now)
    }

    /// Returns the next deadline.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let both = [self.report_at, self.report_ends_at];
        both.into_iter().flatten().min()
    }
}
