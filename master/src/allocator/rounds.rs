//! The steps of a turn, in order: refresh what is due, record declines, offer what became free, end
//! filters, continue the pass; and once a second the safety net.

use std::ops::Bound;

use argosy_state::buggify;
use argosy_state::ids::{AgentId, FrameworkId, Role};

use super::budget::AllocationTurn;
use super::{Allocator, CacheProgress};

/// Agents that each full round refreshes although no event named them, so that a missed event is
/// repaired. A bigger cluster takes several rounds.
const AGENTS_PER_ROUND: usize = 2_048;
/// Frameworks that each full round refreshes.
const FRAMEWORKS_PER_ROUND: usize = 512;
/// Roles that each full round refreshes.
const ROLES_PER_ROUND: usize = 512;
/// With more agents due at the same time, one pass over all agents is cheaper than one search for
/// each.
const WALKS_PER_TURN: usize = 256;

/// Clients without an offer that one turn reports.
const UNMET_PER_TURN: usize = 8;

impl Allocator {
    pub(super) fn work(&mut self, turn: &mut AllocationTurn<'_>) {
        self.refresh_totals(turn, false);
        if self.progress == CacheProgress::Nothing {
            self.mark_frameworks(turn);
            self.progress = CacheProgress::UpTo(AgentId(0));
        }
        if self.progress == CacheProgress::Everything && turn.now >= self.next_round {
            self.begin_round(turn);
        }
        while !turn.is_spent()
            && let Some(role) = self.roles_due.pop_first()
        {
            self.refresh_role(turn, &role);
            turn.spend(1);
        }
        self.refresh_frameworks(turn);
        self.record_declines(turn);
        self.load(turn);
        self.serve_agents(turn);
        self.expire_filters(turn);
        if self.progress == CacheProgress::Everything {
            self.continue_scan(turn);
        }
        self.report_unmet(turn);
    }

    fn report_unmet(&mut self, turn: &mut AllocationTurn<'_>) {
        while turn.unmet.len() < UNMET_PER_TURN {
            let Some(at) = self.unmet_due.pop_front() else {
                return;
            };
            // The client may have been removed, or have been offered something since.
            if self.clients.contains(at) && self.waiting.is_unmet(at) {
                let client = self.clients.get(at);
                turn.unmet.push((client.framework, client.role.clone()));
            }
        }
    }

    fn expire_filters(&mut self, turn: &mut AllocationTurn<'_>) {
        while !turn.is_spent() {
            let Some((client, steps)) = self.filters.expire(turn.now) else {
                return;
            };
            turn.spend(steps);
            self.wake(client);
        }
    }

    /// Refreshes the frameworks that are due. If none is left, half of the turn's budget is left
    /// for the rest: a framework may have more roles than a turn has steps, and change in each.
    fn refresh_frameworks(&mut self, turn: &mut AllocationTurn<'_>) {
        let reserved = turn.steps_left / 2;
        while let Some(framework) = self.take_framework(turn) {
            let roles = self.refresh_framework(turn, framework);
            turn.spend(roles.max(1));
        }
        if self.frameworks_due.is_empty() {
            turn.steps_left = turn.steps_left.max(reserved);
        }
    }

    fn take_framework(&mut self, turn: &AllocationTurn<'_>) -> Option<FrameworkId> {
        (!turn.is_spent())
            .then(|| self.frameworks_due.take())
            .flatten()
    }

    /// Starts a pass over all agents for a client whose filters have expired, if the client still
    /// exists.
    pub(super) fn wake(&mut self, client: u32) {
        if self.clients.contains(client) {
            self.scan.wake(client);
        }
    }

    fn serve_agents(&mut self, turn: &mut AllocationTurn<'_>) {
        let one_by_one =
            self.progress == CacheProgress::Everything && self.agents_due.len() <= WALKS_PER_TURN;
        let mut changed = false;
        while !turn.is_spent() {
            let Some(id) = self.agents_due.take() else {
                break;
            };
            turn.spend(1);
            let is_closed_on = self.closed_on.remove(&id);
            let has_some = |at| self.agents.nonempty.contains(at);
            let waits = is_closed_on && self.agents.slot(id).is_some_and(has_some);
            if !self.refresh_agent(turn, id) && !waits {
                continue;
            }
            changed = true;
            if let Some(agent) = self.agents.slot(id).filter(|_| one_by_one) {
                self.offer_agent(turn, agent);
            }
        }
        if changed && !one_by_one {
            self.scan_all();
        }
    }

    /// Begins a round of the safety net: refreshes a part of the roles, agents and frameworks, and
    /// starts a pass over all agents for every client.
    pub(super) fn begin_round(&mut self, turn: &mut AllocationTurn<'_>) {
        self.refresh_totals(turn, true);
        self.rounds += 1;
        self.next_round = turn.now.plus_ms(self.settings.round_ms);
        for role in self.next_roles() {
            self.refresh_role(turn, &role);
        }
        let after = self.refresh_position.agent;
        let most = buggify!(OneAgentARound, AGENTS_PER_ROUND, 1);
        let agents = turn.registry.agents_after(after).take(most);
        let part: Vec<_> = agents.map(|agent| agent.id).collect();
        self.refresh_position.agent = last_of(&part, most);
        let through = part.last().filter(|_| part.len() == most);
        let through = through.copied().unwrap_or(AgentId(u64::MAX));
        self.agents_due.extend(self.agents.between(after, through));
        self.agents_due.extend(part);
        let after = self.refresh_position.framework;
        let frameworks = turn.registry.frameworks_after(after);
        let part = frameworks.take(FRAMEWORKS_PER_ROUND);
        let part: Vec<_> = part.map(|framework| framework.id).collect();
        self.refresh_position.framework = last_of(&part, FRAMEWORKS_PER_ROUND);
        self.frameworks_due.extend(part);
        self.scan_all();
    }

    /// Returns the roles of this round; the rest follows in the next rounds.
    pub(super) fn next_roles(&mut self) -> Vec<Role> {
        let after = match &self.refresh_position.role {
            Some(role) => Bound::Excluded(role),
            None => Bound::Unbounded,
        };
        let roles = self.roles.range((after, Bound::Unbounded));
        let part = roles.take(ROLES_PER_ROUND).map(|(role, _)| role.clone());
        let part: Vec<Role> = part.collect();
        let is_full = part.len() == ROLES_PER_ROUND;
        self.refresh_position.role = part.last().filter(|_| is_full).cloned();
        part
    }
}

/// Returns the position at which the next part begins: the start if this part was not full.
fn last_of<Id: Copy + Default>(part: &[Id], full: usize) -> Id {
    let last = part.last().copied().filter(|_| part.len() == full);
    last.unwrap_or_default()
}
