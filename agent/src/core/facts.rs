//! What an agent must not forget, and the one function that changes it.
//!
//! The same function follows a record when it is made and when it is read back after a crash, so
//! memory and disk cannot differ. Total: a record about a task that is not there changes no task,
//! because the record that made it may have been damaged. What such a record shows all the same is kept: see `evidence`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use argosy_proto::v1;
use argosy_state::digest::{Digests, HeldKind, task_mark};
use argosy_state::ids::{AgentId, ClusterId, Epoch, OrderIndex, TaskKey, Timestamp};
use argosy_state::task::{Explanation, Standing, TaskState};
use serde::{Deserialize, Serialize};

use super::executors::{ExecutorFacts, ExecutorRecord};
use super::wire;

/// Longest grace of a task that the cluster does not want to hear of any more, in milliseconds.
const STRAY_GRACE_MS: u64 = 10_000;
/// From TERM to KILL unless the task says otherwise, in milliseconds. Mesos' default.
const DEFAULT_GRACE_MS: u64 = 3_000;

/// One instance of a task on this host: the agent id and the order that launched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The id this agent had; it may have another now.
    pub agent: AgentId,
    /// The order that launched it.
    pub order: OrderIndex,
}

/// The name of one container: an instance, and the life of the agent process that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName {
    /// What runs in it.
    pub instance: Instance,
    /// Counts the starts of the agent process.
    pub life: u64,
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instance { agent, order } = self.instance;
        write!(f, "{}-{}-{}", agent.0, order.0, self.life)
    }
}

/// Text that names no container of an agent.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the name of a container: write AGENT-ORDER-LIFE")]
pub struct InvalidContainerName(String);

impl FromStr for ContainerName {
    type Err = InvalidContainerName;

    fn from_str(text: &str) -> Result<Self, InvalidContainerName> {
        let mut parts = text.split('-').map(|part| part.parse::<u64>().ok());
        let mut next = || parts.next().flatten();
        let named = match (next(), next(), next()) {
            (Some(agent), Some(order), Some(life)) => Some(Self {
                instance: Instance {
                    agent: AgentId(agent),
                    order: OrderIndex(order),
                },
                life,
            }),
            _ => None,
        };
        // Comparing with what it prints refuses signs, leading zeros and a fourth part.
        named
            .filter(|name| name.to_string() == text)
            .ok_or_else(|| InvalidContainerName(text.chars().take(64).collect()))
    }
}

/// Who this agent is, and whom it obeys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The cluster it belongs to; `None` before the first word of a master.
    pub cluster: Option<ClusterId>,
    /// The highest epoch seen: anything lower is refused.
    pub epoch: Epoch,
    /// `None` before the first registration.
    pub agent: Option<AgentId>,
    /// Keys the first registration.
    pub nonce: u64,
    /// The last incarnation confirmed by a master; 0 for none.
    pub confirmed: u64,
    /// Those that may have been sent since, the newest last.
    pub tried: Vec<u64>,
    /// Counts the starts of the process.
    pub life: u64,
    /// The boot in which this was written.
    pub boot_id: String,
    /// The first life in that boot: what an earlier one started is over, whatever its files say.
    pub boot_life: u64,
}

/// A command that has been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartedFact {
    /// Process number of the container's first process, as the host sees it.
    pub pid: i32,
    /// When, on the boot clock.
    pub at: Timestamp,
}

/// A task that this agent has taken.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFacts {
    /// Its name in the cluster.
    pub key: TaskKey,
    /// What was ordered, with the limits that were ordered last.
    pub launch: Arc<v1::LaunchOrder>,
    /// The life in which its container was, or is to be, started.
    pub life: u64,
    /// Set once it is wanted dead: milliseconds from TERM to KILL.
    pub kill_grace_ms: Option<u64>,
    /// The newest order that changed the limits in `launch`; 0 if none has.
    pub limits_order: OrderIndex,
    /// The newest of them of which an update has told what became of it.
    pub limits_told: OrderIndex,
    /// Set once its command was executed.
    pub started: Option<StartedFact>,
    /// Updates that no master has said are committed, oldest first.
    pub updates: VecDeque<v1::NumberedUpdate>,
    /// Number of the newest update made.
    pub made: u64,
    /// Number of the newest update that a master said is committed.
    pub committed: u64,
    /// State in the newest update; STAGING before the first.
    pub state: TaskState,
    /// What its checks have found, by the newest update.
    pub standing: Standing,
    /// Since when that is so.
    pub since: Since,
    /// Set once its health check has ended it, by the update that says so: why.
    pub unhealthy: Option<Explanation>,
    /// The newest number of its executor, of what is in an update or changed nothing; 0 without one.
    pub heard: u64,
    /// False once the cluster does not want to hear of it any more: then it is only ended and cleared away.
    pub held: bool,
}

/// Since when what a task's checks have found is so: by the host's clock, in milliseconds since 1970, as updates are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Since {
    /// Of its health; `None` if nothing is known, or not since when.
    pub healthy: Option<i64>,
    /// Of its readiness.
    pub ready: Option<i64>,
}

