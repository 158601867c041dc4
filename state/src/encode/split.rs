//! Split records of tasks and agents: facts are stored by how often they change, see
//! [`Layout`](crate::registry::Layout).
//!
//! The parts of an object are read in any order, and joined at the end.

mod agents;

use std::collections::BTreeMap;
use std::sync::Arc;

use agents::AgentParts;
pub(super) use agents::{AgentCounters, AgentFacts, AgentStatus};

use super::{DecodeError, read};
use crate::Registry;
use crate::codec::stored::stored;
use crate::command::SweepTarget;
use crate::ids::{AgentId, OrderIndex, Revision, Role, TaskKey};
use crate::registry::{
    ClusterRecord, Layout, RecordKey, SweepMark, is_long, keeps_all, long_messages,
    reduce_to_history,
};
use crate::task::{
    Cause, CheckResults, FinishedTask, Kill, LimitsChange, Task, TaskLimits, TaskSpec, TaskState,
    TaskUpdate,
};

/// The facts of a task that never change, and the part of its description that the history keeps.
pub(super) struct TaskFactsRecord {
    agent: AgentId,
    role: Role,
    order: OrderIndex,
    /// The description without limits.
    spec: Arc<TaskSpec>,
}

stored!(message TaskFactsRecord {
    1 agent: Number,
    2 role: Text,
    3 order: Number,
    4 spec: Part or "description",
});

impl TaskFactsRecord {
    pub(super) fn of(task: &Task) -> Self {
        let mut spec = without_limits(task);
        reduce_to_history(Arc::make_mut(&mut spec));
        Self {
            agent: task.agent,
            role: task.role.clone(),
            order: task.order,
            spec,
        }
    }
}

/// Returns the description without limits, which may change. Nothing else of a description does.
fn without_limits(task: &Task) -> Arc<TaskSpec> {
    let mut spec = Arc::clone(&task.spec);
    if spec.limits.is_some() {
        Arc::make_mut(&mut spec).limits = None;
    }
    spec
}

/// Returns the complete description of a task, if its history does not keep all of it.
pub(super) fn description(task: &Task) -> Option<Arc<TaskSpec>> {
    (!keeps_all(&task.spec)).then(|| without_limits(task))
}

/// The facts that each update and each acknowledgement of a task change.
pub(super) struct TaskStatusRecord {
    state: TaskState,
    agent_state: TaskState,
    reported: u64,
    unacknowledged: Vec<TaskUpdate>,
    /// The newest update, unless it is the last unacknowledged one.
    latest: Option<TaskUpdate>,
    revision: Revision,
    standing: CheckResults,
    kill: Option<Kill>,
    /// The serial in the history; 0 for a task that is not in the history.
    finished: u64,
}

stored!(message TaskStatusRecord {
    1 state: Number or "task state",
    2 agent_state: Number or "task state",
    3 reported: Number,
    4 unacknowledged: PartList,
    5 latest: MaybePart,
    6 revision: Part,
    7 standing: PartOrDefault,
    8 kill: MaybePart,
    9 finished: Number,
});

impl TaskStatusRecord {
    pub(super) fn of(task: &Task, finished: u64) -> Self {
        let waits = task.unacknowledged.last() == Some(&task.latest);
        // A long message has a separate record.
        let short = |update: &TaskUpdate| match is_long(update) {
            true => update_without_message(update),
            false => update.clone(),
        };
        Self {
            state: task.state,
            agent_state: task.agent_state,
            reported: task.reported,
            unacknowledged: task.unacknowledged.iter().map(short).collect(),
            latest: (!waits).then(|| short(&task.latest)),
            revision: task.revision,
            standing: task.standing,
            kill: task.kill,
            finished,
        }
    }
}

fn update_without_message(update: &TaskUpdate) -> TaskUpdate {
    TaskUpdate {
        causes: Vec::new(),
        message: String::new(),
        ..update.clone()
    }
}

/// The long message of the newest non-terminal update of a task (0), or of its terminal one (1).
pub(super) struct LongMessage {
    text: String,
    causes: Vec<Cause>,
}

stored!(message LongMessage {
    1 text: Text,
    2 causes: PartList,
});

pub(super) fn message(task: &Task, which: usize) -> Option<LongMessage> {
    let update = long_messages(task)[which]?;
    Some(LongMessage {
        text: update.message.clone(),
        causes: update.causes.clone(),
    })
}

/// Returns the newest change of a task's limits, without the limits.
pub(super) fn change(task: &Task) -> Option<LimitsChange> {
    let change = task.limits_change.as_ref()?;
    Some(LimitsChange {
        before: None,
        ..change.clone()
    })
}

