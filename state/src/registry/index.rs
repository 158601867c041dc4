//! The indexes that are derived from the records. They are updated with every change and verified
//! by `check`.

use std::collections::BTreeMap;

use super::deadlines::DeadlineIndex;
use super::executors::{self, ExecutorIndex, ExecutorKey};
use super::history::HistoryIndex;
use super::layout::FormerTaskRecords;
use super::roles::{self, RoleUsage};
use super::usage::{self, AnswerUsage, ByteUsage};
use super::{Registry, record_key::RecordKey};
use crate::actor::Principal;
use crate::agent::{Agent, AgentMode, Order};
use crate::collections::persistent::{Map, Set, Table};
use crate::digest::{DigestKind, Digests, task_mark};
use crate::framework::Framework;
use crate::ids::{AgentId, FrameworkId, GroupId, OrderIndex, Role, TaskId, TaskKey};
use crate::planted_bug;
use crate::resources::Resources;
use crate::task::{Task, TaskState};

/// The derived facts of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentIndex {
    /// The tasks of the agent, ended or not.
    pub tasks: Set<TaskKey>,
    /// The orders that are still in effect.
    pub orders: Map<OrderIndex, Order>,
    /// The resources of the live tasks, and of their executors, each counted once.
    pub used: Resources,
    /// The executors with a live task.
    pub executors: Map<ExecutorKey, ExecutorIndex>,
    /// The number of tasks that have not ended.
    pub live: usize,
    /// The number of tasks in state UNREACHABLE. While there are any, an equal sum of marks is not
    /// sufficient.
    pub unreachable: usize,
    /// Those unreachable tasks that stop themselves and are not recorded as stopped, by the silence
    /// in milliseconds after which they have stopped.
    pub stopping: Set<(u64, TaskKey)>,
    /// The digests of the objects that the agent should hold.
    pub expected: Digests,
}

/// The derived facts of one framework.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrameworkIndex {
    /// The tasks of the framework, ended or not.
    pub tasks: Set<TaskId>,
    /// The number of tasks that have not ended.
    pub live: usize,
    /// The number of ended tasks whose end is not acknowledged.
    pub ended: usize,
    /// The usage of its tasks and executors by role, without those on unreachable agents.
    pub used: Map<Role, Resources>,
    /// The tasks with unacknowledged updates.
    pub unacknowledged: Set<TaskId>,
    /// The number of remembered answers.
    pub answers: usize,
    /// The estimated memory of its tasks, in bytes.
    pub task_bytes: u64,
    /// The groups, each with those of its tasks that are in the registry.
    pub groups: Map<GroupId, Set<TaskId>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Indexes {
    pub(crate) agents: Table<AgentId, AgentIndex>,
    pub(crate) frameworks: Table<FrameworkId, FrameworkIndex>,
    pub(crate) roles: Table<Role, RoleUsage>,
    pub(crate) nonces: Map<u64, AgentId>,
    /// The agents that are not gone, by the principal to which they are bound.
    pub(crate) bound: Set<(Principal, AgentId)>,
    /// The current and past sessions of live frameworks, by principal.
    pub(crate) sessions: Set<(String, u64, FrameworkId)>,
    pub(crate) deadlines: DeadlineIndex,
    pub(crate) history: HistoryIndex,
    /// The live frameworks by principal, without those that are being removed.
    pub(crate) principals: Map<String, Set<FrameworkId>>,
    pub(crate) answers_by_principal: Map<String, AnswerUsage>,
    pub(crate) bytes: ByteUsage,
    pub(crate) modes: BTreeMap<AgentMode, usize>,
    pub(crate) total: Resources,
    /// The scalars of all roles' tasks and executors, without those on unreachable agents.
    pub(crate) used: Resources,
    pub(crate) live_tasks: usize,
    /// The number of tasks in each state, ended ones included; states without tasks are left out.
    pub(crate) states: BTreeMap<TaskState, usize>,
    /// The number of updates that frameworks have not acknowledged.
    pub(crate) unacknowledged: usize,
}

/// Returns whether the agent's resources count in the totals of the cluster.
fn counts(agent: &Agent) -> bool {
    agent.mode() == AgentMode::Registered
}

/// The facts of a task on which the indexes depend and that may change during its lifecycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TaskFacet {
    /// Whether its agent is expected to hold it: until its end is committed, or a master has ended
    /// it.
    live: bool,
    unreachable: bool,
    stops_after_ms: Option<u64>,
    kill: Option<OrderIndex>,
    limits: Option<OrderIndex>,
    reported: u64,
    /// The number of updates that wait for the framework's acknowledgement.
    unacknowledged: usize,
    state: TaskState,
}

