//! The layout of records: up to feature level 2 one record for each object, above it several, by
//! how often their facts change.
//!
//! The layout is replicated. When the level is raised, sweeps split the records in the order of
//! their keys, and the layout holds their progress. So each master knows at each index which
//! records an object has.

use super::history::keeps_all;
use super::{RecordKey, Registry};
use crate::agent::Agent;
use crate::codec::stored::stored;
use crate::command::SweepTarget;
use crate::ids::{AgentId, OrderIndex, Revision, TaskKey};
use crate::task::{Cause, Task, TaskLimits, TaskUpdate};

/// The layout of the registry's records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Layout {
    /// One record for each object, and one for the cluster and its sweeps, as in release 0.1.0.
    #[default]
    Whole,
    /// The counter of the history and the sweeps up to this one are split.
    Sweeps {
        /// The last split sweep; `None` if none is.
        after: Option<SweepTarget>,
    },
    /// All sweeps and the agents up to this one are split.
    Agents {
        /// The last split agent; 0 if none is.
        after: AgentId,
    },
    /// All sweeps and agents, and the tasks up to this one, are split.
    Tasks {
        /// The last split task; `None` if none is.
        after: Option<TaskKey>,
    },
    /// All records are split: facts that change often are separate from those that do not.
    Split,
}

impl Layout {
    /// Returns whether records remain to be split by sweeps.
    #[must_use]
    pub fn is_converting(&self) -> bool {
        match self {
            Self::Whole | Self::Split => false,
            Self::Sweeps { .. } | Self::Agents { .. } | Self::Tasks { .. } => true,
        }
    }

    /// Returns whether this sweep has a separate record.
    pub(crate) fn splits_sweep(&self, target: SweepTarget) -> bool {
        match self {
            Self::Whole => false,
            Self::Sweeps { after } => Some(target) <= *after,
            Self::Agents { .. } | Self::Tasks { .. } | Self::Split => true,
        }
    }

    /// Returns whether this agent has several records.
    pub(crate) fn splits_agent(&self, id: AgentId) -> bool {
        match self {
            Self::Whole | Self::Sweeps { .. } => false,
            Self::Agents { after } => id <= *after,
            Self::Tasks { .. } | Self::Split => true,
        }
    }

    /// Returns whether the description, the status and the limits of this task are separate
    /// records.
    pub(crate) fn splits_task(&self, key: &TaskKey) -> bool {
        match self {
            Self::Whole | Self::Sweeps { .. } | Self::Agents { .. } => false,
            Self::Tasks { after } => after.as_ref().is_some_and(|after| key <= after),
            Self::Split => true,
        }
    }
}

stored!(message Layout as (layout) {
    1 | 2 | 3 | 4 layout: OneOf,
});

stored!(oneof Layout else Whole {
    1 Sweeps {
        1 after: MaybePart,
    },
    2 Agents {
        1 after: Number,
    },
    3 Tasks {
        1 after: MaybePart,
    },
    4 Split,
});

/// The longest message of an update, including its causes, that is stored in the status record. A
/// longer one has a separate record, so that later updates do not rewrite it.
const SHORT_BYTES: usize = 32;

/// Returns whether the message of an update has a separate record.
pub(crate) fn is_long(update: &TaskUpdate) -> bool {
    let causes = update.causes.iter().map(Cause::bytes);
    update.message.len() + causes.sum::<usize>() > SHORT_BYTES
}

/// Returns the newest non-terminal update, and the terminal one, if their messages are long.
pub(crate) fn long_messages(task: &Task) -> [Option<&TaskUpdate>; 2] {
    let long = |is_end: bool| {
        let updates = task.unacknowledged.iter().chain([&task.latest]);
        let mut updates = updates.filter(|update| update.state.is_terminal() == is_end);
        updates.next_back().filter(|update| is_long(update))
    };
    [long(false), long(true)]
}

