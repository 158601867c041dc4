//! ChangeFeed: a reader of the change feed that resumes at other masters sees every committed
//! change of a task once and in order, or a later one of the same task that replaces it. After a
//! loss of history it gets a snapshot.
//!
//! The feed joins changes of about ten milliseconds. So a message about a task must have the newest
//! committed update of its log index, and a message that everything was sent must be true.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{Revision, TaskKey};
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::{changes, launches, of_watches};
use crate::history::{History, ProcessName, WatchFact};

pub(super) fn check(history: &History) -> Findings {
    let committed = CommittedChanges::of(history);
    let mut findings = Findings::default();
    let mut readers: BTreeMap<&ProcessName, Reader<'_>> = BTreeMap::new();
    for (at, event, fact) in of_watches(history) {
        let reader = readers.entry(&event.process).or_default();
        let revision = event.revision.unwrap_or_default();
        reader.receive(&committed, (at, revision, fact), &mut findings);
    }
    findings
}

/// A committed state of a task.
#[derive(Debug, Clone, Copy)]
struct Committed {
    /// The position in the history.
    at: usize,
    index: u64,
    state: TaskState,
}

/// The committed changes, by task and by log index.
#[derive(Default)]
struct CommittedChanges<'a> {
    /// Ascending by log index; of one entry, the last change.
    by_task: BTreeMap<&'a TaskKey, Vec<Committed>>,
    by_index: BTreeMap<u64, Vec<&'a TaskKey>>,
}

impl<'a> CommittedChanges<'a> {
    fn of(history: &'a History) -> Self {
        let mut all = Self::default();
        for (task, (at, _, _)) in launches(history) {
            if let Some(revision) = history.events[at].revision {
                let index = revision.index;
                let state = TaskState::Staging;
                all.add(task, Committed { at, index, state });
            }
        }
        for (task, changes) in changes(history) {
            for change in changes {
                let (at, index, state) = (change.at, change.revision.index, change.state);
                all.add(task, Committed { at, index, state });
            }
        }
        all
    }

    fn add(&mut self, task: &'a TaskKey, change: Committed) {
        let of_task = self.by_task.entry(task).or_default();
        of_task.pop_if(|last| last.index == change.index);
        of_task.push(change);
        self.by_index.entry(change.index).or_default().push(task);
    }

    /// Returns the newest change of a task up to this log index.
    fn newest(&self, task: &TaskKey, index: u64) -> Option<Committed> {
        let of_task = self.by_task.get(task)?;
        let later = of_task.partition_point(|change| change.index <= index);
        of_task.get(later.checked_sub(1)?).copied()
    }
}

/// A message: its position in the history, its revision, and its content.
type Message<'a> = (usize, Revision, &'a WatchFact);

/// A reader of the feed, and what it has.
#[derive(Default)]
struct Reader<'a> {
    /// The newest update of each task: the position of the message, and its log index. Of a task
    /// that the registry has dropped, the index of that change.
    tasks: BTreeMap<&'a TaskKey, (usize, u64)>,
    /// The last change, or the last one that the snapshot has.
    last: Revision,
    /// Every change up to this log index was received.
    complete: u64,
    /// The snapshot that is being received.
    snapshot: Option<u64>,
    has_begun: bool,
}

impl<'a> Reader<'a> {
    fn receive(
        &mut self,
        committed: &CommittedChanges<'a>,
        (at, revision, fact): Message<'a>,
        findings: &mut Findings,
    ) {
        let index = revision.index;
        match fact {
            WatchFact::SnapshotBegun => {
                let newest = self.last.index.max(self.complete);
                findings.require(index >= newest, [at], || {
                    format!("a snapshot as of {index} was sent to a reader that knows {newest}")
                });
                self.tasks.clear();
                (self.snapshot, self.has_begun) = (Some(index), true);
            }
            WatchFact::TaskListed {
                task,
                update,
                state,
            } => {
                if let Some(as_of) = self.snapshot {
                    check_record(committed, (at, as_of), (task, *update, *state), findings);
                }
                self.tasks.insert(task, (at, update.index));
            }
            WatchFact::SnapshotEnded => self.end_snapshot(committed, (at, index), findings),
            WatchFact::TaskChanged {
                task,
                update,
                state,
            } => {
                findings.require(revision > self.last, [at], || {
                    let last = self.last;
                    format!("a change of {task} at {revision:?} was sent after {last:?}")
                });
                self.last = self.last.max(revision);
                if let Some((update, state)) = update.zip(*state) {
                    check_record(committed, (at, index), (task, update, state), findings);
                }
                self.tasks
                    .insert(task, (at, update.map_or(index, |one| one.index)));
            }
            // If another master has the changes, the reader continues there.
            WatchFact::HistoryLost { .. } => {}
            WatchFact::Progress => self.progress(committed, (at, index), findings),
        }
    }

