//! Refreshing the cache: its frameworks, roles and agents follow registry, book and links.
//!
//! Refreshing is level-triggered: its cause and frequency do not matter.

use std::collections::BTreeSet;
use std::sync::Arc;

use argosy_state::agent::{Agent, AgentMode};
use argosy_state::framework::Framework;
use argosy_state::ids::{AgentId, FrameworkId, Revision, Role};
use argosy_state::limits;
use argosy_state::planted_bug;

use super::budget::AllocationTurn;
use super::cache::Client;
use super::eligibility::{OfferMinimum, VisibilityRules, agent_obstacle, framework_obstacle};
use super::fair_share::{AccountKind, ROOT};
use super::share::{Amounts, TotalsChange};
use super::{Allocator, CacheProgress};

/// Up to this number of clients, every change of the totals takes effect immediately.
const FEW_CLIENTS: usize = 256;

impl Allocator {
    /// Follows the cluster's totals, on which all shares depend. With many clients, a small change
    /// waits for the next round, because it would cost a refresh of every client for each agent
    /// that joins or leaves.
    pub(super) fn refresh_totals(&mut self, turn: &AllocationTurn<'_>, exactly: bool) {
        let exactly = exactly || self.clients.len() <= FEW_CLIENTS;
        match self.kinds.update(turn.registry.total(), exactly) {
            TotalsChange::None => {}
            TotalsChange::Totals => self.tree.mark_all(),
            TotalsChange::Kinds => {
                self.tree.mark_all();
                for (role, limit) in &self.limits {
                    if let Some(at) = self.roles.get(role) {
                        self.tree.set_limit(*at, Some(self.kinds.limit(limit)));
                    }
                }
                self.progress = CacheProgress::Nothing;
            }
        }
    }

    /// Loads all facts, a part in each turn. Nothing is offered before that is done.
    pub(super) fn load(&mut self, turn: &mut AllocationTurn<'_>) {
        while let CacheProgress::UpTo(after) = self.progress {
            if turn.is_spent() {
                return;
            }
            let part = turn.registry.agents_after(after).take(64);
            let part: Vec<AgentId> = part.map(|agent| agent.id).collect();
            for id in &part {
                self.refresh_agent(turn, *id);
            }
            turn.spend(1 + part.len());
            match part.last() {
                Some(last) => self.progress = CacheProgress::UpTo(*last),
                None => {
                    self.progress = CacheProgress::Everything;
                    self.begin_round(turn);
                }
            }
        }
    }

    /// Marks all frameworks that exist or existed.
    pub(super) fn mark_frameworks(&mut self, turn: &AllocationTurn<'_>) {
        let known = self.clients.frameworks.keys().copied();
        let frameworks = turn.registry.frameworks().map(|framework| framework.id);
        self.frameworks_due.extend(known.chain(frameworks));
    }

    /// Refreshes one framework. Returns the number of its roles: each takes about a microsecond.
    pub(super) fn refresh_framework(
        &mut self,
        turn: &AllocationTurn<'_>,
        id: FrameworkId,
    ) -> usize {
        let facts = turn.registry.framework(id);
        self.leave_roles(id, facts);
        if let Some(framework) = facts {
            self.update_session(id, framework.session);
            self.update_minimum(framework);
            let blocked = framework_obstacle(turn.registry, &turn.links, framework).is_some();
            for role in &framework.info.roles {
                let at = self.ensure_client(id, role);
                self.update_client(turn, at, framework);
                let active = !blocked && !framework.suppressed.contains(role);
                if active && !self.tree.is_active(at) {
                    self.scan.wake(at);
                }
                match active {
                    true => self.waiting.begin(at, turn.now),
                    false => self.waiting.end(at),
                }
                self.tree.set_active(at, active);
            }
            let mirror = self.clients.frameworks.entry(id).or_default();
            mirror.revision = framework.revision;
        }
        let roles = self.refresh_accounts(turn, id, facts);
        if facts.is_none() {
            self.clients.frameworks.remove(&id);
        }
        roles
    }

    /// Updates the shares of a framework's roles, including the roles that it has left. Returns
    /// the number of them.
    fn refresh_accounts(
        &mut self,
        turn: &AllocationTurn<'_>,
        id: FrameworkId,
        facts: Option<&Framework>,
    ) -> usize {
        let used = turn.registry.framework_index(id);
        let used = used.into_iter().flat_map(|index| index.used.keys());
        let held = facts.into_iter().flat_map(|facts| &facts.info.roles);
        let now: BTreeSet<Role> = held.chain(used).cloned().collect();
        let mirror = self.clients.frameworks.entry(id).or_default();
        let mut all = std::mem::replace(&mut mirror.accounts, now.clone());
        all.extend(now);
        for role in &all {
            self.refresh_role(turn, role);
        }
        all.len()
    }

    fn set_own(&mut self, at: u32, mut used: Amounts, offered: &Amounts) {
        used.add(offered);
        self.tree.set_own(at, used);
    }

    /// Refreshes one role if any framework is in it.
    pub(super) fn refresh_role(&mut self, turn: &AllocationTurn<'_>, role: &Role) {
        let Some(at) = self.roles.get(role).copied() else {
            return;
        };
        let used = turn.registry.role_used(role);
        let used = used
            .map(|used| self.kinds.amounts(used))
            .unwrap_or_default();
        let offered = self.kinds.tallied_amounts(turn.book.offered_in(role));
        self.set_own(at, used, &offered);
        self.tree.set_weight(at, turn.registry.weight_milli(role));
    }

