//! The allocator: weighted dominant resource fairness over roles, then over the frameworks of a
//! role. Filters, suppression, the minimum and visibility apply first.
//!
//! The allocator is pure: its input is facts, links and time, its output offers and reasons. Its
//! state is not replicated and not binding: an offer is a hint that `apply` checks again. Reading
//! order: `budget`, `eligibility`, `skip_reason`, `share`, `fair_share`, `agent_filters`,
//! `filters`, `cache`, `waiting`, `dirty_queue`, `decline_queue`, `declines`, `refresh`,
//! `offering`, `sweep`, `rounds`, `explain`, `wait_reasons`.

mod agent_filters;
mod bits;
mod budget;
mod cache;
mod decline_queue;
mod declines;
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
mod wait_reasons;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use argosy_state::Registry;
use argosy_state::event::Event;
use argosy_state::ids::{AgentId, FrameworkId, Role, Timestamp};
use argosy_state::resources::Resources;

use crate::offers::OfferBook;
use budget::AllocationTurn;
use cache::{AgentCache, ClientCache};
use decline_queue::DeclineQueue;
use dirty_queue::DirtyQueue;
use fair_share::ShareTree;
use filters::Filters;
use share::ResourceKinds;
use sweep::AgentScan;
use wait_reasons::ReasonPass;
use waiting::WaitingClients;

pub use budget::{AllocationRound, TurnBudget};
pub use eligibility::{LinkStates, MINIMUM_LABEL, OfferMinimum, StreamState};
pub use explain::{AgentInputs, ExplainInputs, ExplainQuery};
pub use skip_reason::{DemandExplanation, LastDecline, Outlook, SkipReason, SkippedAgent};
pub use waiting::{ReasonWaits, WaitReason};

/// Time for which a decline hides an agent by default, in milliseconds.
pub const FILTER_MS: u64 = 5_000;
/// Maximum duration of a filter: 365 days, as in Mesos, in milliseconds.
pub const LONGEST_FILTER_MS: u64 = 365 * 24 * 3_600_000;
/// Maximum length of a decline code, in characters; longer ones are truncated.
pub const DECLINE_CODE: usize = 64;
/// Maximum length of a decline text, in characters; longer ones are truncated.
pub const DECLINE_TEXT: usize = 256;

/// Settings that an operator can change.
#[derive(Debug, Clone)]
pub struct AllocatorSettings {
    /// The minimum that is worth an offer.
    pub minimum: OfferMinimum,
    /// The interval of full rounds, the safety net, in milliseconds. A filter lasts at least as
    /// long.
    pub round_ms: u64,
    /// The maximum number of filters; at the limit, the filter that would end first is dropped.
    pub filters: usize,
}

impl Default for AllocatorSettings {
    fn default() -> Self {
        Self {
            minimum: OfferMinimum::default(),
            round_ms: 1_000,
            filters: 4_000_000,
        }
    }
}

/// Resources that a framework rejects for a while: a declined offer, the rest of an accepted one,
/// or a filter that the framework presents when it subscribes again.
#[derive(Debug, Clone)]
pub struct DeclinedResources {
    /// The framework that declines.
    pub framework: FrameworkId,
    /// The session of the decline; declines of another session are invalid.
    pub session: u64,
    /// The role in which the resources were offered.
    pub role: Role,
    /// The agent whose resources are declined.
    pub agent: AgentId,
    /// The declined resources.
    pub resources: Resources,
    /// Duration of the filter: [`FILTER_MS`] if `None`, no filter if 0, otherwise at least one
    /// round and at most [`LONGEST_FILTER_MS`].
    pub filter_ms: Option<u64>,
    /// The reason, if the decline answers an offer.
    pub reason: Option<DeclineReason>,
}

/// A framework's own reason for a decline; `explain` shows it.
#[derive(Debug, Clone, Default)]
pub struct DeclineReason {
    /// A machine-readable code; truncated to [`DECLINE_CODE`].
    pub code: String,
    /// A human-readable text; truncated to [`DECLINE_TEXT`].
    pub text: String,
}

