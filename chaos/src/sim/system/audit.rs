//! The audit of the simulation: it checks what masters have stored, and at the end compares all
//! views with each other.

use std::collections::BTreeSet;

use argosy_agent::core::Instance;
use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use argosy_state::digest::record_mark;
use argosy_state::ids::{AgentId, FrameworkId, NodeId, OrderIndex, TaskKey};
use argosy_state::resources::Resources;
use argosy_state::task::{Task, TaskState};

use super::log::LogFollower;
use super::machine::{ContainerLimits, SimMachine};
use super::world::{OperatorRequest, World, agent_name, framework_name, master_name};
use crate::history::{self, AgentFact, Origin, RaftFact};

mod rest;

pub(super) use rest::TaskSnapshot;

/// Returns the name of the executor that runs a task.
fn executor_of(task: &Task) -> Option<TaskKey> {
    let executor = task.spec.executor.as_deref()?;
    Some(TaskKey {
        framework: task.key.framework,
        task: executor.executor.clone(),
    })
}

/// Time without a message of a leader, after which an agent counts as without one. A leader sends
/// one every second.
const LEADER_TIMEOUT_MS: u64 = 2_500;
/// The number of entries by which a lagging master is behind another one.
const MAX_LAG: u64 = 8;

/// The durable state of the cluster, compared with the log, the machines and the frameworks.
pub(super) struct ClusterAudit {
    world: World,
    log: LogFollower,
    checked: Vec<u64>,
}

impl ClusterAudit {
    pub(super) fn new(world: World) -> Self {
        Self {
            checked: vec![0; world.stores.len()],
            log: LogFollower::new(world.clone()),
            world,
        }
    }

    fn violation(&self, message: String) {
        self.world.notes.violation(message);
    }

    /// Applies the entries that were committed since.
    pub(super) fn follow(&mut self) {
        self.log.follow();
    }

    /// Returns the registry with the entries that any master has applied.
    pub(super) fn registry(&self) -> &Registry {
        self.log.registry()
    }

    /// Checks every master's registry: it equals the one from the log, and satisfies its
    /// invariants. Returns the leader.
    pub(super) fn check(&mut self) -> Option<usize> {
        let registry = self.log.registry();
        if let Err(broken) = registry.check() {
            self.violation(format!("the registry at {}: {broken}", registry.applied()));
        }
        for place in 0..self.world.stores.len() {
            let Some((index, records)) = self.world.stores[place].registry() else {
                continue;
            };
            if self.checked[place] == index {
                continue;
            }
            self.checked[place] = index;
            let name = master_name(place);
            let marks = records.iter().map(|(key, value)| record_mark(key, value));
            let digest = marks.fold(0, u128::wrapping_add);
            if let Some(known) = self.log.digest(index)
                && known != digest
            {
                self.violation(format!(
                    "StateMachineSafety: {name} has stored another registry at {index} than the log makes"
                ));
            }
            let fact = RaftFact::Digest {
                node: NodeId(place as u64 + 1),
                index,
                digest: format!("{digest:032x}"),
                origin: Origin::Log,
            };
            self.world.notes.recorder.observe(&*name, fact);
        }
        self.check_accounts();
        self.compare_limits();
        let NodeId(id) = registry.cluster().leader;
        self.world.place(id)
    }

    /// Checks that the limits that the registry reports as in force are in force, also after a
    /// rejected change. Tasks with an unanswered change are skipped. A leader that died may have
    /// sent an order of an entry that no other master has applied yet. Limits of such an order are
    /// skipped, because the registry does not know them.
    fn compare_limits(&self) {
        for task in self.log.registry().tasks() {
            let change = task.limits_change.as_ref();
            if change.is_none_or(|change| change.outcome.is_none()) {
                continue;
            }
            let wanted = task.spec.limits.as_ref().and_then(|limits| limits.pids);
            let instance = Instance {
                agent: task.agent,
                order: task.order,
            };
            let machines = self.world.machines.iter();
            let known = self.log.registry().agent(task.agent);
            let known = known.map_or(OrderIndex(0), |agent| agent.orders);
            let found = machines.filter_map(|machine| machine.limits_of(instance));
            for ContainerLimits { pids, .. } in found.filter(|found| found.order <= known) {
                self.world.notes.count("limits compared");
                if pids != wanted {
                    let key = &task.key;
                    self.violation(format!(
                        "LimitEnforcement: {key} is limited to {pids:?} processes, and {wanted:?} are reported to be in force"
                    ));
                }
            }
        }
    }

