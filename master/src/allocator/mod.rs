//! Who is offered what: weighted dominant resource fairness over roles, then over the frameworks of
//! a role, after filters, suppression, minimum and what each may see.
//!
//! Pure: facts, links and time come in, offers and reasons go out. Nothing here is replicated and
//! nothing decides: an offer is a hint that `apply` judges again. Reading order: `turn`,
//! `eligibility`, `reason`, `share`, `fair_share`, `filters`, `mirrors`, `looking`, `offering`,
//! `sweep`, `explain`.

mod bits;
mod due;
mod eligibility;
mod explain;
mod fair_share;
mod filters;
mod looking;
mod mirrors;
mod offering;
mod reason;
mod share;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod turn;

use std::collections::{BTreeMap, VecDeque};

use argosy_state::Registry;
use argosy_state::event::Event;
use argosy_state::ids::{AgentId, FrameworkId, Role, Timestamp};
use argosy_state::resources::Resources;

use crate::offers::OfferBook;
use due::Due;
use fair_share::Tree;
use filters::{Filter, Filters};
use mirrors::{Agents, Clients};
use share::Kinds;
use sweep::Sweep;
use turn::Turn;

pub use eligibility::{Demand, GPUS_LABEL, MINIMUM_LABEL, Minimum, REVOCABLE_LABEL, Stream};
pub use explain::Question;
pub use reason::{Explanation, LastDecline, Outlook, Reason, Verdict};
pub use turn::{Budget, Round};

/// How long a decline hides an agent unless the framework says otherwise, in milliseconds.
pub const FILTER_MS: u64 = 5_000;
/// Longest filter: 365 days, as in Mesos, in milliseconds.
pub const LONGEST_FILTER_MS: u64 = 365 * 24 * 3_600_000;
/// Longest code of a decline that is kept, in characters; longer ones are cut.
pub const DECLINE_CODE: usize = 64;
/// Longest text of a decline that is kept, in characters; longer ones are cut.
pub const DECLINE_TEXT: usize = 256;

/// What an operator may set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The least that is worth an offer.
    pub minimum: Minimum,
    /// Milliseconds between full rounds, the safety net; a filter lasts at least as long.
    pub round_ms: u64,
    /// Filters kept; at the limit the one that would end first makes room.
    pub filters: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            minimum: Minimum::default(),
            round_ms: 1_000,
            filters: 4_000_000,
        }
    }
}

/// What a framework does not want for a while: a declined offer, what an acceptance left of one, or
/// a filter that it brings along when it subscribes again.
#[derive(Debug, Clone)]
pub struct Declined {
    /// Whose wish it is.
    pub framework: FrameworkId,
    /// In which session; another one's wishes are void.
    pub session: u64,
    /// In which role.
    pub role: Role,
    /// Of which agent.
    pub agent: AgentId,
    /// What it does not want.
    pub resources: Resources,
    /// For how long: [`FILTER_MS`] if it does not say, not at all for 0, otherwise at least one
    /// round and at most [`LONGEST_FILTER_MS`].
    pub filter_ms: Option<u64>,
    /// Why, if it was an answer to an offer.
    pub because: Option<Because>,
}

/// Why a framework declines, in its own words; shown by `explain`.
#[derive(Debug, Clone, Default)]
pub struct Because {
    /// For machines; cut to [`DECLINE_CODE`].
    pub code: String,
    /// For people; cut to [`DECLINE_TEXT`].
    pub text: String,
}

/// Agents looked at again in each full round although nothing has been heard of them, so that a
/// missed event heals; a bigger cluster takes several rounds.
const AGENTS_A_ROUND: usize = 2_048;
/// Frameworks likewise.
const FRAMEWORKS_A_ROUND: usize = 512;
/// With more agents due at once than this, a pass over all is cheaper than one walk an agent.
const WALKS_A_TURN: usize = 256;

/// The allocator of one reign. Made anew by each leader; it fills itself from the registry.
#[derive(Debug)]
pub struct Allocator {
    settings: Settings,
    kinds: Kinds,
    tree: Tree,
    roles: BTreeMap<Role, u32>,
    limits: BTreeMap<Role, Resources>,
    clients: Clients,
    agents: Agents,
    filters: Filters,
    frameworks_due: Due<FrameworkId>,
    agents_due: Due<AgentId>,
    /// Emptied by every step that has the budget; none that has not offers anything.
    declines_due: VecDeque<(Declined, Timestamp)>,
    sweep: Sweep,
    /// Nothing is offered until everything was looked at once.
    loaded: Loaded,
    next_round: Timestamp,
    looked_through: LookedThrough,
    rounds: u64,
}

/// Up to where the rounds have looked at everything again.
#[derive(Debug, Default)]
struct LookedThrough {
    agent: AgentId,
    framework: FrameworkId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    Not,
    Partly,
    Whole,
}