impl Since {
    fn follow(&mut self, was: Standing, is: Standing, now_ms: i64) {
        for (was, is, since) in [
            (was.healthy, is.healthy, &mut self.healthy),
            (was.ready, is.ready, &mut self.ready),
        ] {
            if was != is {
                *since = Some(now_ms);
            }
        }
    }
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Identity, epoch, incarnations: all of it, replacing what was.
    Identity(Identity),
    /// As `Identity`; and everything that was held is a stray, and orders count from 1 again.
    Forgot(Identity),
    /// An order was taken: this is the floor.
    Took {
        /// Its number.
        order: OrderIndex,
        /// What it asked for.
        what: Taken,
    },
    /// A command was executed.
    Started {
        /// Whose.
        instance: Instance,
        /// Which, when.
        fact: StartedFact,
    },
    /// An update was made.
    Updated {
        /// Of which instance.
        instance: Instance,
        /// The update.
        update: Box<v1::NumberedUpdate>,
    },
    /// Updates up to a number are in the registry.
    Committed {
        /// Of which instance.
        instance: Instance,
        /// The newest.
        number: u64,
    },
    /// An instance is forgotten.
    Released {
        /// Which.
        instance: Instance,
    },
    /// An instance is not wanted: it is ended and not spoken of.
    Stray {
        /// Which.
        instance: Instance,
    },
    /// A launch that certainly never started is tried again under another container name.
    Retried {
        /// Which.
        instance: Instance,
        /// The new life in its name.
        life: u64,
    },
    /// The floor, in a compacted journal.
    Floor(OrderIndex),
    /// A task with all its facts, in a compacted journal.
    Task {
        /// Which.
        instance: Instance,
        /// All of it.
        facts: Box<TaskFacts>,
    },
    /// Something of an executor.
    Executor(ExecutorRecord),
}

/// What an order asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// Run a task.
    Launch {
        /// The id of this agent; `None` in journals of 0.1, where only `Identity` has it.
        agent: Option<AgentId>,
        /// Its name.
        key: TaskKey,
        /// The order.
        launch: Arc<v1::LaunchOrder>,
        /// The life in its container's name.
        life: u64,
    },
    /// End a task.
    Kill {
        /// Which instance.
        instance: Instance,
        /// From TERM to KILL, in milliseconds.
        grace_ms: u64,
    },
    /// Give a task other limits.
    Limits {
        /// Which instance.
        instance: Instance,
        /// All of them; `None` means those of its resources.
        limits: Option<v1::Limits>,
    },
    /// Nothing: it was void, or named nothing that is here.
    Nothing,
}

/// All that must outlive the process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// Who this agent is.
    pub identity: Identity,
    /// The last order taken.
    pub floor: OrderIndex,
    /// Every task, held or stray.
    pub tasks: BTreeMap<Instance, TaskFacts>,
    /// Every executor, by the task that brought it.
    pub executors: BTreeMap<Instance, ExecutorFacts>,
    /// The instance held under each name.
    pub held: BTreeMap<TaskKey, Instance>,
    /// Hashes over what is held.
    pub digests: Digests,
}

impl Facts {
    /// Follows one record.
    pub fn apply(&mut self, record: &Record) {
        self.learn(record);
        match record {
            Record::Identity(identity) => {
                // An id is given up by `Forgot` alone: then that record is damaged.
                let former = self.identity.agent;
                if former.is_some() && former != identity.agent {
                    self.forget();
                }
                self.identity = identity.clone();
            }
            Record::Forgot(identity) => {
                self.identity = identity.clone();
                self.forget();
            }
            Record::Took { order, what } => self.take(*order, what),
            Record::Started { instance, fact } => self.change(*instance, |task| {
                task.started = Some(*fact);
            }),
            Record::Updated { instance, update } => self.change(*instance, |task| {
                task.made = update.number;
                task.state = wire::task_state(update.state);
                let standing = wire::standing(update);
                task.since.follow(task.standing, standing, update.wall_ms);
                task.standing = standing;
                if let Some(report) = &update.limits {
                    task.limits_told = OrderIndex(report.order_index);
                }
                if wire::is_unhealthy(update) {
                    task.unhealthy = Some(wire::explanation(update));
                }
                task.updates.push_back((**update).clone());
            }),
            Record::Committed { instance, number } => self.commit(*instance, *number),
            Record::Released { instance } => {
                self.let_go(*instance);
                self.tasks.remove(instance);
            }
            Record::Stray { instance } => self.let_go(*instance),
            Record::Retried { instance, life } => self.change(*instance, |task| task.life = *life),
            Record::Floor(order) => self.floor = *order,
            Record::Task { instance, facts } => self.insert(*instance, (**facts).clone()),
            Record::Executor(record) => self.follow(record),
        }
    }

