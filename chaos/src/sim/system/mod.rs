//! The simulation of the whole system: masters, agents on simulated machines, frameworks on the
//! public SDK, and operators, under faults.
//!
//! Safety is checked while faults are injected. Then everything is repaired and must become healthy
//! within a timeout, one fault is examined closely, no new work begins, and the cluster must come
//! to rest. Reading order: `world` (state that outlives processes), `task_oracle` (the actual
//! events of tasks), `deliveries`, `log` (committed entries), `actors`, `machine`, `containers`,
//! `conversation`, `agent_observer`, `hosts`, `framework`, `stale_accept`, `early_reconcile`,
//! `operator`, `lister`, `watcher`, `administrator`, `prober`, `ticket_prober`, `operator_faults`,
//! `nemesis`, `votes`, `audit`, `scenario` (one simulation).

mod actors;
mod administrator;
mod agent_observer;
mod audit;
mod containers;
mod conversation;
mod deliveries;
mod early_reconcile;
mod framework;
mod hosts;
mod lister;
mod log;
mod machine;
mod nemesis;
mod operator;
mod operator_faults;
mod prober;
mod scenario;
mod stale_accept;
mod task_oracle;
mod ticket_prober;
mod votes;
mod watcher;
mod world;

use std::time::Duration;

use super::run::{Simulation, SimulationResult, simulate};
use crate::faults::graphs;
use machine::COPY;
use scenario::Scenario;
use world::{RIVAL, SingleFault, World, agent_name, framework_name, master_name};

/// Operators that write and read registers.
const OPERATORS: usize = 2;

/// Duration and size of a simulation.
#[derive(Debug, Clone)]
pub struct SystemOptions {
    /// The number of masters, each on its own host.
    pub masters: usize,
    /// The number of agents, each on its own machine.
    pub agents: usize,
    /// The number of frameworks: greedy, decliner, crasher, in turn.
    pub frameworks: usize,
    /// The time in which faults are injected.
    pub faults: Duration,
    /// The time in which everything must be healthy after the faults have ended, and again to come
    /// to rest.
    pub healing: Duration,
    /// Whether the cluster begins at the feature level of release 0.1.0, and an operator raises it
    /// during the faults.
    pub upgrade: bool,
}

impl Default for SystemOptions {
    fn default() -> Self {
        Self {
            masters: 3,
            agents: 4,
            frameworks: 3,
            faults: Duration::from_secs(20),
            healing: Duration::from_secs(40),
            upgrade: false,
        }
    }
}

impl SystemOptions {
    /// Returns the options for this seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            masters: if seed.is_multiple_of(4) { 5 } else { 3 },
            agents: 2 + (seed % 7) as usize,
            upgrade: seed % 5 == 2,
            ..Self::default()
        }
    }
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, options: &SystemOptions) -> SimulationResult {
    simulate(seed, |simulation| {
        let world = World::new(simulation, seed, options);
        start_hosts(simulation, &world, options);
        let own = world.clone();
        simulation
            .sim
            .host("lister", move || lister::lister(own.clone()));
        let own = world.clone();
        simulation
            .sim
            .host("watcher", move || watcher::watcher(own.clone()));
        Scenario::new(world, options).run(simulation);
    })
}

/// Runs the connectivity graphs of this seed, one after the other.
#[must_use]
pub fn partition_tour(seed: u64) -> SimulationResult {
    let options = SystemOptions {
        masters: graphs::MASTERS,
        agents: 2,
        frameworks: 1,
        ..SystemOptions::default()
    };
    simulate(seed, |simulation| {
        let mut world = World::new(simulation, seed, &options);
        // This fault has the default lease. Nothing else of it is used.
        world.single_fault = SingleFault::Transfer;
        start_hosts(simulation, &world, &options);
        let cases = graphs::GraphCases::new();
        Scenario::new(world, &options).tour(simulation, cases.of_seed(seed));
    })
}

fn start_hosts(simulation: &mut Simulation<'_>, world: &World, options: &SystemOptions) {
    for place in 0..world.stores.len() {
        let own = world.clone();
        let main = move || hosts::master(own.clone(), place);
        simulation.sim.host(master_name(place), main);
        if place >= world.founders {
            simulation.crash(&master_name(place));
        }
    }
    for place in 0..options.agents {
        let world = world.clone();
        let main = move || hosts::agent(world.clone(), place);
        simulation.sim.host(agent_name(place), main);
    }
    for place in 0..options.frameworks {
        let world = world.clone();
        let main = move || framework::framework(world.clone(), place);
        simulation.sim.host(framework_name(place), main);
    }
    for place in 0..OPERATORS {
        let world = world.clone();
        let main = move || operator::operator(world.clone(), place);
        simulation.sim.host(format!("operator-{}", place + 1), main);
    }
    let own = world.clone();
    simulation
        .sim
        .host("hand", move || operator_faults::run_operator(own.clone()));
    let own = world.clone();
    simulation
        .sim
        .host("prober", move || prober::prober(own.clone()));
    let own = world.clone();
    let main = move || administrator::administrator(own.clone());
    simulation.sim.host(administrator::NAME, main);
    // These hosts start when a fault needs them.
    let own = world.clone();
    simulation.sim.host(COPY, move || hosts::copy(own.clone()));
    simulation.crash(COPY);
    let own = world.clone();
    simulation
        .sim
        .host(RIVAL, move || framework::rival(own.clone()));
    simulation.crash(RIVAL);
}
