//! Decline filters: which agents are hidden from which clients, and until when.
//!
//! A filter hides an agent while the free resources that the client would see there are a part of
//! those that it declined. The storage is dense: one bit for each (client, agent), which is
//! scanned; a sorted list for each agent, which is searched; and deadlines in batches. A client's
//! bits are authoritative; entries without a bit are leftovers.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::Timestamp;
use argosy_state::resources::Resources;

use super::bits::Bits;
use super::eligibility::VisibilityRules;

/// One filter of an agent.
#[derive(Debug)]
struct FilterEntry {
    client: u32,
    bundle: u32,
    until: Timestamp,
}

/// The declined resources, shared by all clients that declined the same.
#[derive(Debug)]
struct DeclinedBundle {
    declined: Resources,
    /// The visibility rules to apply; `None` for an agent of which all clients see the same.
    visibility: Option<VisibilityRules>,
    hides: bool,
    users: u32,
}

impl DeclinedBundle {
    fn covers(&self, free: &Resources) -> bool {
        match &self.visibility {
            None => self.declined.contains(free),
            Some(visibility) => self.declined.contains(&visibility.visible_part(free)),
        }
    }
}

#[derive(Debug, Default)]
struct AgentFilters {
    /// Ascending by client.
    entries: Vec<FilterEntry>,
    /// Bundles without users are free slots.
    bundles: Vec<DeclinedBundle>,
}

#[derive(Debug, Default)]
struct ClientFilters {
    declined: Bits,
    hidden: Bits,
}

/// All filters. At the limit, the filter that would end first is dropped: its client is only
/// offered the agent again a little early.
#[derive(Debug)]
pub(super) struct Filters {
    agents: Vec<AgentFilters>,
    clients: Vec<ClientFilters>,
    /// The agents of the entries, by their end and their client.
    expiries: BTreeMap<(Timestamp, u32), BTreeSet<u32>>,
    entries: usize,
    limit: usize,
    nothing: Bits,
}

/// A decline by a client: of which resources on which agent, and until when.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    pub(super) client: u32,
    pub(super) agent: u32,
    pub(super) declined: &'a Resources,
    pub(super) visibility: Option<VisibilityRules>,
    pub(super) until: Timestamp,
}