    /// Compares the registry's accounts of agents with its tasks, one by one.
    fn check_accounts(&self) {
        let registry = self.log.registry();
        for agent in registry.agents() {
            let live = registry
                .tasks_on(agent.id)
                .filter(|task| !task.is_terminal());
            let mut used = Some(Resources::default());
            let mut executors = BTreeSet::new();
            for task in live {
                used = used.and_then(|used| used.plus(&task.spec.resources));
                // An executor counts once, with the first of its tasks.
                if let Some(executor) = task.spec.executor.as_deref()
                    && executors.insert((task.key.framework, &executor.executor))
                {
                    used = used.and_then(|used| used.plus(&executor.resources));
                }
            }
            let Some(used) = used else {
                self.violation(format!(
                    "NoDoubleBooking: tasks on {} use the same thing",
                    agent.id
                ));
                continue;
            };
            let fact = AgentFact::Account {
                agent: agent.id,
                index: registry.applied(),
                total: agent.total().clone(),
                used,
                offered: Resources::default(),
                free: registry.free(agent.id),
            };
            self.world.notes.recorder.observe("log", fact);
        }
    }

    /// Returns the frameworks that can receive offers.
    pub(super) fn present_frameworks(&self) -> Vec<FrameworkId> {
        let state = self.world.state();
        let ids = state.frameworks.values();
        ids.filter_map(|stored| stored.framework.as_ref()?.parse().ok())
            .filter(|id| self.log.registry().framework(*id).is_some())
            .collect()
    }

    /// Returns the agents that are unreachable now.
    pub(super) fn unreachable(&self) -> Vec<AgentId> {
        let agents = self.log.registry().agents();
        agents
            .filter(|agent| agent.mode() == AgentMode::Unreachable)
            .filter(|agent| {
                self.world
                    .machines
                    .iter()
                    .any(|machine| machine.agent() == Some(agent.id))
            })
            .map(|agent| agent.id)
            .collect()
    }

    /// Returns the agents that became unreachable after the first `count` ones.
    pub(super) fn unreachable_since(&self, count: usize) -> Vec<AgentId> {
        self.log.unreachable_since(count).to_vec()
    }

    /// Returns agents that are not registered, and tasks that are UNREACHABLE although their agents
    /// are registered.
    pub(super) fn unreachable_agents(&self) -> Vec<String> {
        let registry = self.log.registry();
        let mut away = Vec::new();
        for machine in self.world.machines.iter() {
            let agent = machine.agent().and_then(|id| registry.agent(id));
            let mode = agent.map(|agent| agent.mode());
            if mode.is_none_or(|mode| mode == AgentMode::Unreachable) {
                away.push(format!("{} is {mode:?}", machine.name));
            }
        }
        away.extend(self.unreachable_tasks(registry));
        away
    }

    /// Returns tasks that are UNREACHABLE although their agents are registered.
    fn unreachable_tasks(&self, registry: &Registry) -> Vec<String> {
        let unreachable = registry
            .tasks()
            .filter(|task| task.state == TaskState::Unreachable);
        let behind = unreachable.filter(|task| {
            let mode = registry.agent(task.agent).map(|agent| agent.mode());
            mode == Some(AgentMode::Registered)
        });
        let behind = behind.map(|task| {
            let (key, agent) = (&task.key, task.agent);
            format!("{key} is UNREACHABLE on {agent}, which is registered")
        });
        behind.collect()
    }

    /// Returns the hosts whose agents have obeyed a master since then.
    pub(super) fn obeying_since(&self, since_ms: u64) -> Vec<String> {
        let machines = self.world.machines.iter();
        let led = machines.filter(|machine| machine.obeyed_ms() > since_ms);
        led.map(|machine| machine.name.to_string()).collect()
    }

    /// Returns the live tasks with a kill request.
    pub(super) fn killed(&self) -> Vec<TaskKey> {
        let tasks = self.log.registry().tasks();
        tasks
            .filter(|task| task.kill.is_some() && !task.is_terminal())
            .map(|task| task.key.clone())
            .collect()
    }

    /// Returns the live tasks of the framework that never returns.
    pub(super) fn tasks_of_retired(&self) -> Vec<TaskKey> {
        let state = self.world.state();
        let stored = state.retired.and_then(|place| state.frameworks.get(&place));
        let id = stored.and_then(|stored| stored.framework.as_ref()?.parse().ok());
        let tasks = self.log.registry().tasks();
        tasks
            .filter(|task| Some(task.key.framework) == id && !task.is_terminal())
            .map(|task| task.key.clone())
            .collect()
    }

