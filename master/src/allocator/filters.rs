//! Decline filters: which agents are hidden from which clients, and until when.
//!
//! A filter hides an agent while the free resources that the client would see there are a part of
//! those that it declined. The storage is dense: one bit for each (client, agent), which is
//! scanned; a sorted list for each agent, which is searched; and deadlines in batches. A client's
//! bits are authoritative; entries without a bit are leftovers.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::Timestamp;
use argosy_state::resources::Resources;

use super::agent_filters::{AgentFilters, FilterEntry};
use super::bits::Bits;
use super::eligibility::VisibilityRules;

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
    /// The resources that are free on the agent.
    pub(super) free: &'a Resources,
    pub(super) visibility: Option<VisibilityRules>,
    pub(super) until: Timestamp,
}

/// The result of adding a filter.
#[derive(Debug, Default)]
pub(super) struct AddedFilter {
    /// The clients whose filters were dropped to make room.
    pub(super) dropped: Vec<u32>,
    /// The steps that it took.
    pub(super) steps: usize,
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

    /// Adds a filter, which replaces the client's former filter for the agent. At the limits,
    /// others are dropped to make room.
    pub(super) fn add(&mut self, filter: Filter<'_>) -> AddedFilter {
        let Filter { client, agent, .. } = filter;
        let mut added = AddedFilter::default();
        while self.entries >= self.limit {
            let Some((client, steps)) = self.drop_first() else {
                break;
            };
            added.dropped.push(client);
            added.steps += 1 + steps;
        }
        grow(&mut self.agents, agent);
        grow(&mut self.clients, client);
        let bundle = self.bundle(&filter, &mut added);
        let batch = self.expiries.entry((filter.until, client)).or_default();
        batch.insert(agent);
        let on_agent = &mut self.agents[agent as usize];
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
        added.steps += on_agent.steps();
        let hides = on_agent.hides(bundle);
        let of_client = &mut self.clients[client as usize];
        of_client.declined.set(agent, true);
        of_client.hidden.set(agent, hides);
        if let Some(former) = former.filter(|former| former.until != filter.until) {
            self.unschedule(&former, agent);
        }
        added
    }

    /// Adds a user to the bundle of a filter. If the agent has too many others, one is dropped with
    /// its filters.
    fn bundle(&mut self, filter: &Filter<'_>, added: &mut AddedFilter) -> u32 {
        let Filter {
            agent,
            declined,
            free,
            visibility,
            until,
            ..
        } = filter;
        let visibility = visibility.as_ref();
        let on_agent = &mut self.agents[*agent as usize];
        if let Some((bundle, has_turned)) =
            on_agent.share_bundle(declined, visibility, free, *until)
        {
            if has_turned {
                added.steps += self.publish(*agent);
            }
            return bundle;
        }
        let removed = on_agent.make_room();
        if !removed.is_empty() {
            added.steps += on_agent.steps_of_all() + removed.len() / 4;
        }
        let bundle = on_agent.insert_bundle(declined, visibility, free, *until);
        for entry in &removed {
            self.unschedule(entry, *agent);
            self.entries -= 1;
            self.clients[entry.client as usize].clear(*agent);
            added.dropped.push(entry.client);
        }
        bundle
    }

    /// Re-evaluates the filters of an agent that has `free` resources. Call it when any resources
    /// are free; an agent with nothing to offer needs no hiding. Returns the steps that it took.
    pub(super) fn reevaluate(&mut self, agent: u32, free: &Resources) -> usize {
        let Some(on_agent) = self.agents.get_mut(agent as usize) else {
            return 0;
        };
        let evaluated = on_agent.reevaluate(free);
        let published = match evaluated.has_turned {
            true => self.publish(agent),
            false => 0,
        };
        evaluated.steps + published
    }

    /// Updates the bits of all clients after a bundle of an agent has turned. Returns the steps
    /// that it took.
    fn publish(&mut self, agent: u32) -> usize {
        let on_agent = &self.agents[agent as usize];
        for entry in &on_agent.entries {
            let of_client = &mut self.clients[entry.client as usize];
            if of_client.declined.contains(agent) {
                of_client.hidden.set(agent, on_agent.hides(entry.bundle));
            }
        }
        on_agent.steps_of_all()
    }

    /// Removes the filters of an agent that is gone or whose resources have changed. Returns the
    /// steps that it took.
    pub(super) fn drop_agent(&mut self, agent: u32) -> usize {
        let Some(on_agent) = self.agents.get_mut(agent as usize) else {
            return 0;
        };
        let entries = std::mem::take(on_agent).entries;
        for entry in &entries {
            self.unschedule(entry, agent);
            self.entries -= 1;
            self.clients[entry.client as usize].clear(agent);
        }
        entries.len() / 4
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
        self.agents.iter().flat_map(AgentFilters::declined)
    }

