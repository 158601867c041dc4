//! The registry: every fact the cluster has agreed on, and indexes that `apply` keeps.
//!
//! Fields are private: facts change only through `apply`, everything else borrows.

mod answers;
mod changes;
mod deadlines;
mod executors;
mod history;
mod index;
mod layout;
mod orders;
mod roles;
mod snapshot;
pub(crate) mod usage;

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::{Agent, AgentMode};
use crate::command::{ClusterFacts, Refusal, SweepTarget};
use crate::framework::{Answer, FinishedFramework, Framework};
use crate::ids::{
    AgentId, Epoch, FrameworkId, GroupId, NodeId, Revision, Role, TaskKey, Timestamp,
};
use crate::level::Level;
use crate::persistent::{Map, Table};
use crate::resources::Resources;
use crate::task::{FinishedTask, Task};

pub use changes::{RecordKey, RecordWrite};
pub use deadlines::{DeadlineKind, Deadlines};
pub use executors::{ExecutorIndex, ExecutorKey};
pub(crate) use history::{keeps_all, kept_spec};
pub(crate) use index::Indexes;
pub use index::{AgentIndex, FrameworkIndex};
pub use layout::Layout;
pub(crate) use layout::{is_long, limits_of, long_messages, records_of};
pub use orders::{Order, OrderKind};
pub use roles::RoleUse;
pub use snapshot::Snapshot;
pub use usage::Usage;

/// The cluster itself: singletons and counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// Its id and keys.
    pub facts: ClusterFacts,
    /// The feature level: what commands may hold and how they are applied.
    pub level: Level,
    /// The present reign.
    pub epoch: Epoch,
    /// Who reigns.
    pub leader: NodeId,
    /// Random number of the reigning process.
    pub process: u64,
    /// Raft term of the reign.
    pub term: u64,
    /// The last agent number given.
    pub last_agent: u64,
    /// The last framework number given.
    pub last_framework: u64,
    /// The last serial in the histories.
    pub last_finished: u64,
    /// What waits for sweeps.
    pub sweeps: BTreeMap<SweepTarget, SweepMark>,
    /// When a leader last found very many agents silent at once, in cluster time.
    pub mass_loss: Option<Timestamp>,
    /// The last serial of the histories whose task is one record.
    pub last_whole: u64,
    /// Which records hold what.
    pub layout: Layout,
}

/// How far a sweep has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepMark {
    /// The last task that was looked at; `None` before the first.
    pub after: Option<TaskKey>,
    /// Milliseconds of the Unix epoch at which it began, for display.
    pub wall_ms: i64,
}

/// The remembered answer to a batch of operators' changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorAnswer {
    /// Hash of the operations.
    pub hash: u64,
    /// When it was applied, in cluster time.
    pub at: Timestamp,
    /// The revision at which it was applied; 0 of one that an earlier release remembered.
    pub revision: Revision,
    /// One an operation: `None` for done.
    pub outcomes: Vec<Option<Refusal>>,
}

/// Names an answer to a numbered call: framework, session, number.
pub type AnswerKey = (FrameworkId, u64, u64);

/// Everything agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    pub(crate) applied: u64,
    pub(crate) time: Timestamp,
    pub(crate) cluster: Cluster,
    pub(crate) agents: Table<AgentId, Agent>,
    pub(crate) weights: Map<Role, u64>,
    pub(crate) frameworks: Table<FrameworkId, Framework>,
    pub(crate) tasks: Table<TaskKey, Task>,
    pub(crate) answers: Table<AnswerKey, Answer>,
    pub(crate) operator_answers: Table<(String, String), OperatorAnswer>,
    pub(crate) finished_tasks: Table<u64, FinishedTask>,
    pub(crate) finished_frameworks: Table<u64, FinishedFramework>,
    pub(crate) index: Indexes,
    pub(crate) changed: BTreeSet<RecordKey>,
    pub(crate) marks: BTreeMap<RecordKey, u128>,
    pub(crate) digest: u128,
}

/// The weight of a role that nobody has set, in thousandths.
pub const DEFAULT_WEIGHT_MILLI: u64 = 1_000;