    /// Records that make these facts out of nothing. What concerns all tasks is said twice.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Record> {
        let head = || {
            [
                Record::Identity(self.identity.clone()),
                Record::Floor(self.floor),
            ]
        };
        let tasks = self.tasks.iter().map(|(instance, facts)| Record::Task {
            instance: *instance,
            facts: Box::new(facts.clone()),
        });
        let executors = self.executor_records().map(Record::Executor);
        let records = head().into_iter().chain(tasks).chain(executors);
        records.chain(head()).collect()
    }

    /// The container of an instance that is here, and is run by no executor.
    #[must_use]
    pub fn container(&self, instance: Instance) -> Option<ContainerName> {
        let task = self.tasks.get(&instance);
        task.filter(|task| task.executor().is_none())
            .map(|task| ContainerName {
                instance,
                life: task.life,
            })
    }

    /// The instance of this order under the present id, if it has this name.
    #[must_use]
    pub fn find(&self, key: &TaskKey, order: OrderIndex) -> Option<Instance> {
        let agent = self.identity.agent?;
        let instance = Instance { agent, order };
        self.tasks
            .get(&instance)
            .filter(|task| task.key == *key)
            .map(|_| instance)
    }

    /// Everything that was held is a stray, and orders count from 1 again.
    fn forget(&mut self) {
        self.floor = OrderIndex(0);
        let held: Vec<_> = self.held.values().copied().collect();
        held.into_iter().for_each(|instance| self.let_go(instance));
    }

    fn take(&mut self, order: OrderIndex, what: &Taken) {
        self.floor = self.floor.max(order);
        match what {
            Taken::Launch {
                agent,
                key,
                launch,
                life,
            } => {
                let Some(agent) = agent.or(self.identity.agent) else {
                    return;
                };
                let facts = TaskFacts {
                    key: key.clone(),
                    launch: launch.clone(),
                    life: *life,
                    kill_grace_ms: launch.never_start.then_some(0),
                    limits_order: OrderIndex(0),
                    limits_told: OrderIndex(0),
                    started: None,
                    updates: VecDeque::new(),
                    made: 0,
                    committed: 0,
                    state: TaskState::Staging,
                    standing: Standing::default(),
                    since: Since::default(),
                    unhealthy: None,
                    heard: 0,
                    held: true,
                };
                self.insert(Instance { agent, order }, facts);
            }
            Taken::Kill { instance, grace_ms } => self.change(*instance, |task| {
                let grace_ms = task
                    .kill_grace_ms
                    .map_or(*grace_ms, |old| old.min(*grace_ms));
                task.kill_grace_ms = Some(grace_ms);
            }),
            Taken::Limits { instance, limits } => self.change(*instance, |task| {
                if let Some(spec) = &mut Arc::make_mut(&mut task.launch).spec {
                    spec.limits.clone_from(limits);
                }
                task.limits_order = order;
            }),
            Taken::Nothing => {}
        }
    }

    /// The registry gives a name again only when it is done with the former instance.
    fn insert(&mut self, instance: Instance, facts: TaskFacts) {
        if facts.held {
            if let Some(former) = self.held.get(&facts.key).copied() {
                self.let_go(former);
            }
            self.held.insert(facts.key.clone(), instance);
            self.digests.add(HeldKind::Task, mark(instance, &facts));
        }
        self.tasks.insert(instance, facts);
    }

    fn let_go(&mut self, instance: Instance) {
        let Some(task) = self.tasks.get_mut(&instance).filter(|task| task.held) else {
            return;
        };
        task.held = false;
        self.digests.remove(HeldKind::Task, mark(instance, task));
        if self.held.get(&task.key) == Some(&instance) {
            self.held.remove(&task.key);
        }
    }

    fn commit(&mut self, instance: Instance, number: u64) {
        let Some(task) = self.tasks.get_mut(&instance) else {
            return;
        };
        let before = mark(instance, task);
        // What is committed was made: its own record may be damaged.
        task.made = task.made.max(number);
        task.committed = task.committed.max(number);
        while task
            .updates
            .front()
            .is_some_and(|update| update.number <= number)
        {
            task.updates.pop_front();
        }
        if task.held {
            let after = mark(instance, task);
            self.digests.remove(HeldKind::Task, before);
            self.digests.add(HeldKind::Task, after);
        }
    }

    fn change(&mut self, instance: Instance, change: impl FnOnce(&mut TaskFacts)) {
        if let Some(task) = self.tasks.get_mut(&instance) {
            change(task);
        }
    }
}

fn mark(instance: Instance, task: &TaskFacts) -> u128 {
    task_mark(&task.key, instance.order, task.committed)
}

impl TaskFacts {
    /// From TERM to KILL, in milliseconds: the shortest that was asked for.
    pub(super) fn grace_ms(&self) -> u64 {
        let policy = self.launch.spec.as_ref().and_then(|spec| spec.kill_policy);
        let own = match policy.map_or(0, |policy| policy.grace_ms) {
            0 => DEFAULT_GRACE_MS,
            given => given,
        };
        match self.kill_grace_ms {
            Some(asked) if self.held => asked,
            Some(asked) => asked.min(STRAY_GRACE_MS),
            None if self.held => own,
            None => own.min(STRAY_GRACE_MS),
        }
    }
}
