//! The one task that owns the registry and, while leading, the leader.
//!
//! It awaits its inbox, raft's requests, the status of the group, ticks and the stop token, and
//! nothing else. Nothing it does in a turn takes longer than a few milliseconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use argosy_proto::v1;
use argosy_raft::{Committed, Node, OwnerRequest, Proposal, RecordWrite, Status};
use argosy_state::Registry;
use argosy_state::apply::Applied;
use argosy_state::command::{Command, Entry, OpenEpoch, Proposed};
use argosy_state::encode;
use argosy_state::event::Event;
use argosy_state::ids::{Epoch, NodeId, Ticket, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Limits;
use crate::leader::{Answer, Effect, Input, Leader, Now};
use crate::links::{LinkId, Outbox, RequestId};
use crate::metrics::Counts;

/// What services send to the owner.
pub(crate) enum Message {
    /// An input that nobody waits for.
    Input(Input),
    /// An input with somebody who waits. Dropping the waiter says that nobody leads here.
    Ask(
        RequestId,
        Box<dyn FnOnce(RequestId) -> Input + Send>,
        oneshot::Sender<Answer>,
    ),
    /// A stream of an agent begins.
    AgentLink(LinkId, mpsc::Sender<v1::ToAgent>),
    /// A stream of a framework begins.
    FrameworkLink(LinkId, mpsc::Sender<v1::Event>),
    /// A bounded look at the facts: at most some hundred records.
    Read(Box<dyn FnOnce(&View<'_>) + Send>),
}

/// What a read sees.
pub(crate) struct View<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) leader: Option<&'a Leader>,
    pub(crate) now: Timestamp,
    pub(crate) failovers: &'a VecDeque<v1::Failover>,
}

/// Who leads, for services: cheap to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Office {
    /// This process is in office.
    pub(crate) here: bool,
    /// API address of the leader, if another one.
    pub(crate) leader: Option<String>,
    /// The newest reign that this master knows.
    pub(crate) epoch: u64,
}

/// What the replica publishes.
pub(crate) struct Published {
    pub(crate) office: watch::Sender<Office>,
    pub(crate) applied: watch::Sender<u64>,
    pub(crate) counts: watch::Sender<Counts>,
}

/// Inputs of one turn: more wait for the next one, so that ticks and raft get their time.
const INPUTS_PER_TURN: usize = 256;
/// How often a leader looks at its timers.
const TICK: Duration = Duration::from_millis(100);
/// A longer gap between two turns is a pause of this process: it counts as this much.
const LONGEST_GAP: Duration = Duration::from_secs(1);
/// A proposal to open an epoch that has not come back for so long was lost.
const REOPEN: Duration = Duration::from_secs(2);
/// Changes of leader kept for display.
const FAILOVERS: usize = 50;

/// The owner loop's state.
pub(crate) struct Replica {
    node: Node,
    process: u64,
    limits: Limits,
    office_lease: Duration,
    registry: Registry,
    leader: Option<Leader>,
    outbox: Outbox,
    published: Published,
    status: watch::Receiver<Status>,
    /// The term for which an `OpenEpoch` was proposed.
    opened: u64,
    opened_at: Instant,
    /// Cluster time, and when it was looked at last.
    now: Timestamp,
    looked: Instant,
    failovers: VecDeque<v1::Failover>,
    /// Offers are due that the last turn had no time for.
    more_offers: bool,
    hand_over: mpsc::Sender<()>,
    entropy: [u8; 32],
}

