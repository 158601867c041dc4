//! Invariants of the offer book: checked after every step in tests, and in slices by every leader.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use argosy_state::Registry;
use argosy_state::ids::{AgentId, OfferId, Role};
use argosy_state::resources::Resources;

use super::{OfferBook, OfferState, ResourceSums};

impl OfferBook {
    /// Checks the three invariants of the book: no unit is in two live offers, every open offer
    /// contains free resources only, and every index agrees with the offers. Call it when
    /// everything that was applied is settled.
    ///
    /// # Errors
    /// A message that names the first violation.
    pub fn check(&self, registry: &Registry) -> Result<(), String> {
        self.check_agents(registry)?;
        self.check_indexes()
    }

    /// Checks at most `most` offers after `after`, each against the indexes, and with the first
    /// offer of an agent all offers of that agent. Returns the number of checked offers, and the
    /// last of them if there are more. Sums over frameworks and roles are checked by
    /// [`Self::check`] alone.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_slice(
        &self,
        registry: &Registry,
        after: Option<OfferId>,
        most: usize,
    ) -> Result<(usize, Option<OfferId>), String> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut count = 0;
        for id in self
            .offers
            .range((from, Bound::Unbounded))
            .map(|(id, _)| *id)
        {
            self.check_offer(registry, id)?;
            count += 1;
            if count >= most {
                return Ok((count, Some(id)));
            }
        }
        Ok((count, None))
    }

    fn check_offer(&self, registry: &Registry, id: OfferId) -> Result<(), String> {
        let Some((terms, standing)) = self.get(id) else {
            return Ok(());
        };
        let on_agent = self.agents.get(&terms.agent);
        let of_framework = self.frameworks.get(&terms.framework);
        let lapses = self.expiries.contains(&(terms.expires, id));
        for (index, agrees) in [
            ("agents", on_agent.is_some_and(|ids| ids.contains(&id))),
            (
                "frameworks",
                of_framework.is_some_and(|held| held.offers.contains(&id)),
            ),
            ("expiries", lapses == (standing == OfferState::Open)),
        ] {
            if !agrees {
                return Err(format!("the index of {index} disagrees with offer {id}"));
            }
        }
        let is_first = on_agent.and_then(|ids| ids.first()) == Some(&id);
        if is_first {
            self.check_agent(registry, terms.agent)?;
        }
        Ok(())
    }

    fn check_agents(&self, registry: &Registry) -> Result<(), String> {
        let mut agents = self.agents.keys();
        agents.try_for_each(|agent| self.check_agent(registry, *agent))
    }

    fn check_agent(&self, registry: &Registry, agent: AgentId) -> Result<(), String> {
        let facts = registry.agent(agent);
        let mut open = Resources::none();
        for (terms, standing) in self.offers_on(agent) {
            // A pending offer, or one of an agent that has changed since, is checked by `apply` and
            // by the leader's next rescind.
            if standing == OfferState::Pending
                || facts.is_none_or(|facts| facts.offer_revision != terms.offer_revision)
            {
                continue;
            }
            open = open
                .plus(&terms.resources)
                .ok_or_else(|| format!("{agent}: {} has resources of another offer", terms.id))?;
        }
        let free = registry.free(agent);
        if free.contains(&open) {
            return Ok(());
        }
        Err(format!("{agent}: {open} is offered and {free} is free"))
    }

    pub(super) fn check_indexes(&self) -> Result<(), String> {
        let mut fresh = Self::new(self.epoch);
        for entry in self.offers.values() {
            fresh.insert(&entry.terms);
            if entry.state == OfferState::Pending {
                fresh
                    .expiries
                    .remove(&(entry.terms.expires, entry.terms.id));
            }
        }
        let agents = |book: &Self| -> BTreeMap<_, BTreeSet<_>> {
            let sets = book.agents.iter();
            sets.map(|(agent, ids)| (*agent, ids.iter().copied().collect()))
                .collect()
        };
        let frameworks = |book: &Self| -> BTreeMap<_, _> {
            let held = book.frameworks.iter();
            held.map(|(framework, held)| (*framework, (held.offers.clone(), sums(&held.roles))))
                .collect()
        };
        for (index, agrees) in [
            ("agents", agents(self) == agents(&fresh)),
            ("frameworks", frameworks(self) == frameworks(&fresh)),
            ("roles", sums(&self.roles) == sums(&fresh.roles)),
            ("expiries", self.expiries == fresh.expiries),
        ] {
            if !agrees {
                return Err(format!("the index of {index} disagrees with the offers"));
            }
        }
        Ok(())
    }
}

/// Offers of ports and sets alone have no sum.
fn sums(by_role: &BTreeMap<Role, ResourceSums>) -> BTreeMap<Role, ResourceSums> {
    let some = by_role.iter().filter(|(_, sum)| !sum.is_empty());
    some.map(|(role, sum)| (role.clone(), sum.clone()))
        .collect()
}
