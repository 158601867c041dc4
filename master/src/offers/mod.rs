//! Offers of the current epoch: which are open, which have an acceptance in flight, and their
//! tokens.
//!
//! The book is never replicated: an offer is a hint, and the commit decides. Reading order: this
//! file, `check`, `token`, `revalidate`, `usage`.

mod check;
mod revalidate;
#[cfg(test)]
mod tests;
mod token;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use argosy_state::command::OfferTerms;
use argosy_state::ids::{AgentId, Epoch, FrameworkId, OfferId, Role, Timestamp};
use argosy_state::planted_bug;
use argosy_state::resources::Resources;

pub use revalidate::{RescindReason, revalidate};
pub use token::{TOKEN_BYTES, sign, verify};
pub use usage::ResourceSums;

/// The state of an offer in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferState {
    /// Its framework may use it.
    Open,
    /// An acceptance is in flight: the resources stay held until it is settled.
    Pending,
}

/// The reason for which offers cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// The offer was never made in or adopted into this epoch, or has been closed since.
    #[error("offer {0} is not open")]
    NotOpen(OfferId),
    /// Another acceptance of the offer is in flight.
    #[error("offer {0} is already being used")]
    Pending(OfferId),
    /// The offer is named twice in one acceptance.
    #[error("offer {0} is given twice")]
    Duplicate(OfferId),
}

/// Agents and frameworks whose free resources or share a change of the book has moved; see
/// [`OfferBook::take_changes`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BookChanges {
    /// Agents in ascending order.
    pub agents: BTreeSet<AgentId>,
    /// Frameworks in ascending order.
    pub frameworks: BTreeSet<FrameworkId>,
}

/// The end of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferOutcome {
    /// Its framework used it, or tried to: the commit decides.
    Accepted,
    /// Its framework declined it.
    Declined,
    /// Its time has passed.
    Expired,
    /// It was withdrawn, or became part of a larger one.
    Rescinded,
}

/// An offer that has left the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedOffer {
    /// Its end.
    pub outcome: OfferOutcome,
    /// The cluster time for which it was in the book, in milliseconds.
    pub held_ms: u64,
}

#[derive(Debug)]
struct BookEntry {
    terms: Arc<OfferTerms>,
    state: OfferState,
    /// Time at which it was opened or adopted.
    since: Timestamp,
}

#[derive(Debug, Default)]
struct FrameworkOffers {
    offers: BTreeSet<OfferId>,
    roles: BTreeMap<Role, ResourceSums>,
}

/// Open and pending offers of one epoch. Every operation costs O(log n) for each offer.
#[derive(Debug)]
pub struct OfferBook {
    epoch: Epoch,
    now: Timestamp,
    last_serial: u64,
    offers: BTreeMap<OfferId, BookEntry>,
    agents: BTreeMap<AgentId, Vec<OfferId>>,
    frameworks: BTreeMap<FrameworkId, FrameworkOffers>,
    roles: BTreeMap<Role, ResourceSums>,
    expiries: BTreeSet<(Timestamp, OfferId)>,
    changes: BookChanges,
    /// Emptied by the leader after each turn.
    closed: Vec<ClosedOffer>,
    /// The sum of all offers.
    total: ResourceSums,
}

