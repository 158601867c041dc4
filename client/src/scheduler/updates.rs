//! Updates that were received, and acknowledgements that are to be sent.
//!
//! Pure. To a framework an update is (task, revision); masters replay unacknowledged updates.

use std::collections::{BTreeMap, VecDeque};

use argosy_proto::v1;
use argosy_state::planted_bug;

/// Number of ended and acknowledged tasks that are remembered, so that a late replay is recognized;
/// the oldest are dropped.
const ENDED: usize = 10_000;
/// Maximum number of acknowledgements in one call.
const BATCH: usize = 1_000;

type RevisionKey = (u64, u32);

#[derive(Debug, Default, Clone, Copy)]
struct UpdateProgress {
    newest: RevisionKey,
    acknowledged: Option<RevisionKey>,
    is_terminal: bool,
    /// The entry up to which an answer to a reconciliation has reported it.
    reconciled: u64,
}

/// Updates of one session.
#[derive(Debug, Default)]
pub(crate) struct UpdateTracker {
    tasks: BTreeMap<String, UpdateProgress>,
    // Order in which tasks ended and were acknowledged.
    ended: VecDeque<String>,
    pending: BTreeMap<String, RevisionKey>,
    in_flight: BTreeMap<String, RevisionKey>,
    /// Number of calls that were answered.
    answered: u64,
}

impl UpdateTracker {
    /// Records an update; returns whether it is new. One that was acknowledged before is
    /// acknowledged again.
    pub(crate) fn receive(&mut self, status: &v1::TaskStatus, is_terminal: bool) -> bool {
        let Some(revision) = status.revision.map(pair) else {
            return true;
        };
        let progress = self.tasks.entry(status.task_id.clone()).or_default();
        let is_passed_over =
            planted_bug!(UpdatePassedOver) && self.in_flight.contains_key(&status.task_id);
        if revision > progress.newest && !is_passed_over {
            progress.newest = revision;
            // After an end, the id may be used again.
            progress.is_terminal = is_terminal;
            if is_terminal || revision.0 > progress.reconciled {
                return true;
            }
            // An answer has reported a newer state: the old one is not delivered, so it is
            // acknowledged here.
            progress.acknowledged = Some(revision);
            self.pending.insert(status.task_id.clone(), revision);
            return false;
        }
        if let Some(acknowledged) = progress
            .acknowledged
            .filter(|acknowledged| *acknowledged >= revision)
        {
            self.pending.insert(status.task_id.clone(), acknowledged);
        }
        false
    }

    /// Returns whether an update of this task was received that is newer than everything up to the
    /// entry at `index`.
    pub(crate) fn has_newer(&self, task_id: &str, index: u64) -> bool {
        let progress = self.tasks.get(task_id);
        progress.is_some_and(|progress| progress.newest.0 > index)
    }

    /// Acknowledges this update and all before it.
    pub(crate) fn acknowledge(&mut self, task_id: &str, revision: v1::Revision) {
        let revision = pair(revision);
        let progress = self.tasks.entry(task_id.to_owned()).or_default();
        if progress
            .acknowledged
            .is_some_and(|acknowledged| acknowledged >= revision)
        {
            return;
        }
        progress.acknowledged = Some(revision);
        self.pending.insert(task_id.to_owned(), revision);
        if progress.is_terminal && revision >= progress.newest {
            self.record_end(task_id);
        }
    }

    /// Records that an answer to a reconciliation, as of the entry at `index`, is delivered.
    pub(crate) fn answer(&mut self, task_id: &str, index: u64, is_terminal: bool) {
        let is_new = !self.tasks.contains_key(task_id);
        let progress = self.tasks.entry(task_id.to_owned()).or_default();
        progress.reconciled = progress.reconciled.max(index);
        if is_new && is_terminal {
            progress.is_terminal = true;
            self.record_end(task_id);
        }
    }

    fn record_end(&mut self, task_id: &str) {
        self.ended.push_back(task_id.to_owned());
        while self.ended.len() > ENDED {
            let Some(oldest) = self.ended.pop_front() else {
                return;
            };
            if self.tasks.get(&oldest).is_some_and(|task| task.is_terminal) {
                self.tasks.remove(&oldest);
            }
        }
    }

    /// Returns the acknowledgements for the next call; one call at a time, so that later ones are
    /// batched.
    pub(crate) fn send(&mut self) -> Option<Vec<v1::Acknowledgement>> {
        if !self.in_flight.is_empty() || self.pending.is_empty() {
            return None;
        }
        while self.in_flight.len() < BATCH {
            let Some((task, revision)) = self.pending.pop_first() else {
                break;
            };
            self.in_flight.insert(task, revision);
        }
        let wire = |(task_id, (index, position)): (&String, &RevisionKey)| v1::Acknowledgement {
            task_id: task_id.clone(),
            revision: Some(v1::Revision {
                index: *index,
                position: *position,
            }),
        };
        Some(self.in_flight.iter().map(wire).collect())
    }

