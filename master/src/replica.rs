//! The replica: the one task that owns the registry and, while leading, the leader.
//!
//! It awaits its inbox, raft's requests, the status of the group, ticks and the stop token, and
//! nothing else. A turn never takes longer than a few milliseconds. Reading order: this file, then
//! `applying`, `loading`, `proposing` and `reads`.

mod applying;
mod loading;
mod proposing;
mod reads;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use argosy_proto::v1;
use argosy_raft::{Node, OwnerRequest, Status};
use argosy_state::Registry;
use argosy_state::bugs::{self, Bug};
use argosy_state::ids::{Epoch, NodeId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::change_ring::ChangeRing;
use crate::checks::{Checks, Load};
use crate::clock::Clock;
use crate::comparison::Comparison;
use crate::config::Limits;
use crate::failovers::Failovers;
use crate::inbox::{Look, Message, Office};
use crate::lag::Lag;
use crate::leader::{Effect, Input, Leader, Now};
use crate::links::{Outbox, Sent};
use crate::metrics::{Counts, Meters};
use crate::run::RunError;
use crate::step_downs::{Distance, FAR_AWAY, Falls, TOO_OFTEN};
use crate::turns::{LookShare, Turns};
use crate::views::Views;
use crate::watchdog::Pulse;
use applying::{Applying, Founding};
use loading::Loading;
use proposing::Unproposed;

/// The state that the replica publishes.
pub(crate) struct Published {
    pub(crate) office: watch::Sender<Office>,
    pub(crate) applied: watch::Sender<u64>,
    pub(crate) counts: watch::Sender<Counts>,
    pub(crate) views: Views,
    pub(crate) changes: ChangeRing,
    pub(crate) pulse: Arc<Pulse>,
}

/// Maximum number of inputs taken from the inbox at one time.
const INPUTS: usize = 256;
/// Log message of a leadership transfer because of agents that fell silent.
const AGENTS_SILENT: &str = "many agents fell silent at the same time: transferring leadership in case this master is cut off";
/// Log message of a leadership transfer because links wait for this master.
const LINKS_LATE: &str =
    "agents and frameworks wait too long for this master: transferring leadership";
/// Interval at which a leader checks its timers.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Timeout after which a proposal to open an epoch counts as lost.
const REOPEN: Duration = Duration::from_secs(2);

/// The state of the owner's loop.
pub(crate) struct Replica {
    node: Node,
    process: u64,
    limits: Limits,
    office_lease: Duration,
    registry: Registry,
    comparison: Comparison,
    checks: Checks,
    leader: Option<Leader>,
    outbox: Outbox,
    published: Published,
    status: watch::Receiver<Status>,
    /// Inputs that were taken and not processed yet.
    taken: VecDeque<Message>,
    /// Proposals for which raft's queue had no room. While there are any, nothing is taken from the
    /// inbox, and callers wait.
    unproposed: VecDeque<Unproposed>,
    /// The term for which an `OpenEpoch` was proposed.
    opened: u64,
    opened_at: Instant,
    founding: Founding,
    clock: Clock,
    failovers: Failovers,
    /// Whether offers or orders are due for which the last turn had no time.
    more_to_send: bool,
    falls: Falls,
    distance: Distance,
    hand_over: mpsc::Sender<&'static str>,
    entropy: [u8; 32],
    meters: Meters,
    ticked: Instant,
    /// Entries in progress. Raft passes no more until these are applied.
    applying: Option<Applying>,
    loading: Loading,
    turns: Turns,
    look_share: LookShare,
    lag: Lag,
}

impl Replica {
    pub(crate) fn new(
        node: Node,
        limits: Limits,
        office_lease: Duration,
        published: Published,
        hand_over: mpsc::Sender<&'static str>,
        registry: Registry,
        entropy: [u8; 32],
    ) -> Self {
        let status = node.status();
        let process = u64::from_be_bytes(entropy[..8].try_into().expect("it is 32 bytes long"));
        Self {
            process,
            node,
            limits,
            office_lease,
            clock: Clock::new(registry.time()),
            failovers: Failovers::new(registry.cluster().term),
            comparison: Comparison::of(&registry),
            checks: Checks::default(),
            registry,
            leader: None,
            outbox: Outbox::default(),
            published,
            status,
            taken: VecDeque::new(),
            unproposed: VecDeque::new(),
            opened: 0,
            opened_at: Instant::now(),
            founding: Founding::default(),
            more_to_send: false,
            falls: Falls::new(office_lease),
            distance: Distance::default(),
            hand_over,
            entropy,
            meters: Meters::new(),
            ticked: Instant::now(),
            applying: None,
            loading: Loading::default(),
            turns: Turns::new(),
            look_share: LookShare::new(Instant::now()),
            lag: Lag::new(Instant::now()),
        }
    }

    /// Runs until stopped, or until consensus has failed.
    ///
    /// # Errors
    /// Returns the reason for which this process cannot continue.
    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::Receiver<OwnerRequest>,
        mut inbox: mpsc::Receiver<Message>,
        mut looks: mpsc::Receiver<Look>,
        stop: CancellationToken,
    ) -> Result<(), RunError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(INPUTS);
        loop {
            self.published.pulse.beat();
            let has_room = self.unproposed.is_empty();
            let has_work = self.more_to_send || (has_room && !self.taken.is_empty());
            let is_owed = self.turns.are_offers_owed();
            let has_look = !looks.is_empty() && self.look_share.is_open(Instant::now());
            // Work that earlier turns deferred comes before more of the log.
            let is_free = !is_owed && !has_look && !self.loading.is_under_way();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                request = requests.recv(), if is_free && self.applying.is_none() => match request {
                    Some(request) => self.raft(request)?,
                    None => return if stop.is_cancelled() { Ok(()) } else { Err(RunError::ended()) },
                },
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return Err(RunError::ended());
                    }
                    self.status_changed().map_err(RunError::Failed)?;
                }
                _ = tick.tick() => self.tick(inbox.len())?,
                () = std::future::ready(()), if is_owed => self.turns.begin(),
                () = std::future::ready(()), if has_look => {
                    if let Ok(look) = looks.try_recv() {
                        self.show(look);
                    }
                }
                () = std::future::ready(()), if self.applying.is_some() => self.apply_on()?,
                loaded = self.loading.loaded(), if self.loading.is_under_way() => self.take_loaded(loaded?),
                _ = inbox.recv_many(&mut batch, INPUTS), if has_room && self.taken.is_empty() => {
                    if batch.is_empty() {
                        return Ok(());
                    }
                    self.taken.extend(batch.drain(..));
                    self.work_off();
                }
                // After everything else: continues with the work for which the last turn had no
                // time.
                () = tokio::task::yield_now(), if has_work => self.work_off(),
                look = looks.recv(), if !has_work => match look {
                    Some(look) => self.show(look),
                    None => return Ok(()),
                },
            }
            if self.turns.has_time_for_offers() {
                self.offer();
            }
            if self.turns.end() {
                // Consensus uses this thread as well.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Processes inputs in their order, as long as there is time and raft accepts their proposals.
    fn work_off(&mut self) {
        self.turns.begin();
        self.look();
        while self.unproposed.is_empty() && !self.turns.is_spent() {
            let Some(message) = self.taken.pop_front() else {
                return;
            };
            self.message(message);
        }
    }

    fn look(&mut self) {
        let Some(gap) = self.clock.look(self.leader.is_some()) else {
            return;
        };
        warn!(
            gap_ms = gap.as_millis(),
            "this process was paused: the timeouts of agents and frameworks restart"
        );
        let now = self.clocks();
        if let Some(leader) = &mut self.leader {
            leader.refresh(now);
        }
    }

    fn clocks(&self) -> Now {
        Now {
            at: self.clock.now(),
            wall_ms: self.node.wall().now_ms(),
        }
    }

    /// Handles a new epoch. It is this master's if node, process and term match; any other epoch
    /// ends this master's leadership.
    fn epoch_opened(&mut self, epoch: Epoch) {
        let cluster = self.registry.cluster();
        let former_term = self.failovers.reign(cluster.term);
        let ours = cluster.leader == NodeId(self.node.id()) && cluster.process == self.process;
        let leads = {
            let status = self.status.borrow();
            status.is_leader && status.term == cluster.term
        };
        if ours && leads {
            self.leave_office("a new epoch begins");
            self.opened = self.registry.cluster().term;
            self.clock = Clock::new(self.registry.time());
            self.enter_office(epoch);
            let phases = self.status.borrow().phases;
            self.failovers
                .begin(epoch, former_term, phases, self.node.wall().now_ms());
        } else {
            self.leave_office("another master has opened a new epoch");
            self.publish_office();
        }
    }

    fn enter_office(&mut self, epoch: Epoch) {
        info!(
            epoch = epoch.0,
            term = self.registry.cluster().term,
            "became the active leader"
        );
        self.leader = Some(Leader::new(&self.registry, self.clocks(), self.limits));
        self.publish_office();
        self.step(Input::Tick);
    }

    fn leave_office(&mut self, why: &str) {
        if self.leader.take().is_none() {
            return;
        }
        // If this node still leads, it becomes the active leader again with a new epoch: tickets
        // and offers of the former epoch never gain another meaning.
        self.opened = 0;
        warn!(epoch = self.registry.epoch().0, why, "stepped down");
        self.unproposed.clear();
        self.node.forget_queued();
        self.outbox.close_all();
        self.publish_office();
    }

    fn publish_office(&self) {
        let status = self.status.borrow();
        let leader = status
            .leader
            .as_ref()
            .filter(|(id, _)| *id != self.node.id())
            .map(|(_, member)| member.api_address.clone());
        let office = Office {
            here: self.leader.is_some(),
            leader,
            epoch: self.registry.epoch().0,
            term: self.registry.cluster().term,
        };
        self.published.office.send_if_modified(|known| {
            let changed = *known != office;
            *known = office;
            changed
        });
    }

    fn status_changed(&mut self) -> Result<(), String> {
        self.turns.begin();
        let (is_leader, term, failure) = {
            let status = self.status.borrow_and_update();
            (status.is_leader, status.term, status.failure.clone())
        };
        if let Some(failure) = failure {
            return Err(failure);
        }
        if self.leader.is_some() && (!is_leader || term != self.registry.cluster().term) {
            self.leave_office("the term has ended");
        }
        if is_leader && self.opened != term && self.is_heard() {
            self.open_epoch(term);
        }
        self.publish_office();
        Ok(())
    }

    /// Returns whether a quorum has answered recently. A leader without such an answer opens no
    /// epoch either: its entries would keep the others from electing a leader that has one.
    fn is_heard(&self) -> bool {
        let acked = self.node.quorum_acked_ago();
        acked.is_some_and(|ago| ago <= self.office_lease)
    }

    fn tick(&mut self, waiting: usize) -> Result<(), RunError> {
        self.turns.begin();
        self.look();
        self.propose_on();
        self.meters
            .tick(self.ticked.elapsed(), TICK, waiting + self.taken.len());
        self.ticked = Instant::now();
        self.published.views.expire(self.ticked);
        let (is_leader, term) = {
            let status = self.status.borrow();
            (status.is_leader, status.term)
        };
        let heard = self.is_heard();
        if self.leader.is_some() && !heard && !bugs::is_on(Bug::QuorumLossIgnored) {
            self.leave_office("no quorum has answered for too long");
            if self.falls.fall(Instant::now()) {
                // A full channel means that a transfer is already in progress.
                let _ = self.hand_over.try_send(TOO_OFTEN);
            }
        } else if is_leader
            && heard
            && self.leader.is_none()
            && (self.opened != term || self.opened_at.elapsed() > REOPEN)
        {
            self.open_epoch(term);
        }
        if self.leader.is_some() {
            self.step(Input::Tick);
            if let Some(proposed) = self.comparison.due(&self.registry) {
                self.propose(&proposed);
            }
        }
        self.check_lag();
        self.check_distance();
        self.publish_counts();
        let is_idle = waiting == 0 && self.taken.is_empty() && !self.more_to_send;
        let load = match is_idle && self.unproposed.is_empty() {
            true => Load::Idle,
            false => Load::Busy,
        };
        let book = self.leader.as_ref().map(Leader::book);
        let checked = self.checks.tick(load, &self.registry, book);
        self.meters.checked(checked.map_err(RunError::Failed)?);
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
        let _ = self.hand_over.try_send(LINKS_LATE);
    }

    /// Transfers leadership if this leader cannot confirm reads: another master may be closer to a
    /// majority.
    fn check_distance(&mut self) {
        if self.distance.look(self.node.is_far_away(), Instant::now()) {
            // A full channel means that a transfer is already in progress.
            let _ = self.hand_over.try_send(FAR_AWAY);
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Input(input) => {
                match &input {
                    // The agent has abandoned this link, and sends its hello on another one.
                    Input::AgentHello { link, .. } if !self.outbox.has_agent(*link) => return,
                    Input::AgentClosed { link } => self.outbox.close_agent(*link),
                    Input::FrameworkClosed { link } => self.outbox.close_framework(*link),
                    _ => {}
                }
                self.step(input);
            }
            Message::Ask(request, input, waiter) => {
                if self.leader.is_some() {
                    self.outbox.wait(request, waiter);
                    self.step(input(request));
                }
            }
            Message::AgentLink(..) | Message::FrameworkLink(..) if self.leader.is_none() => {}
            Message::AgentLink(link, sender) => self.outbox.open_agent(link, sender),
            Message::FrameworkLink(link, sender) => self.outbox.open_framework(link, sender),
            Message::Probe(due) => self.lag.came(Instant::now(), due),
        }
    }

    fn step(&mut self, input: Input) {
        let now = self.clocks();
        let Some(leader) = &mut self.leader else {
            return;
        };
        let effects = leader.step(&self.registry, now, input);
        self.perform(effects);
    }

    /// Offers, at the end of the turn, all resources that have become free.
    fn offer(&mut self) {
        for link in self.outbox.caught_up() {
            let behind = false;
            self.step(Input::FrameworkBehind { link, behind });
        }
        let now = self.clocks();
        let Some(leader) = &mut self.leader else {
            self.more_to_send = false;
            return;
        };
        let (effects, more) = leader.offer(&self.registry, now);
        self.more_to_send = more;
        let offered = effects.iter().any(|effect| {
            matches!(effect, Effect::ToFramework(_, event) if matches!(event.event, Some(v1::event::Event::Offers(_))))
        });
        if offered {
            self.failovers.first_offer(self.node.wall().now_ms());
        }
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Propose(proposed) => self.propose(&proposed),
                Effect::ToAgent(link, message) => {
                    if !self.outbox.tell_agent(link, *message) {
                        self.step(Input::AgentClosed { link });
                    }
                }
                Effect::ToFramework(link, event) => {
                    match self.outbox.tell_framework(link, *event) {
                        Sent::Well => {}
                        Sent::FellBehind => {
                            let behind = true;
                            self.step(Input::FrameworkBehind { link, behind });
                        }
                        Sent::Lost => self.step(Input::FrameworkClosed { link }),
                    }
                }
                Effect::CloseAgent(link) => self.outbox.close_agent(link),
                Effect::CloseFramework(link) => self.outbox.close_framework(link),
                Effect::Answer(request, answer) => self.outbox.answer(request, answer),
                Effect::HandOver => drop(self.hand_over.try_send(AGENTS_SILENT)),
            }
        }
    }

    fn publish_counts(&self) {
        let counts = Counts::of(
            &self.registry,
            self.leader.as_ref(),
            (&self.status.borrow(), &self.node.progress()),
            &self.outbox,
        );
        self.published.counts.send_replace(counts);
    }
}