impl Filters {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            agents: Vec::new(),
            clients: Vec::new(),
            expiries: BTreeMap::new(),
            entries: 0,
            limit: limit.max(1),
            nothing: Bits::default(),
        }
    }

    /// Returns whether the agent is currently hidden from the client.
    pub(super) fn hides(&self, client: u32, agent: u32) -> bool {
        self.hidden(client).contains(agent)
    }

    /// Returns the agents that are currently hidden from a client.
    pub(super) fn hidden(&self, client: u32) -> &Bits {
        self.clients
            .get(client as usize)
            .map_or(&self.nothing, |client| &client.hidden)
    }

    /// Adds a filter, which replaces the client's former filter for the agent. A new filter counts
    /// as hiding until [`Self::reevaluate`] is called for the agent. Returns the clients whose
    /// filters were dropped to make room.
    pub(super) fn add(&mut self, filter: Filter<'_>) -> Vec<u32> {
        let Filter { client, agent, .. } = filter;
        let mut dropped = Vec::new();
        while self.entries >= self.limit {
            let Some(client) = self.drop_first() else {
                break;
            };
            dropped.push(client);
        }
        grow(&mut self.agents, agent);
        grow(&mut self.clients, client);
        let batch = self.expiries.entry((filter.until, client)).or_default();
        batch.insert(agent);
        let on_agent = &mut self.agents[agent as usize];
        let bundle = on_agent.bundle(filter.declined, filter.visibility);
        let entry = FilterEntry {
            client,
            bundle,
            until: filter.until,
        };
        let former = match on_agent.position(client) {
            Ok(at) => Some(std::mem::replace(&mut on_agent.entries[at], entry)),
            Err(at) => {
                on_agent.entries.insert(at, entry);
                self.entries += 1;
                None
            }
        };
        if let Some(former) = &former {
            on_agent.release_bundle(former.bundle);
        }
        // Clients that declined the same may already see the agent again.
        let hides = on_agent.bundles[bundle as usize].hides;
        let of_client = &mut self.clients[client as usize];
        of_client.declined.set(agent, true);
        of_client.hidden.set(agent, hides);
        if let Some(former) = former.filter(|former| former.until != filter.until) {
            self.unschedule(&former, agent);
        }
        dropped
    }

    /// Re-evaluates the filters of an agent that has `free` resources. Call it when any resources
    /// are free; an agent with nothing to offer needs no hiding.
    pub(super) fn reevaluate(&mut self, agent: u32, free: &Resources) {
        let Some(on_agent) = self.agents.get_mut(agent as usize) else {
            return;
        };
        let mut turned = false;
        for bundle in on_agent
            .bundles
            .iter_mut()
            .filter(|bundle| bundle.users > 0)
        {
            let hides = bundle.covers(free);
            turned |= hides != bundle.hides;
            bundle.hides = hides;
        }
        if !turned {
            return;
        }
        for entry in &on_agent.entries {
            let of_client = &mut self.clients[entry.client as usize];
            if of_client.declined.contains(agent) {
                let hides = on_agent.bundles[entry.bundle as usize].hides;
                of_client.hidden.set(agent, hides);
            }
        }
    }

    /// Removes the filters of an agent that is gone or whose resources have changed.
    pub(super) fn drop_agent(&mut self, agent: u32) {
        let Some(on_agent) = self.agents.get_mut(agent as usize) else {
            return;
        };
        for entry in std::mem::take(on_agent).entries {
            self.unschedule(&entry, agent);
            self.entries -= 1;
            self.clients[entry.client as usize].clear(agent);
        }
    }

    /// Removes the filters of a client. The entries stay until they expire, without effect.
    pub(super) fn drop_client(&mut self, client: u32) {
        if let Some(of_client) = self.clients.get_mut(client as usize) {
            of_client.declined.clear();
            of_client.hidden.clear();
        }
    }

    /// Returns the declined resources of all filters.
    #[cfg(test)]
    pub(super) fn declined(&self) -> impl Iterator<Item = &Resources> {
        let bundles = self.agents.iter().flat_map(|agent| &agent.bundles);
        bundles.map(|bundle| &bundle.declined)
    }

    /// Returns the time at which the next filters expire.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first_key_value().map(|((at, _), _)| *at)
    }

    /// Removes one batch of filters that has expired at `now`. Returns the client and the number of
    /// filters.
    pub(super) fn expire(&mut self, now: Timestamp) -> Option<(u32, usize)> {
        let due = self
            .next_expiry()
            .is_some_and(|at| at <= now)
            .then(|| self.expiries.pop_first())
            .flatten();
        let ((_, client), agents) = due?;
        for agent in &agents {
            self.remove_expired(client, *agent);
        }
        Some((client, agents.len()))
    }

    /// Returns the number of entries, leftovers included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Removes the end of an entry that is replaced or removed before it.
    fn unschedule(&mut self, entry: &FilterEntry, agent: u32) {
        let key = (entry.until, entry.client);
        let Some(batch) = self.expiries.get_mut(&key) else {
            return;
        };
        batch.remove(&agent);
        if batch.is_empty() {
            self.expiries.remove(&key);
        }
    }

    fn remove_expired(&mut self, client: u32, agent: u32) {
        let Some(on_agent) = self.agents.get_mut(agent as usize) else {
            return;
        };
        let Ok(at) = on_agent.position(client) else {
            return;
        };
        let entry = on_agent.entries.remove(at);
        on_agent.release_bundle(entry.bundle);
        self.entries -= 1;
        self.clients[client as usize].clear(agent);
    }

    fn drop_first(&mut self) -> Option<u32> {
        let mut first = self.expiries.first_entry()?;
        let (_, client) = *first.key();
        let agent = first.get_mut().pop_first();
        if first.get().is_empty() {
            first.remove();
        }
        if let Some(agent) = agent {
            self.remove_expired(client, agent);
        }
        Some(client)
    }
}

impl AgentFilters {
    fn position(&self, client: u32) -> Result<usize, usize> {
        self.entries
            .binary_search_by_key(&client, |entry| entry.client)
    }

    /// Returns the slot of a bundle and adds one user to it.
    fn bundle(&mut self, declined: &Resources, visibility: Option<VisibilityRules>) -> u32 {
        let same = |bundle: &DeclinedBundle| {
            bundle.users > 0 && bundle.declined == *declined && bundle.visibility == visibility
        };
        if let Some(at) = self.bundles.iter().position(same) {
            self.bundles[at].users += 1;
            return at as u32;
        }
        let bundle = DeclinedBundle {
            declined: declined.clone(),
            visibility,
            hides: true,
            users: 1,
        };
        match self.bundles.iter().position(|bundle| bundle.users == 0) {
            Some(at) => {
                self.bundles[at] = bundle;
                at as u32
            }
            None => {
                self.bundles.push(bundle);
                self.bundles.len() as u32 - 1
            }
        }
    }

    fn release_bundle(&mut self, bundle: u32) {
        let bundle = &mut self.bundles[bundle as usize];
        bundle.users -= 1;
        if bundle.users == 0 {
            bundle.declined = Resources::none();
        }
    }
}

