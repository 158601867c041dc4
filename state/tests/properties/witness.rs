//! A record of facts that must not change once they are true.

use std::collections::BTreeMap;

use argosy_state::Registry;
use argosy_state::agent::{Administration, AgentAdministration};
use argosy_state::command::{Command, LogEntry, SweepTarget};
use argosy_state::encode;
use argosy_state::ids::{AgentId, OrderIndex, TaskKey, Timestamp};
use argosy_state::level::Level;
use argosy_state::registry::{RecordKey, RecordWrite};
use argosy_state::resources::Resources;
use argosy_state::task::{Task, TaskState, TaskTransition};

#[derive(Default)]
pub(crate) struct HistoryChecker {
    time: Timestamp,
    last_agent: u64,
    last_framework: u64,
    orders: BTreeMap<AgentId, OrderIndex>,
    totals: BTreeMap<AgentId, Resources>,
    shrunk: BTreeMap<AgentId, bool>,
    /// The end of each instance that has ended.
    ends: BTreeMap<(TaskKey, AgentId, OrderIndex), TaskState>,
    states: BTreeMap<TaskState, usize>,
    /// The transitions of each instance, by number.
    transitions: BTreeMap<(TaskKey, AgentId, OrderIndex, u32), TaskTransition>,
    /// The administrative state of agents after the newest entry.
    admins: BTreeMap<AgentId, AgentAdministration>,
    /// The number of registrations that replaced the reported facts while the administrative state
    /// was unusual.
    replaced: usize,
}

impl HistoryChecker {
    pub(crate) fn check(&mut self, registry: &Registry) {
        assert!(registry.time() >= self.time, "cluster time moved backwards");
        self.time = registry.time();
        let cluster = registry.cluster();
        assert!(cluster.last_agent >= self.last_agent);
        assert!(cluster.last_framework >= self.last_framework);
        self.last_agent = cluster.last_agent;
        self.last_framework = cluster.last_framework;
        for agent in registry.agents() {
            let before = self.orders.insert(agent.id, agent.orders);
            assert!(before.is_none_or(|before| before <= agent.orders));
            let total = agent.total();
            let former = self.totals.insert(agent.id, total.clone());
            if former.is_some_and(|former| !total.contains(&former)) {
                self.shrunk.insert(agent.id, true);
            }
            // Launches never exceed the available resources. Only an agent that shrinks has less
            // than is used.
            let used = &registry.agent_index(agent.id).unwrap().used;
            assert!(
                self.shrunk.contains_key(&agent.id) || total.contains(used),
                "{}: {used} of {total}",
                agent.id
            );
        }
        for task in registry.tasks() {
            *self.states.entry(task.state).or_default() += 1;
            self.check_task(task);
            self.check_transitions(registry, task);
        }
        for (_, finished) in registry.finished_tasks_after(0) {
            self.check_task(&finished.task);
            self.check_transitions(registry, &finished.task);
        }
    }

    /// Checks that no registration changes the administrative state of a known agent.
    pub(crate) fn check_administration(
        &mut self,
        registry: &Registry,
        entry: &LogEntry,
        writes: &[RecordWrite],
    ) {
        let commands = &entry.commands;
        let registers = |command: &Command| matches!(command, Command::RegisterAgent(_));
        if commands.iter().all(|proposed| registers(&proposed.command)) {
            for (id, former) in &self.admins {
                let agent = registry
                    .agent(*id)
                    .expect("no registration removes an agent");
                assert_eq!(
                    facts(&agent.admin, registry),
                    facts(former, registry),
                    "{id}"
                );
                let name = encode::key(&RecordKey::AgentAdministration(*id));
                assert!(writes.iter().all(|write| write.key != name), "{id}");
                let is_usual =
                    former.administration == Administration::Active && former.attributes.is_empty();
                let is_new = agent.revision.index == registry.applied();
                self.replaced += usize::from(is_new && !is_usual);
            }
        }
        let agents = registry.agents();
        self.admins = agents
            .map(|agent| (agent.id, agent.admin.clone()))
            .collect();
    }

    /// Checks that an instance ends once, in one state.
    fn check_task(&mut self, task: &Task) {
        let instance = (task.key.clone(), task.agent, task.order);
        if task.is_terminal() {
            let end = *self.ends.entry(instance).or_insert(task.state);
            assert_eq!(end, task.state, "{} ended twice", task.key);
        } else {
            let end = self.ends.get(&instance);
            assert_eq!(end, None, "{} is live after its end", task.key);
        }
    }

    /// Checks that no transition of an instance changes, and that the newest one led to its state.
    fn check_transitions(&mut self, registry: &Registry, task: &Task) {
        let all = registry.transitions(&task.key);
        for (number, transition) in all {
            let name = (task.key.clone(), task.agent, task.order, *number);
            let former = *self.transitions.entry(name).or_insert(*transition);
            assert_eq!(former, *transition, "{} #{number} changed", task.key);
        }
        let newest = all.last().map(|(_, transition)| transition.state);
        assert!(
            newest.is_none_or(|state| state == task.state),
            "{}: {newest:?}",
            task.key
        );
    }

    /// Asserts that enough has happened for the run to be conclusive.
    pub(crate) fn assert_busy(&self, level: Level) {
        let states = [TaskState::Staging, TaskState::Running];
        for state in states {
            assert!(
                self.states.contains_key(&state),
                "no task was ever {state:?}"
            );
        }
        assert!(!self.ends.is_empty(), "no task has ended");
        assert!(
            !self.transitions.is_empty() || level < Level::RELEASE_0_2,
            "no task had a transition"
        );
    }

    pub(crate) fn replaced(&self) -> usize {
        self.replaced
    }
}

/// Returns the administrative state of an agent. The single record of release 0.1.0 has one time
/// for it and for reachability.
fn facts(agreed: &AgentAdministration, registry: &Registry) -> AgentAdministration {
    let is_split = registry
        .sweeps()
        .all(|target| target != SweepTarget::Layout);
    match registry.level() > Level::OLDEST && is_split {
        true => agreed.clone(),
        false => AgentAdministration {
            since: Timestamp::default(),
            ..agreed.clone()
        },
    }
}