/// Returns a task whose records are split, and its serial in the history or 0.
pub(super) fn split_task<'a>(registry: &'a Registry, key: &TaskKey) -> Option<(&'a Task, u64)> {
    if let Some(task) = registry.tasks.get(key) {
        let is_split = registry.cluster.layout.splits_task(key);
        return is_split.then_some((task, 0));
    }
    let serial = *registry.index.history.by_key.get(key)?;
    let finished = registry.finished_tasks.get(&serial)?;
    has_parts(registry, serial).then_some((&finished.task, serial))
}

/// Returns whether the records of a task in the history are split.
pub(super) fn has_parts(registry: &Registry, serial: u64) -> bool {
    registry.cluster.layout != Layout::Whole && serial > registry.cluster.last_whole
}

/// The last serial in the histories.
pub(super) struct HistoryCounter {
    pub(super) last: u64,
}

stored!(message HistoryCounter {
    1 last: Number,
});

/// Returns the cluster without the facts that other records hold.
pub(super) fn cluster(cluster: &ClusterRecord) -> ClusterRecord {
    let mut cluster = cluster.clone();
    cluster.last_finished = 0;
    let layout = &cluster.layout;
    cluster
        .sweeps
        .retain(|target, _| !layout.splits_sweep(*target));
    cluster
}

/// The parts of objects that are not completely read yet.
#[derive(Default)]
pub(super) struct SplitParts {
    tasks: BTreeMap<TaskKey, TaskParts>,
    agents: BTreeMap<AgentId, AgentParts>,
    sweeps: BTreeMap<SweepTarget, SweepMark>,
    history: Option<HistoryCounter>,
}

#[derive(Default)]
struct TaskParts {
    facts: Option<TaskFactsRecord>,
    description: Option<Arc<TaskSpec>>,
    status: Option<TaskStatusRecord>,
    messages: [Option<LongMessage>; 2],
    limits: [Option<Box<TaskLimits>>; 2],
    change: Option<LimitsChange>,
}

impl SplitParts {
    /// Reads a record of the layout of level 3.
    pub(super) fn read(&mut self, name: &RecordKey, value: &[u8]) -> Result<(), DecodeError> {
        match name {
            RecordKey::TaskFacts(key) => self.task(key).facts = Some(read(FACTS, value)?),
            RecordKey::TaskSpec(key) => {
                self.task(key).description = Some(read("record of a task's description", value)?);
            }
            RecordKey::TaskStatus(key) => self.task(key).status = Some(read(STATUS, value)?),
            RecordKey::TaskMessage(key) => self.task(key).messages[0] = Some(read(MESSAGE, value)?),
            RecordKey::TaskEndMessage(key) => {
                self.task(key).messages[1] = Some(read(MESSAGE, value)?)
            }
            RecordKey::TaskLimits(key) => {
                self.task(key).limits[0] = Some(read(LIMITS, value)?);
            }
            RecordKey::SecondLimits(key) => {
                self.task(key).limits[1] = Some(read(LIMITS, value)?);
            }
            RecordKey::LimitsChange(key) => {
                self.task(key).change = Some(read("record of a change of limits", value)?);
            }
            RecordKey::AgentCounters(id) => {
                self.agent(*id).counters = Some(read(agents::COUNTERS, value)?);
            }
            RecordKey::AgentReport(id) => {
                self.agent(*id).facts = Some(read(agents::REPORT, value)?);
            }
            RecordKey::AgentAdministration(id) => {
                self.agent(*id).admin = Some(read(agents::ADMINISTRATION, value)?);
            }
            RecordKey::AgentStatus(id) => {
                self.agent(*id).status = Some(read(agents::STATUS, value)?);
            }
            RecordKey::Sweep(target) => {
                self.sweeps.insert(*target, read(SWEEP, value)?);
            }
            RecordKey::History => self.history = Some(read("history record", value)?),
            RecordKey::Time
            | RecordKey::Cluster
            | RecordKey::Agent(_)
            | RecordKey::Weight(_)
            | RecordKey::Framework(_)
            | RecordKey::Task(_)
            | RecordKey::CallAnswer(..)
            | RecordKey::OperatorAnswer(..)
            | RecordKey::FinishedTask(_)
            | RecordKey::FinishedFramework(_)
            | RecordKey::TaskTransition(..)
            | RecordKey::Policy
            | RecordKey::Token(_)
            | RecordKey::RevokedKey(_)
            | RecordKey::KeyBinding(_)
            | RecordKey::RateLimit(_)
            | RecordKey::Secret(_) => unreachable!("whole records are read elsewhere"),
        }
        Ok(())
    }

    fn task(&mut self, key: &TaskKey) -> &mut TaskParts {
        self.tasks.entry(key.clone()).or_default()
    }

    fn agent(&mut self, id: AgentId) -> &mut AgentParts {
        self.agents.entry(id).or_default()
    }

