//! The allocator's cache of agents and clients in dense arrays, so that a decision touches few
//! cache lines and no names.
//!
//! The arrays are copies of facts and never authoritative: a refresh at any time gives the same
//! result.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use argosy_state::agent::Agent;
use argosy_state::ids::{AgentId, FrameworkId, Revision, Role};
use argosy_state::resources::Resources;

use super::bits::Bits;
use super::eligibility::{OfferMinimum, VisibilityRules, is_plain};
use super::share::{Amounts, ResourceKinds};
use super::skip_reason::LastDecline;

#[derive(Debug, Default)]
pub(super) struct CachedAgent {
    pub(super) id: AgentId,
    /// Resources that can be offered now; empty while the agent may not be offered.
    pub(super) free: Resources,
    pub(super) amounts: Amounts,
    pub(super) offer_revision: Revision,
    /// Whether all clients see the same resources of the agent.
    pub(super) is_plain: bool,
}

/// All agents by slot. Slots are reused.
#[derive(Debug, Default)]
pub(super) struct AgentCache {
    all: Vec<CachedAgent>,
    slots: BTreeMap<AgentId, u32>,
    free_slots: Vec<u32>,
    /// Agents with any free resources.
    pub(super) nonempty: Bits,
    /// Agents with at least the general minimum free.
    pub(super) ample: Bits,
}

impl AgentCache {
    pub(super) fn slot(&self, id: AgentId) -> Option<u32> {
        self.slots.get(&id).copied()
    }

    /// Returns the agents after `after`, up to and including `through`.
    pub(super) fn between(
        &self,
        after: AgentId,
        through: AgentId,
    ) -> impl Iterator<Item = AgentId> {
        let range = (Bound::Excluded(after), Bound::Included(through.max(after)));
        let places = (after < through).then(|| self.slots.range(range));
        places.into_iter().flatten().map(|(id, _)| *id)
    }

    pub(super) fn get(&self, at: u32) -> &CachedAgent {
        &self.all[at as usize]
    }

    /// Returns the slot of an agent, and allocates one if necessary.
    pub(super) fn ensure(&mut self, id: AgentId) -> u32 {
        if let Some(at) = self.slot(id) {
            return at;
        }
        let at = self.free_slots.pop().unwrap_or(self.all.len() as u32);
        if at as usize == self.all.len() {
            self.all.push(CachedAgent::default());
        }
        self.all[at as usize] = CachedAgent {
            id,
            ..CachedAgent::default()
        };
        self.slots.insert(id, at);
        at
    }

    /// Releases the slot of an agent.
    pub(super) fn remove(&mut self, id: AgentId) -> Option<u32> {
        let at = self.slots.remove(&id)?;
        self.all[at as usize] = CachedAgent::default();
        self.nonempty.set(at, false);
        self.ample.set(at, false);
        self.free_slots.push(at);
        Some(at)
    }

    /// Stores the agent's total and offer revision. Returns whether that revision has changed.
    pub(super) fn update_offer_revision(&mut self, at: u32, agent: &Agent) -> bool {
        let mirror = &mut self.all[at as usize];
        // Negotiated features may shape the total without changing the offer revision.
        mirror.is_plain = is_plain(agent.total());
        let is_other = mirror.offer_revision != agent.offer_revision;
        mirror.offer_revision = agent.offer_revision;
        is_other
    }

    /// Stores the free resources. Returns whether they have changed.
    pub(super) fn set_free(
        &mut self,
        at: u32,
        free: Resources,
        kinds: &ResourceKinds,
        minimum: &OfferMinimum,
    ) -> bool {
        let amounts = kinds.amounts(&free);
        let mirror = &mut self.all[at as usize];
        if mirror.free == free && mirror.amounts == amounts {
            return false;
        }
        self.nonempty.set(at, !free.is_empty());
        self.ample.set(at, minimum.is_met(&free));
        mirror.free = free;
        mirror.amounts = amounts;
        true
    }

    /// Marks all free resources as offered and returns them.
    pub(super) fn take_all(&mut self, at: u32) -> (Resources, Amounts) {
        let mirror = &mut self.all[at as usize];
        self.nonempty.set(at, false);
        self.ample.set(at, false);
        let amounts = std::mem::take(&mut mirror.amounts);
        (std::mem::take(&mut mirror.free), amounts)
    }
}

/// A framework in a role: the unit that receives offers.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) framework: FrameworkId,
    pub(super) session: u64,
    pub(super) role: Role,
    pub(super) offer_timeout_ms: u64,
    pub(super) visibility: VisibilityRules,
    /// The framework's own minimum; `None` means the general one.
    pub(super) minimum: Option<Arc<OfferMinimum>>,
    pub(super) last_decline: Option<LastDecline>,
}

#[derive(Debug, Default)]
pub(super) struct CachedFramework {
    pub(super) session: u64,
    /// The revision of the record from which the clients were made.
    pub(super) revision: Revision,
    /// The minimum that its clients share, as of that revision.
    pub(super) minimum: Option<Arc<OfferMinimum>>,
    pub(super) clients: BTreeMap<Role, u32>,
    /// Roles in which it is subscribed or has tasks, as of the last refresh.
    pub(super) accounts: BTreeSet<Role>,
}

/// All clients, by their node in the tree.
#[derive(Debug, Default)]
pub(super) struct ClientCache {
    all: Vec<Option<Client>>,
    pub(super) frameworks: BTreeMap<FrameworkId, CachedFramework>,
}

impl ClientCache {
    /// Returns an existing client: slots come from the tree or from a [`CachedFramework`].
    pub(super) fn get(&self, at: u32) -> &Client {
        self.all[at as usize]
            .as_ref()
            .expect("a client's place outlives its mention")
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Client {
        self.all[at as usize]
            .as_mut()
            .expect("a client's place outlives its mention")
    }

    pub(super) fn slot(&self, framework: FrameworkId, role: &Role) -> Option<u32> {
        self.frameworks.get(&framework)?.clients.get(role).copied()
    }

    pub(super) fn contains(&self, at: u32) -> bool {
        self.all.get(at as usize).is_some_and(Option::is_some)
    }

    /// Returns one more than the largest slot.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns the slots of all clients in ascending order.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        (0..self.all.len() as u32).filter(|at| self.contains(*at))
    }

    pub(super) fn put(&mut self, at: u32, client: Client) {
        if at as usize >= self.all.len() {
            self.all.resize_with(at as usize + 1, || None);
        }
        let framework = self.frameworks.entry(client.framework).or_default();
        framework.clients.insert(client.role.clone(), at);
        self.all[at as usize] = Some(client);
    }

    pub(super) fn remove(&mut self, at: u32) {
        if let Some(client) = self.all[at as usize].take() {
            let framework = self.frameworks.get_mut(&client.framework);
            framework.map(|framework| framework.clients.remove(&client.role));
        }
    }
}
