//! The nemesis of the group: faults by seed, each with its end.

use std::time::Duration;

use super::{Group, Order, lock, name};
use crate::history::{Fault, FaultKind};
use crate::rng::Chance;
use crate::sim::links::{Link, Links, Timetable};
use crate::sim::run::Stage;

/// The kinds of faults with their weights.
const KINDS: [(Kind, u64); 11] = [
    (Kind::Crash, 5),
    (Kind::PowerCut, 5),
    (Kind::CutAllPower, 1),
    (Kind::CutVoters, 3),
    (Kind::Split, 3),
    (Kind::OneWay, 3),
    (Kind::Graph, 3),
    (Kind::Hold, 3),
    (Kind::Latency, 3),
    (Kind::SlowDisk, 3),
    (Kind::Transfer, 4),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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
enum Broken {
    Down(usize),
    Link(Link),
    Slow(usize),
}

pub(super) struct Nemesis {
    group: Group,
    chance: Chance,
    next: Duration,
    links: Links,
    broken: Timetable<Broken>,
    /// The terms when the wait for votes began, and how many nodes are still to lose power.
    ambush: Option<(Vec<u64>, u64)>,
}

impl Nemesis {
    pub(super) fn new(group: Group, chance: Chance) -> Self {
        Self {
            links: Links::new(group.cuts.clone()),
            group,
            chance: chance.fork(1),
            next: Duration::from_secs(2),
            broken: Timetable::new(),
            ambush: None,
        }
    }

    /// Performs the actions that are due.
    pub(super) fn act(&mut self, stage: &mut Stage<'_>) {
        let now = stage.now();
        while let Some(broken) = self.broken.take(now) {
            self.mend(stage, broken);
        }
        self.spring(stage);
        if now >= self.next {
            self.next = now + Duration::from_millis(self.chance.between(50, 1_500));
            let kind = self.chance.weighted(&KINDS, |(_, weight)| *weight);
            self.strike(stage, kind.expect("some weights are positive").0);
        }
    }

    fn terms(&self) -> Vec<u64> {
        lock(&self.group.nodes)
            .iter()
            .map(|seen| seen.term)
            .collect()
    }

    /// Waits for the next votes, and causes an election.
    fn lie_in_wait(&mut self, stage: &mut Stage<'_>, victim: usize) {
        let voters = self.chance.between(1, self.group.len() as u64);
        self.ambush = Some((self.terms(), voters));
        match self.chance.percent(50) {
            true => self.take_down(stage, victim, FaultKind::Crash),
            false => self.strike(stage, Kind::Transfer),
        }
    }

    fn spring(&mut self, stage: &mut Stage<'_>) {
        let Some((before, mut voters)) = self.ambush.take() else {
            return;
        };
        let terms = self.terms();
        let newer = (0..terms.len()).filter(|place| terms[*place] > before[*place]);
        for place in newer.collect::<Vec<_>>() {
            if voters > 0 && !self.is_down(place) {
                voters -= 1;
                self.take_down(stage, place, FaultKind::PowerCut);
            }
        }
        self.ambush = (voters > 0).then_some((terms, voters));
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self, stage: &mut Stage<'_>) {
        self.ambush = None;
        while let Some(broken) = self.broken.take_any() {
            self.mend(stage, broken);
        }
        self.note(FaultKind::Heal, "*".to_owned(), "");
    }

    fn note(&self, kind: FaultKind, target: String, detail: &str) {
        self.group
            .notes
            .fault(Fault::new(kind, target).with(detail));
    }

    fn lasting(&mut self, stage: &Stage<'_>, broken: Broken, from_ms: u64, to_ms: u64) {
        let until = stage.now() + Duration::from_millis(self.chance.between(from_ms, to_ms));
        self.broken.add(until, broken);
    }

    /// Returns a random node, more often the leader.
    fn victim(&mut self) -> usize {
        let leader = lock(&self.group.nodes)
            .iter()
            .position(|seen| seen.is_leader);
        let any = self.chance.below(self.group.len() as u64) as usize;
        match leader {
            Some(leader) if self.chance.percent(40) => leader,
            Some(_) | None => any,
        }
    }

    fn is_down(&self, place: usize) -> bool {
        let down = |broken: &Broken| matches!(broken, Broken::Down(one) if *one == place);
        self.broken.iter().any(down)
    }

    fn strike(&mut self, stage: &mut Stage<'_>, kind: Kind) {
        let victim = self.victim();
        match kind {
            Kind::Crash => self.take_down(stage, victim, FaultKind::Crash),
            Kind::PowerCut => self.take_down(stage, victim, FaultKind::PowerCut),
            Kind::CutAllPower => {
                for place in 0..self.group.len() {
                    self.take_down(stage, place, FaultKind::PowerCut);
                }
            }
            Kind::CutVoters => self.lie_in_wait(stage, victim),
            Kind::Split => self.split(stage, victim),
            Kind::OneWay => {
                let other = self.other(victim);
                self.note(
                    FaultKind::PartitionOneWay,
                    format!("{}>{}", name(victim), name(other)),
                    "",
                );
                self.cut(stage, victim, other, 3_000);
            }
            Kind::Graph => {
                self.note(FaultKind::PartitionPartial, "*".to_owned(), "");
                for one in 0..self.group.len() {
                    for other in 0..one {
                        if self.chance.percent(40) {
                            self.cut(stage, one, other, 3_000);
                            self.cut(stage, other, one, 3_000);
                        }
                    }
                }
            }
            Kind::Hold => {
                let other = self.other(victim);
                self.hold(stage, victim, other);
            }
            Kind::Latency => {
                let other = self.other(victim);
                self.delay(stage, victim, other);
            }
            Kind::SlowDisk => {
                let ms = self.chance.between(2, 400);
                self.note(FaultKind::SlowDisk, name(victim), &format!("{ms} ms"));
                self.group.stores[victim].slow_down(Duration::from_millis(ms));
                self.lasting(stage, Broken::Slow(victim), 100, 4_000);
            }
            Kind::Transfer => {
                self.note(FaultKind::LeaderTransfer, name(victim), "");
                self.group
                    .seen(victim, |seen| seen.orders.push_back(Order::Transfer));
            }
        }
    }

    fn other(&mut self, than: usize) -> usize {
        let step = self.chance.between(1, self.group.len() as u64 - 1) as usize;
        (than + step) % self.group.len()
    }

    fn take_down(&mut self, stage: &mut Stage<'_>, place: usize, kind: FaultKind) {
        if self.is_down(place) {
            return;
        }
        let store = &self.group.stores[place];
        let unsynced = store.unsynced();
        let kept = match kind {
            FaultKind::PowerCut => self.chance.below(unsynced as u64 + 1) as usize,
            // The operating system still has the written data.
            _ => unsynced,
        };
        self.note(kind, name(place), &format!("{kept} of {unsynced} kept"));
        stage.sim.crash(name(place));
        store.cut_power(kept);
        self.group.seen(place, |seen| seen.is_leader = false);
        self.lasting(stage, Broken::Down(place), 1, 3_000);
    }

    fn split(&mut self, stage: &mut Stage<'_>, victim: usize) {
        let count = self.group.len();
        let mut inside = vec![false; count];
        inside[victim] = true;
        for inside in &mut inside {
            *inside |= self.chance.percent(30);
        }
        let names = (0..count).filter(|place| inside[*place]).map(name);
        let names = names.collect::<Vec<_>>().join(",");
        self.note(FaultKind::PartitionBoth, names, "");
        for one in 0..count {
            for other in 0..count {
                if inside[one] && !inside[other] {
                    self.cut(stage, one, other, 5_000);
                    self.cut(stage, other, one, 5_000);
                }
            }
        }
    }

    fn cut(&mut self, stage: &mut Stage<'_>, from: usize, to: usize, longest_ms: u64) {
        if let Some(link) = self.links.cut(stage, &name(from), &name(to)) {
            self.lasting(stage, Broken::Link(link), 20, longest_ms);
        }
    }

    fn hold(&mut self, stage: &mut Stage<'_>, one: usize, other: usize) {
        let target = format!("{}>{}", name(one), name(other));
        if let Some(link) = self.links.hold(stage, &name(one), &name(other)) {
            self.note(FaultKind::Delay, target, "held");
            self.lasting(stage, Broken::Link(link), 20, 2_000);
        }
    }

    fn delay(&mut self, stage: &mut Stage<'_>, one: usize, other: usize) {
        let ms = self.chance.between(5, 200);
        let (one, other) = (name(one), name(other));
        let latency = Duration::from_millis(ms);
        if let Some(link) = self.links.slow(stage, &one, &other, latency) {
            self.note(
                FaultKind::SlowLink,
                format!("{one}>{other}"),
                &format!("{ms} ms"),
            );
            self.lasting(stage, Broken::Link(link), 100, 4_000);
        }
    }

    fn mend(&mut self, stage: &mut Stage<'_>, broken: Broken) {
        match broken {
            Broken::Down(place) => {
                self.note(FaultKind::Restart, name(place), "");
                stage.sim.bounce(name(place));
            }
            Broken::Link(link) => self.links.mend(stage, &link),
            Broken::Slow(place) => self.group.stores[place].slow_down(Duration::ZERO),
        }
    }
}
