//! The replica: the one task that owns the registry and, while leading, the leader.
//!
//! It awaits its inbox, raft's requests, the status of the group, ticks and the stop token, and
//! nothing else. A turn never takes longer than a few milliseconds. Reading order: this file, then
//! `applying`, `loading`, `proposing`, `reads` and `traces`.

mod applying;
mod loading;
mod proposing;
mod reads;
mod traces;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use argosy_proto::trace;
use argosy_proto::v1;
use argosy_raft::{Node, OwnerRequest, RaftStatus};
use argosy_state::Registry;
use argosy_state::access::AccessFacts;
use argosy_state::ids::{Epoch, NodeId};
use argosy_state::planted_bug;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::change_ring::ChangeRing;
use crate::checks::{CheckProgress, OwnerLoad};
use crate::clock::ClusterClock;
use crate::comparison::DigestComparison;
use crate::config::LeaderTimeouts;
use crate::error::MasterError;
use crate::failovers::Failovers;
use crate::inbox::{Inbox, LeaderStatus, OwnerCalls, OwnerMessage, StateQuery};
use crate::lag::OwnerLag;
use crate::leader::{Effect, Input, Leader, LeaderTime};
use crate::links::{CloseReason, Outbox, SendOutcome};
use crate::metrics::{DecisionMetrics, OwnerCounts, OwnerMetrics, OwnerState};
use crate::secret_keys::SecretKeys;
use crate::step_downs::{FAR_AWAY, FarTransfer, StepDowns, TOO_OFTEN};
use crate::turns::{self, OwnerTurn, QueryShare};
use crate::views::SharedView;
use crate::watchdog::TurnCounter;
use applying::{ApplyProgress, InitialLevel};
use loading::RegistryLoad;
use proposing::PendingProposal;
use traces::RequestTraces;

/// The state that the replica publishes.
pub(crate) struct PublishedState {
    pub(crate) leader_status: watch::Sender<LeaderStatus>,
    pub(crate) applied: watch::Sender<u64>,
    pub(crate) counts: watch::Sender<Arc<OwnerCounts>>,
    pub(crate) access: watch::Sender<AccessFacts>,
    pub(crate) views: SharedView,
    pub(crate) changes: ChangeRing,
    pub(crate) turn_counter: Arc<TurnCounter>,
    /// The queue of calls, whose buckets are emptied when this master begins to lead.
    pub(crate) calls: OwnerCalls,
}

/// Maximum number of inputs taken from the inbox at one time.
const INPUTS: usize = 256;
/// Log message of a leadership transfer because of agents that fell silent.
const MASS_LOSS: &str = "many agents fell silent at the same time: transferring leadership in case this master is cut off";
/// Log message of a leadership transfer because links wait for this master.
const LINKS_LAGGING: &str =
    "agents and frameworks wait too long for this master: transferring leadership";
/// Interval at which a leader checks its timers.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Timeout after which a proposal to open an epoch counts as lost.
const REOPEN_DELAY: Duration = Duration::from_secs(2);

/// The state of the owner's loop.
pub(crate) struct Replica {
    node: Node,
    process: u64,
    limits: LeaderTimeouts,
    enforces_access: bool,
    secret_keys: Option<Arc<SecretKeys>>,
    leader_lease: Duration,
    registry: Registry,
    comparison: DigestComparison,
    checks: CheckProgress,
    leader: Option<Leader>,
    outbox: Outbox,
    published: PublishedState,
    status: watch::Receiver<RaftStatus>,
    /// Inputs that were taken and not processed yet.
    queued: VecDeque<OwnerMessage>,
    /// Proposals for which raft's queue had no room. While there are any, nothing is taken from the
    /// inbox, and callers wait.
    unproposed: VecDeque<PendingProposal>,
    traces: RequestTraces,
    /// The term for which an `OpenEpoch` was proposed.
    opened_term: u64,
    opened_at: Instant,
    initial_level: InitialLevel,
    clock: ClusterClock,
    failovers: Failovers,
    /// Whether offers or orders are due for which the last turn had no time.
    more_to_send: bool,
    step_downs: StepDowns,
    far_transfer: FarTransfer,
    transfer: mpsc::Sender<&'static str>,
    entropy: [u8; 32],
    metrics: OwnerMetrics,
    decisions: DecisionMetrics,
    last_tick: Instant,
    /// Entries in progress. Raft passes no more until these are applied.
    applying: Option<ApplyProgress>,
    loading: RegistryLoad,
    turn: OwnerTurn,
    query_share: QueryShare,
    lag: OwnerLag,
}

