//! The registry: every replicated fact of the cluster, and the indexes that `apply` maintains.
//!
//! The fields are private: facts change only through `apply`, and all other code borrows them.

mod access;
mod ancestors;
mod answers;
mod deadlines;
mod executors;
mod history;
mod index;
mod layout;
mod orders;
mod record_key;
mod roles;
mod snapshot;
mod stored;
mod transitions;
pub(crate) mod usage;

use std::collections::{BTreeMap, BTreeSet};

use crate::access::{AccessFacts, TicketSecrets};
use crate::actor::Principal;
use crate::agent::{Agent, AgentMode};
use crate::collections::persistent::{Map, Table};
use crate::command::{ClusterFacts, StoredRejection, SweepTarget};
use crate::framework::{CallAnswer, FinishedFramework, Framework};
use crate::ids::{
    AgentId, Epoch, FrameworkId, GroupId, NodeId, Revision, Role, TaskKey, Timestamp,
};
use crate::level::Level;
use crate::resources::Resources;
use crate::secret::{SealedSecret, SecretName};
use crate::task::{FinishedTask, Task, TaskState};

pub use crate::agent::{Order, OrderKind};
pub(crate) use ancestors::MAX_NEWER_ORDERS;
pub use ancestors::{Ancestor, NotRestorable};
pub use deadlines::{DeadlineIndex, DeadlineKind};
pub use executors::{ExecutorIndex, ExecutorKey};
pub(crate) use history::{keeps_all, reduce_to_history};
pub(crate) use index::Indexes;
pub use index::{AgentIndex, FrameworkIndex};
pub use layout::Layout;
pub(crate) use layout::{is_long, limits_of, long_messages, records_of};
pub use record_key::{RecordKey, RecordWrite};
pub use roles::{RoleUsage, RoleUsages};
pub use snapshot::RegistrySnapshot;
pub use transitions::TaskTransitions;
pub use usage::BoundUsage;

/// The facts of the cluster itself: singletons and counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterRecord {
    /// The id and keys of the cluster.
    pub facts: ClusterFacts,
    /// The feature level, which determines the facts of commands and how commands are applied.
    pub level: Level,
    /// The current epoch.
    pub epoch: Epoch,
    /// The leader of the current epoch.
    pub leader: NodeId,
    /// The random number of the leader's process.
    pub process: u64,
    /// The Raft term of the epoch.
    pub term: u64,
    /// The last assigned agent number.
    pub last_agent: u64,
    /// The last assigned framework number.
    pub last_framework: u64,
    /// The last serial in the histories.
    pub last_finished: u64,
    /// The pending sweeps.
    pub sweeps: BTreeMap<SweepTarget, SweepMark>,
    /// The cluster time at which a leader last found very many agents silent simultaneously.
    pub mass_loss: Option<Timestamp>,
    /// The last serial of the histories whose task is a single record.
    pub last_whole: u64,
    /// The layout of the records.
    pub layout: Layout,
    /// The secrets of tickets; `None` below level 3.
    pub ticket_secrets: Option<TicketSecrets>,
    /// The clusters from whose registries this one was restored, the newest last.
    pub ancestors: Vec<Ancestor>,
}

/// The progress of a sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepMark {
    /// The last processed task; `None` before the first.
    pub after: Option<TaskKey>,
    /// The wall-clock time at which the sweep began, in milliseconds of the Unix epoch, for
    /// display.
    pub wall_ms: i64,
}

/// The remembered answer to a batch of operators' changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorAnswer {
    /// The hash of the operations.
    pub hash: u64,
    /// The cluster time at which the batch was applied.
    pub at: Timestamp,
    /// The revision at which it was applied; 0 if an earlier release remembered it.
    pub revision: Revision,
    /// The outcome of each operation: `None` for success.
    pub outcomes: Vec<Option<StoredRejection>>,
}

/// The key of an answer to a numbered call: framework, session, number.
pub type AnswerKey = (FrameworkId, u64, u64);

/// All replicated facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    pub(crate) applied: u64,
    pub(crate) time: Timestamp,
    pub(crate) cluster: ClusterRecord,
    pub(crate) agents: Table<AgentId, Agent>,
    pub(crate) weights: Map<Role, u64>,
    pub(crate) secrets: Map<SecretName, SealedSecret>,
    pub(crate) frameworks: Table<FrameworkId, Framework>,
    pub(crate) tasks: Table<TaskKey, Task>,
    /// The transitions of the tasks and of the finished tasks.
    pub(crate) transitions: Table<TaskKey, TaskTransitions>,
    pub(crate) answers: Table<AnswerKey, CallAnswer>,
    pub(crate) operator_answers: Table<(String, String), OperatorAnswer>,
    pub(crate) finished_tasks: Table<u64, FinishedTask>,
    pub(crate) finished_frameworks: Table<u64, FinishedFramework>,
    pub(crate) access: AccessFacts,
    pub(crate) index: Indexes,
    pub(crate) changed: BTreeSet<RecordKey>,
    pub(crate) marks: BTreeMap<RecordKey, u128>,
    pub(crate) digest: u128,
}