/// The allocator of one epoch. Each leader creates one, which fills itself from the registry.
#[derive(Debug)]
pub struct Allocator {
    settings: AllocatorSettings,
    kinds: ResourceKinds,
    tree: ShareTree,
    roles: BTreeMap<Role, u32>,
    limits: BTreeMap<Role, Resources>,
    clients: ClientCache,
    agents: AgentCache,
    filters: Filters,
    frameworks_due: DirtyQueue<FrameworkId>,
    /// Roles whose weight has changed.
    roles_due: BTreeSet<Role>,
    agents_due: DirtyQueue<AgentId>,
    /// Agents with an offer that was closed: resources that wait there to be merged may be offered
    /// now, even if no more are free.
    closed_on: BTreeSet<AgentId>,
    declines_due: DeclineQueue,
    /// Whether declines have waited for more than a turn.
    declines_are_late: bool,
    scan: AgentScan,
    waiting: WaitingClients,
    reason_pass: ReasonPass,
    /// Clients for which nothing was found, reported a few in each turn because an explanation is
    /// expensive.
    unmet_due: VecDeque<u32>,
    /// Nothing is offered until everything has been loaded once.
    progress: CacheProgress,
    next_round: Timestamp,
    refresh_position: RefreshPosition,
    rounds: u64,
}

/// The position up to which the rounds have refreshed everything.
#[derive(Debug, Default)]
struct RefreshPosition {
    role: Option<Role>,
    agent: AgentId,
    framework: FrameworkId,
}

/// The part of the registry that the cache contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CacheProgress {
    Nothing,
    /// Agents up to and including this one.
    UpTo(AgentId),
    Everything,
}

impl Allocator {
    /// Creates an empty allocator.
    #[must_use]
    pub fn new(settings: AllocatorSettings) -> Self {
        Self {
            kinds: ResourceKinds::new(),
            tree: ShareTree::new(),
            roles: BTreeMap::new(),
            limits: BTreeMap::new(),
            clients: ClientCache::default(),
            agents: AgentCache::default(),
            filters: Filters::new(settings.filters),
            frameworks_due: DirtyQueue::default(),
            roles_due: BTreeSet::new(),
            agents_due: DirtyQueue::default(),
            closed_on: BTreeSet::new(),
            declines_due: DeclineQueue::default(),
            declines_are_late: false,
            scan: AgentScan::default(),
            waiting: WaitingClients::default(),
            reason_pass: ReasonPass::default(),
            unmet_due: VecDeque::new(),
            progress: CacheProgress::Nothing,
            next_round: Timestamp(0),
            refresh_position: RefreshPosition::default(),
            rounds: 0,
            settings,
        }
    }

