//! The nemesis of the cluster: faults by seed, each with its end.

use std::time::Duration;

use super::administrator::AccessChange;
use super::machine::COPY;
use super::world::{OperatorRequest, World, agent_name, framework_name, master_name};
use crate::faults::choice::{FaultSchedule, WeightedFault};
use crate::history::{Fault, FaultKind};
use crate::rng::Rng;
use crate::sim::links::{ExpiryQueue, LinkFault, LinkFaults};
use crate::sim::run::Simulation;

/// The kinds of faults with their weights.
static KINDS: [WeightedFault<SystemFault>; 31] = [
    (SystemFault::MasterCrash, 6),
    (SystemFault::MasterPowerCut, 6),
    (SystemFault::AllMasters, 1),
    (SystemFault::WipeMaster, 3),
    (SystemFault::RemoveMaster, 3),
    (SystemFault::AddMaster, 3),
    (SystemFault::AgentCrash, 6),
    (SystemFault::HostReboot, 3),
    (SystemFault::FrameworkCrash, 6),
    (SystemFault::SplitMasters, 4),
    (SystemFault::MastersOneWay, 3),
    (SystemFault::MastersGraph, 3),
    (SystemFault::CutLeader, 2),
    (SystemFault::CutAgent, 5),
    (SystemFault::AgentOneWay, 3),
    (SystemFault::CutFramework, 3),
    (SystemFault::Hold, 5),
    (SystemFault::Latency, 4),
    (SystemFault::SlowMasterDisk, 3),
    (SystemFault::SlowAgentDisk, 3),
    (SystemFault::Transfer, 4),
    (SystemFault::ClockJump, 2),
    (SystemFault::Operate, 3),
    (SystemFault::FailingDisk, 2),
    (SystemFault::FailingAgentDisk, 2),
    (SystemFault::FreezeMasters, 1),
    (SystemFault::Stall, 4),
    (SystemFault::Rival, 3),
    (SystemFault::CopyDisk, 3),
    (SystemFault::TakeRight, 9),
    (SystemFault::RenewKey, 6),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SystemFault {
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
    FailingDisk,
    /// The disk of an agent's journal.
    FailingAgentDisk,
    FreezeMasters,
    /// One process is paused for a while, and then continues as if no time had passed.
    Stall,
    /// A second scheduler takes a framework over.
    Rival,
    /// A host starts with an old copy of another one's disk.
    CopyDisk,
    /// A rule denies something for a while, or a token is revoked.
    TakeRight,
    /// A member gets a new key, and its former one is revoked after a while.
    RenewKey,
}

/// A fault in force.
enum SystemActiveFault {
    Down(String),
    Link(LinkFault),
    SlowMaster(usize),
    SlowAgent(usize),
    Deactivated(String),
    Stalled(String),
    FailingDisk(usize),
    FailingAgentDisk(usize),
    /// The host of a rival or of a copy.
    CopiedDisk(&'static str),
    /// The change that gives the right back.
    RightTaken(AccessChange),
    FormerKey(FormerKey),
}

mod access;
mod agents;
mod membership;
mod network;
mod single;

pub(super) use access::FormerKey;
use single::DiskCopy;

pub(super) struct Nemesis {
    world: World,
    frameworks: usize,
    rng: Rng,
    schedule: FaultSchedule<SystemFault>,
    /// The time at which the feature level is to be raised, until that was requested.
    raise_at: Option<Duration>,
    links: LinkFaults,
    active: ExpiryQueue<SystemActiveFault>,
    /// The master that was last observed as leader.
    pub(super) leader: Option<usize>,
    /// A copy of an agent's disk, to be used by another host once it is out of date.
    copy: Option<DiskCopy>,
    /// The time until which the removed master continues to run.
    stop_removed_at: Option<Duration>,
}

impl Nemesis {
    pub(super) fn new(world: World, frameworks: usize) -> Self {
        Self {
            rng: Rng::new(world.seed).fork(1),
            links: LinkFaults::new(world.cuts.clone()),
            raise_at: world.raise_at,
            world,
            frameworks,
            schedule: FaultSchedule::new(&KINDS, Duration::from_secs(3), (30, 1_000)),
            active: ExpiryQueue::new(),
            leader: None,
            copy: None,
            stop_removed_at: None,
        }
    }

    /// Performs the actions that are due.
    pub(super) fn act(&mut self, simulation: &mut Simulation<'_>) {
        let now = simulation.now();
        while let Some(broken) = self.active.take(now) {
            self.end_fault(simulation, broken);
        }
        self.world.forget_wiped();
        if self.raise_at.is_some_and(|at| at <= now) {
            self.raise_at = None;
            self.world
                .state()
                .requests
                .push_back(OperatorRequest::RaiseLevel);
        }
        if let Some(fault) = self.schedule.due(now, &mut self.rng) {
            self.inject(simulation, fault);
        }
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self, simulation: &mut Simulation<'_>) {
        while let Some(broken) = self.active.take_any() {
            self.end_fault(simulation, broken);
        }
        self.world.state().copy = None;
        self.note(FaultKind::Heal, "*", "");
    }

    fn note(&self, kind: FaultKind, target: &str, detail: &str) {
        self.world
            .notes
            .fault(Fault::new(kind, target).with(detail));
    }

    fn lasting(
        &mut self,
        simulation: &Simulation<'_>,
        broken: SystemActiveFault,
        from_ms: u64,
        to_ms: u64,
    ) {
        let until = simulation.now() + Duration::from_millis(self.rng.between(from_ms, to_ms));
        self.active.add(until, broken);
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    /// Returns a random master, more often the leader.
    fn master(&mut self) -> usize {
        let members = self.members();
        let any = members[self.below(members.len())];
        match self.leader {
            Some(leader) if self.rng.percent(50) && members.contains(&leader) => leader,
            Some(_) | None => any,
        }
    }

    fn is_down(&self, name: &str) -> bool {
        let down = |broken: &SystemActiveFault| match broken {
            SystemActiveFault::Down(one) => one == name,
            SystemActiveFault::CopiedDisk(one) => *one == name,
            _ => false,
        };
        self.active.iter().any(down)
    }

    fn inject(&mut self, simulation: &mut Simulation<'_>, kind: SystemFault) {
        match kind {
            SystemFault::MasterCrash => {
                let place = self.master();
                self.stop_master(simulation, place, FaultKind::Crash);
            }
            SystemFault::MasterPowerCut => {
                let place = self.master();
                self.stop_master(simulation, place, FaultKind::PowerCut);
            }
            SystemFault::AllMasters => {
                for place in self.members() {
                    self.stop_master(simulation, place, FaultKind::PowerCut);
                }
            }
            SystemFault::WipeMaster => self.wipe(simulation),
            SystemFault::RemoveMaster => self.remove_master(),
            SystemFault::AddMaster => self.add_master(simulation),
            SystemFault::AgentCrash | SystemFault::HostReboot => {
                let place = self.below(self.world.machines.len());
                self.stop_agent(simulation, place, kind);
            }
            SystemFault::FrameworkCrash => self.stop_framework(simulation),
            SystemFault::SplitMasters => self.split(simulation),
            SystemFault::MastersOneWay => self.cut_masters_one_way(simulation),
            SystemFault::AgentOneWay => self.cut_one_way(simulation),
            SystemFault::MastersGraph => self.graph(simulation),
            SystemFault::CutLeader | SystemFault::CutAgent | SystemFault::CutFramework => {
                self.isolate(simulation, kind)
            }
            SystemFault::Hold | SystemFault::Latency => self.delay(simulation, kind),
            SystemFault::SlowMasterDisk | SystemFault::SlowAgentDisk => self.slow(simulation, kind),
            SystemFault::Transfer => self.transfer(),
            SystemFault::ClockJump => {
                let host = match self.rng.percent(50) {
                    true => master_name(self.master()),
                    false => agent_name(self.below(self.world.machines.len())),
                };
                let by_ms = self.rng.between(0, 20_000_000) as i64 - 10_000_000;
                self.note(FaultKind::ClockJump, &host, &format!("{by_ms} ms"));
                self.world.clocks.jump(&host, by_ms);
            }
            SystemFault::Operate => self.operate(simulation),
            SystemFault::FailingDisk => self.fail_master_disk(simulation),
            SystemFault::FailingAgentDisk => self.fail_agent_disk(simulation),
            SystemFault::FreezeMasters => {
                let gap = Duration::from_millis(self.rng.between(1_100, 9_000));
                self.freeze(gap);
            }
            SystemFault::Stall => self.stall(simulation),
            SystemFault::Rival => self.rival(simulation),
            SystemFault::CopyDisk => self.copy_disk(),
            SystemFault::TakeRight => self.take_right(simulation),
            SystemFault::RenewKey => self.renew_key(simulation),
        }
    }

    fn down(&mut self, simulation: &mut Simulation<'_>, name: &str, longest_ms: u64) {
        simulation.crash(name);
        self.lasting(
            simulation,
            SystemActiveFault::Down(name.to_owned()),
            1,
            longest_ms,
        );
    }

    fn stop_master(&mut self, simulation: &mut Simulation<'_>, place: usize, kind: FaultKind) {
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
        self.down(simulation, &name, 3_000);
        store.cut_power(kept);
    }

    fn stop_agent(&mut self, simulation: &mut Simulation<'_>, place: usize, kind: SystemFault) {
        let name = agent_name(place);
        if self.is_down(&name) {
            return;
        }
        let machine = self.world.machines[place].clone();
        let now_ms = simulation.now().as_millis() as u64;
        if kind == SystemFault::HostReboot {
            let unsynced = machine.disk.unsynced_bytes();
            let kept = self.below(unsynced + 1);
            machine.note_alive();
            let target = self.agent_target(place);
            let message = format!("{name}: {kept} of {unsynced} bytes kept");
            self.note(FaultKind::HostReboot, &target, &message);
            self.down(simulation, &name, 6_000);
            machine.reboot(now_ms, kept);
        } else {
            machine.advance(now_ms);
            machine.note_alive();
            self.note(FaultKind::Crash, &name, "");
            self.down(simulation, &name, 6_000);
            machine.agent_crashed();
        }
    }

    fn stop_framework(&mut self, simulation: &mut Simulation<'_>) {
        // The crasher more often than the others.
        let place = match self.rng.percent(60) && self.frameworks > 2 {
            true => 2,
            false => self.below(self.frameworks),
        };
        let name = framework_name(place);
        if self.is_down(&name) {
            return;
        }
        self.note(FaultKind::FrameworkCrash, &name, "");
        self.down(simulation, &name, 5_000);
    }

    fn slow(&mut self, simulation: &Simulation<'_>, kind: SystemFault) {
        let ms = self.rng.between(2, 400);
        let delay = Duration::from_millis(ms);
        if kind == SystemFault::SlowMasterDisk {
            let place = self.master();
            self.note(
                FaultKind::SlowDisk,
                &master_name(place),
                &format!("{ms} ms"),
            );
            self.world.stores[place].slow_down(delay);
            self.lasting(simulation, SystemActiveFault::SlowMaster(place), 100, 4_000);
        } else {
            let place = self.below(self.world.machines.len());
            self.note(FaultKind::SlowDisk, &agent_name(place), &format!("{ms} ms"));
            self.world.machines[place].disk.slow_down(delay);
            self.lasting(simulation, SystemActiveFault::SlowAgent(place), 100, 4_000);
        }
    }

    fn operate(&mut self, simulation: &Simulation<'_>) {
        let agent = format!(
            "agent-{}",
            self.rng.between(1, self.world.machines.len() as u64)
        );
        let order = match self.rng.below(10) {
            0..=1 => {
                let place = self.below(self.frameworks);
                let mut state = self.world.state();
                let stored = state.frameworks.entry(place).or_default();
                match stored.framework.clone() {
                    Some(framework) => OperatorRequest::Teardown(framework),
                    None => return,
                }
            }
            // The agent with the registers stays. A copy of an agent that is gone would register as
            // a new agent, and lose the tasks of that one when it ends.
            2 if agent != "agent-1" && !self.is_down(COPY) => {
                self.copy.take_if(|copied| copied.is_of(&agent));
                OperatorRequest::MarkGone(agent.clone())
            }
            _ => {
                // Sometimes longer than an offer may be in flight.
                self.lasting(
                    simulation,
                    SystemActiveFault::Deactivated(agent.clone()),
                    200,
                    7_000,
                );
                OperatorRequest::Deactivate(agent.clone())
            }
        };
        let (kind, target) = match &order {
            OperatorRequest::Teardown(framework) => (FaultKind::Teardown, framework),
            _ => (FaultKind::MembershipChange, &agent),
        };
        self.note(kind, target, &format!("{order:?}"));
        self.world.state().requests.push_back(order);
    }

    fn end_fault(&mut self, simulation: &mut Simulation<'_>, broken: SystemActiveFault) {
        match broken {
            SystemActiveFault::Down(name) if self.is_out(&name) => {}
            SystemActiveFault::Down(name) => {
                self.note(FaultKind::Restart, &name, "");
                simulation.restart_host(&name);
            }
            SystemActiveFault::Link(link) => {
                self.note(FaultKind::Heal, &link.target(), "");
                self.links.repair(simulation, &link);
            }
            SystemActiveFault::SlowMaster(place) => {
                self.note(FaultKind::Heal, &master_name(place), "");
                self.world.stores[place].slow_down(Duration::ZERO);
            }
            SystemActiveFault::SlowAgent(place) => {
                self.note(FaultKind::Heal, &agent_name(place), "");
                self.world.machines[place].disk.slow_down(Duration::ZERO);
            }
            SystemActiveFault::Deactivated(agent) => {
                self.world
                    .state()
                    .requests
                    .push_back(OperatorRequest::Reactivate(agent));
            }
            SystemActiveFault::Stalled(name) => {
                self.note(FaultKind::Resume, &name, "");
                simulation.processes.resume(&name, simulation.now());
            }
            SystemActiveFault::FailingDisk(place) => {
                // The disk is repaired, and the process is started again.
                self.stop_master(simulation, place, FaultKind::Crash);
            }
            SystemActiveFault::FailingAgentDisk(place) => self.repair_agent(simulation, place),
            SystemActiveFault::CopiedDisk(name) => simulation.crash(name),
            SystemActiveFault::RightTaken(given) => {
                self.world.state().access.requests.push_back(given);
            }
            SystemActiveFault::FormerKey(former) => self.revoke(&former),
        }
    }
}
