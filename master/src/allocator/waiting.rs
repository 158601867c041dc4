//! Demands: clients that take offers, since when each of them waits, and for which reason.
//!
//! A wait begins when the client begins to take offers, and again with each task that its framework
//! launches in the role. An offer does not end it: a framework may be offered too little again and
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use argosy_state::ids::Timestamp;

use super::skip_reason::{DemandExplanation, SkipReason};

/// The code of a decline by which a framework states that it needs more than the offer has.
const TOO_SMALL: &str = "too-small";

/// The reason for which a demand waits. Its framework has not stated how much it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitReason {
    /// The reason is not determined yet.
    Unknown,
    /// There are no agents.
    NoAgents,
    /// The framework was offered remainders of agents and did not use them; tasks, or offers to
    /// others, hold the rest.
    TooLittle,
    /// The reason for which agents are not used.
    Agents(SkipReason),
}

impl WaitReason {
    /// Returns the stable machine-readable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NoAgents => "no-agents",
            Self::TooLittle => "too-little",
            Self::Agents(reason) => reason.code(),
        }
    }

    /// Returns the reason of a demand of which all agents were evaluated.
    ///
    /// An agent that the framework could have used decides, however many others are busy. Agents
    /// that are gone do not count: they cannot return.
    pub(super) fn of(found: &DemandExplanation) -> Self {
        if found.count(SkipReason::Ready) > 0 {
            return Self::Agents(SkipReason::Ready);
        }
        let unused = UnusedAgents::of(found);
        let chosen = [
            (SkipReason::Filtered, unused.filtered),
            (SkipReason::Offered, unused.offered),
        ];
        if let Some(reason) = most_frequent(chosen) {
            return Self::Agents(reason);
        }
        let too_small = found.count(SkipReason::TooSmall) + unused.too_small;
        let apart = [
            SkipReason::Gone,
            SkipReason::Filtered,
            SkipReason::Offered,
            SkipReason::TooSmall,
        ];
        let others = found.counts.iter();
        let others = others.filter(|(reason, _)| !apart.contains(reason));
        let others = others.map(|(reason, agents)| (Self::Agents(*reason), *agents));
        let all = others.chain([
            (Self::Agents(SkipReason::TooSmall), too_small),
            (Self::TooLittle, unused.too_little),
        ]);
        most_frequent(all).unwrap_or(Self::NoAgents)
    }
}

/// Agents that the framework was offered and did not use.
struct UnusedAgents {
    /// Its own choice: it has not answered yet.
    offered: u32,
    /// Its own choice: it declined more than a remainder, or for a reason of its own.
    filtered: u32,
    /// Whole agents that it declined as too small.
    too_small: u32,
    /// Remainders of agents.
    too_little: u32,
}

impl UnusedAgents {
    fn of(found: &DemandExplanation) -> Self {
        let all = |reason| found.count(reason);
        let remainders = |reason| found.remainders.get(&reason).copied().unwrap_or(0);
        let whole = |reason| all(reason).saturating_sub(remainders(reason));
        let too_little = remainders(SkipReason::Filtered) + remainders(SkipReason::Offered);
        let (offered, filtered) = (whole(SkipReason::Offered), whole(SkipReason::Filtered));
        let last = found.last_decline.as_ref();
        match last.map_or("", |last| last.code.as_str()) {
            "" => Self {
                offered,
                filtered,
                too_small: 0,
                too_little,
            },
            TOO_SMALL => Self {
                offered,
                filtered: 0,
                too_small: filtered,
                too_little,
            },
            // The framework states another reason than the size of its offers.
            _ => Self {
                offered: all(SkipReason::Offered),
                filtered: all(SkipReason::Filtered),
                too_small: 0,
                too_little: 0,
            },
        }
    }
}

/// Returns the last of the most frequent ones.
fn most_frequent<T>(counts: impl IntoIterator<Item = (T, u32)>) -> Option<T> {
    let counts = counts.into_iter().filter(|(_, agents)| *agents > 0);
    counts
        .max_by_key(|(_, agents)| *agents)
        .map(|(what, _)| what)
}

/// The demands that wait for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonWaits {
    /// The reason.
    pub reason: WaitReason,
    /// The number of demands.
    pub demands: usize,
    /// The time since which the first of them waits.
    pub since: Timestamp,
}

/// All demands. Every change costs O(log n), and no query depends on their number.
#[derive(Debug, Default)]
pub(super) struct WaitingClients {
    waits: BTreeMap<u32, (Timestamp, WaitReason)>,
    by_reason: BTreeMap<WaitReason, BTreeSet<(Timestamp, u32)>>,
    /// Those for which a pass over all agents has found nothing since their last offer.
    unmet: BTreeSet<u32>,
}

