//! Offers to frameworks: when they are made, kept and withdrawn.
//!
//! The allocator decides what is offered to which framework; the book knows which offers are open.
//! This file passes events to both, and notifies frameworks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use argosy_proto::{convert, v1};
use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use argosy_state::command::OfferTerms;
use argosy_state::framework::SchedulerConnection;
use argosy_state::ids::{AgentId, FrameworkId, OfferId, Role, TaskKey, Timestamp};
use argosy_state::limits;
use argosy_state::persistent::Map;
use argosy_state::planted_bug;
use prost::Message as _;

use super::agents::is_ready;
use super::calls::CallOffers;
use super::frameworks::FrameworkLink;
use super::{Decline, Effect, Leader, LeaderTime, PresentedFilter};
use crate::allocator::{
    AgentInputs, AllocationRound, Allocator, DeclineReason, DeclinedResources, DemandExplanation,
    ExplainInputs, ExplainQuery, LinkStates, StreamState, TurnBudget,
};
use crate::links::LinkId;
use crate::offers::{OfferBook, OfferState, sign};

/// Agents that one tick evaluates to find out why demands wait: less than a millisecond.
const AGENTS_PER_TICK: usize = 250;
/// Maximum bytes of the offers of one event, unless one offer is larger (a message: 4 MiB).
const EVENT_BYTES: usize = 1 << 20;

/// The start of an epoch: frameworks first present the offers that they hold.
#[derive(Debug)]
pub(super) struct OfferResumption {
    resume_until: Timestamp,
    waiting: BTreeSet<FrameworkId>,
}

impl OfferResumption {
    pub(super) fn new(registry: &Registry, resume_until: Timestamp) -> Self {
        let connected = registry
            .frameworks()
            .filter(|framework| framework.connection == SchedulerConnection::Connected);
        Self {
            resume_until,
            waiting: connected.map(|framework| framework.id).collect(),
        }
    }

    /// Returns whether offers may be made: all frameworks have resumed, or the time for it has
    /// passed.
    fn is_open(&mut self, now: LeaderTime) -> bool {
        if !self.waiting.is_empty() && self.resume_until <= now.at {
            self.waiting.clear();
        }
        self.waiting.is_empty()
    }
}

impl Leader {
    /// Continues with the remaining timers, heartbeats and orders, and makes the offers that are
    /// due, as far as one turn allows; called at the end of each turn. Also returns whether more
    /// work is due immediately.
    pub(crate) fn offer(&mut self, registry: &Registry, now: LeaderTime) -> (Vec<Effect>, bool) {
        let due = self.is_allocation_due(now);
        let ticked = self.finish_tick(registry);
        let ordered = self.pump_due_orders(registry);
        let mut more = self.has_unfinished_tick() || !self.orders_due.is_empty();
        if due && self.offering.is_open(now) {
            let round = self.allocate(registry, now, TurnBudget::after(ticked, ordered));
            more |= round.more;
            for offer in &round.joined {
                self.send_rescinded(offer, "it is part of a larger offer of its agent");
            }
            self.send_offers(registry, round.offers);
            self.send_unmet(registry, &round.unmet);
        }
        (std::mem::take(&mut self.effects), more)
    }

    fn allocate(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        budget: TurnBudget,
    ) -> AllocationRound {
        self.with_allocator(|allocator, book, demand| {
            allocator.step(registry, book, demand, now.at, budget)
        })
    }

    /// Continues to determine why demands wait.
    pub(super) fn update_wait_reasons(&mut self, registry: &Registry) {
        self.with_allocator(|allocator, book, demand| {
            allocator.update_wait_reasons(registry, book, demand, AGENTS_PER_TICK)
        });
    }

    /// Ends the wait of the framework in the role of a launched task, and sends the order.
    pub(super) fn task_launched(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        key: &TaskKey,
        agent: AgentId,
    ) {
        // It may have ended within the same entry.
        if let Some(task) = registry.task(key) {
            let allocator = &mut self.allocator;
            allocator.record_launch(key.framework, &task.role, now.at);
        }
        self.pump_orders(registry, agent);
    }

