//! Simultaneous faults of all agents, or all masters, in a healthy cluster.

use std::time::Duration;

use super::{Nemesis, SystemActiveFault};
use crate::history::FaultKind;
use crate::sim::run::Simulation;
use crate::sim::system::world::{agent_name, master_name};

impl Nemesis {
    /// Cuts every agent from every master, until healing.
    pub(in crate::sim::system) fn cut_agents(&mut self, simulation: &Simulation<'_>) {
        self.note(FaultKind::PartitionBoth, "*", "agents from masters");
        let until = simulation.now() + Duration::from_secs(3_600);
        for place in 0..self.world.machines.len() {
            let agent = agent_name(place);
            for master in (0..self.world.stores.len()).map(master_name) {
                for (from, to) in [(&agent, &master), (&master, &agent)] {
                    if let Some(link) = self.links.cut(simulation, from, to) {
                        self.active.add(until, SystemActiveFault::Link(link));
                    }
                }
            }
        }
    }

    /// Cuts every master from every other one, until healing.
    pub(in crate::sim::system) fn cut_masters(&mut self, simulation: &Simulation<'_>) {
        self.note(FaultKind::PartitionPartial, "*", "masters from each other");
        self.cut_all(simulation, (0..self.world.stores.len()).collect());
    }

    /// Cuts the followers from each other, until healing. None of them can be elected, and the
    /// leader reaches them all.
    pub(in crate::sim::system) fn cut_followers(&mut self, simulation: &Simulation<'_>) {
        let leader = self.leader.unwrap_or(0);
        self.note(
            FaultKind::PartitionPartial,
            "*",
            "followers from each other",
        );
        let followers = (0..self.world.stores.len()).filter(|place| *place != leader);
        self.cut_all(simulation, followers.collect());
    }

    fn cut_all(&mut self, simulation: &Simulation<'_>, masters: Vec<usize>) {
        let until = simulation.now() + Duration::from_secs(3_600);
        for one in &masters {
            for other in masters.iter().filter(|other| *other != one) {
                let (one, other) = (master_name(*one), master_name(*other));
                if let Some(link) = self.links.cut(simulation, &one, &other) {
                    self.active.add(until, SystemActiveFault::Link(link));
                }
            }
        }
    }

    /// Delays every write of every master from now on.
    pub(in crate::sim::system) fn slow_masters(&self, delay: Duration) {
        if !delay.is_zero() {
            let message = format!("{} ms", delay.as_millis());
            self.note(FaultKind::SlowDisk, "*", &message);
        }
        for store in self.world.stores.iter() {
            store.slow_down(delay);
        }
    }

    /// Restarts the processes of all agents. Their tasks continue.
    pub(in crate::sim::system) fn restart_agents(&mut self, simulation: &mut Simulation<'_>) {
        let now_ms = simulation.now().as_millis() as u64;
        for place in 0..self.world.machines.len() {
            let name = agent_name(place);
            let machine = self.world.machines[place].clone();
            machine.advance(now_ms);
            machine.note_alive();
            self.note(FaultKind::Crash, &name, "");
            simulation.sim.crash(name.as_str());
            machine.agent_crashed();
            self.note(FaultKind::Restart, &name, "");
            simulation.sim.bounce(name.as_str());
        }
    }
}