    /// Returns the time at which the next filters expire.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first_key_value().map(|((at, _), _)| *at)
    }

    /// Removes one batch of filters that has expired at `now`. Returns the client and the steps
    /// that it took.
    pub(super) fn expire(&mut self, now: Timestamp) -> Option<(u32, usize)> {
        let due = self
            .next_expiry()
            .is_some_and(|at| at <= now)
            .then(|| self.expiries.pop_first())
            .flatten();
        let ((_, client), agents) = due?;
        let mut steps = 1 + agents.len() / 4;
        for agent in &agents {
            steps += self.remove_expired(client, *agent);
        }
        Some((client, steps))
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

    /// Returns the steps that it took beyond those of a short list.
    fn remove_expired(&mut self, client: u32, agent: u32) -> usize {
        let Some(on_agent) = self.agents.get_mut(agent as usize) else {
            return 0;
        };
        let Ok(at) = on_agent.position(client) else {
            return 0;
        };
        let steps = on_agent.steps();
        let entry = on_agent.entries.remove(at);
        on_agent.release_bundle(entry.bundle);
        self.entries -= 1;
        self.clients[client as usize].clear(agent);
        steps
    }

    /// Returns the client of the filter that was dropped, and the steps that it took.
    fn drop_first(&mut self) -> Option<(u32, usize)> {
        let mut first = self.expiries.first_entry()?;
        let (_, client) = *first.key();
        let agent = first.get_mut().pop_first();
        if first.get().is_empty() {
            first.remove();
        }
        let steps = agent.map_or(0, |agent| self.remove_expired(client, agent));
        Some((client, steps))
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
    use crate::allocator::agent_filters::MAX_BUNDLES;

    fn parse(text: &str) -> Resources {
        text.parse().unwrap()
    }

    fn add(filters: &mut Filters, client: u32, agent: u32, declined: &str, until: u64) {
        add_to(filters, client, agent, declined, (declined, until));
    }

    /// Adds a filter of an agent with these free resources.
    fn add_to(
        filters: &mut Filters,
        client: u32,
        agent: u32,
        declined: &str,
        (free, until): (&str, u64),
    ) -> AddedFilter {
        filters.add(Filter {
            client,
            agent,
            declined: &parse(declined),
            free: &parse(free),
            visibility: None,
            until: Timestamp(until),
        })
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

    #[test]
    fn at_the_limit_of_an_agent_a_bundle_that_hides_nothing_and_ends_first_is_dropped() {
        let mut filters = Filters::new(100_000);
        let most = MAX_BUNDLES as u32;
        // The first half of the clients declines less than is free.
        for client in 1..=most {
            let cpus = if client <= most / 2 { 1 } else { 1_000 } + client;
            let ends = 10_000 - u64::from(client);
            add_to(
                &mut filters,
                client,
                0,
                &format!("cpus:{cpus}"),
                ("cpus:900", ends),
            );
        }
        assert_eq!(filters.declined().count(), MAX_BUNDLES);
        let added = add_to(&mut filters, 500, 0, "cpus:950", ("cpus:900", 50));
        assert_eq!(
            added.dropped,
            [most / 2],
            "it hid nothing, and ended first of these"
        );
        assert!(filters.hides(500, 0) && filters.hides(most, 0));
        // A bundle that exists takes no room.
        let added = add_to(&mut filters, 501, 0, "cpus:950", ("cpus:900", 20));
        assert!(added.dropped.is_empty());
        filters.reevaluate(0, &parse("cpus:1"));
        let added = add_to(&mut filters, 502, 0, "cpus:9000", ("cpus:1", 60));
        assert_eq!(added.dropped, [500, 501], "all hide, and these end first");
        assert!(!filters.hides(500, 0) && !filters.hides(501, 0) && filters.hides(502, 0));
    }

    #[test]
    fn filters_of_an_agent_stay_bounded_and_leave_nothing() {
        let mut filters = Filters::new(100_000);
        for client in 0..2_000 {
            let declined = format!("cpus:{}", 1 + client);
            let until = 1 + u64::from(client * 7_919 % 1_000);
            add_to(&mut filters, client, 0, &declined, ("cpus:500", until));
        }
        let ends: usize = filters.expiries.values().map(BTreeSet::len).sum();
        assert_eq!((filters.len(), ends), (MAX_BUNDLES, MAX_BUNDLES));
        let hidden = (0..2_000)
            .filter(|client| filters.hides(*client, 0))
            .count();
        assert!(hidden <= MAX_BUNDLES);
        while filters.expire(Timestamp(2_000)).is_some() {}
        assert_eq!((filters.len(), filters.declined().count()), (0, 0));
    }

    #[test]
    fn filters_are_charged_by_the_bundles_and_entries_of_their_agent() {
        let mut filters = Filters::new(100_000);
        let added = add_to(&mut filters, 0, 0, "cpus:1", ("cpus:1", 9));
        assert_eq!(
            (added.steps, filters.reevaluate(0, &parse("cpus:1"))),
            (0, 0)
        );
        for client in 1..4_096 {
            let cpus = 1 + client % MAX_BUNDLES as u32;
            add_to(
                &mut filters,
                client,
                0,
                &format!("cpus:{cpus}"),
                ("cpus:1", 9),
            );
        }
        let bundles = MAX_BUNDLES / 16;
        let added = add_to(&mut filters, 0, 0, "cpus:1", ("cpus:1", 10));
        assert_eq!(added.steps, bundles + 4);
        assert_eq!(filters.reevaluate(0, &parse("cpus:1")), bundles);
        assert_eq!(
            filters.reevaluate(0, &parse("cpus:2")),
            bundles + 64,
            "one turned"
        );
        assert_eq!(filters.drop_agent(0), 1_024);
    }
}