impl WaitingClients {
    /// Returns the number of demands.
    pub(super) fn len(&self) -> usize {
        self.waits.len()
    }

    /// Returns the demand after this one. The first follows the last.
    pub(super) fn next_after(&self, client: u32) -> Option<u32> {
        let later = (Bound::Excluded(client), Bound::Unbounded);
        let next = self.waits.range(later).next();
        let next = next.or_else(|| self.waits.first_key_value());
        next.map(|(client, _)| *client)
    }

    /// Adds a demand. One that waits already continues to wait.
    pub(super) fn begin(&mut self, client: u32, now: Timestamp) {
        if !self.waits.contains_key(&client) {
            self.insert(client, now, WaitReason::Unknown);
        }
    }

    /// Counts the wait of a demand from now on.
    pub(super) fn restart(&mut self, client: u32, now: Timestamp) {
        if let Some((_, reason)) = self.remove(client) {
            self.insert(client, now, reason);
        }
    }

    /// Removes a demand, if there is one.
    pub(super) fn end(&mut self, client: u32) {
        self.remove(client);
        self.unmet.remove(&client);
    }

    /// Records the reason for which a demand waits.
    pub(super) fn set_reason(&mut self, client: u32, reason: WaitReason) {
        if let Some((since, _)) = self.remove(client) {
            self.insert(client, since, reason);
        }
    }

    /// Returns the demands of each reason that has any.
    pub(super) fn by_reason(&self) -> impl Iterator<Item = ReasonWaits> {
        self.by_reason.iter().filter_map(|(reason, clients)| {
            let (since, _) = clients.first()?;
            Some(ReasonWaits {
                reason: *reason,
                demands: clients.len(),
                since: *since,
            })
        })
    }

    /// Records that nothing was found for a client. Returns whether that is new since its last
    /// offer.
    pub(super) fn record_unmet(&mut self, client: u32) -> bool {
        self.unmet.insert(client)
    }

    /// Returns whether nothing was found for a client since its last offer.
    pub(super) fn is_unmet(&self, client: u32) -> bool {
        self.unmet.contains(&client)
    }

    /// Records that a client was offered something. Its wait continues.
    pub(super) fn record_offer(&mut self, client: u32) {
        self.unmet.remove(&client);
    }

    fn insert(&mut self, client: u32, since: Timestamp, reason: WaitReason) {
        self.waits.insert(client, (since, reason));
        let waits = self.by_reason.entry(reason).or_default();
        waits.insert((since, client));
    }

    fn remove(&mut self, client: u32) -> Option<(Timestamp, WaitReason)> {
        let (since, reason) = self.waits.remove(&client)?;
        if let Some(waits) = self.by_reason.get_mut(&reason) {
            waits.remove(&(since, client));
            if waits.is_empty() {
                self.by_reason.remove(&reason);
            }
        }
        Some((since, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(waiting: &WaitingClients) -> Vec<(&'static str, usize, u64)> {
        let all = waiting.by_reason();
        all.map(|waits| (waits.reason.code(), waits.demands, waits.since.0))
            .collect()
    }

    #[test]
    fn each_reason_has_its_demands_and_the_begin_of_their_longest_wait() {
        let mut waiting = WaitingClients::default();
        waiting.begin(1, Timestamp(10));
        waiting.begin(2, Timestamp(20));
        waiting.begin(1, Timestamp(30));
        assert_eq!(waits(&waiting), [("unknown", 2, 10)]);
        for client in [1, 2, 9] {
            waiting.set_reason(client, WaitReason::TooLittle);
        }
        waiting.set_reason(1, WaitReason::Agents(SkipReason::Busy));
        assert_eq!(waits(&waiting), [("too-little", 1, 20), ("busy", 1, 10)]);
        waiting.restart(1, Timestamp(40));
        waiting.restart(9, Timestamp(40));
        assert_eq!(waits(&waiting), [("too-little", 1, 20), ("busy", 1, 40)]);
        assert_eq!(
            [0, 1, 2].map(|at| waiting.next_after(at)),
            [Some(1), Some(2), Some(1)]
        );
        waiting.end(2);
        waiting.end(2);
        waiting.end(1);
        assert_eq!((waits(&waiting), waiting.next_after(0)), (Vec::new(), None));
    }

    #[test]
    fn an_unmet_demand_is_new_once_until_it_is_offered_something() {
        let mut waiting = WaitingClients::default();
        waiting.begin(1, Timestamp(10));
        assert!(waiting.record_unmet(1) && !waiting.record_unmet(1));
        waiting.record_offer(1);
        assert!(!waiting.is_unmet(1) && waiting.record_unmet(1));
        assert_eq!(waits(&waiting), [("unknown", 1, 10)], "the wait continues");
        waiting.end(1);
        assert!(!waiting.is_unmet(1));
    }
}
