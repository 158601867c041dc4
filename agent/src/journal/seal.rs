//! Redundant records of a journal, so that one damaged record cannot affect more than its own task.
//!
//! A synced group of records ends with a seal: a copy of the identity and the last order taken.
//! Short records on which another start or the end of a task depends are written twice.

use argosy_state::ids::OrderIndex;

use crate::core::{AgentIdentity, AgentState, ExecutorRecord, JournalRecord, OrderBody};

/// The identity and the last order taken, after the records so far.
#[derive(Debug)]
pub(super) struct Seal {
    identity: AgentIdentity,
    floor: OrderIndex,
}

impl Seal {
    /// Returns the seal of a journal that holds these facts.
    pub(super) fn of(facts: &AgentState) -> Self {
        Self {
            identity: facts.identity.clone(),
            floor: facts.floor,
        }
    }

    /// Applies one record.
    pub(super) fn apply(&mut self, record: &JournalRecord) {
        match record {
            JournalRecord::Identity(identity) => self.identity.clone_from(identity),
            JournalRecord::IdentityReset(identity) => {
                self.identity.clone_from(identity);
                self.floor = OrderIndex(0);
            }
            JournalRecord::OrderAccepted { order, .. } => self.floor = self.floor.max(*order),
            JournalRecord::Floor(order) => self.floor = *order,
            JournalRecord::Started { .. }
            | JournalRecord::Updated { .. }
            | JournalRecord::Committed { .. }
            | JournalRecord::Released { .. }
            | JournalRecord::Orphaned { .. }
            | JournalRecord::Retried { .. }
            | JournalRecord::Task { .. }
            | JournalRecord::Executor(_) => {}
        }
    }

    /// Returns the seal as records.
    pub(super) fn records(&self) -> [JournalRecord; 2] {
        [
            JournalRecord::Identity(self.identity.clone()),
            JournalRecord::Floor(self.floor),
        ]
    }
}

/// Returns the number of copies of this record, which are consecutive: applying it twice is the
/// same as once.
pub(super) fn copies(record: &JournalRecord) -> usize {
    let is_doubled = match record {
        JournalRecord::OrderAccepted { body, .. } => match body {
            // Without it the task would continue to run, or with other limits.
            OrderBody::Kill { .. } | OrderBody::Limits { .. } => true,
            OrderBody::Launch { .. } | OrderBody::Nothing => false,
        },
        // Without it the next run would search for a container of another name, and start a third
        // one.
        JournalRecord::Retried { .. } => true,
        JournalRecord::Executor(record) => match record {
            // Many tasks depend on it.
            ExecutorRecord::Created { .. } | ExecutorRecord::Ending { .. } => true,
            ExecutorRecord::Started { .. }
            | ExecutorRecord::Cleared { .. }
            | ExecutorRecord::UpdateReceived { .. } => false,
        },
        // A seal repeats these, or they concern only one task.
        JournalRecord::Identity(_)
        | JournalRecord::IdentityReset(_)
        | JournalRecord::Floor(_)
        | JournalRecord::Started { .. }
        | JournalRecord::Updated { .. }
        | JournalRecord::Committed { .. }
        | JournalRecord::Released { .. }
        | JournalRecord::Orphaned { .. }
        | JournalRecord::Task { .. } => false,
    };
    1 + usize::from(is_doubled)
}