    /// Processes a new fact. The following rounds repair a missed one.
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
                self.begin_full_round();
            }
            Event::TaskLaunched { key, agent, .. } | Event::TaskUpdated { key, agent, .. } => {
                self.framework_changed(key.framework);
                self.agent_changed(*agent);
            }
            Event::TaskForgotten(key) => self.framework_changed(key.framework),
            Event::EpochOpened(_)
            | Event::TaskKillRequested { .. }
            | Event::TaskLimitsRequested { .. }
            | Event::UpdateReleased { .. }
            | Event::OrphanFound { .. }
            | Event::AgentReconciled { .. }
            | Event::SweepNeeded
            | Event::AccessChanged(_)
            | Event::LevelRaised(_)
            | Event::DigestLogged { .. } => {}
        }
    }

    /// Begins a full round immediately: shares have changed for a reason other than usage.
    pub fn begin_full_round(&mut self) {
        self.next_round = Timestamp(0);
    }

    /// Marks an agent whose link came or went, or which may have changed in another way.
    pub fn agent_changed(&mut self, agent: AgentId) {
        self.agents_due.insert(agent);
    }

    /// Marks a framework whose stream came, went or fell behind, or which may have changed in
    /// another way.
    pub fn framework_changed(&mut self, framework: FrameworkId) {
        self.frameworks_due.insert(framework);
    }

    /// Removes the filters of a framework in these roles; an empty list means all roles.
    pub fn revive(&mut self, framework: FrameworkId, roles: &[Role]) {
        self.framework_changed(framework);
        self.declines_due.revive(framework, roles);
        let Some(known) = self.clients.frameworks.get(&framework) else {
            return;
        };
        let revived = known
            .clients
            .iter()
            .filter(|(role, _)| roles.is_empty() || roles.contains(role));
        for (_, client) in revived {
            self.filters.drop_client(*client);
            self.scan.wake(*client);
        }
    }

    /// Limits the resources that a role may hold, offers included. Kinds that are not named have no
    /// limit, and `None` removes the limit. A whole agent that would not fit is not offered.
    pub fn set_limit(&mut self, role: &Role, limit: Option<&Resources>) {
        match limit {
            Some(limit) => drop(self.limits.insert(role.clone(), limit.clone())),
            None => drop(self.limits.remove(role)),
        }
        if let Some(at) = self.roles.get(role) {
            let limit = limit.map(|limit| self.kinds.limit(limit));
            self.tree.set_limit(*at, limit);
        }
        self.begin_full_round();
    }

    /// Returns the time at which [`Self::step`] has work without a new event; now if work is due.
    #[must_use]
    pub fn next_wakeup(&self) -> Timestamp {
        let is_due = !self.roles_due.is_empty()
            || !self.frameworks_due.is_empty()
            || !self.agents_due.is_empty()
            || !self.declines_due.is_empty()
            || !self.unmet_due.is_empty();
        if is_due || !self.scan.is_over() || self.progress != CacheProgress::Everything {
            return Timestamp(0);
        }
        let expiry = self.filters.next_expiry();
        expiry.map_or(self.next_round, |at| at.min(self.next_round))
    }

    /// Returns the waits of all demands by reason.
    pub fn waits(&self) -> impl Iterator<Item = ReasonWaits> {
        self.waiting.by_reason()
    }

    /// Records that a framework has launched a task in a role: its wait there begins again.
    pub fn record_launch(&mut self, framework: FrameworkId, role: &Role, now: Timestamp) {
        if let Some(client) = self.clients.slot(framework, role) {
            self.waiting.restart(client, now);
        }
    }

    /// Returns the number of full rounds that began in this epoch.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Does the work that is due, as far as the budget allows: refreshes what has changed, offers
    /// what has become free, ends filters, and begins a full round when it is due.
    pub fn step(
        &mut self,
        registry: &Registry,
        book: &mut OfferBook,
        demand: LinkStates<'_>,
        now: Timestamp,
        budget: TurnBudget,
    ) -> AllocationRound {
        book.advance(now);
        let touched = book.take_changes();
        self.closed_on.extend(&touched.agents);
        self.agents_due.extend(touched.agents);
        self.frameworks_due.extend(touched.frameworks);
        let mut turn = AllocationTurn {
            registry,
            links: demand,
            now,
            book,
            steps_left: budget.0.max(1),
            joined: Vec::new(),
            offers: Vec::new(),
            unmet: Vec::new(),
        };
        self.work(&mut turn);
        AllocationRound {
            joined: turn.joined,
            offers: turn.offers,
            unmet: turn.unmet,
            more: self.next_wakeup() <= now,
            serial: self.rounds,
        }
    }

    /// Runs one full round to its end, regardless of its cost: everything is refreshed and offered.
    pub fn allocate(
        &mut self,
        registry: &Registry,
        book: &mut OfferBook,
        demand: LinkStates<'_>,
        now: Timestamp,
    ) -> AllocationRound {
        self.next_round = Timestamp(0);
        let mut all = AllocationRound::default();
        loop {
            let round = self.step(registry, book, demand, now, TurnBudget::UNBOUNDED);
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