/// Returns the contents of the two records of a task's limits: those of its description, and those
/// before an open change.
pub(crate) fn limits_of(task: &Task) -> [Option<&TaskLimits>; 2] {
    let change = task.limits_change.as_ref();
    let before = change.and_then(|change| change.before.as_deref());
    let mut both = [task.spec.limits.as_deref(), before];
    if change.is_some_and(|change| change.is_second) {
        both.reverse();
    }
    both
}

/// Returns the records of a task that is split.
pub(crate) fn records_of(task: &Task) -> impl Iterator<Item = RecordKey> {
    let key = &task.key;
    let [message, end] = long_messages(task);
    let [limits, second] = limits_of(task);
    let records = [
        Some(RecordKey::TaskFacts(key.clone())),
        (!keeps_all(&task.spec)).then(|| RecordKey::TaskSpec(key.clone())),
        Some(RecordKey::TaskStatus(key.clone())),
        message.map(|_| RecordKey::TaskMessage(key.clone())),
        end.map(|_| RecordKey::TaskEndMessage(key.clone())),
        limits.map(|_| RecordKey::TaskLimits(key.clone())),
        second.map(|_| RecordKey::SecondLimits(key.clone())),
        (task.limits_change.as_ref()).map(|_| RecordKey::LimitsChange(key.clone())),
    ];
    records.into_iter().flatten()
}

/// The contents of the record of a change of limits: its order, its outcome, the causes, and
/// whether the second limits are the new ones.
type StoredLimitsChange = (OrderIndex, Option<Result<(), String>>, Vec<Cause>, bool);

/// The state of a task's rarely changed records before a change.
#[derive(PartialEq, Eq)]
pub(super) struct FormerTaskRecords {
    limits: [Option<TaskLimits>; 2],
    change: Option<StoredLimitsChange>,
    messages: [Option<Revision>; 2],
}

impl FormerTaskRecords {
    pub(super) fn of(task: &Task) -> Self {
        Self {
            limits: limits_of(task).map(|limits| limits.cloned()),
            change: task.limits_change.as_ref().map(|change| {
                let (outcome, causes) = (change.outcome.clone(), change.causes.clone());
                (change.order, outcome, causes, change.is_second)
            }),
            messages: long_messages(task).map(|update| Some(update?.revision)),
        }
    }
}

/// The functions that note the changed records for storage.
impl Registry {
    /// Notes all records of a task that is launched.
    pub(super) fn note_launched(&mut self, task: &Task) {
        match self.cluster.layout.splits_task(&task.key) {
            true => self.changed.extend(records_of(task)),
            false => drop(self.changed.insert(RecordKey::Task(task.key.clone()))),
        }
    }

    /// Notes the records that a change of a task concerns.
    pub(super) fn note_changed(
        &mut self,
        key: &TaskKey,
        former: &FormerTaskRecords,
        present: &FormerTaskRecords,
    ) {
        if !self.cluster.layout.splits_task(key) {
            self.changed.insert(RecordKey::Task(key.clone()));
            return;
        }
        self.changed.insert(RecordKey::TaskStatus(key.clone()));
        if former == present {
            return;
        }
        let [message, end] = present.messages;
        let records = [
            (former.limits[0] != present.limits[0]).then(|| RecordKey::TaskLimits(key.clone())),
            (former.limits[1] != present.limits[1]).then(|| RecordKey::SecondLimits(key.clone())),
            (former.change != present.change).then(|| RecordKey::LimitsChange(key.clone())),
            (former.messages[0] != message).then(|| RecordKey::TaskMessage(key.clone())),
            (former.messages[1] != end).then(|| RecordKey::TaskEndMessage(key.clone())),
        ];
        self.changed.extend(records.into_iter().flatten());
    }