    fn with_allocator<T>(
        &mut self,
        work: impl FnOnce(&mut Allocator, &mut OfferBook, LinkStates<'_>) -> T,
    ) -> T {
        let Self {
            allocator,
            book,
            agent_links,
            linked_agents,
            linked_frameworks,
            framework_links,
            ..
        } = self;
        let linked = |agent| is_ready(linked_agents, agent_links, agent);
        let stream = |framework| stream_of(linked_frameworks, framework_links, framework);
        let demand = LinkStates {
            linked: &linked,
            stream: &stream,
        };
        work(allocator, book, demand)
    }

    /// Includes a framework that has a stream again in the allocation.
    pub(super) fn framework_resumed(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        id: FrameworkId,
        filters: Vec<PresentedFilter>,
    ) {
        self.offering.waiting.remove(&id);
        let session = registry
            .framework(id)
            .map_or(0, |framework| framework.session);
        let filters = filters.into_iter().map(|filter| DeclinedResources {
            framework: id,
            session,
            role: filter.role,
            agent: filter.agent,
            resources: filter.resources,
            filter_ms: Some(filter.remaining_ms),
            reason: None,
        });
        let allocator = &mut self.allocator;
        allocator.present_filters(registry, id, filters, now.at);
        self.allocator.framework_changed(id);
    }

    /// Includes an agent whose link came up, or whose record has changed.
    pub(super) fn offer_agent(&mut self, agent: AgentId) {
        self.allocator.agent_changed(agent);
    }

    /// Makes no new offers of an agent whose link is gone. Open offers stay: it may return.
    pub(super) fn withhold_agent(&mut self, agent: AgentId) {
        self.allocator.agent_changed(agent);
    }

    /// Makes no new offers to a framework whose stream is gone.
    pub(super) fn withhold_framework(&mut self, framework: FrameworkId) {
        self.allocator.framework_changed(framework);
    }

    /// Withdraws offers of resources that the agent no longer offers.
    pub(super) fn rescind_outdated(&mut self, registry: &Registry, id: AgentId) {
        let current = registry
            .agent(id)
            .filter(|agent| agent.mode() == AgentMode::Registered)
            .map(|agent| agent.offer_revision);
        let outdated: Vec<OfferId> = self
            .book
            .offers_on(id)
            .filter(|(offer, _)| Some(offer.offer_revision) != current)
            .map(|(offer, _)| offer.id)
            .collect();
        self.rescind(outdated, "its agent has changed");
    }

    /// Withdraws open offers whose resources tasks now use, newest first, and refreshes the agent.
    pub(super) fn agent_usage_changed(&mut self, registry: &Registry, id: AgentId) {
        let free = registry.free(id);
        while !free.contains(&self.book.offered_on(id)) {
            let newest = self
                .book
                .offers_on(id)
                .filter(|(_, standing)| *standing == OfferState::Open)
                .map(|(offer, _)| offer.id)
                .max();
            // Pending offers stay: `apply` checks them.
            let Some(newest) = newest else { break };
            self.rescind(vec![newest], "its resources are in use");
        }
        self.allocator.agent_changed(id);
    }

    /// Withdraws open offers of earlier epochs that `apply` can no longer distinguish from used
    /// ones: the agent's record keeps a limited number of used offers.
    fn rescind_forgotten(&mut self, registry: &Registry, id: AgentId) {
        let Some(agent) = registry.agent(id) else {
            return;
        };
        let forgotten: Vec<OfferId> = self
            .book
            .offers_on(id)
            .map(|(offer, _)| offer.id)
            .filter(|offer| offer.epoch < self.epoch && *offer <= agent.used_offers.floor)
            .collect();
        self.rescind(forgotten, "many newer ones of its agent were used");
    }

    /// Filters the rest of an accepted offer: the session that accepted it is not offered it for a
    /// while. Other resources of the agent may have become free.
    pub(super) fn after_accept(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        (framework, session): (FrameworkId, u64),
        used: &CallOffers,
    ) {
        let agent = used.agent;
        self.rescind_forgotten(registry, agent);
        let left = registry
            .free(agent)
            .minus_saturating(&self.book.offered_on(agent));
        let declined = DeclinedResources {
            framework,
            session,
            role: used.role.clone(),
            agent,
            resources: left,
            filter_ms: Some(used.filter_ms),
            reason: None,
        };
        let offered = used.resources.clone();
        self.allocator.decline_rest(declined, offered, now.at);
    }

    pub(super) fn offers_declined(&mut self, now: LeaderTime, decline: &Decline) {
        for id in &decline.offers {
            let Some(offer) = self.book.decline(decline.framework, *id) else {
                continue;
            };
            let (code, text) = decline.reason.clone();
            let declined = DeclinedResources {
                framework: offer.framework,
                session: offer.session,
                role: offer.role.clone(),
                agent: offer.agent,
                resources: offer.resources.clone(),
                filter_ms: Some(decline.filter_ms),
                reason: Some(DeclineReason { code, text }),
            };
            self.allocator.decline(declined, now.at);
        }
    }

    /// Withdraws offers after a framework's record has changed: offers in roles that it left,
    /// of former sessions, and of a framework that is gone.
    pub(super) fn rescind_after_change(&mut self, registry: &Registry, id: FrameworkId) {
        let facts = registry.framework(id).filter(|framework| {
            !framework.removing && framework.connection == SchedulerConnection::Connected
        });
        let lost: Vec<OfferId> = self
            .book
            .offers_of(id)
            .filter(|(offer, _)| {
                facts.is_none_or(|framework| {
                    framework.session != offer.session
                        || !framework.info.roles.contains(&offer.role)
                })
            })
            .map(|(offer, _)| offer.id)
            .collect();
        self.rescind(lost, "the framework has changed");
        if facts.is_none() {
            self.offering.waiting.remove(&id);
        }
        self.allocator.framework_changed(id);
    }

    /// Withdraws offers that have expired, a bounded number at a time.
    pub(super) fn expire_offers(&mut self, now: LeaderTime) {
        let lapsed = self.book.expire(now.at, limits::RECORDS_PER_COMMAND);
        for offer in lapsed {
            self.send_rescinded(&offer, "it has expired");
        }
    }

    /// Withdraws every open offer of a framework.
    pub(super) fn rescind_all(&mut self, id: FrameworkId, why: &str) {
        let open = self.book.offers_of(id);
        let open = open.filter(|(_, standing)| *standing == OfferState::Open);
        let open: Vec<OfferId> = open.map(|(offer, _)| offer.id).collect();
        self.rescind(open, why);
    }

    fn rescind(&mut self, offers: Vec<OfferId>, why: &str) {
        for id in offers {
            if let Some(offer) = self.book.rescind(id) {
                self.send_rescinded(&offer, why);
            }
        }
    }

    fn send_rescinded(&mut self, offer: &Arc<OfferTerms>, why: &str) {
        let Some(link) = self.linked_frameworks.get(&offer.framework).copied() else {
            return;
        };
        planted_bug!(RescindNotSent => return);
        let rescind = v1::Rescind {
            offer_id: offer.id.to_string(),
            reason: why.to_owned(),
        };
        self.send_to_framework(link, v1::event::Event::Rescind(rescind));
    }

    /// Sends offers in few events for each framework, regardless of their number.
    fn send_offers(&mut self, registry: &Registry, made: Vec<Arc<OfferTerms>>) {
        let facts = &registry.cluster().facts;
        let mut by_framework: BTreeMap<FrameworkId, Vec<v1::Offer>> = BTreeMap::new();
        for terms in made {
            if let Some(agent) = registry.agent(terms.agent) {
                let offer = convert::offer(&terms, agent, &sign(facts, &terms));
                by_framework.entry(terms.framework).or_default().push(offer);
            }
        }
        for (framework, offers) in by_framework {
            let Some(link) = self.linked_frameworks.get(&framework).copied() else {
                continue;
            };
            for offers in offer_batches(offers) {
                self.send_to_framework(link, v1::event::Event::Offers(v1::Offers { offers }));
            }
        }
    }

    /// Sends a framework the reason for which it gets nothing in a role, once until it is offered
    /// something.
    fn send_unmet(&mut self, registry: &Registry, unmet: &[(FrameworkId, Role)]) {
        for (framework, role) in unmet {
            let Some(link) = self.linked_frameworks.get(framework).copied() else {
                continue;
            };
            let query = ExplainQuery {
                role: Some(role.clone()),
                max_skipped: 10,
                agents: 200,
                ..ExplainQuery::new(*framework, None)
            };
            let explained = explanation(self.explain(registry, &query));
            let unmet = v1::DemandUnmet {
                role: role.to_string(),
                counts: explained.counts,
                examples: explained.verdicts,
            };
            self.send_to_framework(link, v1::event::Event::DemandUnmet(unmet));
        }
    }

    /// Explains why a framework is not offered something, agent by agent: one page of the answer.
    fn explain(&self, registry: &Registry, query: &ExplainQuery) -> DemandExplanation {
        let (allocator, book) = (&self.allocator, &self.book);
        self.with_links(|demand| allocator.explain(registry, book, demand, query))
    }

    /// Returns the leader's private state for a query, without agents.
    pub(crate) fn explain_inputs(
        &self,
        registry: &Registry,
        query: &ExplainQuery,
    ) -> ExplainInputs {
        self.with_links(|demand| self.allocator.inputs(registry, demand, query))
    }

    /// Returns the leader's private state about these agents: a microsecond each.
    pub(crate) fn agent_inputs(
        &self,
        inputs: &ExplainInputs,
        framework: FrameworkId,
        agents: &[AgentId],
    ) -> Vec<AgentInputs> {
        self.with_links(|demand| {
            let (allocator, book) = (&self.allocator, &self.book);
            let inputs_of =
                |agent| allocator.agent_inputs(inputs, book, demand, (framework, agent));
            agents.iter().copied().map(inputs_of).collect()
        })
    }

    fn with_links<T>(&self, ask: impl FnOnce(LinkStates<'_>) -> T) -> T {
        let linked = |agent| is_ready(&self.linked_agents, &self.agent_links, agent);
        let (linked_frameworks, framework_links) = (&self.linked_frameworks, &self.framework_links);
        let stream = |framework| stream_of(linked_frameworks, framework_links, framework);
        ask(LinkStates {
            linked: &linked,
            stream: &stream,
        })
    }
}

/// Divides offers into events of at most [`limits::RECORDS_PER_COMMAND`] and [`EVENT_BYTES`].
fn offer_batches(offers: Vec<v1::Offer>) -> Vec<Vec<v1::Offer>> {
    let mut events: Vec<Vec<v1::Offer>> = Vec::new();
    let mut bytes = 0;
    for offer in offers {
        let size = offer.encoded_len();
        match events.last_mut() {
            Some(last)
                if last.len() < limits::RECORDS_PER_COMMAND && bytes + size <= EVENT_BYTES =>
            {
                bytes += size;
                last.push(offer);
            }
            Some(_) | None => {
                bytes = size;
                events.push(vec![offer]);
            }
        }
    }
    events
}

/// Returns the state of the stream to a framework.
fn stream_of(
    linked: &Map<FrameworkId, LinkId>,
    links: &BTreeMap<LinkId, FrameworkLink>,
    framework: FrameworkId,
) -> StreamState {
    match linked.get(&framework).and_then(|link| links.get(link)) {
        None => StreamState::None,
        Some(link) if link.is_behind => StreamState::Behind,
        Some(_) => StreamState::Open,
    }
}

/// Converts an explanation to its wire form.
pub(crate) fn explanation(explanation: DemandExplanation) -> v1::Explanation {
    let counts = explanation.counts.iter();
    let counts = counts.map(|(reason, agents)| v1::ReasonCount {
        reason: reason.code().to_owned(),
        agents: *agents,
    });
    let skipped = explanation.skipped.iter();
    let skipped = skipped.map(|skipped| v1::Verdict {
        agent_id: skipped.agent.to_string(),
        reason: skipped.reason.code().to_owned(),
        detail: skipped.detail.clone(),
    });
    v1::Explanation {
        summary: explanation.summary(),
        counts: counts.collect(),
        verdicts: skipped.collect(),
        round: explanation.round,
    }
}
