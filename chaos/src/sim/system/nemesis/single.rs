//! Faults outside of the random mix: disks that fail or are copied, second schedulers, all masters
//! frozen, and those that are examined closely in a healthy cluster.

use std::time::Duration;

use argosy_agent::journal::MemoryDisk;
use argosy_state::Registry;
use argosy_state::ids::AgentId;

use super::{Nemesis, SystemActiveFault, SystemFault};
use crate::faults::graphs::GraphCase;
use crate::history::FaultKind;
use crate::sim::run::Simulation;
use crate::sim::system::machine::{COPY, SimMachine};
use crate::sim::system::world::{OperatorRequest, RIVAL, agent_name, framework_name, master_name};

/// A copy of a disk at one moment.
pub(super) struct DiskCopy {
    disk: MemoryDisk,
    agent: AgentId,
    /// Incarnations with which its owner would still be registered.
    valid: Vec<u64>,
    /// Whether the registry has shown one of them. The audit's registry can be older than the disk.
    seen: bool,
}

impl DiskCopy {
    pub(super) fn is_of(&self, agent: &str) -> bool {
        self.agent.to_string() == agent
    }

    /// Returns whether its owner has a newer incarnation than the copied ones, given the registered
    /// one. An incarnation that is not on the disk may also be an older one.
    fn is_outdated(&mut self, registered: u64) -> bool {
        let valid = self.valid.contains(&registered);
        self.seen |= valid;
        self.seen && !valid
    }
}

impl Nemesis {
    /// Pauses all masters for this time. Then all continue together.
    pub(in crate::sim::system) fn freeze(&self, gap: Duration) {
        let message = format!("{} ms", gap.as_millis());
        self.note(FaultKind::FreezeAllMasters, "*", &message);
        self.world.state().freeze_count += 1;
        self.world.freezes.send_replace(gap);
    }

    /// Requests a transfer to a master that the leader chooses.
    pub(in crate::sim::system) fn transfer(&mut self) {
        self.note(FaultKind::LeaderTransfer, "*", "");
        self.world
            .state()
            .requests
            .push_back(OperatorRequest::Transfer(None));
    }

    /// Pauses a process: half of the time the leader of the masters, and often for longer than an
    /// election takes.
    pub(super) fn stall(&mut self, simulation: &mut Simulation<'_>) {
        let name = match self.rng.percent(65) {
            true => master_name(self.master()),
            false => agent_name(self.below(self.world.machines.len())),
        };
        let now = simulation.now();
        if simulation.processes.stall(&name, now) {
            self.note(FaultKind::Pause, &name, "");
            self.lasting(simulation, SystemActiveFault::Stalled(name), 50, 4_500);
        }
    }

    pub(super) fn fail_master_disk(&mut self, simulation: &Simulation<'_>) {
        let place = self.master();
        let name = master_name(place);
        if self.is_down(&name) || self.world.stores[place].is_broken() {
            return;
        }
        let left = self.below(12);
        let kind = match self.rng.percent(50) {
            true => FaultKind::DiskFull,
            false => FaultKind::SyncFailure,
        };
        self.note(kind, &name, &format!("after {left} more writes"));
        self.world.stores[place].fail_writes_after(left);
        self.lasting(
            simulation,
            SystemActiveFault::FailingDisk(place),
            200,
            3_000,
        );
    }

    pub(super) fn fail_agent_disk(&mut self, simulation: &Simulation<'_>) {
        let place = self.below(self.world.machines.len());
        let name = agent_name(place);
        let disk = self.world.machines[place].disk.clone();
        if self.is_down(&name) || disk.is_broken() {
            return;
        }
        let left = self.below(8);
        let kind = match self.rng.percent(50) {
            true => FaultKind::DiskFull,
            false => FaultKind::SyncFailure,
        };
        let message = format!("after {left} more appends and syncs");
        self.note(kind, &name, &message);
        disk.break_after(left);
        self.lasting(
            simulation,
            SystemActiveFault::FailingAgentDisk(place),
            200,
            5_000,
        );
    }

    /// Repairs the disk and restarts the agent. Some unsynced data may remain.
    pub(super) fn repair_agent(&mut self, simulation: &mut Simulation<'_>, place: usize) {
        self.stop_agent(simulation, place, SystemFault::AgentCrash);
        let disk = self.world.machines[place].disk.clone();
        let kept = self.below(disk.unsynced_bytes() + 1);
        disk.cut_power(kept);
    }

