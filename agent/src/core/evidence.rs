//! Evidence in a record beyond its content, for journals of which another record is damaged.
//!
//! A record that names an instance proves that its launch was taken, and in which run. Without
//! damage this is known already, and changes nothing.

use super::executors::ExecutorRecord;
use super::facts::{Facts, Instance, Record, Taken};

impl Facts {
    /// Keeps the evidence of this record for the last order taken, the run, and the id of this
    /// agent.
    pub(super) fn learn(&mut self, record: &Record) {
        if let Record::Took {
            what: Taken::Launch {
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
        self.identity.life = self.identity.life.max(life(record));
    }

    /// Skips this many update numbers of each task that has not ended: records of updates were
    /// lost, and the registry ignores a number that it has seen.
    pub(crate) fn skip_numbers(&mut self, count: u64) {
        let live = self.tasks.values_mut();
        live.filter(|task| !task.state.is_terminal())
            .for_each(|task| task.made = task.made.saturating_add(count));
    }
}

impl Record {
    /// Returns the instance that this record names; a launch names only an order.
    pub(crate) fn instance(&self) -> Option<Instance> {
        match self {
            Record::Identity(_) | Record::Forgot(_) | Record::Floor(_) => None,
            Record::Took { what, .. } => match what {
                Taken::Launch { .. } | Taken::Nothing => None,
                Taken::Kill { instance, .. } | Taken::Limits { instance, .. } => Some(*instance),
            },
            Record::Started { instance, .. }
            | Record::Updated { instance, .. }
            | Record::Committed { instance, .. }
            | Record::Released { instance }
            | Record::Stray { instance }
            | Record::Retried { instance, .. }
            | Record::Task { instance, .. } => Some(*instance),
            Record::Executor(record) => Some(match record {
                ExecutorRecord::Began { instance, .. }
                | ExecutorRecord::Started { instance, .. }
                | ExecutorRecord::Ending { instance }
                | ExecutorRecord::Cleared { instance }
                | ExecutorRecord::Heard { instance, .. } => *instance,
            }),
        }
    }
}

/// Returns the run that a record names; 0 for none.
fn life(record: &Record) -> u64 {
    match record {
        Record::Took {
            what: Taken::Launch { life, .. },
            ..
        }
        | Record::Retried { life, .. } => *life,
        Record::Task { facts, .. } => facts.life,
        Record::Executor(ExecutorRecord::Began { facts, .. }) => facts.life,
        // Identities replace the run.
        Record::Identity(_)
        | Record::Forgot(_)
        | Record::Floor(_)
        | Record::Took { .. }
        | Record::Started { .. }
        | Record::Updated { .. }
        | Record::Committed { .. }
        | Record::Released { .. }
        | Record::Stray { .. }
        | Record::Executor(_) => 0,
    }
}
