//! Who is offered what: weighted dominant resource fairness over roles, then over the frameworks of
//! a role, after filters, suppression, minimum and what each may see.
//!
//! Pure: facts, links and time come in, offers and reasons go out. Nothing here is replicated and
//! nothing decides: an offer is a hint that `apply` judges again. Reading order: `turn`,
//! `eligibility`, `reason`, `share`, `fair_share`, `filters`, `mirrors`, `looking`, `offering`,
//! `sweep`, `rounds`, `explain`.

mod bits;
mod budget;
mod cache;
mod dirty_queue;
mod eligibility;
mod explain;
mod fair_share;
mod filters;
mod offering;
mod refresh;
mod rounds;
mod share;
mod skip_reason;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use argosy_state::Registry;
use argosy_state::event::Event;
use argosy_state::ids::{AgentId, FrameworkId, Role, Timestamp};
use argosy_state::resources::Resources;

use crate::offers::OfferBook;
use budget::Turn;
use cache::{Agents, Clients};
use dirty_queue::Due;
use fair_share::Tree;
use filters::Filters;
use share::Kinds;
use sweep::Sweep;

pub use budget::{Budget, Round};
pub use eligibility::{Demand, MINIMUM_LABEL, Minimum, Stream};
pub use explain::{AgentInputs, Inputs, Question};
pub use skip_reason::{Explanation, LastDecline, Outlook, Reason, Verdict};

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
    /// Roles with a weight that has changed.
    roles_due: BTreeSet<Role>,
    agents_due: Due<AgentId>,
    /// Agents with an offer that was closed: what waits there to be joined may be offered now, even if no more is free.
    closed_on: BTreeSet<AgentId>,
    /// Emptied by every step that has the budget; none that has not offers anything.
    declines_due: VecDeque<(Declined, Timestamp)>,
    sweep: Sweep,
    /// Clients for which nothing was found, to be said a few a turn: saying why costs.
    unmet_due: VecDeque<u32>,
    /// Nothing is offered until everything was looked at once.
    loaded: Loaded,
    next_round: Timestamp,
    looked_through: LookedThrough,
    rounds: u64,
}

/// Up to where the rounds have looked at everything again.
#[derive(Debug, Default)]
struct LookedThrough {
    role: Option<Role>,
    agent: AgentId,
    framework: FrameworkId,
}

/// How much of the registry the mirrors show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    Nothing,
    /// Agents up to this one.
    UpTo(AgentId),
    Everything,
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
            roles_due: BTreeSet::new(),
            agents_due: Due::default(),
            closed_on: BTreeSet::new(),
            declines_due: VecDeque::new(),
            sweep: Sweep::default(),
            unmet_due: VecDeque::new(),
            loaded: Loaded::Nothing,
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
            | Event::AgentForgotten(agent)
            | Event::AgentUsageChanged(agent) => self.agent_changed(*agent),
            Event::FrameworkSubscribed(framework)
            | Event::FrameworkChanged(framework)
            | Event::FrameworkRemoving(framework)
            | Event::FrameworkRemoved(framework) => self.framework_changed(*framework),
            Event::FrameworkRevived { framework, roles } => self.revive(*framework, roles),
            Event::WeightChanged(role) => {
                self.roles_due.insert(role.clone());
                self.look();
            }
            Event::TaskLaunched { key, agent, .. } | Event::TaskUpdated { key, agent, .. } => {
                self.framework_changed(key.framework);
                self.agent_changed(*agent);
            }
            Event::TaskForgotten(key) => self.framework_changed(key.framework),
            Event::EpochOpened(_)
            | Event::TaskKillWanted { .. }
            | Event::TaskLimitsWanted { .. }
            | Event::UpdateSettled { .. }
            | Event::Stray { .. }
            | Event::AgentReconciled { .. }
            | Event::SweepNeeded
            | Event::LevelRaised(_)
            | Event::DigestLogged { .. } => {}
        }
    }

    /// Shares have moved by other means than what is used: a full round begins at once.
    pub fn look(&mut self) {
        self.next_round = Timestamp(0);
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
        self.look();
    }

    /// When [`Self::step`] has something to do again by itself; at once if something is due.
    #[must_use]
    pub fn next_wakeup(&self) -> Timestamp {
        let is_due = !self.roles_due.is_empty()
            || !self.frameworks_due.is_empty()
            || !self.agents_due.is_empty()
            || !self.declines_due.is_empty()
            || !self.unmet_due.is_empty();
        if is_due || !self.sweep.is_over() || self.loaded != Loaded::Everything {
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
        book.advance(now);
        let touched = book.take_touched();
        self.closed_on.extend(&touched.agents);
        self.agents_due.extend(touched.agents);
        self.frameworks_due.extend(touched.frameworks);
        let mut turn = Turn {
            registry,
            demand,
            now,
            book,
            left: budget.0.max(1),
            joined: Vec::new(),
            offers: Vec::new(),
            unmet: Vec::new(),
        };
        self.work(&mut turn);
        Round {
            joined: turn.joined,
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
            all.joined.extend(round.joined);
            all.offers.extend(round.offers);
            all.unmet.extend(round.unmet);
            all.serial = round.serial;
            if !round.more {
                return all;
            }
        }
    }
}
