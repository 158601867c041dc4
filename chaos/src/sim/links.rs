//! Broken and repaired links between hosts, and the times of their repair.

use std::collections::BTreeMap;
use std::time::Duration;

use super::network::CutLinks;
use super::run::{LATENCY, Simulation};

/// A broken link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkFault {
    /// No packets from the first host to the second.
    Cut(String, String),
    /// Packets between the hosts are held and arrive together later, as after a short cut of a real
    /// network.
    Buffered(String, String),
    /// All packets between the hosts are delayed, each by a different time.
    Slow(String, String),
}

impl LinkFault {
    /// Returns the target that a fault names.
    pub(super) fn target(&self) -> String {
        let (Self::Cut(one, other) | Self::Buffered(one, other) | Self::Slow(one, other)) = self;
        format!("{one}>{other}")
    }

    fn affects(&self, one: &str, other: &str) -> bool {
        match self {
            // The two directions of a cut link are two cuts.
            Self::Cut(from, to) => (from.as_str(), to.as_str()) == (one, other),
            Self::Buffered(a, b) | Self::Slow(a, b) => {
                (a.as_str(), b.as_str()) == (one, other) || (b.as_str(), a.as_str()) == (one, other)
            }
        }
    }
}

/// All broken links.
pub(super) struct LinkFaults {
    cuts: CutLinks,
    active: Vec<LinkFault>,
}

impl LinkFaults {
    pub(super) fn new(cuts: CutLinks) -> Self {
        let broken = Vec::new();
        Self {
            cuts,
            active: broken,
        }
    }

    fn is_broken(&self, from: &str, to: &str) -> bool {
        self.active.iter().any(|link| link.affects(from, to))
    }

    /// Cuts a link. Returns `None` if the link is broken already, or leads to its own host.
    pub(super) fn cut(
        &mut self,
        simulation: &Simulation<'_>,
        from: &str,
        to: &str,
    ) -> Option<LinkFault> {
        if from == to || self.is_broken(from, to) {
            return None;
        }
        self.cuts.cut(from, to);
        simulation.sim.partition_oneway(from, to);
        let link = LinkFault::Cut(from.to_owned(), to.to_owned());
        self.active.push(link.clone());
        Some(link)
    }

    /// Holds a link. Returns `None` if the link is broken already.
    pub(super) fn hold(
        &mut self,
        simulation: &Simulation<'_>,
        one: &str,
        other: &str,
    ) -> Option<LinkFault> {
        if self.is_broken(one, other) || self.is_broken(other, one) {
            return None;
        }
        simulation.sim.hold(one, other);
        let link = LinkFault::Buffered(one.to_owned(), other.to_owned());
        self.active.push(link.clone());
        Some(link)
    }

    /// Slows a link. Returns `None` if the link is broken already.
    pub(super) fn slow(
        &mut self,
        simulation: &Simulation<'_>,
        one: &str,
        other: &str,
        latency: Duration,
    ) -> Option<LinkFault> {
        if self.is_broken(one, other) || self.is_broken(other, one) {
            return None;
        }
        simulation
            .sim
            .set_link_max_message_latency(one, other, latency);
        let link = LinkFault::Slow(one.to_owned(), other.to_owned());
        self.active.push(link.clone());
        Some(link)
    }

    pub(super) fn repair(&mut self, simulation: &Simulation<'_>, link: &LinkFault) {
        self.active.retain(|one| one != link);
        match link {
            LinkFault::Cut(from, to) => {
                self.cuts.repair(from, to);
                simulation.sim.repair_oneway(from.as_str(), to.as_str());
            }
            LinkFault::Buffered(one, other) => simulation.sim.release(one.as_str(), other.as_str()),
            LinkFault::Slow(one, other) => {
                let (one, other) = (one.as_str(), other.as_str());
                simulation
                    .sim
                    .set_link_max_message_latency(one, other, LATENCY);
            }
        }
    }
}

/// Items with the times at which they end.
pub(super) struct ExpiryQueue<T> {
    /// The number separates items that end at the same time.
    due: BTreeMap<(Duration, u64), T>,
    next_number: u64,
}

impl<T> ExpiryQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            due: BTreeMap::new(),
            next_number: 0,
        }
    }

    pub(super) fn add(&mut self, until: Duration, what: T) {
        self.next_number += 1;
        self.due.insert((until, self.next_number), what);
    }

    /// Takes an item whose time has come.
    pub(super) fn take(&mut self, now: Duration) -> Option<T> {
        let entry = self.due.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// Takes the item that ends first.
    pub(super) fn take_any(&mut self) -> Option<T> {
        self.due.pop_first().map(|(_, what)| what)
    }

    /// Removes the other items, which then never end.
    pub(super) fn retain(&mut self, keeps: impl Fn(&T) -> bool) {
        self.due.retain(|_, what| keeps(what));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.due.values()
    }
}
