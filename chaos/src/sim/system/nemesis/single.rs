//! Faults that are told apart from the mix: disks that fail or are copied, second schedulers, all masters frozen,
//! and those that are followed closely when all else is well.

use std::time::Duration;

use argosy_agent::journal::MemoryDisk;
use argosy_state::Registry;
use argosy_state::ids::AgentId;

use super::{Broken, Nemesis};
use crate::history::FaultKind;
use crate::sim::run::Stage;
use crate::sim::system::machine::Machine;
use crate::sim::system::world::{COPY, RIVAL, agent_name, framework_name, master_name};

/// A disk as it was.
pub(super) struct Copied {
    disk: MemoryDisk,
    agent: AgentId,
    /// Incarnations by which its holder would still be known.
    good: Vec<u64>,
}

impl Nemesis {
    /// No master runs for so long; then all go on at once.
    pub(in crate::sim::system) fn freeze(&self, gap: Duration) {
        let words = format!("{} ms", gap.as_millis());
        self.note(FaultKind::FreezeAllMasters, "*", &words);
        self.world.kept().frozen += 1;
        self.world.freezes.send_replace(gap);
    }

    pub(super) fn sicken(&mut self, stage: &Stage<'_>) {
        let place = self.master();
        let name = master_name(place);
        if self.is_down(&name) || self.world.stores[place].is_broken() {
            return;
        }
        let left = self.below(12);
        let kind = match self.chance.percent(50) {
            true => FaultKind::DiskFull,
            false => FaultKind::SyncFailure,
        };
        self.note(kind, &name, &format!("after {left} more writes"));
        self.world.stores[place].break_after(left);
        self.lasting(stage, Broken::SickDisk(place), 200, 3_000);
    }

    /// Half of the time nothing that the first scheduler says comes through meanwhile; it comes later.
    pub(super) fn rival(&mut self, stage: &mut Stage<'_>) {
        let place = self.below(self.frameworks);
        if self.is_down(RIVAL) || self.is_down(&framework_name(place)) {
            return;
        }
        {
            let mut kept = self.world.kept();
            let stored = kept.frameworks.get(&place);
            if stored.is_none_or(|stored| stored.framework.is_none()) {
                return;
            }
            kept.rival = Some(place);
            kept.rivalled.insert(place);
        }
        let name = framework_name(place);
        self.note(FaultKind::FrameworkFailover, &name, "");
        if self.chance.percent(60) {
            for master in 0..self.masters() {
                if let Some(link) = self.links.hold(stage, &name, &master_name(master)) {
                    self.lasting(stage, Broken::Link(link), 100, 2_500);
                }
            }
        }
        stage.sim.bounce(RIVAL);
        self.lasting(stage, Broken::Guest(RIVAL), 300, 4_000);
    }

    pub(super) fn copy_disk(&mut self) {
        let machine =
            &self.world.machines[self.chance.below(self.world.machines.len() as u64) as usize];
        let identity = machine.synced().facts.identity;
        if let Some(agent) = identity.agent {
            let mut good = identity.tried;
            good.push(identity.confirmed);
            let disk = machine.disk.copy();
            self.copy = Some(Copied { disk, agent, good });
        }
    }

    /// A copy is put into a host when its holder has moved on: before that it is nobody's fault to take it for
    /// the agent.
    pub(in crate::sim::system) fn use_copy(&mut self, stage: &mut Stage<'_>, registry: &Registry) {
        let Some(copied) = &self.copy else {
            return;
        };
        let known = registry.agent(copied.agent);
        if known.is_none_or(|known| copied.good.contains(&known.incarnation)) || self.is_down(COPY)
        {
            return;
        }
        let Some(Copied { disk, agent, .. }) = self.copy.take() else {
            return;
        };
        self.note(FaultKind::CloneDisk, &agent.to_string(), "");
        let chance = self.chance.fork(7);
        let machine = Machine::with_disk(COPY, self.world.ledger.clone(), chance, disk);
        self.world.kept().copy = Some(machine);
        stage.sim.bounce(COPY);
        self.lasting(stage, Broken::Guest(COPY), 500, 5_000);
    }

    /// As the cluster knows an agent's host.
    pub(super) fn agent_target(&self, place: usize) -> String {
        let agent = self.world.machines[place].agent();
        agent.map_or_else(|| agent_name(place), |agent| agent.to_string())
    }

    /// A framework's host dies and never comes back.
    pub(in crate::sim::system) fn retire(&mut self, stage: &mut Stage<'_>, place: usize) {
        let name = framework_name(place);
        self.note(FaultKind::FrameworkCrash, &name, "for ever");
        stage.sim.crash(name.as_str());
        self.world.kept().retired = Some(place);
    }

    /// The leader dies and comes back, whoever it is.
    pub(in crate::sim::system) fn kill_leader(&mut self, stage: &mut Stage<'_>) {
        let place = self.leader.unwrap_or(0);
        self.stop_master(stage, place, FaultKind::Crash);
    }

    /// Cuts the leader from all other masters, and from nobody else. Returns who that is.
    pub(in crate::sim::system) fn cut_leader(&mut self, stage: &Stage<'_>) -> usize {
        let leader = self.leader.unwrap_or(0);
        let name = master_name(leader);
        self.note(FaultKind::CutLeaderFromMasters, &name, "");
        for other in (0..self.masters()).filter(|other| *other != leader) {
            let other = master_name(other);
            for (from, to) in [(&name, &other), (&other, &name)] {
                if let Some(link) = self.links.cut(stage, from, to) {
                    let until = stage.now() + Duration::from_secs(3_600);
                    self.broken.add(until, Broken::Link(link));
                }
            }
        }
        leader
    }
}