impl TaskFacet {
    fn of(task: &Task) -> Self {
        Self {
            live: !task.state.is_terminal(),
            unreachable: task.state == TaskState::Unreachable,
            stops_after_ms: task.stops_after_ms(),
            kill: task.kill.map(|kill| kill.order),
            limits: task.limits_change.as_ref().map(|change| change.order),
            reported: task.reported,
            unacknowledged: task.unacknowledged.len(),
            state: task.state,
        }
    }
}

impl Indexes {
    /// Adds or removes a task with `facet`, its present or former one. Returns `None` if the usage
    /// cannot be summed, which never happens for records that `apply` created.
    fn task(&mut self, task: &Task, facet: TaskFacet, sign: Sign) -> Option<()> {
        let agent = self.agents.or_default(task.agent);
        sign.set(&mut agent.tasks, task.key.clone());
        if facet.live {
            sign.order(agent, task.order, Order::Launch(task.key.clone()));
            if let Some(order) = facet.kill {
                sign.order(agent, order, Order::Kill(task.key.clone()));
            }
            if let Some(order) = facet.limits {
                sign.order(agent, order, Order::Limits(task.key.clone()));
            }
            if facet.kill.is_none() || !planted_bug!(FreedAtKill) {
                sign.resources(&mut agent.used, &task.spec.resources)?;
            }
            sign.count(&mut agent.live);
            sign.count(&mut self.live_tasks);
            sign.mark(agent, task, facet.reported);
        }
        if facet.unreachable {
            sign.count(&mut agent.unreachable);
        }
        if let Some(after_ms) = facet.stops_after_ms {
            sign.set(&mut agent.stopping, (after_ms, task.key.clone()));
        }
        self.count_state(facet.state, facet.unacknowledged, sign);
        let framework = self.frameworks.or_default(task.key.framework);
        sign.set(&mut framework.tasks, task.key.task.clone());
        if let Some(group) = &task.spec.group {
            sign.grouped(&mut framework.groups, &group.id, &task.key.task);
        }
        sign.count(if facet.live {
            &mut framework.live
        } else {
            &mut framework.ended
        });
        if facet.unacknowledged > 0 {
            sign.set(&mut framework.unacknowledged, task.key.task.clone());
        }
        if facet.live && !facet.unreachable {
            let scalars = task.spec.resources.scalars()?;
            sign.shared(&mut framework.used, &task.role, &scalars)?;
            roles::count(&mut self.roles, &task.role, &scalars, sign)?;
            sign.resources(&mut self.used, &scalars)?;
        }
        if facet.live {
            self.executor(task, facet, sign)?;
        }
        Some(())
    }

    /// Adds or removes the executor's resources, with the first or last of its tasks.
    fn executor(&mut self, task: &Task, facet: TaskFacet, sign: Sign) -> Option<()> {
        let Some(executor) = &task.spec.executor else {
            return Some(());
        };
        let agent = self.agents.or_default(task.agent);
        let reachable = !facet.unreachable;
        let turned = executors::count(&mut agent.executors, executor, &task.key, reachable, sign);
        if turned.agent {
            sign.resources(&mut agent.used, &executor.resources)?;
        }
        if turned.role {
            let framework = self.frameworks.or_default(task.key.framework);
            let scalars = executor.resources.scalars()?;
            sign.shared(&mut framework.used, &task.role, &scalars)?;
            roles::count(&mut self.roles, &task.role, &scalars, sign)?;
            sign.resources(&mut self.used, &scalars)?;
        }
        Some(())
    }

    /// Updates the indexes after a change of a task that was counted with `former`, as far as the
    /// change requires: most updates change only the number of the last one.
    fn update_task(&mut self, task: &Task, former: TaskFacet) {
        let present = TaskFacet::of(task);
        if present == former {
            return;
        }
        let only_number = TaskFacet {
            reported: former.reported,
            unacknowledged: former.unacknowledged,
            state: former.state,
            ..present
        } == former;
        if !only_number {
            self.task(task, former, Sign::Remove).expect(USE_IS_COVERED);
            self.task(task, present, Sign::Add).expect(LAUNCHES_FIT);
            return;
        }
        if present.live && present.reported != former.reported {
            let agent = self.agents.or_default(task.agent);
            Sign::Remove.mark(agent, task, former.reported);
            Sign::Add.mark(agent, task, present.reported);
        }
        self.count_state(former.state, former.unacknowledged, Sign::Remove);
        self.count_state(present.state, present.unacknowledged, Sign::Add);
        let waits = present.unacknowledged > 0;
        if waits != (former.unacknowledged > 0) {
            let framework = self.frameworks.or_default(task.key.framework);
            let sign = if waits { Sign::Add } else { Sign::Remove };
            sign.set(&mut framework.unacknowledged, task.key.task.clone());
        }
    }