impl Replica {
    pub(crate) fn new(
        node: Node,
        limits: LeaderTimeouts,
        leader_lease: Duration,
        published: PublishedState,
        hand_over: mpsc::Sender<&'static str>,
        registry: Registry,
        entropy: [u8; 32],
    ) -> Self {
        let status = node.status();
        // Masters may ask to join before the first entry is applied here.
        node.set_level(registry.level());
        let process = u64::from_be_bytes(entropy[..8].try_into().expect("it is 32 bytes long"));
        Self {
            process,
            node,
            limits,
            enforces_access: false,
            secret_keys: None,
            leader_lease,
            clock: ClusterClock::new(registry.time()),
            failovers: Failovers::new(registry.cluster().into()),
            comparison: DigestComparison::of(&registry),
            checks: CheckProgress::default(),
            registry,
            leader: None,
            outbox: Outbox::default(),
            published,
            status,
            queued: VecDeque::new(),
            unproposed: VecDeque::new(),
            traces: RequestTraces::default(),
            opened_term: 0,
            opened_at: Instant::now(),
            initial_level: InitialLevel::default(),
            more_to_send: false,
            step_downs: StepDowns::new(leader_lease),
            far_transfer: FarTransfer::default(),
            transfer: hand_over,
            entropy,
            metrics: OwnerMetrics::new(),
            decisions: DecisionMetrics::new(),
            last_tick: Instant::now(),
            applying: None,
            loading: RegistryLoad::default(),
            turn: OwnerTurn::new(),
            query_share: QueryShare::new(Instant::now()),
            lag: OwnerLag::new(Instant::now()),
        }
    }

