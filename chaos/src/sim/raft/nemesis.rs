//! The nemesis of the group: faults by seed, each with its end.

use std::time::Duration;

use super::{NodeRequest, RaftGroup, lock, name};
use crate::faults::choice::{FaultSchedule, WeightedFault};
use crate::history::{Fault, FaultKind};
use crate::rng::Rng;
use crate::sim::links::{ExpiryQueue, LinkFault, LinkFaults};
use crate::sim::run::Simulation;

/// The kinds of faults with their weights.
static KINDS: [WeightedFault<RaftFault>; 11] = [
    (RaftFault::Crash, 5),
    (RaftFault::PowerCut, 5),
    (RaftFault::CutAllPower, 1),
    (RaftFault::CutVoters, 3),
    (RaftFault::Split, 3),
    (RaftFault::OneWay, 3),
    (RaftFault::Graph, 3),
    (RaftFault::Hold, 3),
    (RaftFault::Latency, 3),
    (RaftFault::SlowDisk, 3),
    (RaftFault::Transfer, 4),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RaftFault {
    Crash,
    PowerCut,
    CutAllPower,
    /// The next nodes that report a newer term lose power immediately, together with unsynced data.
    CutVoters,
    Split,
    OneWay,
    Graph,
    Hold,
    Latency,
    SlowDisk,
    Transfer,
}

/// A fault in force, with the way to end it.
enum RaftActiveFault {
    Down(usize),
    Link(LinkFault),
    Slow(usize),
}

pub(super) struct Nemesis {
    group: RaftGroup,
    rng: Rng,
    schedule: FaultSchedule<RaftFault>,
    links: LinkFaults,
    active: ExpiryQueue<RaftActiveFault>,
    /// The terms when the wait for votes began, and how many nodes are still to lose power.
    vote_watch: Option<(Vec<u64>, u64)>,
}

impl Nemesis {
    pub(super) fn new(group: RaftGroup, rng: Rng) -> Self {
        Self {
            links: LinkFaults::new(group.cuts.clone()),
            group,
            rng: rng.fork(1),
            schedule: FaultSchedule::new(&KINDS, Duration::from_secs(2), (50, 1_500)),
            active: ExpiryQueue::new(),
            vote_watch: None,
        }
    }

    /// Performs the actions that are due.
    pub(super) fn act(&mut self, simulation: &mut Simulation<'_>) {
        let now = simulation.now();
        while let Some(broken) = self.active.take(now) {
            self.end_fault(simulation, broken);
        }
        self.cut_new_voters(simulation);
        if let Some(fault) = self.schedule.due(now, &mut self.rng) {
            self.inject(simulation, fault);
        }
    }

    fn terms(&self) -> Vec<u64> {
        lock(&self.group.nodes)
            .iter()
            .map(|seen| seen.term)
            .collect()
    }

    /// Waits for the next votes, and causes an election.
    fn arm_vote_watch(&mut self, simulation: &mut Simulation<'_>, victim: usize) {
        let voters = self.rng.between(1, self.group.len() as u64);
        self.vote_watch = Some((self.terms(), voters));
        match self.rng.percent(50) {
            true => self.take_down(simulation, victim, FaultKind::Crash),
            false => self.inject(simulation, RaftFault::Transfer),
        }
    }

    fn cut_new_voters(&mut self, simulation: &mut Simulation<'_>) {
        let Some((before, mut voters)) = self.vote_watch.take() else {
            return;
        };
        let terms = self.terms();
        let newer = (0..terms.len()).filter(|place| terms[*place] > before[*place]);
        for place in newer.collect::<Vec<_>>() {
            if voters > 0 && !self.is_down(place) {
                voters -= 1;
                self.take_down(simulation, place, FaultKind::PowerCut);
            }
        }
        self.vote_watch = (voters > 0).then_some((terms, voters));
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self, simulation: &mut Simulation<'_>) {
        self.vote_watch = None;
        while let Some(broken) = self.active.take_any() {
            self.end_fault(simulation, broken);
        }
        self.note(FaultKind::Heal, "*".to_owned(), "");
    }

    fn note(&self, kind: FaultKind, target: String, detail: &str) {
        self.group
            .notes
            .fault(Fault::new(kind, target).with(detail));
    }

    fn lasting(
        &mut self,
        simulation: &Simulation<'_>,
        broken: RaftActiveFault,
        from_ms: u64,
        to_ms: u64,
    ) {
        let until = simulation.now() + Duration::from_millis(self.rng.between(from_ms, to_ms));
        self.active.add(until, broken);
    }

    /// Returns a random node, more often the leader.
    fn victim(&mut self) -> usize {
        let leader = lock(&self.group.nodes)
            .iter()
            .position(|seen| seen.is_leader);
        let any = self.rng.below(self.group.len() as u64) as usize;
        match leader {
            Some(leader) if self.rng.percent(40) => leader,
            Some(_) | None => any,
        }
    }

    fn is_down(&self, place: usize) -> bool {
        let down = |broken: &RaftActiveFault| matches!(broken, RaftActiveFault::Down(one) if *one == place);
        self.active.iter().any(down)
    }

    fn inject(&mut self, simulation: &mut Simulation<'_>, kind: RaftFault) {
        let victim = self.victim();
        match kind {
            RaftFault::Crash => self.take_down(simulation, victim, FaultKind::Crash),
            RaftFault::PowerCut => self.take_down(simulation, victim, FaultKind::PowerCut),
            RaftFault::CutAllPower => {
                for place in 0..self.group.len() {
                    self.take_down(simulation, place, FaultKind::PowerCut);
                }
            }
            RaftFault::CutVoters => self.arm_vote_watch(simulation, victim),
            RaftFault::Split => self.split(simulation, victim),
            RaftFault::OneWay => {
                let other = self.other(victim);
                let target = format!("{}>{}", name(victim), name(other));
                let kind = FaultKind::PartitionOneWay;
                self.partition(simulation, kind, target, &[(victim, other)], 3_000);
            }
            RaftFault::Graph => {
                let mut links = Vec::new();
                for one in 0..self.group.len() {
                    for other in 0..one {
                        if self.rng.percent(40) {
                            links.extend([(one, other), (other, one)]);
                        }
                    }
                }
                let kind = FaultKind::PartitionPartial;
                self.partition(simulation, kind, "*".to_owned(), &links, 3_000);
            }
            RaftFault::Hold => {
                let other = self.other(victim);
                self.hold(simulation, victim, other);
            }
            RaftFault::Latency => {
                let other = self.other(victim);
                self.delay(simulation, victim, other);
            }
            RaftFault::SlowDisk => {
                let ms = self.rng.between(2, 400);
                self.note(FaultKind::SlowDisk, name(victim), &format!("{ms} ms"));
                self.group.stores[victim].slow_down(Duration::from_millis(ms));
                self.lasting(simulation, RaftActiveFault::Slow(victim), 100, 4_000);
            }
            RaftFault::Transfer => {
                self.note(FaultKind::LeaderTransfer, name(victim), "");
                self.group.with_status(victim, |seen| {
                    seen.requests.push_back(NodeRequest::Transfer)
                });
            }
        }
    }

    fn other(&mut self, than: usize) -> usize {
        let step = self.rng.between(1, self.group.len() as u64 - 1) as usize;
        (than + step) % self.group.len()
    }

    fn take_down(&mut self, simulation: &mut Simulation<'_>, place: usize, kind: FaultKind) {
        if self.is_down(place) {
            return;
        }
        let store = &self.group.stores[place];
        let unsynced = store.unsynced();
        let kept = match kind {
            FaultKind::PowerCut => self.rng.below(unsynced as u64 + 1) as usize,
            // The operating system still has the written data.
            _ => unsynced,
        };
        self.note(kind, name(place), &format!("{kept} of {unsynced} kept"));
        simulation.sim.crash(name(place));
        store.cut_power(kept);
        self.group.with_status(place, |seen| seen.is_leader = false);
        self.lasting(simulation, RaftActiveFault::Down(place), 1, 3_000);
    }

    fn split(&mut self, simulation: &mut Simulation<'_>, victim: usize) {
        let count = self.group.len();
        let mut inside = vec![false; count];
        inside[victim] = true;
        for inside in &mut inside {
            *inside |= self.rng.percent(30);
        }
        let names = (0..count).filter(|place| inside[*place]).map(name);
        let names = names.collect::<Vec<_>>().join(",");
        let mut links = Vec::new();
        for one in 0..count {
            for other in 0..count {
                if inside[one] && !inside[other] {
                    links.extend([(one, other), (other, one)]);
                }
            }
        }
        self.partition(simulation, FaultKind::PartitionBoth, names, &links, 5_000);
    }

    /// Cuts links, and records that as one fault. If all of them are broken already, nothing is
    /// recorded.
    fn partition(
        &mut self,
        simulation: &mut Simulation<'_>,
        kind: FaultKind,
        target: String,
        links: &[(usize, usize)],
        longest_ms: u64,
    ) {
        let cuts = links.iter();
        let cuts: Vec<_> = cuts
            .filter_map(|(from, to)| self.links.cut(simulation, &name(*from), &name(*to)))
            .collect();
        if !cuts.is_empty() {
            self.note(kind, target, "");
        }
        for link in cuts {
            self.lasting(simulation, RaftActiveFault::Link(link), 20, longest_ms);
        }
    }

    fn hold(&mut self, simulation: &mut Simulation<'_>, one: usize, other: usize) {
        let target = format!("{}>{}", name(one), name(other));
        if let Some(link) = self.links.hold(simulation, &name(one), &name(other)) {
            self.note(FaultKind::Delay, target, "held");
            self.lasting(simulation, RaftActiveFault::Link(link), 20, 2_000);
        }
    }

    fn delay(&mut self, simulation: &mut Simulation<'_>, one: usize, other: usize) {
        let ms = self.rng.between(5, 200);
        let (one, other) = (name(one), name(other));
        let latency = Duration::from_millis(ms);
        if let Some(link) = self.links.slow(simulation, &one, &other, latency) {
            self.note(
                FaultKind::SlowLink,
                format!("{one}>{other}"),
                &format!("{ms} ms"),
            );
            self.lasting(simulation, RaftActiveFault::Link(link), 100, 4_000);
        }
    }

    fn end_fault(&mut self, simulation: &mut Simulation<'_>, broken: RaftActiveFault) {
        match broken {
            RaftActiveFault::Down(place) => {
                self.note(FaultKind::Restart, name(place), "");
                simulation.sim.bounce(name(place));
            }
            RaftActiveFault::Link(link) => self.links.repair(simulation, &link),
            RaftActiveFault::Slow(place) => self.group.stores[place].slow_down(Duration::ZERO),
        }
    }
}
