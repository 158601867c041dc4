//! Executors: programs of frameworks that run tasks in place of this agent, many in one container.
//!
//! An executor runs as long as it has a task that has not ended, and is ended then, for any end of
//! its tasks. Its name on this host is the instance of the task that started it: such a task has no
//! container itself. Reading order: `facts`, `messages`, `lifecycle` (its container), `shutdown`,
//! `recovery`, `protocol` (messages between executor and agent), `locate`.

mod facts;
mod lifecycle;
mod locate;
mod messages;
mod protocol;
mod recovery;
mod shutdown;

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::Timestamp;
use argosy_state::task::{Reason, TaskState};

pub use facts::{ExecutorInfo, ExecutorRecord};
pub use messages::{ExecutorEvent, ExecutorMessage, ExecutorTask, ExecutorUpdate};

use super::deadlines::InstanceDeadlines;
use super::facts::{Instance, TaskFacts};
use super::lifecycle::InstancePhase;
use super::outcome::TaskEnd;

/// The shortest interval between two updates of a task of which the second brings only another
/// text, in milliseconds: each is an entry of the masters' log.
const EXPLANATION_INTERVAL_MS: u64 = 1_000;

/// All executors of this agent, and the tasks that wait for one.
#[derive(Debug, Default)]
pub(super) struct Executors {
    all: BTreeMap<Instance, Executor>,
    /// Tasks that wait until the former executor of their name is removed.
    unhosted: BTreeSet<Instance>,
    /// The next deadlines of executors. A superfluous one is harmless.
    deadlines: InstanceDeadlines,
}

impl Executors {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the state of every executor of an earlier run is known.
    pub(super) fn are_recovered(&self) -> bool {
        self.all
            .values()
            .all(|executor| executor.phase != InstancePhase::Recovering)
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.deadlines.next()
    }

    /// Returns the instances with executors in this run, and their phases.
    pub(super) fn phases(&self) -> impl Iterator<Item = (Instance, InstancePhase)> {
        let all = self.all.iter();
        all.map(|(instance, executor)| (*instance, executor.phase))
    }

    /// Returns the instances whose executors end or are being removed: masters count the resources
    /// of an executor until its last task has ended.
    pub(super) fn without_tasks(&self) -> impl Iterator<Item = Instance> {
        let ending = self.all.iter();
        let ending = ending.filter(|(_, own)| own.tasks.is_empty());
        ending.map(|(instance, _)| *instance)
    }

    fn phase(&self, instance: Instance) -> Option<InstancePhase> {
        self.all.get(&instance).map(|executor| executor.phase)
    }
}

/// The state of one executor in this run.
#[derive(Debug)]
struct Executor {
    phase: InstancePhase,
    /// Its present stream.
    connection: Option<u64>,
    /// Its tasks that have not ended.
    tasks: BTreeSet<Instance>,
    /// The deadline of its subscription.
    subscribe_by: Option<Timestamp>,
    /// Whether it missed that deadline.
    subscribe_timed_out: bool,
    /// The time at which it is killed, if no task needs it by then.
    kill_at: Option<Timestamp>,
    is_cleaning_up: bool,
}

impl Executor {
    fn new(phase: InstancePhase) -> Self {
        Self {
            phase,
            connection: None,
            tasks: BTreeSet::new(),
            subscribe_by: None,
            subscribe_timed_out: false,
            kill_at: None,
            is_cleaning_up: false,
        }
    }
}

/// The state that a task of an executor has in place of a container.
#[derive(Debug, Default)]
pub(super) struct HostedTask {
    /// `None` once the task has ended.
    executor: Option<Instance>,
    /// Whether the executor has, or may have, received the task.
    delivered: bool,
    /// The last state that the executor reported.
    reported: Option<TaskEnd>,
    /// The executor's serial number of that report; 0 before the first.
    serial: u64,
    /// The time of the newest update.
    updated_at: Option<Timestamp>,
}

impl HostedTask {
    /// Returns the reportable state of the task while it runs.
    pub(super) fn observe(&self, task: &TaskFacts) -> Option<TaskEnd> {
        if task.kill_grace_ms.is_some() && self.delivered {
            let state = TaskState::Killing;
            return Some(TaskEnd::by_agent(state, Reason::TaskKilled, ""));
        }
        self.reported.clone()
    }

    /// Whether its executor has reported something that no update contains yet.
    pub(super) fn has_unreported(&self, task: &TaskFacts) -> bool {
        self.serial > task.executor_serial
    }

    /// Whether that is worth an update, though the state may be the same: once a second, and never
    /// while the task is being killed.
    pub(super) fn has_new_explanation(&self, task: &TaskFacts, now: Timestamp) -> bool {
        let is_quiet = self
            .updated_at
            .is_none_or(|at| now.since_ms(at) >= EXPLANATION_INTERVAL_MS);
        self.has_unreported(task) && task.kill_grace_ms.is_none() && is_quiet
    }
}
