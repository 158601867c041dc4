//! Which records hold a fact: up to feature level 2 one for all of an object, above it several, by how often they change.
//!
//! The layout is replicated. When the level is raised, sweeps split the records in the order of their keys, and the layout
//! says how far they have come: so each master knows at each index which records an object has.

use super::history::keeps_all;
use super::{RecordKey, Registry};
use crate::agent::Agent;
use crate::command::SweepTarget;
use crate::encode::stored::stored;
use crate::ids::{AgentId, OrderIndex, Revision, TaskKey};
use crate::task::{Cause, Limits, Task, Update};

/// How the records of the registry are laid out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Layout {
    /// One record for each object, and one for the cluster and its sweeps, as release 0.1.0 has them.
    #[default]
    Whole,
    /// The counter of the history is split off, and the sweeps up to this one.
    Sweeps {
        /// `None`: none of them.
        after: Option<SweepTarget>,
    },
    /// All sweeps are split, and the agents up to this one.
    Agents {
        /// 0: none of them.
        after: AgentId,
    },
    /// All agents are split, and the tasks up to this one.
    Tasks {
        /// `None`: none of them.
        after: Option<TaskKey>,
    },
    /// What changes often is apart from what does not.
    Split,
}

impl Layout {
    /// Whether sweeps are still to split records.
    #[must_use]
    pub fn is_converting(&self) -> bool {
        match self {
            Self::Whole | Self::Split => false,
            Self::Sweeps { .. } | Self::Agents { .. } | Self::Tasks { .. } => true,
        }
    }

    /// Whether this sweep has a record of its own.
    pub(crate) fn splits_sweep(&self, target: SweepTarget) -> bool {
        match self {
            Self::Whole => false,
            Self::Sweeps { after } => Some(target) <= *after,
            Self::Agents { .. } | Self::Tasks { .. } | Self::Split => true,
        }
    }

    /// Whether this agent has several records.
    pub(crate) fn splits_agent(&self, id: AgentId) -> bool {
        match self {
            Self::Whole | Self::Sweeps { .. } => false,
            Self::Agents { after } => id <= *after,
            Self::Tasks { .. } | Self::Split => true,
        }
    }

    /// Whether the description, the status and the limits of this task are records of their own.
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

/// A message of an update that is longer, its causes included, has a record of its own, so that later updates do not write it again.
const SHORT_BYTES: usize = 32;

/// Whether the message of an update has a record of its own.
pub(crate) fn is_long(update: &Update) -> bool {
    let causes = update.causes.iter().map(Cause::bytes);
    update.message.len() + causes.sum::<usize>() > SHORT_BYTES
}

/// The newest update but the end, and the end, if their messages are long.
pub(crate) fn long_messages(task: &Task) -> [Option<&Update>; 2] {
    let long = |is_end: bool| {
        let updates = task.unacknowledged.iter().chain([&task.latest]);
        let mut updates = updates.filter(|update| update.state.is_terminal() == is_end);
        updates.next_back().filter(|update| is_long(update))
    };
    [long(false), long(true)]
}

/// What the two records of a task's limits hold: those of its description, and those before a change that is open.
pub(crate) fn limits_of(task: &Task) -> [Option<&Limits>; 2] {
    let change = task.limits_change.as_ref();
    let before = change.and_then(|change| change.before.as_deref());
    let mut both = [task.spec.limits.as_deref(), before];
    if change.is_some_and(|change| change.is_second) {
        both.reverse();
    }
    both
}

/// The records of a task that is split.
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

/// What the record of a change of limits holds: its order, its outcome, why, and whether the second limits are the new ones.
type KeptChange = (OrderIndex, Option<Result<(), String>>, Vec<Cause>, bool);

/// What of a task is in records that few changes concern, before a change.
#[derive(PartialEq, Eq)]
pub(super) struct Former {
    limits: [Option<Limits>; 2],
    change: Option<KeptChange>,
    messages: [Option<Revision>; 2],
}

impl Former {
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

/// Notes for storage which records a change concerns.
impl Registry {
    /// All records of a task that is launched.
    pub(super) fn note_launched(&mut self, task: &Task) {
        match self.cluster.layout.splits_task(&task.key) {
            true => self.changed.extend(records_of(task)),
            false => drop(self.changed.insert(RecordKey::Task(task.key.clone()))),
        }
    }

    /// What changes in the life of a task.
    pub(super) fn note_changed(&mut self, key: &TaskKey, former: &Former, present: &Former) {
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

    /// The records of a task that becomes history under `serial`: those that the history keeps stay as they are.
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

    /// The records of a task that the history drops.
    pub(super) fn note_dropped(&mut self, task: &Task, serial: u64) {
        match serial <= self.cluster.last_whole || self.cluster.layout == Layout::Whole {
            true => drop(self.changed.insert(RecordKey::FinishedTask(serial))),
            false => self.changed.extend(records_of(task)),
        }
    }

    /// The records of an agent that a change concerns, or all of one that comes or goes.
    pub(super) fn note_agent(&mut self, id: AgentId, change: Option<(&Agent, &Agent)>) {
        if !self.cluster.layout.splits_agent(id) {
            self.changed.insert(RecordKey::Agent(id));
            return;
        }
        let differs = |differs: fn(&Agent, &Agent) -> bool| {
            change.is_none_or(|(former, present)| differs(former, present))
        };
        let is_reported = differs(|former, present| former.reported != present.reported);
        let is_agreed = differs(|former, present| former.agreed != present.agreed);
        let records = [
            is_reported.then_some(RecordKey::AgentReported(id)),
            is_agreed.then_some(RecordKey::AgentAgreed(id)),
            Some(RecordKey::AgentStatus(id)),
        ];
        self.changed.extend(records.into_iter().flatten());
    }

    /// The counters of an agent.
    pub(super) fn note_counters(&mut self, id: AgentId) {
        self.changed
            .insert(match self.cluster.layout.splits_agent(id) {
                true => RecordKey::AgentCounters(id),
                false => RecordKey::Agent(id),
            });
    }

    /// Changes the orders of an agent, or its used offers, and nothing else of it.
    pub(crate) fn count_agent(&mut self, id: AgentId) -> &mut Agent {
        self.note_counters(id);
        self.agents
            .get_mut(&id)
            .expect("the caller has just looked it up")
    }

    /// As release 0.1.0 does.
    pub(super) fn note_removed_agent(&mut self) {
        if self.cluster.layout == Layout::Whole {
            self.changed.insert(RecordKey::Cluster);
        }
    }

    /// Sets a sweep, or how far it has come.
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

    /// The next serial of the histories.
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
