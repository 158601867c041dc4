//! Looks at what masters have stored, and at the end compares everything with everything.

use std::collections::BTreeSet;

use argosy_agent::core::Instance;
use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use argosy_state::digest::record_mark;
use argosy_state::ids::{AgentId, FrameworkId, NodeId, OrderIndex, TaskKey};
use argosy_state::resources::Resources;
use argosy_state::task::{Task, TaskState};

use super::log::Log;
use super::machine::{Limited, Machine};
use super::world::{Order, World, agent_name, framework_name, master_name};
use crate::history::{self, AgentFact, Origin, RaftFact};

mod rest;

pub(super) use rest::Work;

/// The name of the executor that runs a task.
fn executor_of(task: &Task) -> Option<TaskKey> {
    let executor = task.spec.executor.as_deref()?;
    Some(TaskKey {
        framework: task.key.framework,
        task: executor.executor.clone(),
    })
}

/// An agent that has a leader hears of it once a second.
const LED_MS: u64 = 2_500;
/// A master that has applied so many entries fewer than another one lags.
const LAG: u64 = 8;

/// What lasts of the cluster, held against the log, the machines and the frameworks.
pub(super) struct Audit {
    world: World,
    log: Log,
    looked: Vec<u64>,
}

impl Audit {
    pub(super) fn new(world: World) -> Self {
        Self {
            looked: vec![0; world.stores.len()],
            log: Log::new(world.clone()),
            world,
        }
    }

    fn violation(&self, words: String) {
        self.world.notes.violation(words);
    }

    /// Takes in what was agreed since.
    pub(super) fn follow(&mut self) {
        self.log.follow();
    }

    /// As far as any master is.
    pub(super) fn registry(&self) -> &Registry {
        self.log.registry()
    }