    /// Records that the masters have them, or reject them permanently.
    pub(crate) fn sent(&mut self) {
        self.in_flight.clear();
        self.answered += 1;
    }

    /// Records that they may not have arrived: they are sent again, unless a later one covers them.
    pub(crate) fn unsent(&mut self) {
        for (task, revision) in std::mem::take(&mut self.in_flight) {
            let entry = self.pending.entry(task).or_insert(revision);
            *entry = (*entry).max(revision);
        }
    }

    /// Returns the number of calls that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Returns the number of answered calls at which the present acknowledgements have arrived.
    pub(crate) fn answered_with_present(&self) -> u64 {
        let calls = self.pending.len().div_ceil(BATCH) + usize::from(!self.in_flight.is_empty());
        self.answered + calls as u64
    }

    /// Returns whether every acknowledgement has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty()
    }
}

fn pair(revision: v1::Revision) -> RevisionKey {
    (revision.index, revision.position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(task: &str, index: u64) -> v1::TaskStatus {
        v1::TaskStatus {
            task_id: task.into(),
            revision: Some(v1::Revision { index, position: 0 }),
            ..Default::default()
        }
    }

    fn revision(index: u64) -> v1::Revision {
        v1::Revision { index, position: 0 }
    }

    #[test]
    fn an_update_is_delivered_once_and_a_repetition_acknowledged_again() {
        let mut updates = UpdateTracker::default();
        assert!(updates.receive(&status("a", 5), false));
        assert!(!updates.receive(&status("a", 5), false));
        assert!(updates.send().is_none(), "nothing is acknowledged unasked");
        updates.acknowledge("a", revision(5));
        assert_eq!(updates.send().unwrap().len(), 1);
        updates.sent();
        assert!(!updates.receive(&status("a", 4), false));
        assert_eq!(updates.send().unwrap()[0].revision, Some(revision(5)));
    }

    #[test]
    fn lost_acknowledgements_are_resent_with_the_newest_revision() {
        let mut updates = UpdateTracker::default();
        updates.acknowledge("a", revision(5));
        updates.acknowledge("b", revision(6));
        assert_eq!(updates.send().unwrap().len(), 2);
        updates.acknowledge("a", revision(9));
        assert!(updates.send().is_none(), "one call at a time");
        updates.unsent();
        let again = updates.send().unwrap();
        assert_eq!(again[0].revision, Some(revision(9)));
        assert_eq!(again[1].revision, Some(revision(6)));
        updates.sent();
        assert!(updates.is_empty());
    }

    #[test]
    fn present_acknowledgements_are_a_number_of_calls() {
        let mut updates = UpdateTracker::default();
        assert_eq!(updates.answered_with_present(), 0);
        for serial in 0..=BATCH {
            updates.acknowledge(&format!("task-{serial}"), revision(5));
        }
        assert_eq!(updates.answered_with_present(), 2);
        updates.send().unwrap();
        assert_eq!(updates.answered_with_present(), 2);
        updates.sent();
        updates.send().unwrap();
        updates.unsent();
        assert_eq!(
            (updates.answered(), updates.answered_with_present()),
            (1, 2)
        );
    }

    #[test]
    fn answers_without_a_revision_are_always_delivered() {
        let mut updates = UpdateTracker::default();
        let answer = v1::TaskStatus {
            task_id: "a".into(),
            ..Default::default()
        };
        assert!(updates.receive(&answer, false) && updates.receive(&answer, false));
    }

    #[test]
    fn an_update_older_than_an_answer_is_acknowledged_and_not_delivered() {
        let mut updates = UpdateTracker::default();
        updates.answer("a", 7, true);
        assert!(!updates.receive(&status("a", 6), false));
        assert_eq!(updates.send().unwrap()[0].revision, Some(revision(6)));
        assert!(
            updates.receive(&status("a", 7), true),
            "the end has its own update"
        );
        updates.answer("b", 7, false);
        assert!(updates.receive(&status("b", 8), false));
    }

    #[test]
    fn ended_tasks_are_removed_after_a_delay() {
        let mut updates = UpdateTracker::default();
        for serial in 0..(ENDED as u64 + 5) {
            let task = format!("task-{serial}");
            updates.receive(&status(&task, serial + 1), true);
            updates.acknowledge(&task, revision(serial + 1));
        }
        assert_eq!(updates.tasks.len(), ENDED);
    }

    #[test]
    fn a_task_with_the_id_of_an_ended_one_is_not_removed() {
        let mut updates = UpdateTracker::default();
        for (index, is_terminal) in [(1, true), (2, false), (3, false)] {
            assert!(updates.receive(&status("web", index), is_terminal));
            updates.acknowledge("web", revision(index));
        }
        for serial in 0..=ENDED as u64 {
            let task = format!("task-{serial}");
            updates.receive(&status(&task, serial + 4), true);
            updates.acknowledge(&task, revision(serial + 4));
        }
        assert!(!updates.receive(&status("web", 3), false), "it is repeated");
    }
}