    /// Runs until stopped, or until consensus has failed.
    ///
    /// # Errors
    /// Returns the reason for which this process cannot continue.
    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::Receiver<OwnerRequest>,
        mut inbox: Inbox,
        mut queries: mpsc::Receiver<StateQuery>,
        stop: CancellationToken,
    ) -> Result<(), MasterError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(INPUTS);
        loop {
            self.published.turn_counter.record_turn();
            let has_room = self.unproposed.is_empty();
            let has_work = self.more_to_send || (has_room && !self.queued.is_empty());
            let is_owed = self.turn.owes_offers();
            let has_query = !queries.is_empty() && self.query_share.is_open(Instant::now());
            // Work that earlier turns deferred comes before more of the log.
            let is_free = !is_owed && !has_query && !self.loading.is_loading();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                request = requests.recv(), if is_free && self.applying.is_none() => match request {
                    Some(request) => self.raft(request)?,
                    None => return if stop.is_cancelled() { Ok(()) } else { Err(MasterError::ended()) },
                },
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return Err(MasterError::ended());
                    }
                    self.status_changed().map_err(MasterError::Failed)?;
                }
                _ = tick.tick() => {
                    inbox.calls.tick();
                    self.tick(inbox.waiting())?;
                }
                () = std::future::ready(()), if is_owed => self.turn.begin(),
                () = std::future::ready(()), if has_query => {
                    if let Ok(query) = queries.try_recv() {
                        self.run_query(query);
                    }
                }
                () = std::future::ready(()), if self.applying.is_some() => self.apply_on()?,
                loaded = self.loading.loaded(), if self.loading.is_loading() => self.take_loaded(loaded?),
                is_open = inbox.receive(&mut batch, INPUTS), if has_room && self.queued.is_empty() => {
                    if !is_open {
                        return Ok(());
                    }
                    self.queued.extend(batch.drain(..));
                    self.process_inputs();
                }
                // After everything else: continues with the work for which the last turn had no
                // time.
                () = tokio::task::yield_now(), if has_work => self.process_inputs(),
                query = queries.recv(), if !has_work => match query {
                    Some(query) => self.run_query(query),
                    None => return Ok(()),
                },
            }
            if self.turn.has_time_for_offers() {
                self.offer();
            }
            if self.turn.end() {
                // Consensus uses this thread as well.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Processes inputs in their order, as long as there is time and raft accepts their proposals.
    fn process_inputs(&mut self) {
        self.turn.begin();
        self.run_queries();
        while self.unproposed.is_empty() && !self.turn.is_spent() {
            let Some(message) = self.queued.pop_front() else {
                return;
            };
            self.turn.mark(turns::message_kind(&message));
            self.message(message);
        }
    }

    fn run_queries(&mut self) {
        let Some(gap) = self.clock.advance(self.leader.is_some()) else {
            return;
        };
        warn!(
            gap_ms = gap.as_millis(),
            "this process was paused: the timeouts of agents and frameworks restart"
        );
        let now = self.leader_time();
        if let Some(leader) = &mut self.leader {
            leader.refresh(now);
        }
    }

    fn leader_time(&self) -> LeaderTime {
        LeaderTime {
            at: self.clock.now(),
            wall_ms: self.node.wall_clock().now_ms(),
        }
    }

    /// Handles a new epoch. It is this master's if node, process and term match; any other epoch
    /// ends this master's leadership.
    fn epoch_opened(&mut self, epoch: Epoch) {
        let cluster = self.registry.cluster();
        let former = self.failovers.record_epoch(cluster.into());
        let ours = cluster.leader == NodeId(self.node.id()) && cluster.process == self.process;
        let leads = {
            let status = self.status.borrow();
            status.is_leader && status.term == cluster.term
        };
        if ours && leads {
            self.stop_leading("a new epoch begins");
            self.opened_term = self.registry.cluster().term;
            self.clock = ClusterClock::new(self.registry.time());
            self.start_leading(epoch);
            let status = self.status.borrow();
            let address_of = |node| {
                let member = status.member(node);
                member.map_or_else(String::new, |member| member.api_address.clone())
            };
            let now_ms = self.node.wall_clock().now_ms();
            self.failovers
                .begin(former, status.phases, address_of, now_ms);
        } else {
            self.stop_leading("another master has opened a new epoch");
            self.publish_leader_status();
        }
    }

    fn start_leading(&mut self, epoch: Epoch) {
        info!(
            epoch = epoch.0,
            term = self.registry.cluster().term,
            "became the active leader"
        );
        let leader = Leader::new(&self.registry, self.leader_time(), self.limits);
        let leader = leader.with_secret_keys(self.secret_keys.clone());
        self.leader = Some(leader.with_enforcement(&self.registry, self.enforces_access));
        self.published.calls.set_limits(self.registry.access());
        self.published.calls.begin_leading();
        self.publish_leader_status();
        self.step(Input::Tick);
    }

    fn stop_leading(&mut self, why: &str) {
        if self.leader.take().is_none() {
            return;
        }
        // If this node still leads, it becomes the active leader again with a new epoch: tickets
        // and offers of the former epoch never gain another meaning.
        self.opened_term = 0;
        warn!(epoch = self.registry.epoch().0, why, "stepped down");
        self.unproposed.clear();
        self.traces.clear();
        self.node.clear_queue();
        self.outbox.close_all();
        self.decisions.stop_leading();
        self.publish_leader_status();
        self.publish_counts();
    }

    fn publish_leader_status(&self) {
        let status = self.status.borrow();
        let leader = status
            .leader
            .as_ref()
            .filter(|(id, _)| *id != self.node.id())
            .map(|(_, member)| member.api_address.clone());
        let leadership = LeaderStatus {
            is_local: self.leader.is_some(),
            leader,
            epoch: self.registry.epoch().0,
            term: self.registry.cluster().term,
        };
        self.published.leader_status.send_if_modified(|known| {
            let changed = *known != leadership;
            *known = leadership;
            changed
        });
    }

    fn status_changed(&mut self) -> Result<(), String> {
        self.turn.begin();
        let (is_leader, term, failure) = {
            let status = self.status.borrow_and_update();
            (status.is_leader, status.term, status.failure.clone())
        };
        if let Some(failure) = failure {
            return Err(failure);
        }
        if self.leader.is_some() && (!is_leader || term != self.registry.cluster().term) {
            self.stop_leading("the term has ended");
        }
        if is_leader && self.opened_term != term && self.has_quorum() {
            self.open_epoch(term);
        }
        self.publish_leader_status();
        Ok(())
    }

    /// Returns whether a quorum has answered recently. A leader without such an answer opens no
    /// epoch either: its entries would keep the others from electing a leader that has one.
    fn has_quorum(&self) -> bool {
        let acked = self.node.quorum_acked_ago();
        acked.is_some_and(|ago| ago <= self.leader_lease)
    }

    fn tick(&mut self, waiting: usize) -> Result<(), MasterError> {
        self.turn.begin();
        self.run_queries();
        self.propose_pending();
        self.metrics
            .tick(self.last_tick.elapsed(), TICK, waiting + self.queued.len());
        self.last_tick = Instant::now();
        self.published.views.expire(self.last_tick);
        self.published.calls.set_limits(self.registry.access());
        let (is_leader, term) = {
            let status = self.status.borrow();
            (status.is_leader, status.term)
        };
        let heard = self.has_quorum();
        if self.leader.is_some() && !heard && !planted_bug!(QuorumLossIgnored) {
            self.stop_leading("no quorum has answered for too long");
            if self.step_downs.record(Instant::now()) {
                // A full channel means that a transfer is already in progress.
                let _ = self.transfer.try_send(TOO_OFTEN);
            }
        } else if is_leader
            && heard
            && self.leader.is_none()
            && (self.opened_term != term || self.opened_at.elapsed() > REOPEN_DELAY)
        {
            self.open_epoch(term);
        }
        if self.leader.is_some() {
            self.turn.mark("timers");
            self.step(Input::Tick);
            if let Some(proposed) = self.comparison.due(&self.registry) {
                self.propose(&proposed);
            }
        }
        self.check_lag();
        self.check_distance();
        self.turn.mark("metrics");
        self.publish_counts();
        self.turn.mark("invariant checks");
        let is_idle = waiting == 0 && self.queued.is_empty() && !self.more_to_send;
        let load = match is_idle && self.unproposed.is_empty() {
            true => OwnerLoad::Idle,
            false => OwnerLoad::Busy,
        };
        let book = self.leader.as_ref().map(Leader::book);
        let checked = self.checks.tick(load, &self.registry, book);
        self.metrics.checked(checked.map_err(MasterError::Failed)?);
        Ok(())
    }

    /// Transfers leadership if this leader processes messages of its links too late to serve them.
    fn check_lag(&mut self) {
        let late = self.lag.tick(Instant::now());
        let Some(late) = late.filter(|_| self.leader.is_some()) else {
            return;
        };
        warn!(
            late_ms = late.as_millis(),
            "messages of agents and frameworks were not processed in time"
        );
        // A full channel means that a transfer is already in progress.
        let _ = self.transfer.try_send(LINKS_LAGGING);
    }

    /// Transfers leadership if this leader cannot confirm reads: another master may be closer to a
    /// majority.
    fn check_distance(&mut self) {
        if self
            .far_transfer
            .check(self.node.is_far_away(), Instant::now())
        {
            // A full channel means that a transfer is already in progress.
            let _ = self.transfer.try_send(FAR_AWAY);
        }
    }

    fn message(&mut self, message: OwnerMessage) {
        match message {
            OwnerMessage::Input(input) => self.input(input),
            OwnerMessage::AgentInput(input, _reserved) => self.input(input),
            OwnerMessage::TracedInput(input, context) => {
                trace::within(context, || self.input(input));
            }
            OwnerMessage::Ask(request, input, waiter, context) => {
                if self.leader.is_some() {
                    self.outbox.wait(request, waiter);
                    trace::within(context, || self.step(*input));
                }
            }
            OwnerMessage::AgentLink(..) | OwnerMessage::FrameworkLink(..)
                if self.leader.is_none() => {}
            OwnerMessage::AgentLink(link, sender) => self.outbox.open_agent(link, sender),
            OwnerMessage::FrameworkLink(link, sender, subscribe, context) => {
                self.outbox.open_framework(link, sender);
                trace::within(context, || self.input(*subscribe));
            }
            OwnerMessage::Probe(due) => self.lag.record_probe(Instant::now(), due),
        }
    }

    fn input(&mut self, input: Input) {
        match &input {
            // The agent has abandoned this link, and sends its hello on another one.
            Input::AgentHello { link, .. } if !self.outbox.has_agent(*link) => return,
            Input::AgentClosed { link } => self.outbox.close_agent(*link, CloseReason::Peer),
            Input::FrameworkClosed { link } => {
                self.outbox.close_framework(*link, CloseReason::Peer)
            }
            _ => {}
        }
        self.step(input);
    }

    fn step(&mut self, input: Input) {
        let now = self.leader_time();
        let Some(leader) = &mut self.leader else {
            return;
        };
        self.decisions.input(&self.registry, &input);
        let effects = leader.step(&self.registry, now, input);
        self.metrics.presented(leader.take_presented());
        self.decisions.closed(&leader.take_closed_offers());
        self.perform(effects);
    }

    /// Offers, at the end of the turn, all resources that have become free.
    fn offer(&mut self) {
        self.turn.mark("offers and orders");
        for link in self.outbox.caught_up() {
            let behind = false;
            self.step(Input::FrameworkBehind { link, behind });
        }
        let now = self.leader_time();
        let Some(leader) = &mut self.leader else {
            self.more_to_send = false;
            return;
        };
        let (is_due, began) = (leader.is_allocation_due(now), Instant::now());
        let (effects, more) = leader.offer(&self.registry, now);
        if is_due {
            self.decisions.allocated(began.elapsed());
        }
        self.decisions.closed(&leader.take_closed_offers());
        self.more_to_send = more;
        let offered = effects.iter().any(|effect| {
            matches!(effect, Effect::ToFramework(_, event) if matches!(event.event, Some(v1::event::Event::Offers(_))))
        });
        if offered {
            self.failovers.first_offer(self.node.wall_clock().now_ms());
        }
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.decisions
                .effect(&self.registry, self.leader.as_ref(), &effect);
            match effect {
                Effect::Propose(proposed) => self.propose(&proposed),
                Effect::ToAgent(link, mut message) => {
                    self.traces.name_request(&mut message);
                    if !self.outbox.send_to_agent(link, *message) {
                        self.step(Input::AgentClosed { link });
                    }
                }
                Effect::ToFramework(link, event) => {
                    match self.outbox.send_to_framework(link, *event) {
                        SendOutcome::Queued => {}
                        SendOutcome::FellBehind => {
                            let behind = true;
                            self.step(Input::FrameworkBehind { link, behind });
                        }
                        SendOutcome::Lost => self.step(Input::FrameworkClosed { link }),
                    }
                }
                Effect::CloseAgent(link) => self.outbox.close_agent(link, CloseReason::Leader),
                Effect::CloseFramework(link) => {
                    self.outbox.close_framework(link, CloseReason::Leader)
                }
                Effect::Answer(request, answer) => self.outbox.answer(request, answer),
                Effect::TransferLeadership => drop(self.transfer.try_send(MASS_LOSS)),
            }
        }
    }

    fn publish_counts(&self) {
        let counts = OwnerCounts::of(&OwnerState {
            registry: &self.registry,
            leader: self.leader.as_ref(),
            now: self.clock.now(),
            status: &self.status.borrow(),
            progress: &self.node.progress(),
            contacts: &self.node.last_contacts(),
            store: &self.node.store_usage(),
            links: &self.outbox,
        });
        self.published.counts.send_replace(Arc::new(counts));
    }
}