    /// Checks that the snapshot has every task that has not ended.
    fn end_snapshot(
        &mut self,
        committed: &CommittedChanges<'a>,
        (at, index): (usize, u64),
        findings: &mut Findings,
    ) {
        let begun = self.snapshot.take();
        findings.require(begun == Some(index), [at], || {
            format!("a snapshot as of {index} ended, and {begun:?} had begun")
        });
        for task in committed.by_task.keys() {
            let newest = committed.newest(task, index);
            if let Some(newest) = newest.filter(|newest| !newest.state.is_terminal()) {
                self.require(task, newest, (at, index), findings);
            }
        }
        self.complete = self.complete.max(index);
        let whole = Revision {
            index,
            position: u32::MAX,
        };
        self.last = self.last.max(whole);
    }

    /// Checks that the changes up to this log index were received.
    fn progress(
        &mut self,
        committed: &CommittedChanges<'a>,
        (at, index): (usize, u64),
        findings: &mut Findings,
    ) {
        if self.snapshot.is_some() || !self.has_begun || index <= self.complete {
            return;
        }
        let changed = committed.by_index.range(self.complete + 1..=index);
        let changed: BTreeSet<_> = changed.flat_map(|(_, tasks)| tasks).collect();
        for task in changed {
            if let Some(newest) = committed.newest(task, index) {
                self.require(task, newest, (at, index), findings);
            }
        }
        self.complete = index;
    }

    /// Checks that the reader has this change of a task, or a later one.
    fn require(
        &self,
        task: &TaskKey,
        newest: Committed,
        (at, index): (usize, u64),
        findings: &mut Findings,
    ) {
        let known = self.tasks.get(task);
        let has = known.is_some_and(|(_, known)| *known >= newest.index);
        let shown = known.map_or(at, |(shown, _)| *shown);
        findings.require(has, [newest.at, shown, at], || {
            let (changed, state) = (newest.index, newest.state);
            let known = known.map(|(_, index)| index);
            format!(
                "{task} became {state:?} in entry {changed}, and a reader that was sent everything up to {index} has the task as of {known:?}"
            )
        });
    }
}

