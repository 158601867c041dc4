//! Changes of the limits of running services: which ones the masters have committed, and which ones
//! the agents have reported.

use std::collections::BTreeMap;

use argosy_client::scheduler::{CallKey, CallOutcome, CallResult, SchedulerDriver};
use argosy_proto::v1;

const MIB: u64 = 1024 * 1024;
/// The memory of each task, in MiB, which no limit may be below.
const LEAST_MIB: u64 = 16;

/// A position in the log: index and position.
type Position = (u64, u32);

#[derive(Debug, Default)]
struct LimitChange {
    requests: u64,
    is_open: bool,
    /// The newest change that is committed.
    committed: Option<Position>,
    /// The newest change that was reported as in force, or as refused by the agent.
    reported: Option<Position>,
}

/// The changes of all tasks of one framework.
#[derive(Debug, Default)]
pub(super) struct LimitChanges {
    by_task: BTreeMap<String, LimitChange>,
    calls: BTreeMap<CallKey, String>,
    /// The number of reports that followed a committed change.
    reports: u64,
}

fn position(revision: v1::Revision) -> Position {
    (revision.index, revision.position)
}

impl LimitChanges {
    /// Continues the count of reports of earlier processes of the framework.
    pub(super) fn continued(reports: u64) -> Self {
        Self {
            reports,
            ..Self::default()
        }
    }

    /// Requests other limits than before, unless a request is open.
    pub(super) fn request(&mut self, driver: &SchedulerDriver, task: &str) {
        let change = self.by_task.entry(task.to_owned()).or_default();
        if change.is_open {
            return;
        }
        change.is_open = true;
        change.requests += 1;
        let limits = v1::Limits {
            memory_bytes: Some((LEAST_MIB + change.requests % 40) * MIB),
            cpu_millis: Some(200 + 10 * (change.requests % 50)),
            ..v1::Limits::default()
        };
        let asked = driver.update_limits(task, limits);
        self.calls.insert(asked.key, task.to_owned());
    }

    /// Handles the answer to a request. Returns false if it answers another call.
    pub(super) fn answered(&mut self, answer: &CallResult) -> bool {
        let Some(task) = self.calls.remove(&answer.call) else {
            return false;
        };
        if let Some(change) = self.by_task.get_mut(&task) {
            change.is_open = false;
            if let CallOutcome::Done { revision, .. } = &answer.outcome {
                change.committed = change.committed.max(Some(position(*revision)));
            }
        }
        true
    }

    /// Handles an update of a task, which may report its limits.
    pub(super) fn update(&mut self, status: &v1::TaskStatus) {
        let Some(limits) = &status.limits else {
            return;
        };
        let Some(change) = self.by_task.get_mut(&status.task_id) else {
            return;
        };
        if limits.in_force || !limits.refusal.is_empty() {
            let reported = limits.revision.map(position);
            self.reports += u64::from(reported > change.reported);
            change.reported = change.reported.max(reported);
        }
    }

    /// Forgets an ended task.
    pub(super) fn ended(&mut self, task: &str) {
        self.by_task.remove(task);
    }

    /// Returns the tasks with a committed change that no update has reported.
    pub(super) fn unreported(&self) -> Vec<String> {
        let all = self.by_task.iter();
        let late = all.filter(|(_, change)| change.is_open || change.committed > change.reported);
        late.map(|(task, _)| task.clone()).collect()
    }

    /// Returns how often other limits were reported, also to earlier processes.
    pub(super) fn reports(&self) -> u64 {
        self.reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(index: u64) -> v1::Revision {
        v1::Revision { index, position: 0 }
    }

    fn status(index: u64, in_force: bool, refusal: &str) -> v1::TaskStatus {
        v1::TaskStatus {
            task_id: "t".to_owned(),
            limits: Some(v1::LimitsStatus {
                revision: Some(revision(index)),
                in_force,
                refusal: refusal.to_owned(),
            }),
            ..v1::TaskStatus::default()
        }
    }

    #[test]
    fn a_committed_change_needs_a_report_of_it_or_of_a_later_one() {
        let mut changes = LimitChanges::continued(5);
        changes.update(&status(3, true, ""));
        assert_eq!(changes.reports(), 5, "nothing was requested");
        let committed = Some((7, 0));
        let change = LimitChange {
            committed,
            ..LimitChange::default()
        };
        changes.by_task.insert("t".to_owned(), change);
        for (report, is_reported) in [
            (status(6, true, ""), false),
            (status(7, false, ""), false),
            (status(7, false, "the kernel refuses it"), true),
        ] {
            changes.update(&report);
            assert_eq!(changes.unreported().is_empty(), is_reported, "{report:?}");
        }
        assert_eq!(changes.reports(), 7);
        changes.by_task.get_mut("t").unwrap().committed = Some((9, 0));
        assert_eq!(changes.unreported(), ["t"]);
        changes.ended("t");
        assert_eq!(changes.unreported(), [""; 0]);
    }
}
