//! The nemesis of the cluster: faults by seed, each with its end.

use std::time::Duration;

use super::world::{Order, World, agent_name, framework_name, master_name};
use crate::history::{Fault, FaultKind};
use crate::rng::Chance;
use crate::sim::links::{Link, Links, Timetable};
use crate::sim::run::Stage;

/// The kinds of faults with their weights.
const KINDS: [(Kind, u64); 29] = [
    (Kind::MasterCrash, 6),
    (Kind::MasterPowerCut, 6),
    (Kind::AllMasters, 1),
    (Kind::WipeMaster, 3),
    (Kind::RemoveMaster, 3),
    (Kind::AddMaster, 3),
    (Kind::AgentCrash, 6),
    (Kind::HostReboot, 3),
    (Kind::FrameworkCrash, 6),
    (Kind::SplitMasters, 4),
    (Kind::MastersOneWay, 3),
    (Kind::MastersGraph, 3),
    (Kind::CutLeader, 2),
    (Kind::CutAgent, 5),
    (Kind::AgentOneWay, 3),
    (Kind::CutFramework, 3),
    (Kind::Hold, 5),
    (Kind::Latency, 4),
    (Kind::SlowMasterDisk, 3),
    (Kind::SlowAgentDisk, 3),
    (Kind::Transfer, 4),
    (Kind::ClockJump, 2),
    (Kind::Operate, 3),
    (Kind::SickDisk, 2),
    (Kind::SickAgentDisk, 2),
    (Kind::FreezeMasters, 1),
    (Kind::Stall, 4),
    (Kind::Rival, 3),
    (Kind::CopyDisk, 3),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    MasterCrash,
    MasterPowerCut,
    AllMasters,
    /// A new disk: the master must join the group under a new id.
    WipeMaster,
    RemoveMaster,
    AddMaster,
    AgentCrash,
    HostReboot,
    FrameworkCrash,
    SplitMasters,
    MastersOneWay,
    MastersGraph,
    /// Only from the other masters.
    CutLeader,
    CutAgent,
    /// Messages from an agent to the masters are lost, or the opposite direction.
    AgentOneWay,
    CutFramework,
    Hold,
    Latency,
    SlowMasterDisk,
    SlowAgentDisk,
    Transfer,
    ClockJump,
    /// Teardown, deactivate, mark as gone.
    Operate,
    /// A master's disk fails, or is full.
    SickDisk,
    /// The disk of an agent's journal.
    SickAgentDisk,
    FreezeMasters,
    /// One process is paused for a while, and then continues as if no time had passed.
    Stall,
    /// A second scheduler takes a framework over.
    Rival,
    /// A host starts with an old copy of another one's disk.
    CopyDisk,
}

/// A fault in force.
enum Broken {
    Down(String),
    Link(Link),
    SlowMaster(usize),
    SlowAgent(usize),
    Deactivated(String),
    Stalled(String),
    SickDisk(usize),
    SickAgentDisk(usize),
    /// The host of a rival or of a copy.
    Guest(&'static str),
}

mod agents;
mod membership;
mod network;
mod single;

use single::Copied;

pub(super) struct Nemesis {
    world: World,
    frameworks: usize,
    chance: Chance,
    next: Duration,
    /// When the feature level is to be raised, until it was requested.
    raise_at: Option<Duration>,
    links: Links,
    broken: Timetable<Broken>,
    /// The master that was last observed as leader.
    pub(super) leader: Option<usize>,
    /// A copy of an agent's disk, to be used by another host once it is out of date.
    copy: Option<Copied>,
    /// Until when the removed master continues to run.
    leaves: Option<Duration>,
}

impl Nemesis {
    pub(super) fn new(world: World, frameworks: usize) -> Self {
        Self {
            chance: Chance::new(world.seed).fork(1),
            links: Links::new(world.cuts.clone()),
            raise_at: world.raise_at,
            world,
            frameworks,
            next: Duration::from_secs(3),
            broken: Timetable::new(),
            leader: None,
            copy: None,
            leaves: None,
        }
    }

    /// Performs the actions that are due.
    pub(super) fn act(&mut self, stage: &mut Stage<'_>) {
        let now = stage.now();
        while let Some(broken) = self.broken.take(now) {
            self.mend(stage, broken);
        }
        self.world.forget_wiped();
        if self.raise_at.is_some_and(|at| at <= now) {
            self.raise_at = None;
            self.world.kept().orders.push_back(Order::RaiseLevel);
        }
        if now >= self.next {
            self.next = now + Duration::from_millis(self.chance.between(30, 1_000));
            let kind = self.chance.weighted(&KINDS, |(_, weight)| *weight);
            self.strike(stage, kind.expect("some weights are positive").0);
        }
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self, stage: &mut Stage<'_>) {
        while let Some(broken) = self.broken.take_any() {
            self.mend(stage, broken);
        }
        self.world.kept().copy = None;
        self.note(FaultKind::Heal, "*", "");
    }