impl Allocator {
    /// An allocator that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            kinds: Kinds::new(),
            tree: Tree::new(),
            roles: BTreeMap::new(),
            limits: BTreeMap::new(),
            clients: Clients::default(),
            agents: Agents::default(),
            filters: Filters::new(settings.filters),
            frameworks_due: Due::default(),
            agents_due: Due::default(),
            declines_due: VecDeque::new(),
            sweep: Sweep::default(),
            loaded: Loaded::Not,
            next_round: Timestamp(0),
            looked_through: LookedThrough::default(),
            rounds: 0,
            settings,
        }
    }

    /// Hears of a fact that has just become true. A missed one heals in the rounds that follow.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::AgentChanged(agent)
            | Event::AgentGone(agent)
            | Event::AgentUsageChanged(agent) => self.agent_changed(*agent),
            Event::FrameworkSubscribed(framework)
            | Event::FrameworkChanged(framework)
            | Event::FrameworkRemoving(framework)
            | Event::FrameworkRemoved(framework) => self.framework_changed(*framework),
            Event::FrameworkRevived(framework) => self.revive(*framework, &[]),
            Event::TaskLaunched { key, agent, .. } | Event::TaskUpdated { key, agent, .. } => {
                self.framework_changed(key.framework);
                self.agent_changed(*agent);
            }
            Event::TaskForgotten(key) => self.framework_changed(key.framework),
            Event::EpochOpened(_)
            | Event::TaskKillWanted { .. }
            | Event::UpdateSettled { .. }
            | Event::Stray { .. }
            | Event::AgentReconciled { .. }
            | Event::SweepNeeded => {}
        }
    }

    /// The link of an agent came or went, or anything else of it may have changed.
    pub fn agent_changed(&mut self, agent: AgentId) {
        self.agents_due.insert(agent);
    }

    /// The stream of a framework came, went or fell behind, or anything else of it may have changed.
    pub fn framework_changed(&mut self, framework: FrameworkId) {
        self.frameworks_due.insert(framework);
    }

    /// Hides an agent from a framework while no more is free there than it does not want. Takes
    /// effect in the next step, before anything is offered.
    pub fn decline(&mut self, declined: Declined, now: Timestamp) {
        self.agent_changed(declined.agent);
        self.declines_due.push_back((declined, now));
    }

    /// Forgets the filters of a framework in these roles; none named means all.
    pub fn revive(&mut self, framework: FrameworkId, roles: &[Role]) {
        self.framework_changed(framework);
        let Some(known) = self.clients.frameworks.get(&framework) else {
            return;
        };
        let revived = known
            .clients
            .iter()
            .filter(|(role, _)| roles.is_empty() || roles.contains(role));
        for (_, client) in revived {
            self.filters.drop_client(*client);
            self.sweep.wake(*client);
        }
    }

    /// Caps what a role may hold, offers included; kinds that are not named have no limit, and
    /// `None` lifts it. A whole agent that would not fit is not offered.
    pub fn set_limit(&mut self, role: &Role, limit: Option<&Resources>) {
        match limit {
            Some(limit) => drop(self.limits.insert(role.clone(), limit.clone())),
            None => drop(self.limits.remove(role)),
        }
        if let Some(at) = self.roles.get(role) {
            let limit = limit.map(|limit| self.kinds.limit(limit));
            self.tree.set_limit(*at, limit);
        }
        self.next_round = Timestamp(0);
    }

    /// When [`Self::step`] has something to do again by itself; at once if something is due.
    #[must_use]
    pub fn next_wakeup(&self) -> Timestamp {
        let is_due = !self.frameworks_due.is_empty()
            || !self.agents_due.is_empty()
            || !self.declines_due.is_empty();
        if is_due || !self.sweep.is_over() || self.loaded != Loaded::Whole {
            return Timestamp(0);
        }
        let expiry = self.filters.next_expiry();
        expiry.map_or(self.next_round, |at| at.min(self.next_round))
    }

    /// Full rounds begun in this reign.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Does what is due, as far as the budget goes: looks at what has changed, offers what has
    /// become free, ends filters, begins a full round when its time has come.
    pub fn step(
        &mut self,
        registry: &Registry,
        book: &mut OfferBook,
        demand: Demand<'_>,
        now: Timestamp,
        budget: Budget,
    ) -> Round {
        let touched = book.take_touched();
        self.agents_due.extend(touched.agents);
        self.frameworks_due.extend(touched.frameworks);
        let mut turn = Turn {
            registry,
            demand,
            now,
            book,
            left: budget.0.max(1),
            offers: Vec::new(),
            unmet: Vec::new(),
        };
        self.work(&mut turn);
        Round {
            offers: turn.offers,
            unmet: turn.unmet,
            more: self.next_wakeup() <= now,
            serial: self.rounds,
        }
    }

    /// One full round to its end, whatever it costs: everything is looked at and offered.
    pub fn allocate(
        &mut self,
        registry: &Registry,
        book: &mut OfferBook,
        demand: Demand<'_>,
        now: Timestamp,
    ) -> Round {
        self.next_round = Timestamp(0);
        let mut all = Round::default();
        loop {
            let round = self.step(registry, book, demand, now, Budget::UNBOUNDED);
            all.offers.extend(round.offers);
            all.unmet.extend(round.unmet);
            all.serial = round.serial;
            if !round.more {
                return all;
            }
        }
    }

    fn work(&mut self, turn: &mut Turn<'_>) {
        self.look_at_totals(turn);
        if self.loaded == Loaded::Not {
            self.look_at_everything(turn);
            self.loaded = Loaded::Partly;
        }
        if self.loaded == Loaded::Whole && turn.now >= self.next_round {
            self.begin_round(turn);
        }
        while let Some(framework) = self.take_framework(turn) {
            self.look_at_framework(turn, framework);
            turn.spend(1);
        }
        self.note_declines(turn);
        self.serve_agents(turn);
        if self.loaded == Loaded::Partly && !turn.is_spent() {
            self.loaded = Loaded::Whole;
            self.begin_round(turn);
        }
        while !turn.is_spent() {
            let Some((client, filters)) = self.filters.expire(turn.now) else {
                break;
            };
            turn.spend(1 + filters);
            self.wake(client);
        }
        if self.loaded == Loaded::Whole {
            self.go_on_sweeping(turn);
        }
    }

    fn take_framework(&mut self, turn: &Turn<'_>) -> Option<FrameworkId> {
        (!turn.is_spent())
            .then(|| self.frameworks_due.take())
            .flatten()
    }

    fn note_declines(&mut self, turn: &mut Turn<'_>) {
        while !turn.is_spent() {
            let Some((declined, at)) = self.declines_due.pop_front() else {
                return;
            };
            turn.spend(1);
            self.note_decline(turn, declined, at);
        }
    }

    fn note_decline(&mut self, turn: &Turn<'_>, declined: Declined, at: Timestamp) {
        let mirror = self.clients.frameworks.get(&declined.framework);
        if mirror.is_none_or(|mirror| mirror.session != declined.session) {
            return;
        }
        let Some(client) = self.clients.place(declined.framework, &declined.role) else {
            return;
        };
        if let Some(because) = declined.because {
            self.clients.get_mut(client).last_decline = Some(LastDecline {
                code: because.code.chars().take(DECLINE_CODE).collect(),
                text: because.text.chars().take(DECLINE_TEXT).collect(),
                agent: declined.agent,
                at,
            });
        }
        let filter_ms = declined.filter_ms.unwrap_or(FILTER_MS);
        if filter_ms == 0 || declined.resources.is_empty() {
            return;
        }
        let filter_ms = filter_ms.clamp(self.settings.round_ms, LONGEST_FILTER_MS);
        if self.agents.place(declined.agent).is_none() {
            self.look_at_agent(turn, declined.agent);
        }
        let Some(agent) = self.agents.place(declined.agent) else {
            return;
        };
        let plain = self.agents.get(agent).plain;
        let dropped = self.filters.add(Filter {
            client,
            agent,
            declined: &declined.resources,
            sight: (!plain).then(|| self.clients.get(client).sight.clone()),
            until: at.plus_ms(filter_ms),
        });
        self.filters.look_again(agent, &self.agents.get(agent).free);
        for client in dropped {
            self.wake(client);
        }
    }

    /// A client whose filters have ended, if it is still there, goes through all agents.
    fn wake(&mut self, client: u32) {
        if self.clients.is_there(client) {
            self.sweep.wake(client);
        }
    }

    fn serve_agents(&mut self, turn: &mut Turn<'_>) {
        let one_by_one = self.loaded == Loaded::Whole && self.agents_due.len() <= WALKS_A_TURN;
        let mut changed = false;
        while !turn.is_spent() {
            let Some(id) = self.agents_due.take() else {
                break;
            };
            turn.spend(1);
            if !self.look_at_agent(turn, id) {
                continue;
            }
            changed = true;
            if let Some(agent) = self.agents.place(id).filter(|_| one_by_one) {
                self.offer_agent(turn, agent);
            }
        }
        if changed && !one_by_one {
            self.sweep_all();
        }
    }

    /// The safety net: weights and a part of the agents and frameworks are looked at again, and
    /// every client goes through all agents.
    fn begin_round(&mut self, turn: &mut Turn<'_>) {
        self.rounds += 1;
        self.next_round = turn.now.plus_ms(self.settings.round_ms);
        for role in self.roles.keys().cloned().collect::<Vec<_>>() {
            self.look_at_role(turn, &role);
        }
        let after = turn.registry.agents_after(self.looked_through.agent);
        let part: Vec<_> = after.take(AGENTS_A_ROUND).map(|agent| agent.id).collect();
        self.looked_through.agent = last_of(&part, AGENTS_A_ROUND);
        self.agents_due.extend(part);
        let frameworks = turn.registry.frameworks().map(|framework| framework.id);
        let part: Vec<_> = frameworks
            .filter(|id| *id > self.looked_through.framework)
            .take(FRAMEWORKS_A_ROUND)
            .collect();
        self.looked_through.framework = last_of(&part, FRAMEWORKS_A_ROUND);
        self.frameworks_due.extend(part);
        self.sweep_all();
    }
}

/// Where to go on behind a part: from the start when it was not full.
fn last_of<Id: Copy + Default>(part: &[Id], full: usize) -> Id {
    let last = part.last().copied().filter(|_| part.len() == full);
    last.unwrap_or_default()
}
