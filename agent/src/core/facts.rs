//! Durable facts of an agent, and the one function that changes them.
//!
//! The same function applies a record when it is made and when it is read back after a crash, so
//! memory and disk cannot differ. It is total: a record about an unknown task changes no task,
//! because the record that launched the task may be damaged. What such a record proves is still
//! kept: see `evidence`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use argosy_state::digest::{DigestKind, Digests, task_mark};
use argosy_state::ids::{AgentId, ClusterId, Epoch, OrderIndex, TaskKey, Timestamp};
use argosy_state::task::{CheckResults, TaskLimits, TaskState};
use serde::{Deserialize, Serialize};

use super::executors::{ExecutorInfo, ExecutorRecord};
use super::launch::{DEFAULT_GRACE_MS, LaunchOrder};
use super::numbered_update::NumberedUpdate;
use super::outcome::FailureCause;

/// Longest grace period of a task that the cluster no longer tracks, in milliseconds.
const ORPHAN_GRACE_MS: u64 = 10_000;

/// One instance of a task on this host: the agent id and the order that launched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The id of the agent at the launch; it may have another id now.
    pub agent: AgentId,
    pub order: OrderIndex,
}

/// The name of one container: an instance, and the run of the agent process that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName {
    /// The instance that runs in the container.
    pub instance: Instance,
    /// The number of the run: a count of the starts of the agent process.
    pub run: u64,
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instance { agent, order } = self.instance;
        write!(f, "{}-{}-{}", agent.0, order.0, self.run)
    }
}

/// An error for text that is not the name of an agent's container.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the name of a container: write AGENT-ORDER-LIFE")]
pub struct InvalidContainerName(String);

impl FromStr for ContainerName {
    type Err = InvalidContainerName;

    fn from_str(text: &str) -> Result<Self, InvalidContainerName> {
        let mut parts = text.split('-').map(|part| part.parse::<u64>().ok());
        let mut next = || parts.next().flatten();
        let named = match (next(), next(), next()) {
            (Some(agent), Some(order), Some(run)) => Some(Self {
                instance: Instance {
                    agent: AgentId(agent),
                    order: OrderIndex(order),
                },
                run,
            }),
            _ => None,
        };
        // The comparison with the printed form rejects signs, leading zeros and a fourth part.
        named
            .filter(|name| name.to_string() == text)
            .ok_or_else(|| InvalidContainerName(text.chars().take(64).collect()))
    }
}

/// The identity of this agent, and the leader that it accepts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentIdentity {
    /// The agent's cluster; `None` before the first message of a master.
    pub cluster: Option<ClusterId>,
    /// The highest epoch seen; messages of lower epochs are rejected.
    pub epoch: Epoch,
    /// `None` before the first registration.
    pub agent: Option<AgentId>,
    /// The idempotency key of the first registration.
    pub nonce: u64,
    /// The last incarnation that a master confirmed; 0 for none.
    pub confirmed: u64,
    /// Incarnations that may have been sent since, newest last.
    pub unconfirmed: Vec<u64>,
    /// A count of the starts of the process.
    pub run: u64,
    /// The boot id of the host when this record was written.
    pub boot_id: String,
    /// The first run in that boot. Containers of earlier runs have ended, whatever their files
    /// contain.
    pub boot_run: u64,
}

/// The start of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartedFact {
    /// The process id of the container's first process in the host's PID namespace.
    pub pid: i32,
    /// The time of the start on the boot clock.
    pub at: Timestamp,
}