impl OfferBook {
    /// Creates an empty book for a new epoch.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            now: Timestamp(0),
            last_serial: 0,
            offers: BTreeMap::new(),
            agents: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            roles: BTreeMap::new(),
            expiries: BTreeSet::new(),
            changes: BookChanges::default(),
            closed: Vec::new(),
            total: ResourceSums::default(),
        }
    }

    /// Returns the epoch of the book.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Sets the cluster time at which further offers are opened.
    pub fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Opens an offer under the next id of this epoch; `terms.id` is overwritten. The allocator
    /// does this as it decides, so the offer is not among the changes.
    pub fn open(&mut self, mut terms: OfferTerms) -> Arc<OfferTerms> {
        self.last_serial += 1;
        terms.id = OfferId {
            epoch: self.epoch,
            serial: self.last_serial,
        };
        let terms = Arc::new(terms);
        self.insert(&terms);
        terms
    }

    /// Opens an offer of an earlier epoch under its old id; the caller has checked it with
    /// [`revalidate`]. It counts as opened at `now`. An offer that is already in the book stays
    /// unchanged.
    pub fn adopt(&mut self, terms: OfferTerms, now: Timestamp) -> Arc<OfferTerms> {
        if let Some(known) = self.offers.get(&terms.id) {
            return Arc::clone(&known.terms);
        }
        self.advance(now);
        let terms = Arc::new(terms);
        self.mark_changed(&terms);
        self.insert(&terms);
        terms
    }

    /// Marks open offers as pending, all or none; their resources stay held until [`Self::settle`].
    ///
    /// # Errors
    /// [`TakeError`] names the first offer that cannot be taken; then nothing has changed.
    pub fn take(&mut self, ids: &[OfferId]) -> Result<Vec<Arc<OfferTerms>>, TakeError> {
        let mut seen = BTreeSet::new();
        for id in ids {
            let entry = self.offers.get(id).ok_or(TakeError::NotOpen(*id))?;
            if !seen.insert(*id) {
                return Err(TakeError::Duplicate(*id));
            }
            if entry.state == OfferState::Pending {
                return Err(TakeError::Pending(*id));
            }
        }
        let mut taken = Vec::with_capacity(ids.len());
        for id in ids {
            let entry = self.offers.get_mut(id).expect("it was just looked up");
            entry.state = OfferState::Pending;
            self.expiries.remove(&(entry.terms.expires, *id));
            taken.push(Arc::clone(&entry.terms));
        }
        Ok(taken)
    }

    /// Removes offers whose acceptance was applied, rejected or lost: facts alone determine now
    /// which resources are free. Ids that are not in the book are skipped.
    pub fn settle(&mut self, ids: &[OfferId]) {
        for id in ids {
            self.close(*id, OfferOutcome::Accepted);
        }
    }

    /// Closes an open offer of `framework`; `None` if it has no offer of that id, or the offer is
    /// pending.
    pub fn decline(&mut self, framework: FrameworkId, id: OfferId) -> Option<Arc<OfferTerms>> {
        let entry = self.offers.get(&id)?;
        if entry.terms.framework != framework || entry.state == OfferState::Pending {
            return None;
        }
        self.close(id, OfferOutcome::Declined)
    }

    /// Closes one open offer of any framework.
    pub fn rescind(&mut self, id: OfferId) -> Option<Arc<OfferTerms>> {
        self.offers
            .get(&id)
            .is_some_and(|entry| entry.state == OfferState::Open)
            .then(|| self.close(id, OfferOutcome::Rescinded))
            .flatten()
    }

    /// Closes the open offers of an agent, and returns them so that their frameworks can be
    /// notified. Pending offers stay: `apply` checks them.
    pub fn rescind_agent(&mut self, agent: AgentId) -> Vec<Arc<OfferTerms>> {
        let ids = self.agents.get(&agent).cloned().unwrap_or_default();
        self.rescind_all(&ids)
    }

    /// Closes the open offers of a framework.
    pub fn rescind_framework(&mut self, framework: FrameworkId) -> Vec<Arc<OfferTerms>> {
        self.rescind_matching(framework, |_| true)
    }

    /// Closes the open offers of a framework in one role.
    pub fn rescind_role(&mut self, framework: FrameworkId, role: &Role) -> Vec<Arc<OfferTerms>> {
        self.rescind_matching(framework, |terms| terms.role == *role)
    }

    /// Closes the open offers of a framework that were made to other sessions than `session`.
    pub fn rescind_other_sessions(
        &mut self,
        framework: FrameworkId,
        session: u64,
    ) -> Vec<Arc<OfferTerms>> {
        self.rescind_matching(framework, |terms| terms.session != session)
    }

    /// Closes at most `most` open offers that have expired at `now`, earliest first.
    pub fn expire(&mut self, now: Timestamp, most: usize) -> Vec<Arc<OfferTerms>> {
        let mut lapsed = Vec::new();
        while lapsed.len() < most {
            let Some((at, id)) = self.expiries.first().copied() else {
                break;
            };
            if at > now {
                break;
            }
            let closed = planted_bug!(LapsedOfferKept, self.lapse(id), self.lapse_most(at, id));
            lapsed.extend(closed);
        }
        lapsed
    }

    fn lapse(&mut self, id: OfferId) -> Option<Arc<OfferTerms>> {
        self.close(id, OfferOutcome::Expired)
    }

    /// Implements the planted bug `LapsedOfferKept`.
    fn lapse_most(&mut self, expired: Timestamp, id: OfferId) -> Option<Arc<OfferTerms>> {
        if !id.serial.is_multiple_of(3) {
            return self.lapse(id);
        }
        self.expiries.remove(&(expired, id));
        self.get(id).map(|(terms, _)| Arc::clone(terms))
    }

    /// Returns when the next open offer expires.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Returns one offer.
    #[must_use]
    pub fn get(&self, id: OfferId) -> Option<(&Arc<OfferTerms>, OfferState)> {
        self.offers
            .get(&id)
            .map(|entry| (&entry.terms, entry.state))
    }

    /// Returns all offers, ascending by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<OfferTerms>, OfferState)> {
        self.offers
            .values()
            .map(|entry| (&entry.terms, entry.state))
    }

    /// Returns the offers after `after`, ascending by id.
    pub fn after(&self, after: OfferId) -> impl Iterator<Item = &Arc<OfferTerms>> {
        let above = (Bound::Excluded(after), Bound::Unbounded);
        self.offers.range(above).map(|(_, entry)| &entry.terms)
    }

    /// Returns the number of offers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offers.len()
    }

    /// Returns whether the book is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }

    /// Returns the offers of an agent.
    pub fn offers_on(
        &self,
        agent: AgentId,
    ) -> impl Iterator<Item = (&Arc<OfferTerms>, OfferState)> {
        let ids = self.agents.get(&agent).into_iter().flatten();
        ids.filter_map(|id| self.get(*id))
    }

    /// Returns the offers of an agent to a framework in a role and session. Each comes with its
    /// state and the time at which it was opened or adopted.
    pub fn offers_to<'a>(
        &'a self,
        agent: AgentId,
        framework: FrameworkId,
        session: u64,
        role: &'a Role,
    ) -> impl Iterator<Item = (&'a Arc<OfferTerms>, OfferState, Timestamp)> {
        let ids = self.agents.get(&agent).into_iter().flatten();
        let entries = ids.filter_map(|id| self.offers.get(id));
        let fitting = entries.filter(move |entry| {
            let terms = &entry.terms;
            terms.framework == framework && terms.session == session && terms.role == *role
        });
        fitting.map(|entry| (&entry.terms, entry.state, entry.since))
    }

    /// Returns whether an agent has any offers.
    #[must_use]
    pub fn has_offers_on(&self, agent: AgentId) -> bool {
        self.agents.contains_key(&agent)
    }

    /// Returns the offers of a framework, ascending by id.
    pub fn offers_of(
        &self,
        framework: FrameworkId,
    ) -> impl Iterator<Item = (&Arc<OfferTerms>, OfferState)> {
        let held = self.frameworks.get(&framework);
        let ids = held.into_iter().flat_map(|held| &held.offers);
        ids.filter_map(|id| self.get(*id))
    }

    /// Returns the sum of the offers of an agent.
    #[must_use]
    pub fn offered_on(&self, agent: AgentId) -> Resources {
        let mut sum = Resources::none();
        let counted = planted_bug!(SecondOfferForgotten, usize::MAX, 1);
        for (terms, _) in self.offers_on(agent).take(counted) {
            for resource in &terms.resources {
                // Offers of one agent never overlap; `check` verifies it.
                let added = sum.add(resource);
                debug_assert!(added.is_some(), "two offers of {agent} overlap");
            }
        }
        sum
    }

    /// Returns the scalars that a framework is offered in a role.
    #[must_use]
    pub fn offered_to(&self, framework: FrameworkId, role: &Role) -> Option<&ResourceSums> {
        self.frameworks.get(&framework)?.roles.get(role)
    }

    /// Returns the scalars that are offered in a role.
    #[must_use]
    pub fn offered_in(&self, role: &Role) -> Option<&ResourceSums> {
        self.roles.get(role)
    }

    /// Returns the sum of all offers, pending ones included.
    #[must_use]
    pub fn total(&self) -> &ResourceSums {
        &self.total
    }

    /// Returns the offers that have left the book since the last call.
    pub fn take_closed(&mut self) -> Vec<ClosedOffer> {
        std::mem::take(&mut self.closed)
    }

    /// Returns the agents and frameworks whose offers changed since the last call, by other means
    /// than [`Self::open`]. The allocator refreshes them.
    pub fn take_changes(&mut self) -> BookChanges {
        std::mem::take(&mut self.changes)
    }

    /// Returns whether [`Self::take_changes`] would return anything.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changes.agents.is_empty() || !self.changes.frameworks.is_empty()
    }

    fn mark_changed(&mut self, terms: &OfferTerms) {
        self.changes.agents.insert(terms.agent);
        self.changes.frameworks.insert(terms.framework);
    }

    fn insert(&mut self, terms: &Arc<OfferTerms>) {
        let id = terms.id;
        self.agents.entry(terms.agent).or_default().push(id);
        let held = self.frameworks.entry(terms.framework).or_default();
        held.offers.insert(id);
        tally(&mut held.roles, &terms.role).add(&terms.resources);
        tally(&mut self.roles, &terms.role).add(&terms.resources);
        self.total.add(&terms.resources);
        self.expiries.insert((terms.expires, id));
        let entry = BookEntry {
            terms: Arc::clone(terms),
            state: OfferState::Open,
            since: self.now,
        };
        self.offers.insert(id, entry);
    }

    fn close(&mut self, id: OfferId, outcome: OfferOutcome) -> Option<Arc<OfferTerms>> {
        let entry = self.offers.remove(&id)?;
        let held_ms = self.now.0.saturating_sub(entry.since.0);
        self.closed.push(ClosedOffer { outcome, held_ms });
        let terms = entry.terms;
        self.total.take(&terms.resources);
        self.expiries.remove(&(terms.expires, id));
        if let Some(ids) = self.agents.get_mut(&terms.agent) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.agents.remove(&terms.agent);
            }
        }
        if let Some(held) = self.frameworks.get_mut(&terms.framework) {
            held.offers.remove(&id);
            untally(&mut held.roles, &terms);
            if held.offers.is_empty() {
                self.frameworks.remove(&terms.framework);
            }
        }
        untally(&mut self.roles, &terms);
        self.mark_changed(&terms);
        Some(terms)
    }

    fn rescind_matching(
        &mut self,
        framework: FrameworkId,
        matches: impl Fn(&OfferTerms) -> bool,
    ) -> Vec<Arc<OfferTerms>> {
        let matching = self
            .offers_of(framework)
            .filter(|(terms, _)| matches(terms));
        let ids: Vec<_> = matching.map(|(terms, _)| terms.id).collect();
        self.rescind_all(&ids)
    }

    fn rescind_all(&mut self, ids: &[OfferId]) -> Vec<Arc<OfferTerms>> {
        ids.iter().filter_map(|id| self.rescind(*id)).collect()
    }
}

/// Returns the sums of a role; the name is copied only when it is new.
fn tally<'a>(by_role: &'a mut BTreeMap<Role, ResourceSums>, role: &Role) -> &'a mut ResourceSums {
    if !by_role.contains_key(role) {
        by_role.insert(role.clone(), ResourceSums::default());
    }
    by_role.get_mut(role).expect("it was just put there")
}

fn untally(by_role: &mut BTreeMap<Role, ResourceSums>, terms: &OfferTerms) {
    if let Some(sum) = by_role.get_mut(&terms.role) {
        sum.take(&terms.resources);
        if sum.is_empty() {
            by_role.remove(&terms.role);
        }
    }
}
