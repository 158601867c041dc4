//! Declines that wait to be recorded as filters.
//!
//! Frameworks take turns, so that one with many declines does not delay those of the others. The
//! queue is bounded: at its limit, filters that frameworks present are dropped, because without
//! one its framework is only offered the agent again a little early. Declines of offers are never
//! dropped: the allocator offers nothing while they alone fill the queue.

use std::collections::{BTreeMap, VecDeque};

use argosy_state::ids::{AgentId, FrameworkId, Role, Timestamp};
use argosy_state::resources::{Resources, Value};

use super::DeclinedResources;

/// Size of all waiting declines at which the queue is full. The filters of 100,000 agents with four
/// resources each have this size: as many as are recorded in about the second within which offers
/// should continue, and about 50 MB.
const QUEUE_LIMIT: usize = 500_000;

/// A decline that one of the next steps records.
#[derive(Debug)]
pub(super) struct QueuedDecline {
    pub(super) declined: DeclinedResources,
    /// The resources that were offered, if the declined ones may include others of the agent.
    pub(super) offered: Option<Resources>,
    pub(super) at: Timestamp,
    /// Whether the framework presented it when it subscribed.
    pub(super) is_presented: bool,
}

impl QueuedDecline {
    /// Returns the decline itself and the resources, ranges and items of its bundles.
    fn size(&self) -> usize {
        let offered = self.offered.as_ref().map_or(0, parts);
        1 + parts(&self.declined.resources) + offered
    }
}

/// Agent and role of a decline, and its place among all declines.
type DeclineKey = (AgentId, Role, u64);

/// The waiting declines by framework.
#[derive(Debug)]
pub(super) struct DeclineQueue {
    waiting: BTreeMap<FrameworkId, BTreeMap<DeclineKey, QueuedDecline>>,
    /// Each framework of `waiting`, once.
    turns: VecDeque<FrameworkId>,
    serial: u64,
    size: usize,
    /// The number of presented filters among the waiting declines.
    presented: usize,
    limit: usize,
}

impl Default for DeclineQueue {
    fn default() -> Self {
        Self::new(QUEUE_LIMIT)
    }
}

impl DeclineQueue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            turns: VecDeque::new(),
            serial: 0,
            size: 0,
            presented: 0,
            limit,
        }
    }

    /// Adds a decline of an offer or of the rest of one. In a full queue it takes the place of
    /// presented filters.
    pub(super) fn push(&mut self, decline: QueuedDecline) {
        while self.is_full() && self.drop_presented() {}
        self.insert(decline);
    }

    /// Replaces the waiting filters that a framework has presented by those of its newest
    /// subscription, as far as there is room.
    pub(super) fn present(
        &mut self,
        framework: FrameworkId,
        filters: impl Iterator<Item = QueuedDecline>,
    ) {
        self.remove_presented(framework, |_| true);
        for filter in filters {
            if self.size + filter.size() > self.limit {
                return;
            }
            self.insert(filter);
        }
    }

    /// Removes the filters of a framework in these roles, an empty list means all roles. Declines
    /// of offers stay for their reasons.
    pub(super) fn revive(&mut self, framework: FrameworkId, roles: &[Role]) {
        let is_revived = |role: &Role| roles.is_empty() || roles.contains(role);
        self.remove_presented(framework, is_revived);
        let declines = self.waiting.get_mut(&framework).into_iter().flatten();
        for ((_, role, _), decline) in declines {
            if is_revived(role) {
                decline.declined.filter_ms = Some(0);
            }
        }
    }

    /// Removes the decline that is next, and returns it, and whether it is the last of its
    /// framework.
    pub(super) fn take(&mut self) -> Option<(QueuedDecline, bool)> {
        let framework = self.turns.pop_front()?;
        let declines = self.waiting.get_mut(&framework)?;
        let (_, decline) = declines.pop_first()?;
        let is_last = declines.is_empty();
        if is_last {
            self.waiting.remove(&framework);
        } else {
            self.turns.push_back(framework);
        }
        self.size -= decline.size();
        self.presented -= usize::from(decline.is_presented);
        Some((decline, is_last))
    }

    /// Returns whether a decline of this agent by a framework in a role waits.
    pub(super) fn holds(&self, framework: FrameworkId, role: &Role, agent: AgentId) -> bool {
        let Some(declines) = self.waiting.get(&framework) else {
            return false;
        };
        let next = declines.range((agent, role.clone(), 0)..).next();
        next.is_some_and(|((of, within, _), _)| *of == agent && within == role)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.size >= self.limit
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.values().map(BTreeMap::len).sum()
    }

    fn insert(&mut self, decline: QueuedDecline) {
        self.size += decline.size();
        self.presented += usize::from(decline.is_presented);
        self.serial += 1;
        let DeclinedResources {
            framework,
            role,
            agent,
            ..
        } = &decline.declined;
        let (framework, key) = (*framework, (*agent, role.clone(), self.serial));
        if !self.waiting.contains_key(&framework) {
            self.turns.push_back(framework);
        }
        let declines = self.waiting.entry(framework).or_default();
        declines.insert(key, decline);
    }

    /// Removes the presented filters of the first framework that has some. Returns whether there
    /// was one.
    fn drop_presented(&mut self) -> bool {
        if self.presented == 0 {
            return false;
        }
        let has_presented = |declines: &BTreeMap<DeclineKey, QueuedDecline>| {
            declines.values().any(|decline| decline.is_presented)
        };
        let mut waiting = self.waiting.iter();
        let found = waiting.find(|(_, declines)| has_presented(declines));
        let Some(framework) = found.map(|(framework, _)| *framework) else {
            return false;
        };
        self.remove_presented(framework, |_| true);
        true
    }

    fn remove_presented(&mut self, framework: FrameworkId, in_role: impl Fn(&Role) -> bool) {
        let Some(declines) = self.waiting.get_mut(&framework) else {
            return;
        };
        let (size, presented) = (&mut self.size, &mut self.presented);
        declines.retain(|(_, role, _), decline| {
            let stays = !decline.is_presented || !in_role(role);
            if !stays {
                *size -= decline.size();
                *presented -= 1;
            }
            stays
        });
        if declines.is_empty() {
            self.waiting.remove(&framework);
            self.turns.retain(|other| *other != framework);
        }
    }
}