    /// Completes the registry. Each record must match the layout of the registry.
    pub(super) fn join(mut self, registry: &mut Registry) -> Result<(), DecodeError> {
        self.join_cluster(&mut registry.cluster)?;
        let layout = registry.cluster.layout.clone();
        for id in registry.agents.keys() {
            ensure("agent record", LAYOUT, !layout.splits_agent(*id))?;
        }
        for (id, parts) in self.agents {
            ensure(agents::COUNTERS, LAYOUT, layout.splits_agent(id))?;
            registry.agents.insert(id, parts.join(id)?);
        }
        for key in registry.tasks.keys() {
            ensure("task record", LAYOUT, !layout.splits_task(key))?;
        }
        for serial in registry.finished_tasks.keys() {
            ensure(
                "finished task record",
                LAYOUT,
                !has_parts(registry, *serial),
            )?;
        }
        for (key, parts) in self.tasks {
            let (task, serial) = parts.join(key)?;
            if serial == 0 {
                ensure(STATUS, LAYOUT, layout.splits_task(&task.key))?;
                registry.tasks.insert(task.key.clone(), task);
            } else {
                ensure(STATUS, LAYOUT, has_parts(registry, serial))?;
                registry
                    .finished_tasks
                    .insert(serial, FinishedTask { task });
            }
        }
        Ok(())
    }

    fn join_cluster(&mut self, cluster: &mut ClusterRecord) -> Result<(), DecodeError> {
        let layout = &cluster.layout;
        let is_whole = |target: &SweepTarget| !layout.splits_sweep(*target);
        ensure(
            "cluster record",
            "sweep",
            cluster.sweeps.keys().all(is_whole),
        )?;
        ensure(SWEEP, LAYOUT, !self.sweeps.keys().any(is_whole))?;
        let has_history = *layout != Layout::Whole;
        ensure(
            "cluster record",
            LAYOUT,
            self.history.is_some() == has_history,
        )?;
        cluster.sweeps.append(&mut self.sweeps);
        if let Some(history) = &self.history {
            cluster.last_finished = history.last;
        }
        Ok(())
    }
}

impl TaskParts {
    /// Returns the task, and its serial in the history or 0.
    fn join(self, key: TaskKey) -> Result<(Task, u64), DecodeError> {
        let TaskFactsRecord {
            agent,
            role,
            order,
            spec,
        } = self.facts.ok_or(invalid(STATUS, "facts"))?;
        let mut status = self.status.ok_or(invalid(FACTS, "status"))?;
        for (which, message) in self.messages.into_iter().enumerate() {
            if let Some(message) = message {
                let updates = status.unacknowledged.iter_mut().chain(&mut status.latest);
                let updates =
                    updates.filter(|update| usize::from(update.state.is_terminal()) == which);
                for update in updates {
                    update.message.clone_from(&message.text);
                    update.causes.clone_from(&message.causes);
                }
            }
        }
        let mut spec = self.description.unwrap_or(spec);
        ensure(FACTS, "task id in its description", spec.task == key.task)?;
        let mut limits_change = self.change;
        let [mut limits, mut before] = self.limits;
        if limits_change
            .as_ref()
            .is_some_and(|change| change.is_second)
        {
            std::mem::swap(&mut limits, &mut before);
        }
        if limits.is_some() {
            Arc::make_mut(&mut spec).limits = limits;
        }
        match &mut limits_change {
            Some(change) => change.before = before,
            None => ensure(LIMITS, "change", before.is_none())?,
        }
        let latest = status
            .latest
            .or_else(|| status.unacknowledged.last().cloned());
        let task = Task {
            key,
            agent,
            role,
            order,
            spec,
            kill: status.kill,
            limits_change,
            state: status.state,
            agent_state: status.agent_state,
            standing: status.standing,
            reported: status.reported,
            latest: latest.ok_or(invalid(STATUS, "latest update"))?,
            unacknowledged: status.unacknowledged,
            revision: status.revision,
        };
        Ok((task, status.finished))
    }
}

const FACTS: &str = "record of a task's facts";
const STATUS: &str = "record of a task's status";
const MESSAGE: &str = "record of an update's message";
const LIMITS: &str = "record of a task's limits";
const SWEEP: &str = "record of a sweep";
/// The error for a record that does not match the layout of its key.
const LAYOUT: &str = "layout";

fn invalid(what: &'static str, field: &'static str) -> DecodeError {
    DecodeError::Invalid { what, field }
}

pub(super) fn ensure(
    what: &'static str,
    field: &'static str,
    holds: bool,
) -> Result<(), DecodeError> {
    match holds {
        true => Ok(()),
        false => Err(invalid(what, field)),
    }
}