    fn note(&self, kind: FaultKind, target: &str, detail: &str) {
        self.world
            .notes
            .fault(Fault::new(kind, target).with(detail));
    }

    fn lasting(&mut self, stage: &Stage<'_>, broken: Broken, from_ms: u64, to_ms: u64) {
        let until = stage.now() + Duration::from_millis(self.chance.between(from_ms, to_ms));
        self.broken.add(until, broken);
    }

    fn below(&mut self, bound: usize) -> usize {
        self.chance.below(bound as u64) as usize
    }

    /// Returns a random master, more often the leader.
    fn master(&mut self) -> usize {
        let members = self.members();
        let any = members[self.below(members.len())];
        match self.leader {
            Some(leader) if self.chance.percent(50) && members.contains(&leader) => leader,
            Some(_) | None => any,
        }
    }

    fn is_down(&self, name: &str) -> bool {
        let down = |broken: &Broken| match broken {
            Broken::Down(one) => one == name,
            Broken::Guest(one) => *one == name,
            _ => false,
        };
        self.broken.iter().any(down)
    }

    fn strike(&mut self, stage: &mut Stage<'_>, kind: Kind) {
        match kind {
            Kind::MasterCrash => {
                let place = self.master();
                self.stop_master(stage, place, FaultKind::Crash);
            }
            Kind::MasterPowerCut => {
                let place = self.master();
                self.stop_master(stage, place, FaultKind::PowerCut);
            }
            Kind::AllMasters => {
                for place in self.members() {
                    self.stop_master(stage, place, FaultKind::PowerCut);
                }
            }
            Kind::WipeMaster => self.wipe(stage),
            Kind::RemoveMaster => self.remove_master(),
            Kind::AddMaster => self.add_master(stage),
            Kind::AgentCrash | Kind::HostReboot => {
                let place = self.below(self.world.machines.len());
                self.stop_agent(stage, place, kind);
            }
            Kind::FrameworkCrash => self.stop_framework(stage),
            Kind::SplitMasters => self.split(stage),
            Kind::MastersOneWay => {
                let (one, other) = self.two_masters();
                self.note(FaultKind::PartitionOneWay, &format!("{one}>{other}"), "");
                self.cut(stage, &one, &other, 4_000);
            }
            Kind::AgentOneWay => self.deafen(stage),
            Kind::MastersGraph => self.graph(stage),
            Kind::CutLeader | Kind::CutAgent | Kind::CutFramework => self.isolate(stage, kind),
            Kind::Hold | Kind::Latency => self.delay(stage, kind),
            Kind::SlowMasterDisk | Kind::SlowAgentDisk => self.slow(stage, kind),
            Kind::Transfer => self.transfer(),
            Kind::ClockJump => {
                let host = match self.chance.percent(50) {
                    true => master_name(self.master()),
                    false => agent_name(self.below(self.world.machines.len())),
                };
                let by_ms = self.chance.between(0, 20_000_000) as i64 - 10_000_000;
                self.note(FaultKind::ClockJump, &host, &format!("{by_ms} ms"));
                self.world.walls.jump(&host, by_ms);
            }
            Kind::Operate => self.operate(stage),
            Kind::SickDisk => self.sicken(stage),
            Kind::SickAgentDisk => self.sicken_agent(stage),
            Kind::FreezeMasters => {
                let gap = Duration::from_millis(self.chance.between(1_100, 9_000));
                self.freeze(gap);
            }
            Kind::Stall => self.stall(stage),
            Kind::Rival => self.rival(stage),
            Kind::CopyDisk => self.copy_disk(),
        }
    }

    fn down(&mut self, stage: &mut Stage<'_>, name: &str, longest_ms: u64) {
        stage.crash(name);
        self.lasting(stage, Broken::Down(name.to_owned()), 1, longest_ms);
    }

    fn stop_master(&mut self, stage: &mut Stage<'_>, place: usize, kind: FaultKind) {
        let name = master_name(place);
        if self.is_down(&name) {
            return;
        }
        let store = self.world.stores[place].clone();
        let unsynced = store.unsynced();
        let kept = match kind {
            FaultKind::PowerCut => self.below(unsynced + 1),
            // The operating system still has the written data.
            _ => unsynced,
        };
        self.note(kind, &name, &format!("{kept} of {unsynced} kept"));
        self.down(stage, &name, 3_000);
        store.cut_power(kept);
    }