    /// Returns the deactivated agents.
    pub(super) fn deactivated(&self) -> Vec<String> {
        let agents = self.log.registry().agents();
        agents
            .filter(|agent| agent.mode() == AgentMode::Deactivated)
            .map(|agent| agent.id.to_string())
            .collect()
    }

    /// Returns the hosts whose disks do not have the current epoch.
    pub(super) fn agents_of_former_epochs(&self) -> Vec<String> {
        let epoch = self.log.registry().epoch();
        let machines = self.world.machines.iter();
        machines
            .filter(|machine| machine.synced().facts.identity.epoch < epoch)
            .map(|machine| machine.name.to_string())
            .collect()
    }

    /// Returns the remaining problems of a cluster without active faults; empty if it is healthy.
    pub(super) fn unhealthy(&self) -> Vec<String> {
        let mut open = self.unrecovered();
        let machines = self.world.machines.iter();
        open.extend(machines.flat_map(SimMachine::partly_failed_groups));
        open
    }

    /// Returns the same without the relations between tasks.
    pub(super) fn unrecovered(&self) -> Vec<String> {
        let mut open = Vec::new();
        let state = self.world.state();
        if let Some(wiped) = state.wiped {
            open.push(format!(
                "{wiped:?}, which was reported as {:?}",
                state.operator_error
            ));
        }
        drop(state);
        if let Some(leaving) = self.world.state().leaving {
            open.push(format!("{leaving:?}"));
        }
        let is_work = |order: &OperatorRequest| !matches!(order, OperatorRequest::ListOffers);
        let state = self.world.state();
        if state.operator_busy || state.requests.iter().any(is_work) {
            open.push(format!(
                "the operator has orders; it received: {}",
                state.operator_error
            ));
        }
        drop(state);
        let registry = self.log.registry();
        for machine in self.world.machines.iter() {
            let agent = machine.agent().and_then(|id| registry.agent(id));
            let mode = agent.map(|agent| agent.mode());
            if mode != Some(AgentMode::Registered) {
                open.push(format!("{} is {mode:?}", machine.name));
            }
        }
        // The registry counts an agent as connected until it has been silent for the whole timeout.
        let now_ms = self.world.notes.recorder.now_ns() / 1_000_000;
        let machines = self.world.machines.iter();
        let unled = machines.filter(|machine| machine.obeyed_ms() + LEADER_TIMEOUT_MS < now_ms);
        open.extend(unled.map(|machine| format!("{} hears of no leader", machine.name)));
        let former = self.agents_of_former_epochs().into_iter();
        open.extend(former.map(|name| format!("{name} obeys a former leader")));
        open.extend(self.lagging_masters());
        open.extend(self.unreachable_tasks(registry));
        open
    }

    /// Returns masters without entries that another master has applied: their leader does not reach
    /// them yet.
    fn lagging_masters(&self) -> Vec<String> {
        let absent = self.world.state().absent.clone();
        let stores = self.world.stores.iter().enumerate();
        let present = stores.filter(|(place, _)| !absent.contains(place));
        let applied: Vec<_> = present
            .map(|(place, store)| (master_name(place), store.applied().unwrap_or(0)))
            .collect();
        let most = applied.iter().map(|(_, index)| *index).max().unwrap_or(0);
        let lagging = applied.iter().filter(|(_, index)| index + MAX_LAG < most);
        lagging
            .map(|(name, index)| format!("{name} has applied {index} of {most} entries"))
            .collect()
    }

    /// Adds the offers that frameworks hold and their leader does not know.
    fn void_offers(&self, open: &mut Vec<String>) {
        let state = self.world.state();
        let Some(known) = &state.open else {
            open.push("the leader has not reported which offers are open".to_owned());
            return;
        };
        for (place, held) in &state.held {
            let stored = state.frameworks.get(place);
            let id = stored.and_then(|stored| stored.framework.as_ref()?.parse().ok());
            let present = id.and_then(|id| self.log.registry().framework(id));
            // Offers of a superseded session are invalid, and no notification is required.
            if present.is_none_or(|present| present.session != held.session) {
                continue;
            }
            let void: Vec<_> = held.offers.difference(known).collect();
            if state.retired != Some(*place) && !void.is_empty() {
                open.push(format!(
                    "OfferSingleUse: {} holds void offers {void:?}",
                    framework_name(*place)
                ));
            }
        }
    }