/// A task that this agent has accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFacts {
    /// The task's name in the cluster.
    pub key: TaskKey,
    /// The launch order, with the limits that were ordered last.
    pub launch: Arc<LaunchOrder>,
    /// The run in which the task's container is started.
    pub run: u64,
    /// The grace period in milliseconds, once the task is to be killed.
    pub kill_grace_ms: Option<u64>,
    /// The newest order that changed the limits in `launch`; 0 if there is none.
    pub limits_order: OrderIndex,
    /// The newest of these orders whose outcome an update has reported.
    pub limits_reported: OrderIndex,
    /// Set once the command was executed.
    pub started: Option<StartedFact>,
    /// Updates that are not known to be committed, oldest first.
    pub updates: VecDeque<NumberedUpdate>,
    /// Number of the newest update made.
    pub newest_update: u64,
    /// Number of the newest update that a master reported as committed.
    pub committed: u64,
    /// State in the newest update; STAGING before the first.
    pub state: TaskState,
    /// The results of the checks, by the newest update.
    pub check_results: CheckResults,
    /// The times since which these results hold.
    pub check_times: CheckTimes,
    /// The reason for which the agent itself ends the task, once an update reports it. A missed
    /// deadline is not recorded: it follows from the start.
    pub failure: Option<FailureCause>,
    /// The highest serial number of the executor's updates that an update contains or that changed
    /// nothing; 0 without an executor.
    pub executor_serial: u64,
    /// Whether the cluster tracks the task. Otherwise it is only ended and cleaned up.
    pub held: bool,
    /// Whether the task is of a cluster that this agent has left, and the registry of the present
    /// one is not known to have it.
    pub former: bool,
}

/// The times since which a task's check results hold, by the host's clock, in milliseconds since
/// 1970, as in updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckTimes {
    /// The time of the last change of health; `None` if it is unknown.
    pub healthy: Option<i64>,
    /// The time of the last change of readiness.
    pub ready: Option<i64>,
}

impl CheckTimes {
    fn update(&mut self, previous: CheckResults, current: CheckResults, now_ms: i64) {
        for (was, is, since) in [
            (previous.healthy, current.healthy, &mut self.healthy),
            (previous.ready, current.ready, &mut self.ready),
        ] {
            if was != is {
                *since = Some(now_ms);
            }
        }
    }
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq)]
pub enum JournalRecord {
    /// Identity, epoch and incarnations. Replaces the former record as a whole.
    Identity(AgentIdentity),
    /// As `AgentIdentity`; in addition every held instance becomes an orphan, and orders count from
    /// 1 again.
    IdentityReset(AgentIdentity),
    /// An order was taken. Its number is the last order taken.
    OrderAccepted {
        order: OrderIndex,
        /// The request of the order.
        body: OrderBody,
    },
    /// A command was executed.
    Started {
        instance: Instance,
        /// The process and the time.
        fact: StartedFact,
    },
    /// An update was made.
    Updated {
        instance: Instance,
        update: Box<NumberedUpdate>,
    },
    /// Updates up to a number are in the registry.
    Committed {
        instance: Instance,
        /// The newest committed update.
        number: u64,
    },
    /// An instance is forgotten.
    Released { instance: Instance },
    /// An instance is an orphan: it is ended, and is not reported.
    Orphaned { instance: Instance },
    /// A launch that certainly never started is tried again under another container name.
    Retried {
        instance: Instance,
        /// The new run in the container's name.
        run: u64,
    },
    /// The last order taken, in a compacted journal.
    Floor(OrderIndex),
    /// A task with all its facts, in a compacted journal.
    Task {
        instance: Instance,
        facts: Box<TaskFacts>,
    },
    /// A change of an executor.
    Executor(ExecutorRecord),
}

/// The request of an order.
#[derive(Debug, Clone, PartialEq)]
pub enum OrderBody {
    /// Launch a task.
    Launch {
        /// The id of this agent; `None` in journals of 0.1, where only `AgentIdentity` has it.
        agent: Option<AgentId>,
        key: TaskKey,
        launch: Arc<LaunchOrder>,
        /// The run in the container's name.
        run: u64,
    },
    /// Kill a task.
    Kill { instance: Instance, grace_ms: u64 },
    /// Change the limits of a task.
    Limits {
        instance: Instance,
        /// All limits; `None` means those of the task's resources.
        limits: Option<TaskLimits>,
    },
    /// No request: the order was cancelled, or names an unknown task.
    Nothing,
}

