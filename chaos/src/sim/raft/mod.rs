//! The simulation of Raft alone: nodes with a registry of plain registers, over the simulated
//! network, under faults.
//!
//! Checks while it runs: every node applies the same entries in order, applied entries are on the
//! synced logs of a majority, and acknowledged entries are never lost. Reading order: `owner`,
//! `host`, `nemesis`.

mod host;
mod nemesis;
mod owner;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use argosy_raft::{DurableEntry, MemoryStore};
use argosy_state::buggify;

use super::run::{SimContext, Simulation, SimulationResult, simulate};
use crate::rng::Rng;
use crate::sim::network::CutLinks;

/// The Raft port of each node.
pub(super) const PORT: u16 = 5052;

/// Duration and size of a simulation.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// The number of voters, each on its own host.
    pub nodes: usize,
    /// The time in which faults are injected.
    pub faults: Duration,
    /// The time in which everything must work again after the faults have ended.
    pub healing: Duration,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            faults: Duration::from_secs(20),
            healing: Duration::from_secs(10),
        }
    }
}

impl RaftOptions {
    /// Returns the options for this seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            nodes: if seed.is_multiple_of(2) { 5 } else { 3 },
            ..Self::default()
        }
    }
}

/// A request of the simulation to a node.
#[derive(Debug, Clone, Copy)]
enum NodeRequest {
    /// Transfer leadership.
    Transfer,
}

/// An entry as every node must have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AgreedEntry {
    term: u64,
    hash: String,
}

/// The group, with the state that the simulation observes.
#[derive(Clone)]
struct RaftGroup {
    notes: SimContext,
    cuts: CutLinks,
    seed: u64,
    stores: Arc<Vec<MemoryStore>>,
    // One thread runs the simulation. The locks satisfy the types of asynchronous code.
    agreed: Arc<Mutex<BTreeMap<u64, AgreedEntry>>>,
    nodes: Arc<Mutex<Vec<NodeStatus>>>,
}

/// The known state of a node.
#[derive(Debug, Default, Clone)]
struct NodeStatus {
    requests: VecDeque<NodeRequest>,
    applied: u64,
    is_leader: bool,
    /// The newest term that it has reported, in any incarnation.
    term: u64,
    incarnation: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn name(place: usize) -> String {
    format!("master-{}", place + 1)
}

impl RaftGroup {
    fn new(notes: SimContext, seed: u64, nodes: usize) -> Self {
        let store = |place| MemoryStore::seeded(seed ^ (place as u64 + 1) << 32);
        Self {
            notes,
            cuts: CutLinks::default(),
            seed,
            stores: Arc::new((0..nodes).map(store).collect()),
            agreed: Arc::default(),
            nodes: Arc::new(Mutex::new(vec![NodeStatus::default(); nodes])),
        }
    }

    fn len(&self) -> usize {
        self.stores.len()
    }

    fn with_status<T>(&self, place: usize, change: impl FnOnce(&mut NodeStatus) -> T) -> T {
        change(&mut lock(&self.nodes)[place])
    }

    /// Checks an entry that a node has applied: every node must have the same one, and a majority
    /// must have it on disk.
    fn agree(&self, place: usize, index: u64, entry: AgreedEntry) {
        let mut agreed = lock(&self.agreed);
        let known = agreed.entry(index).or_insert_with(|| entry.clone());
        if *known != entry {
            let who = name(place);
            self.notes.violation(format!(
                "LogMatching: {who} applied {entry:?} at {index}, another node {known:?}"
            ));
        }
        drop(agreed);
        let held = self.stores.iter().map(|store| store.durable_entry(index));
        let held: Vec<DurableEntry> = held.collect();
        // A node that was partitioned may still have another entry at this index.
        let safe = held.iter().map(|one| {
            let same = |held: &&DurableEntry| matches!(held, DurableEntry::Covered) || held == &one;
            match one {
                DurableEntry::Missing => 0,
                DurableEntry::Entry(_) | DurableEntry::Covered => held.iter().filter(same).count(),
            }
        });
        let safe = safe.max().unwrap_or(0);
        if safe <= self.len() / 2 {
            let who = name(place);
            self.notes.violation(format!(
                "Durability: {who} applied entry {index}, which is on the disks of {safe} nodes only: {held:?}"
            ));
        }
    }
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, options: &RaftOptions) -> SimulationResult {
    simulate(seed, |simulation| run_group(simulation, seed, options))
}

fn run_group(simulation: &mut Simulation<'_>, seed: u64, options: &RaftOptions) {
    let group = RaftGroup::new(simulation.notes.clone(), seed, options.nodes);
    for place in 0..group.len() {
        let group = group.clone();
        let main = move || host::run(group.clone(), place);
        simulation.sim.host(name(place), main);
    }
    let mut nemesis = nemesis::Nemesis::new(group.clone(), Rng::new(seed));
    simulation.enable_buggify(seed);
    while simulation.now() < options.faults {
        nemesis.act(simulation);
        if !simulation.step() {
            return;
        }
    }
    buggify::end();
    nemesis.heal(simulation);
    let began = simulation.now();
    let target = lock(&group.agreed).keys().next_back().copied().unwrap_or(0) + 5;
    while simulation.now() < began + options.healing {
        if !simulation.step() {
            return;
        }
        let behind = lock(&group.nodes).iter().any(|seen| seen.applied < target);
        if !behind {
            simulation.notes.count("healed");
            return;
        }
    }
    let nodes = lock(&group.nodes).clone();
    simulation.notes.violation(format!(
        "no node may be behind entry {target} {:?} after the last fault: {nodes:?}",
        options.healing
    ));
}