impl ClientFilters {
    fn clear(&mut self, agent: u32) {
        self.declined.set(agent, false);
        self.hidden.set(agent, false);
    }
}

fn grow<T: Default>(all: &mut Vec<T>, at: u32) {
    if at as usize >= all.len() {
        all.resize_with(at as usize + 1, T::default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Resources {
        text.parse().unwrap()
    }

    fn add(filters: &mut Filters, client: u32, agent: u32, declined: &str, until: u64) {
        filters.add(Filter {
            client,
            agent,
            declined: &parse(declined),
            visibility: None,
            until: Timestamp(until),
        });
    }

    #[test]
    fn filter_hides_while_free_is_within_declined() {
        let mut filters = Filters::new(100);
        add(&mut filters, 1, 7, "cpus:2;mem:64", 5_000);
        filters.reevaluate(7, &parse("cpus:2;mem:64"));
        assert!(filters.hides(1, 7) && !filters.hides(2, 7) && !filters.hides(1, 8));
        filters.reevaluate(7, &parse("cpus:2;mem:65"));
        assert!(!filters.hides(1, 7), "more memory than was declined");
        filters.reevaluate(7, &parse("cpus:1"));
        assert!(filters.hides(1, 7), "less again");
    }

    #[test]
    fn different_bundles_are_evaluated_separately() {
        let mut filters = Filters::new(100);
        add(&mut filters, 1, 0, "cpus:2", 9);
        add(&mut filters, 2, 0, "cpus:4", 9);
        add(&mut filters, 3, 0, "cpus:2", 9);
        filters.reevaluate(0, &parse("cpus:3"));
        assert!(!filters.hides(1, 0) && filters.hides(2, 0) && !filters.hides(3, 0));
    }

    #[test]
    fn filters_expire_and_a_later_decline_extends_them() {
        let mut filters = Filters::new(100);
        add(&mut filters, 1, 0, "cpus:2", 10);
        add(&mut filters, 1, 1, "cpus:2", 10);
        add(&mut filters, 1, 0, "cpus:2", 20);
        assert_eq!(filters.next_expiry(), Some(Timestamp(10)));
        assert_eq!(filters.expire(Timestamp(9)), None);
        assert_eq!(filters.expire(Timestamp(10)), Some((1, 1)));
        assert!(filters.hides(1, 0) && !filters.hides(1, 1));
        assert_eq!(filters.expire(Timestamp(20)), Some((1, 1)));
        assert!(!filters.hides(1, 0));
        assert_eq!((filters.len(), filters.next_expiry()), (0, None));
    }

    #[test]
    fn a_replaced_filter_leaves_nothing() {
        let mut filters = Filters::new(100);
        for until in 1..=1_000 {
            add(&mut filters, 1, 0, "cpus:2", until);
        }
        let ends: usize = filters.expiries.values().map(BTreeSet::len).sum();
        assert_eq!((filters.len(), ends), (1, 1));
        assert_eq!(filters.next_expiry(), Some(Timestamp(1_000)));
    }

    #[test]
    fn dropped_filters_do_not_hide_from_the_next_client() {
        let mut filters = Filters::new(100);
        add(&mut filters, 1, 0, "cpus:2", 10);
        filters.drop_client(1);
        assert!(!filters.hides(1, 0));
        filters.reevaluate(0, &parse("cpus:9"));
        filters.reevaluate(0, &parse("cpus:1"));
        assert!(!filters.hides(1, 0), "a leftover has come to life");
        add(&mut filters, 1, 0, "cpus:2", 30);
        filters.expire(Timestamp(10));
        assert!(filters.hides(1, 0), "the leftover's end has ended another");
    }

    #[test]
    fn at_the_limit_the_earliest_expiring_filter_is_dropped() {
        let mut filters = Filters::new(2);
        add(&mut filters, 1, 0, "cpus:2", 30);
        add(&mut filters, 1, 1, "cpus:2", 10);
        add(&mut filters, 1, 2, "cpus:2", 20);
        assert_eq!(filters.len(), 2);
        assert!(filters.hides(1, 0) && !filters.hides(1, 1) && filters.hides(1, 2));
    }

    #[test]
    fn changing_an_agent_drops_its_filters() {
        let mut filters = Filters::new(9);
        add(&mut filters, 1, 0, "cpus:2", 30);
        add(&mut filters, 2, 0, "cpus:2", 30);
        filters.drop_agent(0);
        assert!(!filters.hides(1, 0) && !filters.hides(2, 0) && filters.len() == 0);
        assert_eq!(filters.next_expiry(), None);
    }
}
