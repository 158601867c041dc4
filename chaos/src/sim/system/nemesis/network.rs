//! Broken links: cut in both directions or in one, held or slow, between masters, to agents and to
//! frameworks.

use std::time::Duration;

use super::{Nemesis, SystemActiveFault, SystemFault};
use crate::history::{Fault, FaultKind};
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

    /// Cuts links, each from its first host to its second, and records that as one fault. If all of
    /// them are broken already, nothing is recorded.
    fn partition(
        &mut self,
        simulation: &Simulation<'_>,
        fault: Fault,
        links: &[(String, String)],
        longest_ms: u64,
    ) {
        let cuts = links.iter();
        let cuts: Vec<_> = cuts
            .filter_map(|(from, to)| self.links.cut(simulation, from, to))
            .collect();
        if !cuts.is_empty() {
            self.world.notes.fault(fault);
        }
        for link in cuts {
            self.lasting(simulation, SystemActiveFault::Link(link), 20, longest_ms);
        }
    }

    /// Cuts one direction between two masters.
    pub(super) fn cut_masters_one_way(&mut self, simulation: &Simulation<'_>) {
        let (from, to) = self.two_masters();
        let fault = Fault::new(FaultKind::PartitionOneWay, format!("{from}>{to}"));
        self.partition(simulation, fault, &[(from, to)], 4_000);
    }

    pub(super) fn split(&mut self, simulation: &Simulation<'_>) {
        let victim = self.master();
        let members = self.members().into_iter();
        let (inside, outside): (Vec<usize>, Vec<usize>) =
            members.partition(|place| *place == victim || self.rng.percent(30));
        let names: Vec<String> = inside.into_iter().map(master_name).collect();
        let fault = Fault::new(FaultKind::PartitionBoth, names.join(","));
        let outside = outside.into_iter().map(master_name);
        let links: Vec<_> = outside
            .flat_map(|other| names.iter().flat_map(move |one| both_ways(one, &other)))
            .collect();
        self.partition(simulation, fault, &links, 5_000);
    }

    pub(super) fn graph(&mut self, simulation: &Simulation<'_>) {
        let members: Vec<String> = self.members().into_iter().map(master_name).collect();
        let mut links = Vec::new();
        for (at, one) in members.iter().enumerate() {
            for other in &members[..at] {
                if self.rng.percent(40) {
                    links.extend(both_ways(one, other));
                }
            }
        }
        let fault = Fault::new(FaultKind::PartitionPartial, "*");
        self.partition(simulation, fault, &links, 4_000);
    }

    /// Cuts one direction between an agent and the masters.
    pub(super) fn cut_one_way(&mut self, simulation: &Simulation<'_>) {
        let agent = agent_name(self.below(self.world.machines.len()));
        let is_deaf = self.rng.percent(50);
        let target = match is_deaf {
            true => format!("masters>{agent}"),
            false => format!("{agent}>masters"),
        };
        let masters = self.members().into_iter().map(master_name);
        let links: Vec<_> = masters
            .map(|master| match is_deaf {
                true => (master, agent.clone()),
                false => (agent.clone(), master),
            })
            .collect();
        let fault = Fault::new(FaultKind::PartitionOneWay, &target);
        self.partition(simulation, fault, &links, 9_000);
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
        let others = self.members().into_iter().map(master_name);
        let links: Vec<_> = others
            .filter(|master| *master != name)
            .flat_map(|master| both_ways(&name, &master))
            .collect();
        let fault = Fault::new(kind, &name).with("from the masters");
        self.partition(simulation, fault, &links, longest_ms);
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

/// Returns the links between two hosts, in both directions.
fn both_ways(one: &str, other: &str) -> [(String, String); 2] {
    let (one, other) = (one.to_owned(), other.to_owned());
    [(one.clone(), other.clone()), (other, one)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use crate::sim::run::simulate;
    use crate::sim::system::world::World;
    use crate::sim::system::{SystemOptions, start_hosts};

    /// Returns the history of faults of a system with three masters that has just started.
    fn faults(seed: u64, inject: impl FnOnce(&mut Nemesis, &mut Simulation<'_>)) -> History {
        let options = SystemOptions {
            masters: 3,
            ..SystemOptions::default()
        };
        let result = simulate(seed, |simulation| {
            let world = World::new(simulation, seed, &options);
            start_hosts(simulation, &world, &options);
            for place in 0..options.frameworks {
                let mut state = world.state();
                let stored = state.frameworks.entry(place).or_default();
                stored.framework = Some(framework_name(place));
            }
            inject(&mut Nemesis::new(world, options.frameworks), simulation);
        });
        result.history
    }

    #[test]
    fn a_partition_that_cuts_nothing_is_not_recorded() {
        let mut recorded = 0;
        for seed in 1..=40 {
            let history = faults(seed, |nemesis, simulation| {
                for _ in 0..2 {
                    nemesis.graph(simulation);
                    nemesis.heal(simulation);
                    nemesis.split(simulation);
                    nemesis.heal(simulation);
                }
            });
            let faults: Vec<&Fault> = history.faults().map(|(_, _, fault)| fault).collect();
            let is_cut = |fault: &Fault| fault.kind != FaultKind::Heal;
            let cuts = faults.iter().filter(|fault| is_cut(fault)).count();
            // The repair of its first link follows each partition, not that of the whole system.
            let repaired = faults.windows(2).filter(|pair| {
                is_cut(pair[0]) && pair[1].kind == FaultKind::Heal && pair[1].target != "*"
            });
            assert_eq!(cuts, repaired.count(), "seed {seed}: {faults:?}");
            recorded += cuts;
        }
        assert!(recorded > 100, "{recorded}");
    }

    #[test]
    fn each_link_that_a_rival_holds_is_recorded_as_delayed() {
        let history = faults(7, |nemesis, simulation| {
            for _ in 0..8 {
                nemesis.rival(simulation);
                nemesis.heal(simulation);
            }
        });
        let links = |kind: FaultKind| {
            let faults = history.faults().map(|(_, _, fault)| fault);
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