impl Registry {
    /// Nothing agreed on yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cluster: Cluster {
                level: Level::FIRST,
                ..Cluster::default()
            },
            ..Self::default()
        }
    }

    /// Log index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Cluster time: that of the newest applied entry.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The feature level of the cluster: at it commands are encoded and applied.
    #[must_use]
    pub fn level(&self) -> Level {
        self.cluster.level
    }

    /// The level at which a leader of this release opens an epoch; `None` for a new cluster, where its members decide.
    #[must_use]
    pub fn level_to_lead(&self) -> Option<Level> {
        let is_new = self.cluster.epoch == Epoch::default();
        (!is_new).then(|| self.cluster.level.max(Level::OLDEST))
    }

    /// Singletons and counters.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The present reign.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.cluster.epoch
    }

    /// One agent.
    #[must_use]
    pub fn agent(&self, id: AgentId) -> Option<&Agent> {
        self.agents.get(&id)
    }

    /// All agents, ascending.
    pub fn agents(&self) -> impl ExactSizeIterator<Item = &Agent> {
        self.agents.values()
    }

    /// Agents above `after`, ascending.
    pub fn agents_after(&self, after: AgentId) -> impl Iterator<Item = &Agent> {
        self.agents
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(_, agent)| agent)
    }

    /// What is derived of one agent.
    #[must_use]
    pub fn agent_index(&self, id: AgentId) -> Option<&AgentIndex> {
        self.index.agents.get(&id)
    }

    /// What an agent has left: totals without every task that has not ended, and their executors. Empty while more is
    /// used than there is.
    #[must_use]
    pub fn free(&self, id: AgentId) -> Resources {
        match (self.agents.get(&id), self.index.agents.get(&id)) {
            (Some(agent), Some(index)) => agent.total().minus(&index.used).unwrap_or_default(),
            (Some(agent), None) => agent.total().clone(),
            (None, _) => Resources::none(),
        }
    }

    /// How many agents are lost: unreachable or gone.
    #[must_use]
    pub fn lost_agents(&self) -> usize {
        self.agents_in(AgentMode::Unreachable) + self.agents_in(AgentMode::Gone)
    }

    /// How many agents are in `mode`.
    #[must_use]
    pub fn agents_in(&self, mode: AgentMode) -> usize {
        self.index.modes.get(&mode).copied().unwrap_or(0)
    }

    /// The agent that registered first with `nonce`.
    #[must_use]
    pub fn agent_by_nonce(&self, nonce: u64) -> Option<AgentId> {
        self.index.nonces.get(&nonce).copied()
    }

    /// One framework.
    #[must_use]
    pub fn framework(&self, id: FrameworkId) -> Option<&Framework> {
        self.frameworks.get(&id)
    }

    /// All live frameworks, ascending.
    pub fn frameworks(&self) -> impl ExactSizeIterator<Item = &Framework> {
        self.frameworks.values()
    }

    /// The framework of `principal` that is in `session` or was in it before; the oldest one, if
    /// several share the number.
    #[must_use]
    pub fn framework_by_session(&self, principal: &str, session: u64) -> Option<FrameworkId> {
        let first = (principal.to_owned(), session, FrameworkId(0));
        let (name, number, id) = self.index.sessions.range(first..).next()?;
        (name == principal && *number == session).then_some(*id)
    }

    /// Frameworks above `after`, ascending.
    pub fn frameworks_after(&self, after: FrameworkId) -> impl Iterator<Item = &Framework> {
        let above = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.frameworks.range(above).map(|(_, framework)| framework)
    }

    /// What is derived of one framework.
    #[must_use]
    pub fn framework_index(&self, id: FrameworkId) -> Option<&FrameworkIndex> {
        self.index.frameworks.get(&id)
    }

    /// All that registered agents give, whatever is used of it.
    #[must_use]
    pub fn total(&self) -> &Resources {
        &self.index.total
    }

    /// The weight of a role, in thousandths.
    #[must_use]
    pub fn weight_milli(&self, role: &Role) -> u64 {
        self.weights
            .get(role)
            .copied()
            .unwrap_or(DEFAULT_WEIGHT_MILLI)
    }

    /// Weights that were set, ascending by role.
    pub fn weights(&self) -> impl Iterator<Item = (&Role, u64)> {
        self.weights.iter().map(|(role, weight)| (role, *weight))
    }

    /// One task, ended or not, as long as something about it is not acknowledged.
    #[must_use]
    pub fn task(&self, key: &TaskKey) -> Option<&Task> {
        self.tasks.get(key)
    }

    /// All such tasks, ascending.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Task> {
        self.tasks.values()
    }

    /// The tasks of a group that are in the registry, ascending.
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

    /// Tasks above `after`, ascending.
    pub fn tasks_after<'a>(&'a self, after: &'a TaskKey) -> impl Iterator<Item = &'a Task> {
        self.tasks
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(_, task)| task)
    }

    /// Tasks of one framework, ascending.
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

    /// Tasks of one agent, ascending.
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

    /// A finished task, as long as it is in the history.
    #[must_use]
    pub fn finished_task(&self, key: &TaskKey) -> Option<&FinishedTask> {
        self.index
            .history
            .by_key
            .get(key)
            .and_then(|serial| self.finished_tasks.get(serial))
    }

    /// Finished tasks with their serials, oldest first, above `after`.
    pub fn finished_tasks_after(&self, after: u64) -> impl Iterator<Item = (u64, &FinishedTask)> {
        self.finished_tasks
            .range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(serial, task)| (*serial, task))
    }

    /// Removed frameworks, oldest first.
    pub fn finished_frameworks(&self) -> impl Iterator<Item = &FinishedFramework> {
        self.finished_frameworks.values()
    }

    /// The remembered answer to a numbered call.
    #[must_use]
    pub fn answer(&self, key: AnswerKey) -> Option<&Answer> {
        self.answers.get(&key)
    }

    /// The remembered answer to a batch of operators, by principal and request id.
    #[must_use]
    pub fn operator_answer(&self, name: &(String, String)) -> Option<&OperatorAnswer> {
        self.operator_answers.get(name)
    }

    /// What waits for sweeps.
    pub fn sweeps(&self) -> impl Iterator<Item = SweepTarget> {
        let converting = self.cluster.layout.is_converting();
        let layout = converting.then_some(SweepTarget::Layout);
        self.cluster.sweeps.keys().copied().chain(layout)
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn live_tasks(&self) -> usize {
        self.index.live_tasks
    }

    /// The same on every master at the same applied index, as long as changes were collected after
    /// every entry (see [`Self::take_changes`]).
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest
    }
}
