//! Who breaks the cluster: faults by seed, each with its end.

use std::time::Duration;

use super::world::{Order, Wiped, World, agent_name, framework_name, master_name};
use crate::chance::Chance;
use crate::history::{Fault, FaultKind};
use crate::sim::links::{Link, Links, Timetable};
use crate::sim::run::Stage;

/// What may happen, and how often beside the others.
const KINDS: [(Kind, u64); 24] = [
    (Kind::MasterCrash, 6),
    (Kind::MasterPowerCut, 6),
    (Kind::AllMasters, 1),
    (Kind::WipeMaster, 3),
    (Kind::AgentCrash, 6),
    (Kind::HostReboot, 3),
    (Kind::FrameworkCrash, 6),
    (Kind::SplitMasters, 4),
    (Kind::MastersOneWay, 3),
    (Kind::MastersGraph, 3),
    (Kind::CutLeader, 2),
    (Kind::CutAgent, 5),
    (Kind::CutFramework, 3),
    (Kind::Hold, 5),
    (Kind::Latency, 4),
    (Kind::SlowMasterDisk, 3),
    (Kind::SlowAgentDisk, 3),
    (Kind::Transfer, 4),
    (Kind::ClockJump, 2),
    (Kind::Operate, 3),
    (Kind::SickDisk, 2),
    (Kind::FreezeMasters, 1),
    (Kind::Rival, 3),
    (Kind::CopyDisk, 3),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    MasterCrash,
    MasterPowerCut,
    AllMasters,
    /// A new disk: the group must take it in as somebody else.
    WipeMaster,
    AgentCrash,
    HostReboot,
    FrameworkCrash,
    SplitMasters,
    MastersOneWay,
    MastersGraph,
    /// From the other masters only.
    CutLeader,
    CutAgent,
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
    FreezeMasters,
    /// A second scheduler takes a framework over.
    Rival,
    /// A host comes up with an old copy of another one's disk.
    CopyDisk,
}

/// What is broken, until it ends.
enum Broken {
    Down(String),
    Link(Link),
    SlowMaster(usize),
    SlowAgent(usize),
    Deactivated(String),
    SickDisk(usize),
    /// The host of a rival or of a copy.
    Guest(&'static str),
}

mod single;

use single::Copied;

pub(super) struct Nemesis {
    world: World,
    frameworks: usize,
    chance: Chance,
    next: Duration,
    links: Links,
    broken: Timetable<Broken>,
    /// Who was last seen to lead.
    pub(super) leader: Option<usize>,
    /// A copy of an agent's disk, to be put into another host once it is out of date.
    copy: Option<Copied>,
}

impl Nemesis {
    pub(super) fn new(world: World, frameworks: usize) -> Self {
        Self {
            chance: Chance::new(world.seed).fork(1),
            links: Links::new(world.cuts.clone()),
            world,
            frameworks,
            next: Duration::from_secs(3),
            broken: Timetable::new(),
            leader: None,
            copy: None,
        }
    }

    /// Does what is due now.
    pub(super) fn act(&mut self, stage: &mut Stage<'_>) {
        let now = stage.now();
        while let Some(broken) = self.broken.take(now) {
            self.mend(stage, broken);
        }
        self.world.forget_wiped();
        if now >= self.next {
            self.next = now + Duration::from_millis(self.chance.between(30, 1_000));
            let kind = self.chance.weighted(&KINDS, |(_, weight)| *weight);
            self.strike(stage, kind.expect("some weigh something").0);
        }
    }

    /// Ends everything that is broken.
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

    fn masters(&self) -> usize {
        self.world.stores.len()
    }

    /// A master, more often the leader.
    fn master(&mut self) -> usize {
        let any = self.below(self.masters());
        match self.leader {
            Some(leader) if self.chance.percent(50) => leader,
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
                for place in 0..self.masters() {
                    self.stop_master(stage, place, FaultKind::PowerCut);
                }
            }
            Kind::WipeMaster => self.wipe(stage),
            Kind::AgentCrash | Kind::HostReboot => self.stop_agent(stage, kind),
            Kind::FrameworkCrash => self.stop_framework(stage),
            Kind::SplitMasters => self.split(stage),
            Kind::MastersOneWay => {
                let (one, other) = self.two_masters();
                self.note(FaultKind::PartitionOneWay, &format!("{one}>{other}"), "");
                self.cut(stage, &one, &other, 4_000);
            }
            Kind::MastersGraph => self.graph(stage),
            Kind::CutLeader | Kind::CutAgent | Kind::CutFramework => self.isolate(stage, kind),
            Kind::Hold | Kind::Latency => self.delay(stage, kind),
            Kind::SlowMasterDisk | Kind::SlowAgentDisk => self.slow(stage, kind),
            Kind::Transfer => {
                self.note(FaultKind::LeaderTransfer, "*", "");
                self.world.kept().orders.push_back(Order::Transfer);
            }
            Kind::ClockJump => {
                let host = match self.chance.percent(50) {
                    true => master_name(self.below(self.masters())),
                    false => agent_name(self.below(self.world.machines.len())),
                };
                let by_ms = self.chance.between(0, 20_000_000) as i64 - 10_000_000;
                self.note(FaultKind::ClockJump, &host, &format!("{by_ms} ms"));
                self.world.walls.jump(&host, by_ms);
            }
            Kind::Operate => self.operate(stage),
            Kind::SickDisk => self.sicken(stage),
            Kind::FreezeMasters => {
                let gap = Duration::from_millis(self.chance.between(1_100, 9_000));
                self.freeze(gap);
            }
            Kind::Rival => self.rival(stage),
            Kind::CopyDisk => self.copy_disk(),
        }
    }