/// The default weight of a role, in thousandths.
pub const DEFAULT_WEIGHT_MILLI: u64 = 1_000;

impl Registry {
    /// Returns an empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cluster: ClusterRecord {
                level: Level::FIRST,
                ..ClusterRecord::default()
            },
            ..Self::default()
        }
    }

    /// Returns the log index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Returns the cluster time of the newest applied entry.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Returns the feature level at which commands are encoded and applied.
    #[must_use]
    pub fn level(&self) -> Level {
        self.cluster.level
    }

    /// Returns the level at which a leader of this release opens an epoch; `None` for a new
    /// cluster, where its members decide.
    #[must_use]
    pub fn level_to_lead(&self) -> Option<Level> {
        let is_new = self.cluster.epoch == Epoch::default();
        (!is_new).then(|| self.cluster.level.max(Level::OLDEST))
    }

    /// Returns the singletons and counters.
    #[must_use]
    pub fn cluster(&self) -> &ClusterRecord {
        &self.cluster
    }

    /// Returns the current epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.cluster.epoch
    }

    /// Returns an agent.
    #[must_use]
    pub fn agent(&self, id: AgentId) -> Option<&Agent> {
        self.agents.get(&id)
    }

    /// Returns all agents in ascending order.
    pub fn agents(&self) -> impl ExactSizeIterator<Item = &Agent> {
        self.agents.values()
    }

    /// Returns the agents above `after` in ascending order.
    pub fn agents_after(&self, after: AgentId) -> impl Iterator<Item = &Agent> {
        self.agents
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(_, agent)| agent)
    }

    /// Returns the derived facts of an agent.
    #[must_use]
    pub fn agent_index(&self, id: AgentId) -> Option<&AgentIndex> {
        self.index.agents.get(&id)
    }

    /// Returns the free resources of an agent: its totals without those of live tasks and their
    /// executors. Empty while more is used than the agent has.
    #[must_use]
    pub fn free(&self, id: AgentId) -> Resources {
        match (self.agents.get(&id), self.index.agents.get(&id)) {
            (Some(agent), Some(index)) => agent.total().minus(&index.used).unwrap_or_default(),
            (Some(agent), None) => agent.total().clone(),
            (None, _) => Resources::none(),
        }
    }

    /// Returns the number of lost agents: unreachable or gone.
    #[must_use]
    pub fn lost_agents(&self) -> usize {
        self.agents_in(AgentMode::Unreachable) + self.agents_in(AgentMode::Gone)
    }

    /// Returns the number of agents in `mode`.
    #[must_use]
    pub fn agents_in(&self, mode: AgentMode) -> usize {
        self.index.modes.get(&mode).copied().unwrap_or(0)
    }

    /// Returns the agent that first registered with `nonce`.
    #[must_use]
    pub fn agent_by_nonce(&self, nonce: u64) -> Option<AgentId> {
        self.index.nonces.get(&nonce).copied()
    }

    /// Returns the first agent that is bound to this principal and not gone.
    pub(crate) fn agent_of_principal(&self, principal: &Principal) -> Option<AgentId> {
        let first = (principal.clone(), AgentId(0));
        let (of, id) = self.index.bound.range(first..).next()?;
        (of == principal).then_some(*id)
    }

    /// Returns a framework.
    #[must_use]
    pub fn framework(&self, id: FrameworkId) -> Option<&Framework> {
        self.frameworks.get(&id)
    }

    /// Returns all live frameworks in ascending order.
    pub fn frameworks(&self) -> impl ExactSizeIterator<Item = &Framework> {
        self.frameworks.values()
    }

    /// Returns the framework of `principal` that is or was in `session`; the oldest one, if several
    /// share the number.
    #[must_use]
    pub fn framework_by_session(&self, principal: &str, session: u64) -> Option<FrameworkId> {
        let first = (principal.to_owned(), session, FrameworkId(0));
        let (name, number, id) = self.index.sessions.range(first..).next()?;
        (name == principal && *number == session).then_some(*id)
    }

    /// Returns the frameworks above `after` in ascending order.
    pub fn frameworks_after(&self, after: FrameworkId) -> impl Iterator<Item = &Framework> {
        let above = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.frameworks.range(above).map(|(_, framework)| framework)
    }

    /// Returns the derived facts of a framework.
    #[must_use]
    pub fn framework_index(&self, id: FrameworkId) -> Option<&FrameworkIndex> {
        self.index.frameworks.get(&id)
    }

    /// Returns the total resources of all registered agents, used or not.
    #[must_use]
    pub fn total(&self) -> &Resources {
        &self.index.total
    }

    /// Returns the weight of a role, in thousandths.
    #[must_use]
    pub fn weight_milli(&self, role: &Role) -> u64 {
        self.weights
            .get(role)
            .copied()
            .unwrap_or(DEFAULT_WEIGHT_MILLI)
    }

    /// Returns the weight of a role; `None` for the default.
    #[must_use]
    pub fn weight(&self, role: &Role) -> Option<u64> {
        self.weights.get(role).copied()
    }

    /// Returns the weights that operators have set, in ascending order of roles.
    pub fn weights(&self) -> impl Iterator<Item = (&Role, u64)> {
        self.weights.iter().map(|(role, weight)| (role, *weight))
    }

    /// Returns a sealed secret.
    #[must_use]
    pub fn secret(&self, name: &SecretName) -> Option<&SealedSecret> {
        self.secrets.get(name)
    }

    /// Returns the sealed secrets in ascending order of their names.
    pub fn secrets(&self) -> impl ExactSizeIterator<Item = (&SecretName, &SealedSecret)> {
        self.secrets.iter()
    }

    /// Returns a task, ended or not, until all its updates are acknowledged.
    #[must_use]
    pub fn task(&self, key: &TaskKey) -> Option<&Task> {
        self.tasks.get(key)
    }

    /// Returns all such tasks in ascending order.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Task> {
        self.tasks.values()
    }

    /// Returns the tasks of a group that are in the registry, in ascending order.
    pub fn group<'a>(
        &'a self,
        framework: FrameworkId,
        group: &GroupId,
    ) -> impl Iterator<Item = &'a Task> + use<'a> {
        let index = self.index.frameworks.get(&framework);
        let names = index.and_then(|index| index.groups.get(group));
        names.into_iter().flatten().filter_map(move |task| {
            let task = task.clone();
            self.tasks.get(&TaskKey { framework, task })
        })
    }

    /// Returns the tasks above `after` in ascending order.
    pub fn tasks_after<'a>(&'a self, after: &'a TaskKey) -> impl Iterator<Item = &'a Task> {
        self.tasks
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(_, task)| task)
    }

    /// Returns the tasks of a framework in ascending order.
    pub fn tasks_of(&self, framework: FrameworkId) -> impl Iterator<Item = &Task> {
        let names = self
            .index
            .frameworks
            .get(&framework)
            .map(|index| &index.tasks)
            .into_iter()
            .flatten();
        names.filter_map(move |task| {
            self.tasks.get(&TaskKey {
                framework,
                task: task.clone(),
            })
        })
    }

    /// Returns the tasks of an agent in ascending order.
    pub fn tasks_on(&self, agent: AgentId) -> impl Iterator<Item = &Task> {
        let keys = self
            .index
            .agents
            .get(&agent)
            .map(|index| &index.tasks)
            .into_iter()
            .flatten();
        keys.filter_map(|key| self.tasks.get(key))
    }

    /// Returns a finished task while it is in the history.
    #[must_use]
    pub fn finished_task(&self, key: &TaskKey) -> Option<&FinishedTask> {
        self.index
            .history
            .by_key
            .get(key)
            .and_then(|serial| self.finished_tasks.get(serial))
    }

    /// Returns the finished tasks above the serial `after`, oldest first, with their serials.
    pub fn finished_tasks_after(&self, after: u64) -> impl Iterator<Item = (u64, &FinishedTask)> {
        self.finished_tasks
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(serial, task)| (*serial, task))
    }

    /// Returns the removed frameworks, oldest first.
    pub fn finished_frameworks(&self) -> impl Iterator<Item = &FinishedFramework> {
        self.finished_frameworks.values()
    }

    /// Returns the remembered answer to a numbered call.
    #[must_use]
    pub fn answer(&self, key: AnswerKey) -> Option<&CallAnswer> {
        self.answers.get(&key)
    }

    /// Returns the remembered answer to a batch of operators, by principal and request id.
    #[must_use]
    pub fn operator_answer(&self, name: &(String, String)) -> Option<&OperatorAnswer> {
        self.operator_answers.get(name)
    }

    /// Returns the targets of pending sweeps.
    pub fn sweeps(&self) -> impl Iterator<Item = SweepTarget> {
        let converting = self.cluster.layout.is_converting();
        let layout = converting.then_some(SweepTarget::Layout);
        self.cluster.sweeps.keys().copied().chain(layout)
    }

    /// Returns the number of tasks that have not ended.
    #[must_use]
    pub fn live_tasks(&self) -> usize {
        self.index.live_tasks
    }

    /// Returns the number of tasks in a state. Ended ones count until their end is acknowledged.
    #[must_use]
    pub fn tasks_in(&self, state: TaskState) -> usize {
        self.index.states.get(&state).copied().unwrap_or(0)
    }

    /// Returns the number of updates that frameworks have not acknowledged.
    #[must_use]
    pub fn unacknowledged_updates(&self) -> usize {
        self.index.unacknowledged
    }

    /// Returns the digest of the records. It is the same on every master at the same applied index,
    /// provided that changes were collected after every entry (see [`Self::take_changes`]).
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest
    }
}