/// All state that must outlive the process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AgentState {
    pub identity: AgentIdentity,
    /// The last order taken.
    pub floor: OrderIndex,
    /// Every task, held or orphaned.
    pub tasks: BTreeMap<Instance, TaskFacts>,
    /// Every executor, by the instance of the task that started it.
    pub executors: BTreeMap<Instance, ExecutorInfo>,
    /// The held instance of each name.
    pub by_key: BTreeMap<TaskKey, Instance>,
    /// Digests over the held instances.
    pub digests: Digests,
}

impl AgentState {
    /// Applies one record.
    pub fn apply(&mut self, record: &JournalRecord) {
        self.learn(record);
        match record {
            JournalRecord::Identity(identity) => {
                // Only `IdentityReset` drops an id. A different id here means that this record was
                // damaged.
                let former = self.identity.agent;
                if former.is_some() && former != identity.agent {
                    self.orphan_all();
                }
                if self.identity.cluster.is_some() && self.identity.cluster != identity.cluster {
                    self.tasks.values_mut().for_each(|task| task.former = true);
                }
                self.identity = identity.clone();
            }
            JournalRecord::IdentityReset(identity) => {
                self.identity = identity.clone();
                self.orphan_all();
            }
            JournalRecord::OrderAccepted { order, body } => self.apply_order(*order, body),
            JournalRecord::Started { instance, fact } => self.change(*instance, |task| {
                task.started = Some(*fact);
            }),
            JournalRecord::Updated { instance, update } => self.change(*instance, |task| {
                task.newest_update = update.number;
                task.state = update.state;
                let standing = update.check_results;
                task.check_times
                    .update(task.check_results, standing, update.wall_ms);
                task.check_results = standing;
                if let Some(report) = &update.limits {
                    task.limits_reported = report.order;
                }
                if let Some(failure) = update.failure() {
                    task.failure = Some(failure);
                }
                task.updates.push_back((**update).clone());
            }),
            JournalRecord::Committed { instance, number } => self.commit(*instance, *number),
            JournalRecord::Released { instance } => {
                self.release(*instance);
                self.tasks.remove(instance);
            }
            JournalRecord::Orphaned { instance } => self.release(*instance),
            JournalRecord::Retried { instance, run } => {
                self.change(*instance, |task| task.run = *run)
            }
            JournalRecord::Floor(order) => self.floor = *order,
            JournalRecord::Task { instance, facts } => self.insert(*instance, (**facts).clone()),
            JournalRecord::Executor(record) => self.follow(record),
        }
    }

    /// Returns records that rebuild these facts from nothing. Facts that concern all tasks are
    /// written twice.
    #[must_use]
    pub fn snapshot(&self) -> Vec<JournalRecord> {
        let head = || {
            [
                JournalRecord::Identity(self.identity.clone()),
                JournalRecord::Floor(self.floor),
            ]
        };
        let tasks = self
            .tasks
            .iter()
            .map(|(instance, facts)| JournalRecord::Task {
                instance: *instance,
                facts: Box::new(facts.clone()),
            });
        let executors = self.executor_records().map(JournalRecord::Executor);
        let records = head().into_iter().chain(tasks).chain(executors);
        records.chain(head()).collect()
    }

    /// Returns the container of a known instance that no executor runs.
    #[must_use]
    pub fn container(&self, instance: Instance) -> Option<ContainerName> {
        let task = self.tasks.get(&instance);
        task.filter(|task| task.executor().is_none())
            .map(|task| ContainerName {
                instance,
                run: task.run,
            })
    }

    /// Returns the instance of this order under the present agent id, if it has this name.
    #[must_use]
    pub fn find(&self, key: &TaskKey, order: OrderIndex) -> Option<Instance> {
        let agent = self.identity.agent?;
        let instance = Instance { agent, order };
        self.tasks
            .get(&instance)
            .filter(|task| task.key == *key)
            .map(|_| instance)
    }

    /// Turns every held instance into an orphan, and restarts the numbering of orders at 1.
    fn orphan_all(&mut self) {
        self.floor = OrderIndex(0);
        let held: Vec<_> = self.by_key.values().copied().collect();
        held.into_iter().for_each(|instance| self.release(instance));
    }