/// Checks that a changed or listed record has the newest update as of its revision, or that of the
/// snapshot.
fn check_record(
    committed: &CommittedChanges<'_>,
    (at, index): (usize, u64),
    (task, update, state): (&TaskKey, Revision, TaskState),
    findings: &mut Findings,
) {
    let Some(newest) = committed.newest(task, index) else {
        return;
    };
    let is_newest = match update.index == newest.index {
        true => state == newest.state,
        // A change that the history does not have.
        false => update.index > newest.index,
    };
    findings.require(is_newest, [newest.at, at], || {
        let (changed, known) = (newest.index, newest.state);
        format!(
            "{task} was sent as {state:?} since {update:?} as of entry {index}, and became {known:?} in entry {changed}"
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation, key, revision,
    };

    const RUNNING: TaskState = TaskState::Running;

    fn snapshot(builder: HistoryBuilder, index: u64, tasks: &[(&str, u64)]) -> HistoryBuilder {
        let mut builder = builder.observe_at("watcher", index, WatchFact::SnapshotBegun);
        for (task, update) in tasks {
            let fact = WatchFact::TaskListed {
                task: key(task),
                update: revision(*update),
                state: RUNNING,
            };
            builder = builder.observe_at("watcher", *update, fact);
        }
        builder.observe_at("watcher", index, WatchFact::SnapshotEnded)
    }

    fn change(
        builder: HistoryBuilder,
        index: u64,
        task: &str,
        newest: Option<(u64, TaskState)>,
    ) -> HistoryBuilder {
        let fact = WatchFact::TaskChanged {
            task: key(task),
            update: newest.map(|(update, _)| revision(update)),
            state: newest.map(|(_, state)| state),
        };
        builder.observe_at("watcher", index, fact)
    }

    fn progress(builder: HistoryBuilder, index: u64) -> HistoryBuilder {
        builder.observe_at("watcher", index, WatchFact::Progress)
    }

    /// Returns committed changes of two tasks.
    fn committed() -> HistoryBuilder {
        HistoryBuilder::new()
            .launched(3, "web", 1)
            .changed(5, "web", RUNNING)
            .launched(6, "db", 2)
            .changed(8, "db", RUNNING)
            .changed(9, "web", TaskState::Failed)
    }

    #[test]
    fn a_snapshot_and_all_later_changes_pass_joined_or_not() {
        let begun = snapshot(committed(), 5, &[("web", 5)]);
        let each = change(begun.clone(), 6, "db", Some((6, TaskState::Staging)));
        let each = change(each, 8, "db", Some((8, RUNNING)));
        let each = change(each, 9, "web", Some((9, TaskState::Failed)));
        // The history drops the task later.
        let each = change(progress(each, 9), 12, "web", None);
        assert_clean(check, progress(each, 12));
        // A change of another fact of the task has the same update.
        let joined = change(begun, 8, "db", Some((8, RUNNING)));
        let joined = change(progress(joined, 8), 10, "web", Some((9, TaskState::Failed)));
        assert_clean(check, progress(joined, 10));
        // Ended tasks are not in a snapshot.
        assert_clean(check, progress(snapshot(committed(), 9, &[("db", 8)]), 9));
    }

    #[test]
    fn lost_history_and_a_snapshot_pass() {
        let begun = snapshot(committed(), 5, &[("web", 5)]);
        let lost = begun.observe_at("watcher", 8, WatchFact::HistoryLost { oldest: 8 });
        assert_clean(check, snapshot(lost, 9, &[("db", 8)]));
    }

    #[test]
    fn a_change_that_was_not_sent_is_reported() {
        let begun = snapshot(committed(), 5, &[("web", 5)]);
        let builder = change(begun.clone(), 8, "db", Some((8, RUNNING)));
        let expected = "became Failed in entry 9, and a reader that was sent everything up to 9";
        assert_violation(check, progress(builder, 9), expected);
        let builder = change(begun, 9, "web", Some((9, TaskState::Failed)));
        assert_violation(check, progress(builder, 9), "framework-3/db became Running");
    }

    #[test]
    fn a_change_that_comes_again_or_too_late_is_reported() {
        let begun = snapshot(committed(), 8, &[("web", 5), ("db", 8)]);
        let early = change(begun.clone(), 8, "db", Some((8, RUNNING)));
        assert_violation(check, early, "was sent after");
        let builder = change(begun, 9, "web", Some((9, TaskState::Failed)));
        let again = change(builder, 9, "web", Some((9, TaskState::Failed)));
        assert_violation(check, again, "was sent after");
    }

    #[test]
    fn a_record_without_its_newest_update_is_reported() {
        let begun = snapshot(committed(), 5, &[("web", 5)]);
        let stale = change(begun.clone(), 9, "web", Some((5, RUNNING)));
        assert_violation(check, stale, "became Failed in entry 9");
        let wrong = change(begun, 9, "web", Some((9, TaskState::Killed)));
        assert_violation(check, wrong, "was sent as Killed");
    }

    #[test]
    fn a_snapshot_with_a_former_state_of_a_task_is_reported() {
        let stale = snapshot(committed(), 9, &[("web", 5), ("db", 8)]);
        assert_violation(check, stale, "became Failed in entry 9");
    }

    #[test]
    fn a_snapshot_without_a_live_task_or_older_than_its_reader_is_reported() {
        let builder = snapshot(committed(), 8, &[("db", 8)]);
        assert_violation(check, builder, "framework-3/web became Running in entry 5");
        let begun = snapshot(committed(), 9, &[("db", 8)]);
        assert_violation(
            check,
            snapshot(begun, 8, &[("web", 5), ("db", 8)]),
            "a snapshot as of 8",
        );
    }

    #[test]
    fn without_a_reader_nothing_is_compared() {
        assert_nothing_compared(check, committed());
        // Before its first snapshot, a reader has nothing.
        assert_nothing_compared(check, progress(committed(), 9));
    }
}
