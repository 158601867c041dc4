//! Looks at what masters have stored, and at the end compares everything with everything.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use argosy_state::ids::{Epoch, NodeId, TaskKey};

use super::world::{World, agent_name, master_name};
use crate::history::{Origin, RaftFact};

/// Digests by index: every master must come to the same.
pub(super) struct Audit {
    world: World,
    digests: BTreeMap<u64, u128>,
    looked: Vec<u64>,
    epoch: Epoch,
}

impl Audit {
    pub(super) fn new(world: World) -> Self {
        Self {
            looked: vec![0; world.stores.len()],
            epoch: Epoch::default(),
            digests: BTreeMap::new(),
            world,
        }
    }

    fn violation(&self, words: String) {
        self.world.notes.violation(words);
    }

    /// A look at every master's registry: it keeps its own rules, and equals the others'. Returns who leads.
    pub(super) fn look(&mut self) -> Option<usize> {
        let mut leader = None;
        for place in 0..self.world.stores.len() {
            let Some((index, records)) = self.world.stores[place].registry() else {
                continue;
            };
            if self.looked[place] == index {
                continue;
            }
            self.looked[place] = index;
            let name = master_name(place);
            let registry = match Registry::load(index, records) {
                Ok(registry) => registry,
                Err(why) => {
                    self.violation(format!("the registry of {name} cannot be read: {why}"));
                    continue;
                }
            };
            if let Err(broken) = registry.check() {
                self.violation(format!("the registry of {name} at {index}: {broken}"));
            }
            let digest = registry.digest();
            let known = *self.digests.entry(index).or_insert(digest);
            if known != digest {
                self.violation(format!(
                    "{name} has another registry at {index} than others"
                ));
            }
            let fact = RaftFact::Digest {
                node: NodeId(place as u64 + 1),
                index,
                digest: format!("{digest:032x}"),
                origin: Origin::Log,
            };
            self.world.notes.recorder.observe(&*name, fact);
            self.note_epoch(&registry);
            let NodeId(id) = registry.cluster().leader;
            // One that was taken in anew has another id than its place says.
            let place = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
            leader = place.filter(|place| *place < self.world.stores.len());
        }
        leader
    }

    fn note_epoch(&mut self, registry: &Registry) {
        let cluster = registry.cluster();
        if registry.epoch() <= self.epoch {
            return;
        }
        self.epoch = registry.epoch();
        self.world.notes.count("reigns");
        let fact = RaftFact::EpochOpened {
            node: cluster.leader,
            epoch: self.epoch,
            term: cluster.term,
            life: cluster.process,
        };
        let NodeId(id) = cluster.leader;
        let name = format!("master-{id}");
        self.world.notes.recorder.observe(&*name, fact);
    }

    /// What is not yet as it must be in a healed, quiet cluster; empty if all is.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let mut open = Vec::new();
        if let Some(wiped) = self.world.kept().wiped {
            open.push(format!("{wiped:?}"));
        }
        let stored: Vec<_> = self
            .world
            .stores
            .iter()
            .map(|store| store.registry())
            .collect();
        let indices: BTreeSet<_> = stored
            .iter()
            .map(|one| one.as_ref().map(|one| one.0))
            .collect();
        if indices.len() != 1 {
            open.push(format!("masters have applied up to {indices:?}"));
        }
        let newest = stored.into_iter().flatten().max_by_key(|(index, _)| *index);
        let Some(registry) =
            newest.and_then(|(index, records)| Registry::load(index, records).ok())
        else {
            return vec!["no master has a registry".to_owned()];
        };
        self.compare_agents(&registry, &mut open);
        self.compare_frameworks(&registry, &mut open);
        open
    }

    fn compare_agents(&self, registry: &Registry, open: &mut Vec<String>) {
        for (place, machine) in self.world.machines.iter().enumerate() {
            let name = agent_name(place);
            let mine = registry.agents().filter(|agent| {
                agent.info.host_name == name
                    && !matches!(agent.mode, AgentMode::Gone | AgentMode::Drained)
            });
            let mine: Vec<_> = mine.collect();
            let reachable = mine
                .iter()
                .filter(|agent| agent.mode != AgentMode::Unreachable);
            if reachable.count() != 1 {
                let modes: Vec<_> = mine.iter().map(|agent| (agent.id, agent.mode)).collect();
                open.push(format!("{name} is registered as {modes:?}"));
            }
            let running: BTreeSet<TaskKey> = machine.running().into_iter().collect();
            let wanted = mine.iter().flat_map(|agent| registry.tasks_on(agent.id));
            let wanted: BTreeSet<TaskKey> = wanted
                .filter(|task| !task.is_terminal())
                .map(|task| task.key.clone())
                .collect();
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