    fn stop_agent(&mut self, stage: &mut Stage<'_>, place: usize, kind: Kind) {
        let name = agent_name(place);
        if self.is_down(&name) {
            return;
        }
        let machine = self.world.machines[place].clone();
        let now_ms = stage.now().as_millis() as u64;
        if kind == Kind::HostReboot {
            let unsynced = machine.disk.unsynced_bytes();
            let kept = self.below(unsynced + 1);
            machine.note_alive();
            let target = self.agent_target(place);
            let words = format!("{name}: {kept} of {unsynced} bytes kept");
            self.note(FaultKind::HostReboot, &target, &words);
            self.down(stage, &name, 6_000);
            machine.reboot(now_ms, kept);
        } else {
            machine.settle(now_ms);
            machine.note_alive();
            self.note(FaultKind::Crash, &name, "");
            self.down(stage, &name, 6_000);
            machine.agent_died();
        }
    }

    fn stop_framework(&mut self, stage: &mut Stage<'_>) {
        // The crasher more often than the others.
        let place = match self.chance.percent(60) && self.frameworks > 2 {
            true => 2,
            false => self.below(self.frameworks),
        };
        let name = framework_name(place);
        if self.is_down(&name) {
            return;
        }
        self.note(FaultKind::FrameworkCrash, &name, "");
        self.down(stage, &name, 5_000);
    }

    fn slow(&mut self, stage: &Stage<'_>, kind: Kind) {
        let ms = self.chance.between(2, 400);
        let delay = Duration::from_millis(ms);
        if kind == Kind::SlowMasterDisk {
            let place = self.master();
            self.note(
                FaultKind::SlowDisk,
                &master_name(place),
                &format!("{ms} ms"),
            );
            self.world.stores[place].slow_down(delay);
            self.lasting(stage, Broken::SlowMaster(place), 100, 4_000);
        } else {
            let place = self.below(self.world.machines.len());
            self.note(FaultKind::SlowDisk, &agent_name(place), &format!("{ms} ms"));
            self.world.machines[place].disk.slow_down(delay);
            self.lasting(stage, Broken::SlowAgent(place), 100, 4_000);
        }
    }

    fn operate(&mut self, stage: &Stage<'_>) {
        let agent = format!(
            "agent-{}",
            self.chance.between(1, self.world.machines.len() as u64)
        );
        let order = match self.chance.below(10) {
            0..=1 => {
                let place = self.below(self.frameworks);
                let mut kept = self.world.kept();
                let stored = kept.frameworks.entry(place).or_default();
                match stored.framework.clone() {
                    Some(framework) => Order::Teardown(framework),
                    None => return,
                }
            }
            // The agent with the registers stays.
            2 if agent != "agent-1" => Order::MarkGone(agent.clone()),
            _ => {
                // Sometimes longer than an offer may be in flight.
                self.lasting(stage, Broken::Deactivated(agent.clone()), 200, 7_000);
                Order::Deactivate(agent.clone())
            }
        };
        let (kind, target) = match &order {
            Order::Teardown(framework) => (FaultKind::Teardown, framework),
            _ => (FaultKind::MembershipChange, &agent),
        };
        self.note(kind, target, &format!("{order:?}"));
        self.world.kept().orders.push_back(order);
    }

    fn mend(&mut self, stage: &mut Stage<'_>, broken: Broken) {
        match broken {
            Broken::Down(name) if self.is_out(&name) => {}
            Broken::Down(name) => {
                self.note(FaultKind::Restart, &name, "");
                stage.bounce(&name);
            }
            Broken::Link(link) => {
                self.note(FaultKind::Heal, &link.target(), "");
                self.links.mend(stage, &link);
            }
            Broken::SlowMaster(place) => {
                self.note(FaultKind::Heal, &master_name(place), "");
                self.world.stores[place].slow_down(Duration::ZERO);
            }
            Broken::SlowAgent(place) => {
                self.note(FaultKind::Heal, &agent_name(place), "");
                self.world.machines[place].disk.slow_down(Duration::ZERO);
            }
            Broken::Deactivated(agent) => {
                self.world.kept().orders.push_back(Order::Reactivate(agent));
            }
            Broken::Stalled(name) => {
                self.note(FaultKind::Resume, &name, "");
                stage.processes.resume(&name, stage.now());
            }
            Broken::SickDisk(place) => {
                // The disk is repaired, and the process is started again.
                self.stop_master(stage, place, FaultKind::Crash);
            }
            Broken::SickAgentDisk(place) => self.repair_agent(stage, place),
            Broken::Guest(name) => stage.crash(name),
        }
    }
}