    fn agent(&mut self, agent: &Agent, sign: Sign) -> Option<()> {
        match sign {
            Sign::Add => drop(self.nonces.insert(agent.nonce, agent.id)),
            Sign::Remove => drop(self.nonces.remove(&agent.nonce)),
        }
        let mode = agent.mode();
        if let (Some(principal), true) = (&agent.principal, mode != AgentMode::Gone) {
            sign.set(&mut self.bound, (principal.clone(), agent.id));
        }
        let count = self.modes.entry(mode).or_default();
        sign.count(count);
        if *count == 0 {
            self.modes.remove(&mode);
        }
        self.agent_deadlines(agent, sign);
        sign.bytes(&mut self.bytes.agents, usage::of_agent(agent));
        if counts(agent) {
            sign.resources(&mut self.total, &agent.total().scalars()?)?;
        }
        Some(())
    }

    fn framework(&mut self, framework: &Framework, sign: Sign) {
        let sessions = framework.past_sessions.iter().chain([&framework.session]);
        for session in sessions {
            let key = (framework.info.principal.clone(), *session, framework.id);
            sign.set(&mut self.sessions, key);
        }
        self.framework_deadline(framework, sign);
        sign.bytes(&mut self.bytes.frameworks, usage::of_framework(framework));
        if !framework.removing {
            let principal = framework.info.principal.clone();
            let all = self.principals.or_default(principal);
            sign.set(all, framework.id);
            if all.is_empty() {
                self.principals.remove(&framework.info.principal);
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Sign {
    Add,
    Remove,
}

impl Sign {
    pub(super) fn count(self, count: &mut usize) {
        match self {
            Self::Add => *count += 1,
            Self::Remove => *count -= 1,
        }
    }

    pub(super) fn bytes(self, sum: &mut u64, bytes: u64) {
        match self {
            Self::Add => *sum += bytes,
            Self::Remove => *sum -= bytes,
        }
    }

    pub(super) fn set<T: Ord + Clone>(self, set: &mut Set<T>, item: T) {
        match self {
            Self::Add => drop(set.insert(item)),
            Self::Remove => drop(set.remove(&item)),
        }
    }

    fn grouped(self, groups: &mut Map<GroupId, Set<TaskId>>, group: &GroupId, task: &TaskId) {
        let tasks = groups.or_default(group.clone());
        self.set(tasks, task.clone());
        if tasks.is_empty() {
            groups.remove(group);
        }
    }

    fn order(self, agent: &mut AgentIndex, index: OrderIndex, order: Order) {
        match self {
            Self::Add => drop(agent.orders.insert(index, order)),
            Self::Remove => drop(agent.orders.remove(&index)),
        }
    }

    fn mark(self, agent: &mut AgentIndex, task: &Task, reported: u64) {
        let mark = task_mark(&task.key, task.order, reported);
        match self {
            Self::Add => agent.expected.add(DigestKind::Task, mark),
            Self::Remove => agent.expected.remove(DigestKind::Task, mark),
        }
    }

    pub(super) fn resources(self, sum: &mut Resources, part: &Resources) -> Option<()> {
        *sum = match self {
            Self::Add => sum.plus(part)?,
            Self::Remove => sum.minus(part)?,
        };
        Some(())
    }

    fn shared(
        self,
        by_role: &mut Map<Role, Resources>,
        role: &Role,
        part: &Resources,
    ) -> Option<()> {
        let sum = by_role.or_default(role.clone());
        self.resources(sum, part)?;
        if sum.is_empty() {
            by_role.remove(role);
        }
        Some(())
    }
}

const LAUNCHES_FIT: &str = "launches were checked against the free resources";
const USE_IS_COVERED: &str = "the usage covers every live task";
const TOTALS_FIT: &str = "totals were checked at registration";

/// The only functions that change records. They update the indexes and note each change for
/// storage.
impl Registry {
    /// Adds a task under a key that is free.
    pub(crate) fn put_task(&mut self, task: Task) {
        let facet = TaskFacet::of(&task);
        self.index
            .task(&task, facet, Sign::Add)
            .expect(LAUNCHES_FIT);
        self.index.weigh_task(&task, Sign::Add);
        self.note_launched(&task);
        self.tasks.insert(task.key.clone(), task);
    }

    /// Changes a task in place, and the indexes only as far as the change requires.
    pub(crate) fn change_task(&mut self, key: &TaskKey, change: impl FnOnce(&mut Task)) {
        let task = self
            .tasks
            .get_mut(key)
            .expect("the caller has just looked it up");
        let former = TaskFacet::of(task);
        let bytes = usage::of_changes(task);
        let parts = FormerTaskRecords::of(task);
        change(task);
        self.index.update_task(task, former);
        self.index.weigh_change(task, bytes);
        let present = FormerTaskRecords::of(task);
        self.note_changed(key, &parts, &present);
    }

    /// Removes a task that becomes history.
    pub(crate) fn remove_task(&mut self, key: &TaskKey) -> Task {
        let task = self
            .tasks
            .remove(key)
            .expect("the caller has just looked it up");
        self.index
            .task(&task, TaskFacet::of(&task), Sign::Remove)
            .expect(USE_IS_COVERED);
        self.index.weigh_task(&task, Sign::Remove);
        let transitions = self.transitions(key).len();
        self.index.weigh_transitions(key, transitions, Sign::Remove);
        task
    }

    pub(crate) fn put_agent(&mut self, mut agent: Agent) {
        if !self.cluster.layout.splits_agent(agent.id) {
            agent.reduce_to_0_1_0();
        }
        match self.agents.get(&agent.id).cloned() {
            Some(former) => {
                self.index.agent(&former, Sign::Remove).expect(TOTALS_FIT);
                self.note_agent(agent.id, Some((&former, &agent)));
                if former.orders != agent.orders || former.used_offers != agent.used_offers {
                    self.note_counters(agent.id);
                }
            }
            None => {
                self.note_agent(agent.id, None);
                self.note_counters(agent.id);
            }
        }
        self.index.agent(&agent, Sign::Add).expect(TOTALS_FIT);
        self.index.agents.or_default(agent.id);
        self.agents.insert(agent.id, agent);
    }

    /// Removes an agent without tasks.
    pub(crate) fn remove_agent(&mut self, id: AgentId) {
        let agent = self
            .agents
            .remove(&id)
            .expect("the caller has just looked it up");
        self.index.agent(&agent, Sign::Remove).expect(TOTALS_FIT);
        self.index.agents.remove(&id);
        self.note_agent(id, None);
        self.note_counters(id);
        self.note_removed_agent();
    }

    pub(crate) fn put_framework(&mut self, framework: Framework) {
        if let Some(former) = self.frameworks.get(&framework.id) {
            self.index.framework(former, Sign::Remove);
        }
        self.index.framework(&framework, Sign::Add);
        self.index.frameworks.or_default(framework.id);
        self.changed.insert(RecordKey::Framework(framework.id));
        self.frameworks.insert(framework.id, framework);
    }

    pub(crate) fn remove_framework(&mut self, id: FrameworkId) -> Framework {
        let framework = self
            .frameworks
            .remove(&id)
            .expect("the caller has just looked it up");
        self.index.framework(&framework, Sign::Remove);
        self.index.frameworks.remove(&id);
        self.changed.insert(RecordKey::Framework(id));
        framework
    }

    /// Rebuilds the index of one agent from the tasks that it names. Returns `None` if their usage
    /// cannot be summed.
    pub(crate) fn fresh_agent_index(&self, id: AgentId) -> Option<AgentIndex> {
        let mut fresh = Indexes::default();
        fresh.agents.or_default(id);
        for task in self.tasks_on(id) {
            fresh.task(task, TaskFacet::of(task), Sign::Add)?;
        }
        fresh.agents.remove(&id)
    }

    /// Rebuilds every index from the records. Returns `None` if the usage cannot be summed.
    pub(crate) fn indexes(&self) -> Option<Indexes> {
        let mut index = Indexes::default();
        for agent in self.agents.values() {
            index.agent(agent, Sign::Add)?;
            index.agents.or_default(agent.id);
        }
        for framework in self.frameworks.values() {
            index.framework(framework, Sign::Add);
            index.frameworks.or_default(framework.id);
        }
        for task in self.tasks.values() {
            index.task(task, TaskFacet::of(task), Sign::Add)?;
            index.weigh_task(task, Sign::Add);
            let transitions = self.transitions(&task.key).len();
            index.weigh_transitions(&task.key, transitions, Sign::Add);
        }
        for (name, secret) in self.secrets.iter() {
            index.bytes.secrets += usage::of_secret(name, secret);
        }
        for (framework, _, _) in self.answers.keys() {
            index.frameworks.or_default(*framework).answers += 1;
        }
        for (request, answer) in self.operator_answers.iter() {
            index.add_operator_answer(request, answer);
        }
        for (serial, finished) in self.finished_tasks.iter() {
            let transitions = self.transitions(&finished.task.key).len();
            index.finished(*serial, finished, transitions, Sign::Add);
        }
        Some(index)
    }
}