    fn apply_order(&mut self, order: OrderIndex, body: &OrderBody) {
        self.floor = self.floor.max(order);
        match body {
            OrderBody::Launch {
                agent,
                key,
                launch,
                run,
            } => {
                let Some(agent) = agent.or(self.identity.agent) else {
                    return;
                };
                let facts = TaskFacts {
                    key: key.clone(),
                    launch: launch.clone(),
                    run: *run,
                    kill_grace_ms: launch.never_start.then_some(0),
                    limits_order: OrderIndex(0),
                    limits_reported: OrderIndex(0),
                    started: None,
                    updates: VecDeque::new(),
                    newest_update: 0,
                    committed: 0,
                    state: TaskState::Staging,
                    check_results: CheckResults::default(),
                    check_times: CheckTimes::default(),
                    failure: None,
                    executor_serial: 0,
                    held: true,
                    former: false,
                };
                self.insert(Instance { agent, order }, facts);
            }
            OrderBody::Kill { instance, grace_ms } => self.change(*instance, |task| {
                let grace_ms = task
                    .kill_grace_ms
                    .map_or(*grace_ms, |old| old.min(*grace_ms));
                task.kill_grace_ms = Some(grace_ms);
            }),
            OrderBody::Limits { instance, limits } => self.change(*instance, |task| {
                let spec = &mut Arc::make_mut(&mut task.launch).spec;
                spec.limits = limits.clone().map(Box::new);
                task.limits_order = order;
            }),
            OrderBody::Nothing => {}
        }
    }

    /// Inserts a task. The registry reuses a name only after it has released the former instance.
    fn insert(&mut self, instance: Instance, facts: TaskFacts) {
        if facts.held {
            if let Some(former) = self.by_key.get(&facts.key).copied() {
                self.release(former);
            }
            self.by_key.insert(facts.key.clone(), instance);
            self.digests
                .add(DigestKind::Task, task_digest(instance, &facts));
        }
        self.tasks.insert(instance, facts);
    }

    fn release(&mut self, instance: Instance) {
        let Some(task) = self.tasks.get_mut(&instance).filter(|task| task.held) else {
            return;
        };
        task.held = false;
        self.digests
            .remove(DigestKind::Task, task_digest(instance, task));
        if self.by_key.get(&task.key) == Some(&instance) {
            self.by_key.remove(&task.key);
        }
    }

    fn commit(&mut self, instance: Instance, number: u64) {
        let Some(task) = self.tasks.get_mut(&instance) else {
            return;
        };
        let before = task_digest(instance, task);
        // A committed update was made: its own record may be damaged.
        task.newest_update = task.newest_update.max(number);
        task.committed = task.committed.max(number);
        task.former = false;
        while task
            .updates
            .front()
            .is_some_and(|update| update.number <= number)
        {
            task.updates.pop_front();
        }
        if task.held {
            let after = task_digest(instance, task);
            self.digests.remove(DigestKind::Task, before);
            self.digests.add(DigestKind::Task, after);
        }
    }

    fn change(&mut self, instance: Instance, change: impl FnOnce(&mut TaskFacts)) {
        if let Some(task) = self.tasks.get_mut(&instance) {
            change(task);
        }
    }
}

fn task_digest(instance: Instance, task: &TaskFacts) -> u128 {
    task_mark(&task.key, instance.order, task.committed)
}

impl TaskFacts {
    /// Returns the grace period in milliseconds: the shortest that was requested.
    pub(super) fn grace_ms(&self) -> u64 {
        let own = match self.launch.spec.grace_ms {
            0 => DEFAULT_GRACE_MS,
            given => given,
        };
        match self.kill_grace_ms {
            Some(asked) if self.held => asked,
            Some(asked) => asked.min(ORPHAN_GRACE_MS),
            None if self.held => own,
            None => own.min(ORPHAN_GRACE_MS),
        }
    }
}