    /// A look at every master's registry: it is what the log makes it, and keeps its own rules. Returns who leads.
    pub(super) fn look(&mut self) -> Option<usize> {
        let registry = self.log.registry();
        if let Err(broken) = registry.check() {
            self.violation(format!("the registry at {}: {broken}", registry.applied()));
        }
        for place in 0..self.world.stores.len() {
            let Some((index, records)) = self.world.stores[place].registry() else {
                continue;
            };
            if self.looked[place] == index {
                continue;
            }
            self.looked[place] = index;
            let name = master_name(place);
            let marks = records.iter().map(|(key, value)| record_mark(key, value));
            let digest = marks.fold(0, u128::wrapping_add);
            if let Some(known) = self.log.digest(index)
                && known != digest
            {
                self.violation(format!(
                    "R4: {name} has stored another registry at {index} than the log makes"
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
        self.account();
        self.compare_limits();
        let NodeId(id) = registry.cluster().leader;
        self.world.place(id)
    }

    /// What the registry says is in force, is, after a refusal too: whoever wanted something else since has an order that is
    /// not answered. A leader that has died may have sent an order of an entry that no other has applied yet: of limits by
    /// such an order the registry says nothing.
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
            let found = machines.filter_map(|machine| machine.limited_to(instance));
            for Limited { pids, .. } in found.filter(|found| found.order <= known) {
                self.world.notes.count("limits compared");
                if pids != wanted {
                    let key = &task.key;
                    self.violation(format!(
                        "L1: {key} is limited to {pids:?} processes, and {wanted:?} are said to be in force"
                    ));
                }
            }
        }
    }

    /// What becomes of what agents give, as the registry counts, held against its tasks one by one.
    fn account(&self) {
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
                self.violation(format!("O2: tasks on {} use the same thing", agent.id));
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

    /// Frameworks that are there to be offered something.
    pub(super) fn present_frameworks(&self) -> Vec<FrameworkId> {
        let kept = self.world.kept();
        let ids = kept.frameworks.values();
        ids.filter_map(|stored| stored.framework.as_ref()?.parse().ok())
            .filter(|id| self.log.registry().framework(*id).is_some())
            .collect()
    }

    /// Agents that are given up at present.
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

    /// Agents that were given up, since as many had been.
    pub(super) fn given_up_since(&self, count: usize) -> Vec<AgentId> {
        self.log.given_up_since(count).to_vec()
    }

    /// Agents that are not registered, and tasks that are UNREACHABLE although their agents are.
    pub(super) fn still_away(&self) -> Vec<String> {
        let registry = self.log.registry();
        let mut away = Vec::new();
        for machine in self.world.machines.iter() {
            let agent = machine.agent().and_then(|id| registry.agent(id));
            let mode = agent.map(|agent| agent.mode());
            if mode.is_none_or(|mode| mode == AgentMode::Unreachable) {
                away.push(format!("{} is {mode:?}", machine.name));
            }
        }
        away.extend(self.left_behind(registry));
        away
    }

    /// Tasks that are UNREACHABLE although their agents are back.
    fn left_behind(&self, registry: &Registry) -> Vec<String> {
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

    /// Hosts whose agents have obeyed a master since then.
    pub(super) fn led_since(&self, since_ms: u64) -> Vec<String> {
        let machines = self.world.machines.iter();
        let led = machines.filter(|machine| machine.obeyed_ms() > since_ms);
        led.map(|machine| machine.name.to_string()).collect()
    }

    /// Tasks that live and that somebody wants dead.
    pub(super) fn killed(&self) -> Vec<TaskKey> {
        let tasks = self.log.registry().tasks();
        tasks
            .filter(|task| task.kill.is_some() && !task.is_terminal())
            .map(|task| task.key.clone())
            .collect()
    }

    /// Tasks that live and whose framework never comes back.
    pub(super) fn tasks_of_retired(&self) -> Vec<TaskKey> {
        let kept = self.world.kept();
        let stored = kept.retired.and_then(|place| kept.frameworks.get(&place));
        let id = stored.and_then(|stored| stored.framework.as_ref()?.parse().ok());
        let tasks = self.log.registry().tasks();
        tasks
            .filter(|task| Some(task.key.framework) == id && !task.is_terminal())
            .map(|task| task.key.clone())
            .collect()
    }

    /// Agents that take no new work at present.
    pub(super) fn deactivated(&self) -> Vec<String> {
        let agents = self.log.registry().agents();
        agents
            .filter(|agent| agent.mode() == AgentMode::Deactivated)
            .map(|agent| agent.id.to_string())
            .collect()
    }

    /// Hosts on whose disks the present reign is not.
    pub(super) fn agents_of_former_reigns(&self) -> Vec<String> {
        let epoch = self.log.registry().epoch();
        let machines = self.world.machines.iter();
        machines
            .filter(|machine| machine.synced().facts.identity.epoch < epoch)
            .map(|machine| machine.name.to_string())
            .collect()
    }

    /// What is not yet as it must be when nothing is broken; empty if all is.
    pub(super) fn unhealthy(&self) -> Vec<String> {
        let mut open = self.unwell();
        let machines = self.world.machines.iter();
        open.extend(machines.flat_map(Machine::torn_groups));
        open
    }

    /// The same without what tasks have to do with each other.
    fn unwell(&self) -> Vec<String> {
        let mut open = Vec::new();
        let kept = self.world.kept();
        if let Some(wiped) = kept.wiped {
            open.push(format!(
                "{wiped:?}, and of it was said {:?}",
                kept.hand_was_told
            ));
        }
        drop(kept);
        if let Some(leaving) = self.world.kept().leaving {
            open.push(format!("{leaving:?}"));
        }
        let is_work = |order: &Order| !matches!(order, Order::ListOffers);
        let kept = self.world.kept();
        if kept.hand_works || kept.orders.iter().any(is_work) {
            open.push(format!(
                "the hand has orders; it was told: {}",
                kept.hand_was_told
            ));
        }
        drop(kept);
        let registry = self.log.registry();
        for machine in self.world.machines.iter() {
            let agent = machine.agent().and_then(|id| registry.agent(id));
            let mode = agent.map(|agent| agent.mode());
            if mode != Some(AgentMode::Registered) {
                open.push(format!("{} is {mode:?}", machine.name));
            }
        }
        // The registry takes an agent for present that is only not silent for long enough.
        let now_ms = self.world.notes.recorder.now_ns() / 1_000_000;
        let machines = self.world.machines.iter();
        let unled = machines.filter(|machine| machine.obeyed_ms() + LED_MS < now_ms);
        open.extend(unled.map(|machine| format!("{} hears of no leader", machine.name)));
        let former = self.agents_of_former_reigns().into_iter();
        open.extend(former.map(|name| format!("{name} obeys a former leader")));
        open.extend(self.lagging_masters());
        open.extend(self.left_behind(registry));
        open
    }

    /// Masters without entries that another master applied: their leader does not reach them yet.
    fn lagging_masters(&self) -> Vec<String> {
        let absent = self.world.kept().absent.clone();
        let stores = self.world.stores.iter().enumerate();
        let present = stores.filter(|(place, _)| !absent.contains(place));
        let applied: Vec<_> = present
            .map(|(place, store)| (master_name(place), store.applied().unwrap_or(0)))
            .collect();
        let most = applied.iter().map(|(_, index)| *index).max().unwrap_or(0);
        let lagging = applied.iter().filter(|(_, index)| index + LAG < most);
        lagging
            .map(|(name, index)| format!("{name} has applied {index} of {most} entries"))
            .collect()
    }

    /// Offers that frameworks hold and their leader does not know.
    fn void_offers(&self, open: &mut Vec<String>) {
        let kept = self.world.kept();
        let Some(known) = &kept.open else {
            open.push("the leader has not said which offers are open".to_owned());
            return;
        };
        for (place, held) in &kept.held {
            let stored = kept.frameworks.get(place);
            let id = stored.and_then(|stored| stored.framework.as_ref()?.parse().ok());
            let present = id.and_then(|id| self.log.registry().framework(id));
            // What a superseded session holds is void, and nobody has to tell it.
            if present.is_none_or(|present| present.session != held.session) {
                continue;
            }
            let void: Vec<_> = held.offers.difference(known).collect();
            if kept.retired != Some(*place) && !void.is_empty() {
                open.push(format!(
                    "O3: {} holds void offers {void:?}",
                    framework_name(*place)
                ));
            }
        }
    }

    /// Writes down what there is at the end.
    pub(super) fn note_end(&self) {
        self.note_running();
        let registry = self.log.registry();
        let recorder = &self.world.notes.recorder;
        let kept = self.world.kept();
        let open = kept.open.clone().unwrap_or_default();
        for (place, held) in &kept.held {
            let stored = kept.frameworks.get(place);
            let id = stored.and_then(|stored| stored.framework.as_ref()?.parse().ok());
            let is_present = |id: &FrameworkId| {
                let present = registry.framework(*id);
                present.is_some_and(|present| present.session == held.session)
            };
            let id = id.filter(|id| kept.retired != Some(*place) && is_present(id));
            if let Some(framework) = id {
                let audit = history::Audit::Offers {
                    framework,
                    held: held.offers.iter().copied().collect(),
                    open: open.iter().copied().collect(),
                };
                recorder.observe("audit", audit);
            }
        }
    }

    /// What is not yet as it must be in a healed, quiet cluster; empty if all is.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let mut open = self.unhealthy();
        let absent = self.world.kept().absent.clone();
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
                agent.reported.info.host_name == name
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
                    "T12: executor {key} on {name}: runs {runs}, has tasks {needed}"
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
        let stories = self.world.ledger.all();
        for task in registry.tasks() {
            if !task.unacknowledged.is_empty() {
                open.push(format!("{} has updates that nobody acknowledged", task.key));
            }
        }
        if registry.live_tasks() > 0 {
            open.push(format!("{} tasks live", registry.live_tasks()));
        }
        let frameworks: BTreeSet<_> = registry.frameworks().map(|one| one.id).collect();
        let kept = self.world.kept();
        if let Some(place) = kept.retired {
            let stored = kept.frameworks.get(&place);
            let id = stored.and_then(|stored| stored.framework.as_ref()?.parse().ok());
            if id.is_some_and(|id| frameworks.contains(&id)) {
                open.push(format!("{} is still there", framework_name(place)));
            }
        }
        drop(kept);
        for (key, story) in stories {
            if !frameworks.contains(&key.framework) {
                continue;
            }
            let is_live = registry.task(&key).is_some_and(|task| !task.is_terminal());
            let ran = story.start.is_some() || story.accepted;
            if ran && !is_live && story.told.is_none() {
                open.push(format!("the end of {key} was never told: {story:?}"));
            }
            if is_live && story.told.is_some() {
                open.push(format!(
                    "{key} lives, and its framework was told {:?}",
                    story.told
                ));
            }
        }
    }
}
