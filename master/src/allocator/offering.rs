//! Making offers: the resources of an agent that a client may receive, and the order in which
//! clients are served.
//!
//! Resources that become free while a client holds an offer of the same agent become a second
//! offer. There is never a third: its resources wait, and then all of them become one offer.

use std::sync::Arc;

use argosy_state::command::OfferTerms;
use argosy_state::ids::{OfferId, Timestamp};
use argosy_state::resources::Resources;

use super::Allocator;
use super::budget::AllocationTurn;
use crate::offers::{OfferBook, OfferState};

/// Maximum number of offers of one agent to one framework in one role and session; offers in use
/// count.
const MAX_OFFERS: usize = 2;
/// Time for which an offer is not merged with others, in milliseconds: a scheduler that reads its
/// stream can use the offer within it.
const MERGE_DELAY_MS: u64 = 1_000;

/// The part of an agent's free resources that a client may receive.
#[derive(Debug)]
pub(super) enum VisiblePart {
    /// All free resources.
    Whole,
    /// The visible part of the free resources.
    Partial(Resources),
}

/// An open or pending offer that a client holds.
#[derive(Debug)]
pub(super) struct ClientOffer {
    offer: Arc<OfferTerms>,
    state: OfferState,
    since: Timestamp,
}

impl ClientOffer {
    /// Returns whether the offer must not be merged yet. It is young, or in use, which ends soon,
    /// or expires soon, after which its resources are offered as a whole.
    fn is_settling(&self, now: Timestamp) -> bool {
        self.state == OfferState::Pending
            || self.since.plus_ms(MERGE_DELAY_MS) > now
            || self.offer.expires <= now.plus_ms(MERGE_DELAY_MS)
    }
}

impl Allocator {
    /// Returns the resources of an agent that a client may receive now; `None` for nothing.
    pub(super) fn offerable_part(
        &self,
        book: &OfferBook,
        now: Timestamp,
        client: u32,
        agent: u32,
    ) -> Option<VisiblePart> {
        let part = self.free_part(client, agent)?;
        let waits = match self.offers_to_merge(book, client, agent) {
            None => false,
            Some(held) => held.iter().any(|held| held.is_settling(now)),
        };
        (!waits).then_some(part)
    }

    /// Returns the offers with which another offer of this agent must be merged, once none of them
    /// is left alone. `None` means that the new offer stands alone.
    pub(super) fn offers_to_merge(
        &self,
        book: &OfferBook,
        client: u32,
        agent: u32,
    ) -> Option<Vec<ClientOffer>> {
        let facts = self.clients.get(client);
        let mirror = self.agents.get(agent);
        let held = book.offers_to(mirror.id, facts.framework, facts.session, &facts.role);
        let held = held.filter(|(offer, ..)| offer.offer_revision == mirror.offer_revision);
        let all: Vec<ClientOffer> = held
            .map(|(offer, standing, since)| ClientOffer {
                offer: Arc::clone(offer),
                state: standing,
                since,
            })
            .collect();
        (all.len() >= MAX_OFFERS).then_some(all)
    }

    pub(super) fn free_part(&self, client: u32, agent: u32) -> Option<VisiblePart> {
        if !self.agents.nonempty.contains(agent) || self.filters.hides(client, agent) {
            return None;
        }
        let mirror = self.agents.get(agent);
        if self.decline_waits(client, mirror.id) {
            return None;
        }
        let facts = self.clients.get(client);
        let minimum = facts.minimum.as_deref().unwrap_or(&self.settings.minimum);
        if mirror.is_plain {
            let ample = match &facts.minimum {
                None => self.agents.ample.contains(agent),
                Some(minimum) => minimum.is_met(&mirror.free),
            };
            let fits = ample && self.tree.has_room(client, &mirror.amounts);
            return fits.then_some(VisiblePart::Whole);
        }
        let part = facts.visibility.visible_part(&mirror.free);
        let fits = minimum.is_met(&part) && self.tree.has_room(client, &self.kinds.amounts(&part));
        fits.then_some(VisiblePart::Partial(part))
    }

    /// Opens an offer and updates the cache.
    pub(super) fn offer(
        &mut self,
        turn: &mut AllocationTurn<'_>,
        client: u32,
        agent: u32,
        part: VisiblePart,
    ) {
        let (resources, amounts) = match part {
            VisiblePart::Whole => self.agents.take_all(agent),
            VisiblePart::Partial(part) => {
                let rest = self.agents.get(agent).free.minus_saturating(&part);
                self.agents
                    .set_free(agent, rest, &self.kinds, &self.settings.minimum);
                if self.agents.nonempty.contains(agent) {
                    let free = &self.agents.get(agent).free;
                    turn.spend(self.filters.reevaluate(agent, free));
                }
                let amounts = self.kinds.amounts(&part);
                (part, amounts)
            }
        };
        self.tree.charge(client, &amounts);
        let joined = self
            .offers_to_merge(turn.book, client, agent)
            .unwrap_or_default();
        self.waiting.record_offer(client);
        let facts = self.clients.get(client);
        let mirror = self.agents.get(agent);
        let mut resources = resources;
        // The merged offer expires with the first of its parts: a framework does not hold an agent
        // for longer because more of it becomes free.
        let mut expires = turn.now.plus_ms(facts.offer_timeout_ms);
        for ClientOffer { offer, .. } in joined {
            // Two offers of one agent never overlap.
            let Some(sum) = resources.plus(&offer.resources) else {
                continue;
            };
            resources = sum;
            expires = expires.min(offer.expires);
            turn.joined.extend(turn.book.rescind(offer.id));
        }
        let terms = OfferTerms {
            id: OfferId::default(),
            framework: facts.framework,
            session: facts.session,
            agent: mirror.id,
            role: facts.role.clone(),
            resources,
            offer_revision: mirror.offer_revision,
            expires,
        };
        turn.offers.push(turn.book.open(terms));
        turn.spend(1);
    }

    /// Offers one agent to the first client in fair order that can use it.
    pub(super) fn offer_agent(&mut self, turn: &mut AllocationTurn<'_>, agent: u32) {
        while self.agents.nonempty.contains(agent) {
            self.tree.settle(&self.kinds);
            let mut asked = 0;
            let found = self.tree.first(&mut |client| {
                asked += 1;
                self.offerable_part(turn.book, turn.now, client, agent)
            });
            // A client that is skipped costs a few dozen nanoseconds, and a search for its declines
            // a hundred more.
            let clients_per_step = if self.declines_due.is_empty() { 32 } else { 8 };
            turn.spend(1 + asked / clients_per_step);
            let Some((client, part)) = found else {
                return;
            };
            self.offer(turn, client, agent, part);
        }
    }
}