    /// Records the final state.
    pub(super) fn note_end(&self) {
        self.note_running();
        let registry = self.log.registry();
        let recorder = &self.world.notes.recorder;
        let state = self.world.state();
        let open = state.open.clone().unwrap_or_default();
        for (place, held) in &state.held {
            let stored = state.frameworks.get(place);
            let id = stored.and_then(|stored| stored.framework.as_ref()?.parse().ok());
            let is_present = |id: &FrameworkId| {
                let present = registry.framework(*id);
                present.is_some_and(|present| present.session == held.session)
            };
            let id = id.filter(|id| state.retired != Some(*place) && is_present(id));
            if let Some(framework) = id {
                let audit = history::AuditFinding::Offers {
                    framework,
                    held: held.offers.iter().copied().collect(),
                    open: open.iter().copied().collect(),
                };
                recorder.observe("audit", audit);
            }
        }
    }

    /// Returns the remaining work of a healed, quiet cluster; empty if it is at rest.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let mut open = self.unhealthy();
        let absent = self.world.state().absent.clone();
        let stores = self.world.stores.iter().enumerate();
        let stores = stores.filter(|(place, _)| !absent.contains(place));
        let indices: BTreeSet<_> = stores.map(|(_, store)| store.applied()).collect();
        if indices.len() != 1 {
            open.push(format!("masters have applied up to {indices:?}"));
        }
        let registry = self.log.registry();
        self.compare_agents(registry, &mut open);
        self.compare_frameworks(registry, &mut open);
        self.void_offers(&mut open);
        open
    }

    fn compare_agents(&self, registry: &Registry, open: &mut Vec<String>) {
        for (place, machine) in self.world.machines.iter().enumerate() {
            let name = agent_name(place);
            let mine = registry.agents().filter(|agent| {
                agent.report.info.host_name == name
                    && !matches!(agent.mode(), AgentMode::Gone | AgentMode::Drained)
            });
            let mine: Vec<_> = mine.collect();
            let reachable = mine
                .iter()
                .filter(|agent| agent.mode() != AgentMode::Unreachable);
            if reachable.count() != 1 {
                let modes: Vec<_> = mine.iter().map(|agent| (agent.id, agent.mode())).collect();
                open.push(format!("{name} is registered as {modes:?}"));
            }
            let running: BTreeSet<TaskKey> = machine.running().into_iter().collect();
            let wanted = mine.iter().flat_map(|agent| registry.tasks_on(agent.id));
            let wanted: BTreeSet<TaskKey> = wanted
                .filter(|task| !task.is_terminal())
                .map(|task| task.key.clone())
                .collect();
            let executors: BTreeSet<_> = machine.executors().into_iter().collect();
            let kept = mine.iter().flat_map(|agent| registry.tasks_on(agent.id));
            let kept = kept.filter(|task| !task.is_terminal());
            let kept: BTreeSet<_> = kept.filter_map(executor_of).collect();
            for key in executors.symmetric_difference(&kept) {
                let (runs, needed) = (executors.contains(key), kept.contains(key));
                open.push(format!(
                    "ExecutorLifetime: executor {key} on {name}: runs {runs}, has tasks {needed}"
                ));
            }
            for key in running.symmetric_difference(&wanted) {
                let (runs, registered) = (running.contains(key), wanted.contains(key));
                open.push(format!(
                    "{key} on {name}: runs {runs}, registered {registered}"
                ));
            }
        }
    }

    fn compare_frameworks(&self, registry: &Registry, open: &mut Vec<String>) {
        let stories = self.world.oracle.all();
        for task in registry.tasks() {
            if !task.unacknowledged.is_empty() {
                open.push(format!(
                    "{} has updates that were not acknowledged",
                    task.key
                ));
            }
        }
        if registry.live_tasks() > 0 {
            open.push(format!("{} tasks live", registry.live_tasks()));
        }
        let frameworks: BTreeSet<_> = registry.frameworks().map(|one| one.id).collect();
        let state = self.world.state();
        if let Some(place) = state.retired {
            let stored = state.frameworks.get(&place);
            let id = stored.and_then(|stored| stored.framework.as_ref()?.parse().ok());
            if id.is_some_and(|id| frameworks.contains(&id)) {
                open.push(format!("{} is still there", framework_name(place)));
            }
        }
        drop(state);
        for (key, story) in stories {
            if !frameworks.contains(&key.framework) {
                continue;
            }
            let is_live = registry.task(&key).is_some_and(|task| !task.is_terminal());
            let ran = story.start.is_some() || story.accepted;
            if ran && !is_live && story.received.is_none() {
                open.push(format!("the end of {key} was never reported: {story:?}"));
            }
            if is_live && story.received.is_some() {
                open.push(format!(
                    "{key} lives, and its framework received {:?}",
                    story.received
                ));
            }
        }
    }
}