    fn down(&mut self, stage: &mut Stage<'_>, name: &str, longest_ms: u64) {
        stage.sim.crash(name);
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
            // The operating system still has what was written.
            _ => unsynced,
        };
        self.note(kind, &name, &format!("{kept} of {unsynced} kept"));
        self.down(stage, &name, 3_000);
        store.cut_power(kept);
    }

    /// One at a time: two lost disks of three are a lost cluster.
    fn wipe(&mut self, stage: &mut Stage<'_>) {
        let place = self.master();
        let name = master_name(place);
        if self.is_down(&name) || self.world.kept().wiped.is_some() {
            return;
        }
        self.note(FaultKind::WipeDisk, &name, "");
        self.down(stage, &name, 3_000);
        self.world.stores[place].wipe();
        let mut kept = self.world.kept();
        kept.wiped = Some(Wiped {
            place,
            joined: false,
        });
        kept.orders.push_back(Order::Join(place));
    }

    fn stop_agent(&mut self, stage: &mut Stage<'_>, kind: Kind) {
        let place = self.below(self.world.machines.len());
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

    fn two_masters(&mut self) -> (String, String) {
        let one = self.master();
        let step = self.chance.between(1, self.masters() as u64 - 1) as usize;
        let other = (one + step) % self.masters();
        (master_name(one), master_name(other))
    }

    fn cut(&mut self, stage: &Stage<'_>, from: &str, to: &str, longest_ms: u64) {
        if let Some(link) = self.links.cut(stage, from, to) {
            self.lasting(stage, Broken::Link(link), 20, longest_ms);
        }
    }

    fn cut_both(&mut self, stage: &Stage<'_>, one: &str, other: &str, longest_ms: u64) {
        self.cut(stage, one, other, longest_ms);
        self.cut(stage, other, one, longest_ms);
    }

    fn split(&mut self, stage: &Stage<'_>) {
        let victim = self.master();
        let count = self.masters();
        let inside: Vec<bool> = (0..count)
            .map(|place| place == victim || self.chance.percent(30))
            .collect();
        let names = (0..count).filter(|place| inside[*place]).map(master_name);
        let names = names.collect::<Vec<_>>().join(",");
        self.note(FaultKind::PartitionBoth, &names, "");
        for one in 0..count {
            for other in 0..count {
                if inside[one] && !inside[other] {
                    self.cut_both(stage, &master_name(one), &master_name(other), 5_000);
                }
            }
        }
    }

    fn graph(&mut self, stage: &Stage<'_>) {
        self.note(FaultKind::PartitionPartial, "*", "");
        for one in 0..self.masters() {
            for other in 0..one {
                if self.chance.percent(40) {
                    self.cut_both(stage, &master_name(one), &master_name(other), 4_000);
                }
            }
        }
    }

    /// Cuts one host off from masters.
    fn isolate(&mut self, stage: &Stage<'_>, kind: Kind) {
        let (name, kind, longest_ms) = match kind {
            Kind::CutLeader => {
                let name = master_name(self.master());
                (name, FaultKind::CutLeaderFromMasters, 5_000)
            }
            Kind::CutAgent => {
                let place = self.below(self.world.machines.len());
                (agent_name(place), FaultKind::PartitionBoth, 9_000)
            }
            _ => {
                let name = framework_name(self.below(self.frameworks));
                (name, FaultKind::PartitionBoth, 6_000)
            }
        };
        self.note(kind, &name, "from the masters");
        for place in 0..self.masters() {
            let master = master_name(place);
            if master != name {
                self.cut_both(stage, &name, &master, longest_ms);
            }
        }
    }

    fn delay(&mut self, stage: &Stage<'_>, kind: Kind) {
        let (one, other) = match self.chance.below(3) {
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
        let target = format!("{one}>{other}");
        if kind == Kind::Hold {
            if let Some(link) = self.links.hold(stage, &one, &other) {
                self.note(FaultKind::Delay, &target, "held");
                self.lasting(stage, Broken::Link(link), 20, 2_500);
            }
            return;
        }
        let ms = self.chance.between(5, 200);
        let latency = Duration::from_millis(ms);
        if let Some(link) = self.links.slow(stage, &one, &other, latency) {
            self.note(FaultKind::SlowLink, &target, &format!("{ms} ms"));
            self.lasting(stage, Broken::Link(link), 100, 4_000);
        }
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
            // The agent whose attributes are read stays.
            2 if agent != "agent-1" => Order::MarkGone(agent.clone()),
            _ => {
                self.lasting(stage, Broken::Deactivated(agent.clone()), 200, 4_000);
                Order::Deactivate(agent.clone())
            }
        };
        let kind = match &order {
            Order::Teardown(_) => FaultKind::Teardown,
            _ => FaultKind::MembershipChange,
        };
        self.note(kind, &agent, &format!("{order:?}"));
        self.world.kept().orders.push_back(order);
    }

    fn mend(&mut self, stage: &mut Stage<'_>, broken: Broken) {
        match broken {
            Broken::Down(name) => {
                self.note(FaultKind::Restart, &name, "");
                stage.sim.bounce(name.as_str());
            }
            Broken::Link(link) => self.links.mend(stage, &link),
            Broken::SlowMaster(place) => self.world.stores[place].slow_down(Duration::ZERO),
            Broken::SlowAgent(place) => {
                self.world.machines[place].disk.slow_down(Duration::ZERO);
            }
            Broken::Deactivated(agent) => {
                self.world.kept().orders.push_back(Order::Reactivate(agent));
            }
            Broken::SickDisk(place) => {
                // Repaired, and whoever did it starts the process again.
                self.stop_master(stage, place, FaultKind::Crash);
            }
            Broken::Guest(name) => stage.sim.crash(name),
        }
    }
}