    /// Starts a rival. Half of the time the messages of the first scheduler are held, and arrive
    /// later.
    pub(super) fn rival(&mut self, simulation: &mut Simulation<'_>) {
        let place = self.below(self.frameworks);
        if self.is_down(RIVAL) || self.is_down(&framework_name(place)) {
            return;
        }
        {
            let mut state = self.world.state();
            let stored = state.frameworks.get(&place);
            if stored.is_none_or(|stored| stored.framework.is_none()) {
                return;
            }
            state.rival = Some(place);
            state.had_rival.insert(place);
        }
        let name = framework_name(place);
        self.note(FaultKind::FrameworkFailover, &name, "");
        if self.rng.percent(60) {
            for master in self.members() {
                self.hold(simulation, &name, &master_name(master), 100);
            }
        }
        simulation.restart_host(RIVAL);
        self.lasting(simulation, SystemActiveFault::CopiedDisk(RIVAL), 300, 4_000);
    }

    pub(super) fn copy_disk(&mut self) {
        let machine =
            &self.world.machines[self.rng.below(self.world.machines.len() as u64) as usize];
        let identity = machine.synced().facts.identity;
        if let Some(agent) = identity.agent {
            let mut good = identity.unconfirmed;
            good.push(identity.confirmed);
            let disk = machine.disk.copy();
            self.copy = Some(DiskCopy {
                disk,
                agent,
                valid: good,
                seen: false,
            });
        }
    }

    /// Uses a copy in another host when its owner has a newer incarnation. Before that it is
    /// correct to accept it as the agent.
    pub(in crate::sim::system) fn use_copy(
        &mut self,
        simulation: &mut Simulation<'_>,
        registry: &Registry,
    ) {
        let is_down = self.is_down(COPY);
        let Some(copied) = &mut self.copy else {
            return;
        };
        let known = registry.agent(copied.agent);
        if !known.is_some_and(|known| copied.is_outdated(known.report.incarnation)) || is_down {
            return;
        }
        let Some(DiskCopy { disk, agent, .. }) = self.copy.take() else {
            return;
        };
        self.note(FaultKind::CloneDisk, &agent.to_string(), "");
        let rng = self.rng.fork(7);
        let machine = SimMachine::with_disk(COPY, self.world.oracle.clone(), rng, disk);
        self.world.state().copy = Some(machine);
        simulation.restart_host(COPY);
        self.lasting(simulation, SystemActiveFault::CopiedDisk(COPY), 500, 5_000);
    }

    /// Returns the name of an agent's host in the cluster.
    pub(super) fn agent_target(&self, place: usize) -> String {
        let agent = self.world.machines[place].agent();
        agent.map_or_else(|| agent_name(place), |agent| agent.to_string())
    }

    /// Stops a framework's host permanently.
    pub(in crate::sim::system) fn retire(&mut self, simulation: &mut Simulation<'_>, place: usize) {
        let name = framework_name(place);
        self.note(FaultKind::FrameworkCrash, &name, "forever");
        simulation.crash(&name);
        self.world.state().retired = Some(place);
    }

    /// Cuts the links between masters that this graph does not have, until healing.
    pub(in crate::sim::system) fn connect(
        &mut self,
        simulation: &Simulation<'_>,
        case: &GraphCase,
    ) {
        self.note(FaultKind::PartitionPartial, "*", &case.to_string());
        for (one, other) in case.graph.missing_links() {
            self.cut_link(simulation, &master_name(one), &master_name(other));
        }
    }

    /// Cuts both directions of a link until healing.
    fn cut_link(&mut self, simulation: &Simulation<'_>, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            if let Some(link) = self.links.cut(simulation, from, to) {
                let until = simulation.now() + Duration::from_secs(3_600);
                self.active.add(until, SystemActiveFault::Link(link));
            }
        }
    }

    /// Kills the current leader, which is restarted later.
    pub(in crate::sim::system) fn kill_leader(&mut self, simulation: &mut Simulation<'_>) {
        let place = self.leader.unwrap_or(0);
        self.stop_master(simulation, place, FaultKind::Crash);
    }

    /// Cuts the leader from all other masters, and from no other process. Returns the leader.
    pub(in crate::sim::system) fn cut_leader(&mut self, simulation: &Simulation<'_>) -> usize {
        let leader = self.leader.unwrap_or(0);
        let name = master_name(leader);
        self.note(FaultKind::CutLeaderFromMasters, &name, "");
        for other in self.members().into_iter().filter(|other| *other != leader) {
            self.cut_link(simulation, &name, &master_name(other));
        }
        leader
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_outdated_once_the_registry_has_left_its_incarnations() {
        let mut copied = DiskCopy {
            disk: MemoryDisk::default(),
            agent: AgentId(1),
            valid: vec![2, 3],
            seen: false,
        };
        assert!(!copied.is_outdated(1), "the registry is behind the disk");
        assert!(!copied.is_outdated(2));
        assert!(!copied.is_outdated(3));
        assert!(copied.is_outdated(4));
    }
}
