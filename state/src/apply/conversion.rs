//! Conversion of records from the layout of level 2 to that of level 3, by sweeps.
//!
//! Each batch of a sweep is bounded in records and in bytes, so that one iteration of the owner's
//! loop stays short. An object that is created between two batches gets the layout that the
//! progress of the sweep implies for its key.

use super::CommandContext;
use crate::Registry;
use crate::event::Event;
use crate::level::Level;
use crate::limits;
use crate::registry::{Layout, RecordKey, records_of, usage};

/// The estimated memory of the agents and tasks of one batch; the last object may exceed it.
const PIECE_BYTES: u64 = 1 << 20;

/// The largest number of records of a task: seven, and the one that is removed.
const MAX_TASK_RECORDS: usize = 8;

/// The number of records and bytes that a batch may still change.
struct ConversionBudget {
    records: usize,
    bytes: u64,
}

impl ConversionBudget {
    fn spend(&mut self, records: usize, bytes: u64) {
        self.records = self.records.saturating_sub(records);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Returns whether a task with the largest number of records fits.
    fn has_room(&self) -> bool {
        self.records >= MAX_TASK_RECORDS && self.bytes > 0
    }
}

impl Registry {
    /// Sets the level of the cluster. Existing records of an earlier level are split by sweeps; an
    /// empty registry is converted immediately.
    pub(super) fn set_level(&mut self, level: Level) {
        self.cluster.level = level;
        if level < Level::RELEASE_0_2 || self.cluster.layout != Layout::Whole {
            return;
        }
        let is_empty =
            self.agents.is_empty() && self.tasks.is_empty() && self.cluster.sweeps.is_empty();
        self.cluster.layout = match is_empty {
            true => Layout::Split,
            false => Layout::Sweeps { after: None },
        };
        self.cluster.last_whole = self.cluster.last_finished;
        self.changed.insert(RecordKey::Cluster);
        self.changed.insert(RecordKey::History);
    }

    /// Splits the next batch of records, if any are left.
    pub(super) fn split_records(&mut self, context: &mut CommandContext) {
        if !self.cluster.layout.is_converting() {
            return;
        }
        let mut budget = ConversionBudget {
            // One record is that of the cluster.
            records: limits::RECORDS_PER_COMMAND - 1,
            bytes: PIECE_BYTES,
        };
        while budget.has_room() && self.cluster.layout.is_converting() {
            self.cluster.layout = self.split_next(&mut budget);
        }
        self.changed.insert(RecordKey::Cluster);
        if self.cluster.layout.is_converting() {
            context.emit(Event::SweepNeeded);
        }
    }

