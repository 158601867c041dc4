//! Redundant records of a journal, so that one damaged record cannot affect more than its own task.
//!
//! A synced group of records ends with a seal: a copy of the identity and the last order taken.
//! Short records on which another start or the end of a task depends are written twice.

use argosy_state::ids::OrderIndex;

use crate::core::{ExecutorRecord, Facts, Identity, Record, Taken};

/// The identity and the last order taken, after the records so far.
#[derive(Debug)]
pub(super) struct Seal {
    identity: Identity,
    floor: OrderIndex,
}

impl Seal {
    /// Returns the seal of a journal that holds these facts.
    pub(super) fn of(facts: &Facts) -> Self {
        Self {
            identity: facts.identity.clone(),
            floor: facts.floor,
        }
    }

    /// Applies one record.
    pub(super) fn follow(&mut self, record: &Record) {
        match record {
            Record::Identity(identity) => self.identity.clone_from(identity),
            Record::Forgot(identity) => {
                self.identity.clone_from(identity);
                self.floor = OrderIndex(0);
            }
            Record::Took { order, .. } => self.floor = self.floor.max(*order),
            Record::Floor(order) => self.floor = *order,
            Record::Started { .. }
            | Record::Updated { .. }
            | Record::Committed { .. }
            | Record::Released { .. }
            | Record::Stray { .. }
            | Record::Retried { .. }
            | Record::Task { .. }
            | Record::Executor(_) => {}
        }
    }

    /// Returns the seal as records.
    pub(super) fn records(&self) -> [Record; 2] {
        [
            Record::Identity(self.identity.clone()),
            Record::Floor(self.floor),
        ]
    }
}

/// Returns the number of copies of this record, which are consecutive: applying it twice is the
/// same as once.
pub(super) fn copies(record: &Record) -> usize {
    let is_doubled = match record {
        Record::Took { what, .. } => match what {
            // Without it the task would continue to run, or with other limits.
            Taken::Kill { .. } | Taken::Limits { .. } => true,
            Taken::Launch { .. } | Taken::Nothing => false,
        },
        // Without it the next run would search for a container of another name, and start a third
        // one.
        Record::Retried { .. } => true,
        Record::Executor(record) => match record {
            // Many tasks depend on it.
            ExecutorRecord::Began { .. } | ExecutorRecord::Ending { .. } => true,
            ExecutorRecord::Started { .. }
            | ExecutorRecord::Cleared { .. }
            | ExecutorRecord::Heard { .. } => false,
        },
        // A seal repeats these, or they concern only one task.
        Record::Identity(_)
        | Record::Forgot(_)
        | Record::Floor(_)
        | Record::Started { .. }
        | Record::Updated { .. }
        | Record::Committed { .. }
        | Record::Released { .. }
        | Record::Stray { .. }
        | Record::Task { .. } => false,
    };
    1 + usize::from(is_doubled)
}
