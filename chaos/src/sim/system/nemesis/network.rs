//! Broken links: cut in both directions or in one, held or slow, between masters, to agents and to
//! frameworks.

use std::time::Duration;

use super::{Nemesis, SystemActiveFault, SystemFault};
use crate::history::FaultKind;
use crate::sim::run::Simulation;
use crate::sim::system::world::{agent_name, framework_name, master_name};

impl Nemesis {
    pub(super) fn two_masters(&mut self) -> (String, String) {
        let one = self.master();
        let mut others = self.members();
        others.retain(|other| *other != one);
        // With a single master both names are equal, and nothing is cut.
        let other = self.rng.pick(&others).copied().unwrap_or(one);
        (master_name(one), master_name(other))
    }

    pub(super) fn cut(
        &mut self,
        simulation: &Simulation<'_>,
        from: &str,
        to: &str,
        longest_ms: u64,
    ) {
        if let Some(link) = self.links.cut(simulation, from, to) {
            self.lasting(simulation, SystemActiveFault::Link(link), 20, longest_ms);
        }
    }

    pub(super) fn cut_both(
        &mut self,
        simulation: &Simulation<'_>,
        one: &str,
        other: &str,
        longest_ms: u64,
    ) {
        self.cut(simulation, one, other, longest_ms);
        self.cut(simulation, other, one, longest_ms);
    }

    pub(super) fn split(&mut self, simulation: &Simulation<'_>) {
        let victim = self.master();
        let members = self.members().into_iter();
        let (inside, outside): (Vec<usize>, Vec<usize>) =
            members.partition(|place| *place == victim || self.rng.percent(30));
        let names: Vec<String> = inside.into_iter().map(master_name).collect();
        self.note(FaultKind::PartitionBoth, &names.join(","), "");
        for one in &names {
            for other in &outside {
                self.cut_both(simulation, one, &master_name(*other), 5_000);
            }
        }
    }

    pub(super) fn graph(&mut self, simulation: &Simulation<'_>) {
        self.note(FaultKind::PartitionPartial, "*", "");
        let members = self.members();
        for (at, one) in members.iter().enumerate() {
            for other in &members[..at] {
                if self.rng.percent(40) {
                    self.cut_both(simulation, &master_name(*one), &master_name(*other), 4_000);
                }
            }
        }
    }

    /// Cuts one direction between an agent and the masters.
    pub(super) fn cut_one_way(&mut self, simulation: &Simulation<'_>) {
        let agent = agent_name(self.below(self.world.machines.len()));
        let is_deaf = self.rng.percent(50);
        let target = match is_deaf {
            true => format!("masters>{agent}"),
            false => format!("{agent}>masters"),
        };
        self.note(FaultKind::PartitionOneWay, &target, "");
        for master in self.members().into_iter().map(master_name) {
            match is_deaf {
                true => self.cut(simulation, &master, &agent, 9_000),
                false => self.cut(simulation, &agent, &master, 9_000),
            }
        }
    }

    /// Cuts one host off from the masters.
    pub(super) fn isolate(&mut self, simulation: &Simulation<'_>, kind: SystemFault) {
        let (name, kind, longest_ms) = match kind {
            SystemFault::CutLeader => {
                let name = master_name(self.master());
                (name, FaultKind::CutLeaderFromMasters, 5_000)
            }
            SystemFault::CutAgent => {
                let place = self.below(self.world.machines.len());
                (agent_name(place), FaultKind::PartitionBoth, 9_000)
            }
            _ => {
                let name = framework_name(self.below(self.frameworks));
                (name, FaultKind::PartitionBoth, 6_000)
            }
        };
        self.note(kind, &name, "from the masters");
        for place in self.members() {
            let master = master_name(place);
            if master != name {
                self.cut_both(simulation, &name, &master, longest_ms);
            }
        }
    }

    /// Holds a link, unless it is broken already. The record of it gives the rules the time in
    /// which what it carries is on its way.
    pub(super) fn hold(
        &mut self,
        simulation: &Simulation<'_>,
        one: &str,
        other: &str,
        shortest_ms: u64,
    ) {
        if let Some(link) = self.links.hold(simulation, one, other) {
            self.note(FaultKind::Delay, &link.target(), "held");
            self.lasting(
                simulation,
                SystemActiveFault::Link(link),
                shortest_ms,
                2_500,
            );
        }
    }

    pub(super) fn delay(&mut self, simulation: &Simulation<'_>, kind: SystemFault) {
        let (one, other) = match self.rng.below(3) {
            0 => self.two_masters(),
            1 => (
                agent_name(self.below(self.world.machines.len())),
                master_name(self.master()),
            ),
            _ => (
                framework_name(self.below(self.frameworks)),
                master_name(self.master()),
            ),
        };
        if kind == SystemFault::Hold {
            self.hold(simulation, &one, &other, 20);
            return;
        }
        let ms = self.rng.between(5, 200);
        let latency = Duration::from_millis(ms);
        if let Some(link) = self.links.slow(simulation, &one, &other, latency) {
            self.note(FaultKind::SlowLink, &link.target(), &format!("{ms} ms"));
            self.lasting(simulation, SystemActiveFault::Link(link), 100, 4_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::run::simulate;
    use crate::sim::system::world::World;
    use crate::sim::system::{SystemOptions, start_hosts};

    #[test]
    fn each_link_that_a_rival_holds_is_recorded_as_delayed() {
        let options = SystemOptions::default();
        let result = simulate(7, |simulation| {
            let world = World::new(simulation, 7, &options);
            start_hosts(simulation, &world, &options);
            for place in 0..options.frameworks {
                let mut state = world.state();
                let stored = state.frameworks.entry(place).or_default();
                stored.framework = Some(framework_name(place));
            }
            let mut nemesis = Nemesis::new(world, options.frameworks);
            for _ in 0..8 {
                nemesis.rival(simulation);
                nemesis.heal(simulation);
            }
        });
        let links = |kind: FaultKind| {
            let faults = result.history.faults().map(|(_, _, fault)| fault);
            let links = faults.filter(|fault| fault.kind == kind && fault.target.contains('>'));
            let mut links: Vec<&str> = links.map(|fault| fault.target.as_str()).collect();
            links.sort_unstable();
            links
        };
        let healed = links(FaultKind::Heal);
        assert!(
            !healed.is_empty(),
            "another seed is needed: no link was held"
        );
        assert_eq!(links(FaultKind::Delay), healed);
    }
}
