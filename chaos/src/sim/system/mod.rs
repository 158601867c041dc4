//! Everything: masters, agents on made-up machines, frameworks on the public SDK, and operators, under faults.
//!
//! Safety is judged while faults come; then everything is mended, no new work begins, and all must come to
//! rest within a bound. Reading order: `world` (what outlives processes), `ledger` (the truth about tasks),
//! `machine`, `containers`, `hosts`, `framework`, `operator`, `hand`, `nemesis`, `audit`.

mod audit;
mod containers;
mod framework;
mod hand;
mod hosts;
mod ledger;
mod machine;
mod nemesis;
mod operator;
#[cfg(test)]
mod tests;
mod world;

use std::time::Duration;

use super::run::{Stage, Verdict, perform};
use audit::Audit;
use nemesis::Nemesis;
use world::{World, agent_name, framework_name, master_name};

/// How often stored registries are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Operators that write and read registers.
const OPERATORS: usize = 2;

/// How long and how large.
#[derive(Debug, Clone)]
pub struct Options {
    /// Masters, each on a host of its own.
    pub masters: usize,
    /// Agents, each on a machine of its own.
    pub agents: usize,
    /// Frameworks: greedy, decliner, crasher, and again.
    pub frameworks: usize,
    /// How long faults come.
    pub faults: Duration,
    /// How long everything may take to come to rest when the faults have ended.
    pub healing: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            masters: 3,
            agents: 4,
            frameworks: 3,
            faults: Duration::from_secs(20),
            healing: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// As this seed wants it.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            masters: if seed.is_multiple_of(4) { 5 } else { 3 },
            agents: 2 + (seed % 7) as usize,
            ..Self::default()
        }
    }
}

/// Plays one seed.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Verdict {
    perform(seed, |stage| play(stage, seed, options))
}

fn people(stage: &mut Stage<'_>, world: &World, options: &Options) {
    for place in 0..options.masters {
        let world = world.clone();
        let life = move || hosts::master(world.clone(), place);
        stage.sim.host(master_name(place), life);
    }
    for place in 0..options.agents {
        let world = world.clone();
        let life = move || hosts::agent(world.clone(), place);
        stage.sim.host(agent_name(place), life);
    }
    for place in 0..options.frameworks {
        let world = world.clone();
        let life = move || framework::framework(world.clone(), place);
        stage.sim.host(framework_name(place), life);
    }
    for place in 0..OPERATORS {
        let world = world.clone();
        let life = move || operator::operator(world.clone(), place);
        stage.sim.host(format!("operator-{}", place + 1), life);
    }
    let own = world.clone();
    stage.sim.host("hand", move || hand::hand(own.clone()));
}

fn play(stage: &mut Stage<'_>, seed: u64, options: &Options) {
    let world = World::new(stage.notes.clone(), seed, options);
    people(stage, &world, options);
    let mut audit = Audit::new(world.clone());
    let mut nemesis = Nemesis::new(world.clone(), options.frameworks);
    let mut next_look = LOOK;
    while stage.now() < options.faults {
        nemesis.act(stage);
        if !advance(stage, &world) {
            return;
        }
        if stage.now() >= next_look {
            next_look = stage.now() + LOOK;
            nemesis.leader = audit.look().or(nemesis.leader);
        }
    }
    nemesis.heal(stage);
    world.kept().quiet = true;
    let began = stage.now();
    let mut open = Vec::new();
    while stage.now() < began + options.healing {
        world.forget_wiped();
        if !advance(stage, &world) {
            return;
        }
        if stage.now() >= next_look {
            next_look = stage.now() + LOOK;
            audit.look();
            open = audit.unsettled();
            if open.is_empty() {
                stage.notes.count("came to rest");
                return;
            }
        }
    }
    let after = options.healing;
    stage.notes.violation(format!(
        "{after:?} after the last fault the cluster has not come to rest: {open:#?}"
    ));
}

fn advance(stage: &mut Stage<'_>, world: &World) -> bool {
    let goes_on = stage.step();
    let now_ms = stage.now().as_millis() as u64;
    for machine in world.machines.iter() {
        machine.settle(now_ms);
    }
    goes_on
}
