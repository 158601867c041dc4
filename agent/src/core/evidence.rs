//! Evidence in a record beyond its content, for journals of which another record is damaged.
//!
//! A record that names an instance proves that its launch was taken, and in which run. Without
//! damage this is known already, and changes nothing.

use super::executors::ExecutorRecord;
use super::facts::{AgentState, Instance, JournalRecord, OrderBody};

impl AgentState {
    /// Keeps the evidence of this record for the last order taken, the run, and the id of this
    /// agent.
    pub(super) fn learn(&mut self, record: &JournalRecord) {
        if let JournalRecord::OrderAccepted {
            body: OrderBody::Launch {
                agent: Some(agent), ..
            },
            ..
        } = record
        {
            // Only an agent with an id receives orders.
            self.identity.agent.get_or_insert(*agent);
        }
        if let Some(instance) = record.instance()
            && self.identity.agent == Some(instance.agent)
        {
            self.floor = self.floor.max(instance.order);
        }
        self.identity.run = self.identity.run.max(run(record));
    }

    /// Skips this many update numbers of each task that has not ended: records of updates were
    /// lost, and the registry ignores a number that it has seen.
    pub(crate) fn skip_numbers(&mut self, count: u64) {
        let live = self.tasks.values_mut();
        live.filter(|task| !task.state.is_terminal())
            .for_each(|task| task.newest_update = task.newest_update.saturating_add(count));
    }
}

impl JournalRecord {
    /// Returns the instance that this record names; a launch names only an order.
    pub(crate) fn instance(&self) -> Option<Instance> {
        match self {
            JournalRecord::Identity(_)
            | JournalRecord::IdentityReset(_)
            | JournalRecord::Floor(_) => None,
            JournalRecord::OrderAccepted { body, .. } => match body {
                OrderBody::Launch { .. } | OrderBody::Nothing => None,
                OrderBody::Kill { instance, .. } | OrderBody::Limits { instance, .. } => {
                    Some(*instance)
                }
            },
            JournalRecord::Started { instance, .. }
            | JournalRecord::Updated { instance, .. }
            | JournalRecord::Committed { instance, .. }
            | JournalRecord::Released { instance }
            | JournalRecord::Orphaned { instance }
            | JournalRecord::Retried { instance, .. }
            | JournalRecord::Task { instance, .. } => Some(*instance),
            JournalRecord::Executor(record) => Some(match record {
                ExecutorRecord::Created { instance, .. }
                | ExecutorRecord::Started { instance, .. }
                | ExecutorRecord::Ending { instance, .. }
                | ExecutorRecord::Cleared { instance }
                | ExecutorRecord::UpdateReceived { instance, .. } => *instance,
            }),
        }
    }
}

/// Returns the run that a record names; 0 for none.
fn run(record: &JournalRecord) -> u64 {
    match record {
        JournalRecord::OrderAccepted {
            body: OrderBody::Launch { run, .. },
            ..
        }
        | JournalRecord::Retried { run, .. } => *run,
        JournalRecord::Task { facts, .. } => facts.run,
        JournalRecord::Executor(ExecutorRecord::Created { facts, .. }) => facts.run,
        // Identities replace the run.
        JournalRecord::Identity(_)
        | JournalRecord::IdentityReset(_)
        | JournalRecord::Floor(_)
        | JournalRecord::OrderAccepted { .. }
        | JournalRecord::Started { .. }
        | JournalRecord::Updated { .. }
        | JournalRecord::Committed { .. }
        | JournalRecord::Released { .. }
        | JournalRecord::Orphaned { .. }
        | JournalRecord::Executor(_) => 0,
    }
}