    /// Notes the records of a task that becomes history under `serial`. Those that the history
    /// keeps do not change.
    pub(super) fn note_finished(&mut self, task: &Task, serial: u64) {
        let key = &task.key;
        if !self.cluster.layout.splits_task(key) {
            self.changed.insert(RecordKey::Task(key.clone()));
        }
        if self.cluster.layout == Layout::Whole {
            self.changed.insert(RecordKey::FinishedTask(serial));
            return;
        }
        if !self.cluster.layout.splits_task(key) {
            self.changed.extend(records_of(task));
            return;
        }
        let gone = records_of(task).filter(|record| {
            matches!(
                record,
                RecordKey::TaskSpec(_) | RecordKey::TaskStatus(_) | RecordKey::TaskMessage(_)
            )
        });
        self.changed.extend(gone);
    }

    /// Notes the records of a task that the history drops.
    pub(super) fn note_dropped(&mut self, task: &Task, serial: u64) {
        match serial <= self.cluster.last_whole || self.cluster.layout == Layout::Whole {
            true => drop(self.changed.insert(RecordKey::FinishedTask(serial))),
            false => self.changed.extend(records_of(task)),
        }
    }

    /// Notes the records that a change of an agent concerns, or all of an agent that is added or
    /// removed.
    pub(super) fn note_agent(&mut self, id: AgentId, change: Option<(&Agent, &Agent)>) {
        if !self.cluster.layout.splits_agent(id) {
            self.changed.insert(RecordKey::Agent(id));
            return;
        }
        let differs = |differs: fn(&Agent, &Agent) -> bool| {
            change.is_none_or(|(former, present)| differs(former, present))
        };
        let is_reported = differs(|former, present| {
            former.report != present.report || former.principal != present.principal
        });
        let is_agreed = differs(|former, present| former.admin != present.admin);
        let records = [
            is_reported.then_some(RecordKey::AgentReport(id)),
            is_agreed.then_some(RecordKey::AgentAdministration(id)),
            Some(RecordKey::AgentStatus(id)),
        ];
        self.changed.extend(records.into_iter().flatten());
    }

    /// Notes the record with the counters of an agent.
    pub(super) fn note_counters(&mut self, id: AgentId) {
        self.changed
            .insert(match self.cluster.layout.splits_agent(id) {
                true => RecordKey::AgentCounters(id),
                false => RecordKey::Agent(id),
            });
    }

    /// Returns an agent for a change of only its orders or used offers.
    pub(crate) fn count_agent(&mut self, id: AgentId) -> &mut Agent {
        self.note_counters(id);
        self.agents
            .get_mut(&id)
            .expect("the caller has just looked it up")
    }

    /// Notes the cluster's record, as release 0.1.0 does.
    pub(super) fn note_removed_agent(&mut self) {
        if self.cluster.layout == Layout::Whole {
            self.changed.insert(RecordKey::Cluster);
        }
    }

    /// Adds a sweep, or sets its progress.
    pub(crate) fn put_sweep(&mut self, target: SweepTarget, mark: super::SweepMark) {
        self.cluster.sweeps.insert(target, mark);
        self.note_sweep(target);
    }

    /// Ends a sweep, if there is one.
    pub(crate) fn remove_sweep(&mut self, target: SweepTarget) {
        let known = self.cluster.sweeps.remove(&target).is_some();
        if known || !self.cluster.layout.splits_sweep(target) {
            self.note_sweep(target);
        }
    }

    pub(crate) fn note_sweep(&mut self, target: SweepTarget) {
        self.changed
            .insert(match self.cluster.layout.splits_sweep(target) {
                true => RecordKey::Sweep(target),
                false => RecordKey::Cluster,
            });
    }

    /// Returns the next serial of the histories.
    pub(crate) fn next_finished(&mut self) -> u64 {
        self.cluster.last_finished += 1;
        self.changed.insert(match self.cluster.layout {
            Layout::Whole => RecordKey::Cluster,
            Layout::Sweeps { .. }
            | Layout::Agents { .. }
            | Layout::Tasks { .. }
            | Layout::Split => RecordKey::History,
        });
        self.cluster.last_finished
    }
}