    /// Refreshes one agent. Returns whether its free resources have changed.
    pub(super) fn refresh_agent(&mut self, turn: &mut AllocationTurn<'_>, id: AgentId) -> bool {
        let Some(agent) = turn.registry.agent(id) else {
            if let Some(at) = self.agents.remove(id) {
                turn.spend(self.filters.drop_agent(at));
            }
            return false;
        };
        let at = self.agents.ensure(id);
        let is_new = self.agents.update_offer_revision(at, agent);
        if is_new {
            turn.spend(self.filters.drop_agent(at));
        }
        let mut obstacle = agent_obstacle(&turn.links, agent);
        planted_bug!(DeactivatedOffered if is_deactivated_in_use(turn, agent) => obstacle = None);
        let free = if obstacle.is_none() {
            let free = turn.registry.free(id);
            if turn.book.has_offers_on(id) {
                free.minus_saturating(&turn.book.offered_on(id))
            } else {
                free
            }
        } else {
            Default::default()
        };
        if !self
            .agents
            .set_free(at, free, &self.kinds, &self.settings.minimum)
        {
            return is_new;
        }
        if self.agents.nonempty.contains(at) {
            let steps = self.filters.reevaluate(at, &self.agents.get(at).free);
            turn.spend(steps);
        }
        true
    }

    /// Returns the client of a framework in a role, and creates an inactive one if necessary.
    fn ensure_client(&mut self, id: FrameworkId, role: &Role) -> u32 {
        if let Some(at) = self.clients.slot(id, role) {
            return at;
        }
        let parent = self.ensure_role(role);
        let at = self.tree.add(parent, AccountKind::Client);
        self.filters.drop_client(at);
        self.scan.forget(at);
        let client = Client {
            framework: id,
            session: 0,
            role: role.clone(),
            offer_timeout_ms: limits::OFFER_TIMEOUT_MS,
            visibility: VisibilityRules::new(&Default::default(), role),
            minimum: None,
            last_decline: None,
        };
        self.clients.put(at, client);
        // The next refresh updates the client in full, regardless of the record's revision.
        let mirror = self.clients.frameworks.entry(id).or_default();
        mirror.revision = Revision::default();
        at
    }

    /// Removes the filters of the previous session when a new one starts.
    fn update_session(&mut self, id: FrameworkId, session: u64) {
        let mirror = self.clients.frameworks.entry(id).or_default();
        if mirror.session == session {
            return;
        }
        let is_first = std::mem::replace(&mut mirror.session, session) == 0;
        for at in mirror.clients.values().filter(|_| !is_first) {
            self.filters.drop_client(*at);
            self.scan.wake(*at);
        }
    }

    /// Parses the minimum of a framework whose record has changed: once for all of its roles.
    fn update_minimum(&mut self, framework: &Framework) {
        let mirror = self.clients.frameworks.entry(framework.id).or_default();
        if mirror.revision != framework.revision {
            mirror.minimum = OfferMinimum::of(&framework.info).map(Arc::new);
        }
    }

    /// Returns the node of a role. A path has one level today; each further level would add a node.
    fn ensure_role(&mut self, role: &Role) -> u32 {
        if let Some(at) = self.roles.get(role) {
            return *at;
        }
        let at = self.tree.add(ROOT, AccountKind::Role);
        self.roles.insert(role.clone(), at);
        if let Some(limit) = self.limits.get(role) {
            self.tree.set_limit(at, Some(self.kinds.limit(limit)));
        }
        at
    }

    /// Removes a role without frameworks. Every round refreshes every role, so that an empty one
    /// would still have a cost.
    fn drop_role_if_empty(&mut self, role: &Role) {
        if let Some(at) = self.roles.get(role).copied()
            && self.tree.is_empty(at)
        {
            self.tree.remove(at);
            self.roles.remove(role);
        }
    }

    fn update_client(&mut self, turn: &AllocationTurn<'_>, at: u32, framework: &Framework) {
        let role = &self.clients.get(at).role;
        let used = turn.registry.framework_index(framework.id);
        let used = used.and_then(|index| index.used.get(role));
        let used = used
            .map(|used| self.kinds.amounts(used))
            .unwrap_or_default();
        let offered = turn.book.offered_to(framework.id, role);
        let offered = self.kinds.tallied_amounts(offered);
        self.set_own(at, used, &offered);
        let mirror = self.clients.frameworks.get(&framework.id);
        if mirror.is_some_and(|mirror| mirror.revision == framework.revision) {
            return;
        }
        let minimum = mirror.and_then(|mirror| mirror.minimum.clone());
        let client = self.clients.get_mut(at);
        client.session = framework.session;
        client.visibility = VisibilityRules::new(&framework.info, &client.role);
        client.minimum = minimum;
        client.offer_timeout_ms = match framework.info.offer_timeout_ms {
            0 => limits::OFFER_TIMEOUT_MS,
            some => some,
        };
    }

    /// Removes the clients of roles that the framework has left.
    fn leave_roles(&mut self, id: FrameworkId, facts: Option<&Framework>) {
        let Some(mirror) = self.clients.frameworks.get(&id) else {
            return;
        };
        let left = mirror
            .clients
            .iter()
            .filter(|(role, _)| facts.is_none_or(|facts| !facts.info.roles.contains(*role)));
        let left = left.map(|(role, at)| (role.clone(), *at));
        for (role, at) in left.collect::<Vec<_>>() {
            self.filters.drop_client(at);
            self.scan.forget(at);
            self.waiting.end(at);
            self.clients.remove(at);
            self.tree.remove(at);
            self.drop_role_if_empty(&role);
        }
    }
}

/// Implements the planted bug `DeactivatedOffered`.
fn is_deactivated_in_use(turn: &AllocationTurn<'_>, agent: &Agent) -> bool {
    agent.mode() == AgentMode::Deactivated && turn.registry.free(agent.id) != *agent.total()
}