impl Replica {
    pub(crate) fn new(
        node: Node,
        limits: Limits,
        office_lease: Duration,
        published: Published,
        hand_over: mpsc::Sender<()>,
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
            now: registry.time(),
            registry,
            leader: None,
            outbox: Outbox::default(),
            published,
            status,
            opened: 0,
            opened_at: Instant::now(),
            looked: Instant::now(),
            failovers: VecDeque::new(),
            more_offers: false,
            hand_over,
            entropy,
        }
    }

    /// Runs until stopped, or until consensus has failed.
    ///
    /// # Errors
    /// Says why this process cannot go on.
    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::Receiver<OwnerRequest>,
        mut inbox: mpsc::Receiver<Message>,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(INPUTS_PER_TURN);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                request = requests.recv() => match request {
                    Some(request) => self.raft(request)?,
                    None => return if stop.is_cancelled() { Ok(()) } else { Err("consensus has ended".to_owned()) },
                },
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return Err("consensus has ended".to_owned());
                    }
                    self.status_changed()?;
                }
                _ = tick.tick() => {
                    self.tick();
                }
                _ = inbox.recv_many(&mut batch, INPUTS_PER_TURN) => {
                    if batch.is_empty() {
                        return Ok(());
                    }
                    self.look();
                    for message in batch.drain(..) {
                        self.message(message);
                    }
                }
                // Behind everything else: a long round of offers goes on in its next turn.
                () = tokio::task::yield_now(), if self.more_offers => {}
            }
            self.offer();
        }
    }

    /// Cluster time moves by the monotonic clock. A gap above a second is a pause of this process
    /// or machine: it counts as a second, and is nobody's silence.
    fn look(&mut self) {
        let gap = self.looked.elapsed();
        self.looked = Instant::now();
        if self.leader.is_none() {
            return;
        }
        self.now = self
            .now
            .plus_ms(gap.min(LONGEST_GAP).as_millis().try_into().unwrap_or(0));
        // What is below a millisecond is not lost.
        self.looked -=
            Duration::from_nanos(u64::from(gap.min(LONGEST_GAP).subsec_nanos() % 1_000_000));
        if gap > LONGEST_GAP {
            warn!(
                gap_ms = gap.as_millis(),
                "this process was paused: agents and frameworks get a fresh grace"
            );
            let now = self.clocks();
            if let Some(leader) = &mut self.leader {
                leader.refresh(now);
            }
        }
    }

    fn clocks(&self) -> Now {
        Now {
            at: self.now,
            wall_ms: wall_ms(),
        }
    }

    fn raft(&mut self, request: OwnerRequest) -> Result<(), String> {
        match request {
            OwnerRequest::Load {
                last_index,
                records,
                done,
            } => {
                self.leave_office("a snapshot was installed");
                self.registry = Registry::load(last_index, records)
                    .map_err(|why| format!("the stored registry cannot be read: {why}"))?;
                self.now = self.registry.time();
                let _ = done.send(());
            }
            OwnerRequest::Apply { entries, done } => {
                self.look();
                let mut writes = Vec::new();
                for entry in &entries {
                    self.apply(entry, &mut writes)?;
                }
                // Raft stops with the process; whoever waited is gone with it.
                let _ = done.send(writes);
            }
        }
        self.published.applied.send_replace(self.registry.applied());
        Ok(())
    }

    fn apply(
        &mut self,
        committed: &Committed,
        writes: &mut Vec<RecordWrite>,
    ) -> Result<(), String> {
        let applied = apply_quietly(&mut self.registry, committed, writes)?;
        for applied in applied {
            if let Some(Event::EpochOpened(epoch)) = applied.events.first() {
                self.epoch_opened(*epoch);
            } else if self.leader.is_some() {
                self.note_launch(&applied.events);
                self.step(Input::Applied(applied));
            }
        }
        Ok(())
    }

    /// A reign began: ours if node, process and term are. Any other one ends ours.
    fn epoch_opened(&mut self, epoch: Epoch) {
        let cluster = self.registry.cluster();
        let ours = cluster.leader == NodeId(self.node.id()) && cluster.process == self.process;
        let leads = {
            let status = self.status.borrow();
            status.is_leader && status.term == cluster.term
        };
        if ours && leads {
            self.leave_office("a new epoch begins");
            self.opened = self.registry.cluster().term;
            self.now = self.registry.time();
            self.looked = Instant::now();
            self.enter_office(epoch);
            self.note_failover(epoch);
        } else {
            self.leave_office("another master has opened a new epoch");
            self.publish_office();
        }
    }

    fn enter_office(&mut self, epoch: Epoch) {
        info!(
            epoch = epoch.0,
            term = self.registry.cluster().term,
            "in office"
        );
        self.leader = Some(Leader::new(&self.registry, self.clocks(), self.limits));
        self.publish_office();
        self.step(Input::Tick);
    }

    fn leave_office(&mut self, why: &str) {
        if self.leader.take().is_none() {
            return;
        }
        // The way back into office, if this node still leads, is a new epoch: tickets and offers of
        // the former one never mean anything else.
        self.opened = 0;
        warn!(epoch = self.registry.epoch().0, why, "out of office");
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
        };
        self.published.office.send_if_modified(|known| {
            let changed = *known != office;
            *known = office;
            changed
        });
    }

    fn status_changed(&mut self) -> Result<(), String> {
        let (is_leader, term, failure) = {
            let status = self.status.borrow_and_update();
            (status.is_leader, status.term, status.failure.clone())
        };
        if let Some(failure) = failure {
            return Err(failure);
        }
        if self.leader.is_some() && (!is_leader || term != self.registry.cluster().term) {
            self.leave_office("the term is over");
        }
        if is_leader && self.opened != term {
            self.open_epoch(term);
        }
        self.publish_office();
        Ok(())
    }

    /// Proposed once a term; if it is lost with the term, the next term opens another one.
    fn open_epoch(&mut self, term: u64) {
        use sha2::Digest;
        let entropy =
            sha2::Sha256::digest([&self.entropy[..], &term.to_be_bytes()].concat()).into();
        let open = OpenEpoch {
            node: NodeId(self.node.id()),
            process: self.process,
            term,
            entropy,
            wall_ms: wall_ms(),
        };
        let proposed = Proposed {
            ticket: Ticket::default(),
            command: Command::OpenEpoch(open),
        };
        let proposal = Proposal {
            at_ms: self.registry.time().0,
            command: encode::command(&proposed).into(),
        };
        match self.node.try_propose(proposal) {
            Ok(()) => {
                self.opened = term;
                self.opened_at = Instant::now();
            }
            Err(why) => warn!(term, %why, "cannot open an epoch yet"),
        }
    }

    fn tick(&mut self) {
        self.look();
        let (is_leader, term) = {
            let status = self.status.borrow();
            (status.is_leader, status.term)
        };
        let heard = self
            .node
            .quorum_acked_ago()
            .is_some_and(|ago| ago <= self.office_lease);
        if self.leader.is_some() && !heard {
            self.leave_office("no quorum has answered for too long");
        } else if is_leader
            && heard
            && self.leader.is_none()
            && (self.opened != term || self.opened_at.elapsed() > REOPEN)
        {
            self.open_epoch(term);
        }
        if self.leader.is_some() {
            self.step(Input::Tick);
        }
        self.publish_counts();
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Input(input) => {
                match &input {
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
            Message::AgentLink(link, sender) => {
                if self.leader.is_some() {
                    self.outbox.open_agent(link, sender);
                }
            }
            Message::FrameworkLink(link, sender) => {
                if self.leader.is_some() {
                    self.outbox.open_framework(link, sender);
                }
            }
            Message::Read(read) => read(&View {
                registry: &self.registry,
                leader: self.leader.as_ref(),
                now: self.now,
                failovers: &self.failovers,
            }),
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

    /// What has become free is offered at the end of the turn, all of it together.
    fn offer(&mut self) {
        let now = self.clocks();
        let Some(leader) = &mut self.leader else {
            self.more_offers = false;
            return;
        };
        let (effects, more) = leader.offer(&self.registry, now);
        self.more_offers = more;
        let offered = effects.iter().any(|effect| {
            matches!(effect, Effect::ToFramework(_, event) if matches!(event.event, Some(v1::event::Event::Offers(_))))
        });
        if offered {
            self.note(|failover| &mut failover.first_offer_ms);
        }
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Propose(ticket, command) => self.propose(ticket, *command),
                Effect::ToAgent(link, message) => {
                    if !self.outbox.tell_agent(link, *message) {
                        self.step(Input::AgentClosed { link });
                    }
                }
                Effect::ToFramework(link, event) => {
                    if !self.outbox.tell_framework(link, *event) {
                        self.step(Input::FrameworkClosed { link });
                    }
                }
                Effect::CloseAgent(link) => self.outbox.close_agent(link),
                Effect::CloseFramework(link) => self.outbox.close_framework(link),
                Effect::Answer(request, answer) => self.outbox.answer(request, answer),
                Effect::HandOver => drop(self.hand_over.try_send(())),
            }
        }
    }

    /// A queue that is full, or a node that leads no more, loses what it cannot take: leaving
    /// office tells everybody to try again, which is what they do with a call of unknown outcome.
    fn propose(&mut self, ticket: Ticket, command: Command) {
        let bytes = encode::command(&Proposed { ticket, command });
        if let Err(why) = self.node.try_propose(Proposal {
            at_ms: self.now.0,
            command: bytes.into(),
        }) {
            error!(%why, "a command could not be proposed");
            self.leave_office("its commands are not taken");
        }
    }

    fn note_failover(&mut self, epoch: Epoch) {
        let phases = self.status.borrow().phases;
        let ms = |us: u64| i64::try_from(us / 1_000).unwrap_or(0);
        self.failovers.push_back(v1::Failover {
            epoch: epoch.0,
            dead_seen_ms: ms(phases.dead_seen_us),
            elected_ms: ms(phases.elected_us),
            first_commit_ms: wall_ms(),
            first_offer_ms: 0,
            first_launch_ms: 0,
        });
        if self.failovers.len() > FAILOVERS {
            self.failovers.pop_front();
        }
    }

    fn note_launch(&mut self, events: &[Event]) {
        if events
            .iter()
            .any(|event| matches!(event, Event::TaskLaunched { .. }))
        {
            self.note(|failover| &mut failover.first_launch_ms);
        }
    }

    fn note(&mut self, moment: impl FnOnce(&mut v1::Failover) -> &mut i64) {
        if let Some(failover) = self.failovers.back_mut() {
            let moment = moment(failover);
            if *moment == 0 {
                *moment = wall_ms();
            }
        }
    }

    fn publish_counts(&self) {
        let (agents, frameworks) = self.outbox.open();
        let counts = Counts::of(
            &self.registry,
            self.leader.as_ref(),
            &self.status.borrow(),
            agents,
            frameworks,
        );
        self.published.counts.send_replace(counts);
    }
}

/// Applies a committed entry and collects the records that it changed.
///
/// # Errors
/// If a command cannot be read: it is of a newer release, and going on would diverge.
pub(crate) fn apply_quietly(
    registry: &mut Registry,
    committed: &Committed,
    writes: &mut Vec<RecordWrite>,
) -> Result<Vec<Applied>, String> {
    let commands = committed
        .commands
        .iter()
        .map(|bytes| encode::read_command(bytes))
        .collect::<Result<Vec<Proposed>, _>>();
    let commands =
        commands.map_err(|why| format!("entry {} cannot be read: {why}", committed.index))?;
    let applied = registry.apply(
        committed.index,
        &Entry {
            at: Timestamp(committed.at_ms),
            commands,
        },
    );
    let changes = registry.take_changes();
    writes.extend(changes.into_iter().map(|write| RecordWrite {
        key: write.key,
        value: write.value,
    }));
    Ok(applied)
}

/// Milliseconds of the Unix epoch, for display only.
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis().try_into().unwrap_or(i64::MAX)
}