fn parts(resources: &Resources) -> usize {
    let parts = resources.iter().map(|resource| match &resource.value {
        Value::Scalar(_) => 1,
        Value::Ranges(ranges) => 1 + ranges.len(),
        Value::Set(items) => 1 + items.len(),
    });
    parts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decline(framework: u64, agent: u64, is_presented: bool) -> QueuedDecline {
        QueuedDecline {
            declined: DeclinedResources {
                framework: FrameworkId(framework),
                session: 1,
                role: Role::default(),
                agent: AgentId(agent),
                resources: "cpus:1".parse().unwrap(),
                filter_ms: None,
                reason: None,
            },
            offered: None,
            at: Timestamp(1),
            is_presented,
        }
    }

    fn taken(queue: &mut DeclineQueue) -> Vec<(u64, u64, bool)> {
        let taken = std::iter::from_fn(|| queue.take());
        let fields = |decline: QueuedDecline| {
            let DeclinedResources {
                framework, agent, ..
            } = decline.declined;
            (framework.0, agent.0, decline.is_presented)
        };
        taken.map(|(decline, _)| fields(decline)).collect()
    }

    #[test]
    fn frameworks_with_waiting_declines_take_turns() {
        let mut queue = DeclineQueue::new(1_000);
        queue.present(FrameworkId(1), (1..=3).map(|agent| decline(1, agent, true)));
        queue.push(decline(2, 9, false));
        let order = [(1, 1, true), (2, 9, false), (1, 2, true), (1, 3, true)];
        assert_eq!(taken(&mut queue), order);
        assert!(queue.is_empty() && queue.size == 0 && queue.presented == 0);
    }

    #[test]
    fn a_full_queue_drops_presented_filters_and_no_decline_of_an_offer() {
        let mut queue = DeclineQueue::new(6);
        queue.push(decline(1, 1, false));
        queue.present(FrameworkId(2), (1..=9).map(|agent| decline(2, agent, true)));
        assert_eq!(queue.len(), 3, "each has the size 2");
        for agent in 2..=4 {
            queue.push(decline(1, agent, false));
        }
        assert!(queue.is_full() && !queue.holds(FrameworkId(2), &Role::default(), AgentId(1)));
        let offers = [1, 2, 3, 4].map(|agent| (1, agent, false));
        assert_eq!(taken(&mut queue), offers);
        assert!(queue.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn filters_presented_again_replace_those_that_wait() {
        let mut queue = DeclineQueue::new(1_000);
        queue.push(decline(1, 7, false));
        for _ in 0..100 {
            queue.present(FrameworkId(1), (1..=9).map(|agent| decline(1, agent, true)));
        }
        assert_eq!(
            (queue.len(), queue.presented, queue.turns.len()),
            (10, 9, 1)
        );
        queue.present(FrameworkId(1), std::iter::empty());
        assert_eq!(taken(&mut queue), [(1, 7, false)]);
    }
}