    /// Splits one object, or continues with the next kind.
    fn split_next(&mut self, budget: &mut ConversionBudget) -> Layout {
        match &self.cluster.layout {
            Layout::Whole | Layout::Split => self.cluster.layout.clone(),
            Layout::Sweeps { after } => {
                let sweeps = self.cluster.sweeps.keys();
                let next = sweeps.copied().find(|target| Some(*target) > *after);
                let Some(target) = next else {
                    return Layout::Agents {
                        after: Default::default(),
                    };
                };
                self.changed.insert(RecordKey::Sweep(target));
                budget.spend(1, 0);
                Layout::Sweeps {
                    after: Some(target),
                }
            }
            Layout::Agents { after } => {
                let Some(agent) = self.agents_after(*after).next() else {
                    return Layout::Tasks { after: None };
                };
                let id = agent.id;
                let records = [
                    RecordKey::Agent(id),
                    RecordKey::AgentCounters(id),
                    RecordKey::AgentReport(id),
                    RecordKey::AgentAdministration(id),
                    RecordKey::AgentStatus(id),
                ];
                budget.spend(records.len(), usage::of_agent(agent));
                self.changed.extend(records);
                Layout::Agents { after: id }
            }
            Layout::Tasks { after } => {
                let next = match after {
                    Some(after) => self.tasks_after(after).next(),
                    None => self.tasks().next(),
                };
                let Some(task) = next else {
                    return Layout::Split;
                };
                let key = task.key.clone();
                let bytes = usage::of_task(task);
                let mut records: Vec<_> = records_of(task).collect();
                records.push(RecordKey::Task(key.clone()));
                budget.spend(records.len(), bytes);
                self.changed.extend(records);
                Layout::Tasks { after: Some(key) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, SweepTarget};
    use crate::ids::NodeId;
    use crate::registry::SweepMark;
    use crate::task::{TaskLimits, TaskState};
    use crate::testing::World;

    /// Returns a cluster of level 2 with pending sweeps, agents, and tasks in several states.
    fn former() -> World {
        let mut world = World::empty();
        world.level = Level::RELEASE_0_1;
        world.open_epoch(NodeId(1));
        for name in ["one", "two", "three"] {
            let agent = world.register("cpus:8;mem:4096");
            let framework = world.subscribe(name);
            for at in 0..4 {
                let key = world.launch(framework, agent, &format!("t-{at}"), "cpus:0.1;mem:1");
                if at > 0 {
                    world.update(&key, TaskState::Running);
                }
                if at == 3 {
                    world.update(&key, TaskState::Finished);
                    world.acknowledge(&key);
                }
                if at == 2 {
                    world.registry.change_task(&key, |task| {
                        let limits = TaskLimits {
                            pids: Some(7),
                            ..TaskLimits::default()
                        };
                        std::sync::Arc::make_mut(&mut task.spec).limits = Some(Box::new(limits));
                    });
                }
            }
        }
        let frameworks: Vec<_> = world.registry.frameworks().map(|one| one.id).collect();
        for id in &frameworks[..2] {
            let mut framework = world.registry.framework(*id).unwrap().clone();
            framework.removing = true;
            world.registry.put_framework(framework);
            let mark = SweepMark::default();
            world.registry.put_sweep(SweepTarget::Framework(*id), mark);
        }
        let writes = world.registry.take_changes();
        world.store(&writes);
        world
    }

    /// A master that restarts during the conversion loads the same registry, whatever was split
    /// last.
    #[test]
    fn the_stored_records_match_the_registry_at_each_conversion_step() {
        let mut world = former();
        world.registry.set_level(Level::RELEASE_0_2);
        let mut steps = 0;
        loop {
            let writes = world.registry.take_changes();
            world.store(&writes);
            assert!(
                world.reloaded() == world.registry,
                "{:?}",
                world.registry.cluster.layout
            );
            world.registry.check().unwrap();
            if !world.registry.cluster.layout.is_converting() {
                break;
            }
            let mut budget = ConversionBudget {
                records: 9,
                bytes: 9,
            };
            world.registry.cluster.layout = world.registry.split_next(&mut budget);
            world.registry.changed.insert(RecordKey::Cluster);
            steps += 1;
        }
        // Two sweeps, three agents, nine tasks, and the end of each kind.
        assert_eq!(steps, 2 + 3 + 9 + 3);
        let kinds: Vec<u8> = world.stored.keys().map(|key| key[0]).collect();
        assert!(!kinds.contains(&6), "a task that is not split is left");
    }

    #[test]
    fn new_clusters_start_with_split_records_and_old_ones_are_converted() {
        let mut world = World::empty();
        world.open_epoch(NodeId(1));
        assert_eq!(world.registry.cluster.layout, Layout::Split);
        assert_eq!(world.registry.sweeps().next(), None);
        let mut world = former();
        assert_eq!(world.registry.cluster.layout, Layout::Whole);
        world.level = Level::RELEASE_0_2;
        let applied = world.open_epoch(NodeId(2));
        assert!(applied.events.contains(&Event::SweepNeeded));
        let waiting: Vec<_> = world.registry.sweeps().collect();
        assert_eq!(waiting.last(), Some(&SweepTarget::Layout));
        world.apply(Command::Sweep(SweepTarget::Layout));
        assert_eq!(world.registry.cluster.layout, Layout::Split);
        assert!(world.reloaded() == world.registry);
        // A repeat changes nothing.
        let stored = world.stored.clone();
        world.apply(Command::Sweep(SweepTarget::Layout));
        assert_eq!(world.stored, stored);
    }

    /// Batches are bounded in bytes and in records. Objects created between batches have the layout
    /// of their key.
    #[test]
    fn the_records_of_a_large_cluster_are_split_in_bounded_steps() {
        let mut world = World::empty();
        world.level = Level::RELEASE_0_1;
        world.open_epoch(NodeId(1));
        let framework = world.subscribe("one");
        let agent = world.register("cpus:1000");
        let count = 2 * limits::RECORDS_PER_COMMAND / 3;
        let specs = (0..count).map(|at| crate::testing::spec(&format!("t-{at}"), "cpus:0.001"));
        let specs: Vec<_> = specs.collect();
        for specs in specs.chunks(250) {
            let offer = world.offer(framework, agent, "cpus:1");
            world.accept(framework, vec![offer], specs.to_vec());
        }
        world.level = Level::RELEASE_0_2;
        world.open_epoch(NodeId(1));
        let mut pieces = 0;
        while world.registry.sweeps().next().is_some() {
            let before = world.registry.cluster.layout.clone();
            // One task sorts before the progress of the sweep, and one after it.
            for name in ["a", "z"] {
                let key = world.launch(framework, agent, &format!("{name}-{pieces}"), "cpus:0.001");
                world.update(&key, TaskState::Running);
            }
            let command = crate::command::ProposedCommand {
                ticket: world.ticket(),
                actor: crate::actor::Actor::Cluster,
                command: Command::Sweep(SweepTarget::Layout),
            };
            let entry = crate::command::LogEntry {
                at: world.now,
                commands: vec![command],
            };
            let (_, writes) = world.apply_entry(&entry);
            assert!(
                writes.len() <= limits::RECORDS_PER_COMMAND,
                "{}",
                writes.len()
            );
            assert_ne!(world.registry.cluster.layout, before);
            assert!(world.reloaded() == world.registry);
            pieces += 1;
        }
        assert!(pieces >= 3, "{pieces}");
    }
}
