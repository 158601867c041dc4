//! A leader's decisions: facts, the time and one input in, effects out.
//!
//! The leader holds only state that one round can rebuild: links, open offers, filters, timers.
//! Nothing here awaits, locks, or reads a clock. Reading order: `input`, `access`, `agents`,
//! `registration_queue`, `admission`, `orders`, `update_acks`, `frameworks`, `calls`, `messages`,
//! `delivery`, `offering`, `deadlines`, `mass_loss`, `stopping`, `pruning`, `view`.

mod access;
mod admission;
mod agents;
mod calls;
mod deadlines;
mod delivery;
mod frameworks;
mod input;
mod mass_loss;
mod messages;
mod offering;
mod orders;
mod presented_offers;
mod pruning;
mod registration_queue;
mod revoked_keys;
mod secrets;
mod stopping;
#[cfg(test)]
mod tests;
mod update_acks;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{ApplyOutcome, Command, ProposedCommand, Rejection, SweepTarget};
use argosy_state::event::Event;
use argosy_state::ids::{AgentId, ClusterId, Epoch, FrameworkId, Ticket};
use argosy_state::level::Level;
use argosy_state::persistent::Map;

use crate::allocator::{Allocator, AllocatorSettings};
use crate::config::LeaderTimeouts;
use crate::leader_reply::LeaderReply;
use crate::links::{LinkId, RequestId};
use crate::offers::{ClosedOffer, OfferBook};
use crate::secret_keys::SecretKeys;

use agents::AgentLink;
use deadlines::LeaderTimers;
use frameworks::FrameworkLink;
pub(crate) use input::{
    Decline, Effect, Hello, Input, LeaderTime, PresentedFilter, ReconcileQuery, SchedulerHello,
};
pub(crate) use messages::FrameworkMessage;
pub(crate) use offering::explanation;
use orders::OrderBudget;
pub(crate) use presented_offers::PRESENTATION_RESULTS;
pub(crate) use secrets::{GrantedSecret, SecretsRefusal};
pub(crate) use view::LeaderView;

/// The origin of a proposal, which determines where its outcome goes.
#[derive(Debug)]
enum ProposalOrigin {
    /// Only the events show the outcome.
    Events,
    /// The next piece follows it.
    Sweep,
    /// The next tasks of this agent that have stopped themselves follow it.
    Stopped(AgentId),
    /// A part of an agent's list: a rejection closes the link.
    List(LinkId),
    /// An agent waits for its registration.
    Agent(LinkId),
    /// A scheduler waits for its subscription.
    Framework(LinkId),
    /// A framework is recorded as disconnected.
    Disconnect(FrameworkId),
    /// Leadership may be transferred once it is applied.
    MassLoss { hand_over: bool },
    /// Callers wait, with the offers that the call takes.
    Call(Box<calls::PendingCall>),
    /// A caller waits for a rejection.
    Refusal(RequestId, Rejection),
    /// A scheduler waits until its acknowledgements are stored.
    Acknowledge(RequestId, argosy_state::command::Acknowledge),
    /// A scheduler waits for a reliable UNKNOWN.
    Reconcile(RequestId, input::ReconcileQuery),
    /// An operator waits for a batch.
    Operate(RequestId),
    /// An operator waits for a higher feature level.
    RaiseLevel(RequestId),
}

/// An active leader.
#[derive(Debug)]
pub(crate) struct Leader {
    epoch: Epoch,
    cluster: ClusterId,
    /// The feature level of the cluster. It rises between epochs only.
    level: Level,
    limits: LeaderTimeouts,
    enforcement: access::Enforcement,
    /// The keys from which those of tickets are derived, if this master has a file of keys.
    secret_keys: Option<Arc<SecretKeys>>,
    /// The last serial of a ticket.
    serial: u64,
    origins: BTreeMap<u64, ProposalOrigin>,
    agent_links: BTreeMap<LinkId, AgentLink>,
    admission: admission::ListAdmission,
    registering: registration_queue::RegistrationQueue,
    linked_agents: Map<AgentId, LinkId>,
    framework_links: BTreeMap<LinkId, FrameworkLink>,
    linked_frameworks: Map<FrameworkId, LinkId>,
    pending_calls: BTreeMap<(FrameworkId, u64, u64), u64>,
    /// Whether a piece of a sweep is in flight; there is at most one.
    sweeping: bool,
    /// The target of the last piece.
    last_swept: Option<SweepTarget>,
    /// Agents with orders for which the last turn had no time.
    orders_due: BTreeSet<AgentId>,
    /// Budget of orders that this turn may still send.
    order_budget: OrderBudget,
    book: OfferBook,
    allocator: Allocator,
    offering: offering::OfferResumption,
    presented: presented_offers::PresentedOffers,
    deadlines: LeaderTimers,
    mass_loss: mass_loss::MassLoss,
    stops: stopping::StopTimers,
    pruning: pruning::PruningSchedule,
    forwarded: messages::ForwardedBytes,
    effects: Vec<Effect>,
}

impl Leader {
    /// Begins an epoch: every timeout restarts, and nothing is offered until the frameworks
    /// recorded as connected have resumed, or a short time has passed.
    pub(crate) fn new(registry: &Registry, now: LeaderTime, limits: LeaderTimeouts) -> Self {
        let mut leader = Self {
            epoch: registry.epoch(),
            cluster: registry.cluster().facts.id,
            level: registry.level(),
            limits,
            enforcement: access::Enforcement::default(),
            secret_keys: None,
            serial: 0,
            origins: BTreeMap::new(),
            agent_links: BTreeMap::new(),
            admission: admission::ListAdmission::default(),
            registering: registration_queue::RegistrationQueue::default(),
            linked_agents: Map::default(),
            framework_links: BTreeMap::new(),
            linked_frameworks: Map::default(),
            pending_calls: BTreeMap::new(),
            sweeping: false,
            last_swept: None,
            orders_due: BTreeSet::new(),
            order_budget: OrderBudget::AT_ONCE,
            book: OfferBook::new(registry.epoch()),
            allocator: Allocator::new(AllocatorSettings::default()),
            offering: offering::OfferResumption::new(registry, now.at.plus_ms(limits.resume_ms)),
            presented: presented_offers::PresentedOffers::default(),
            deadlines: LeaderTimers::default(),
            mass_loss: mass_loss::MassLoss::default(),
            stops: stopping::StopTimers::default(),
            pruning: pruning::PruningSchedule::default(),
            forwarded: messages::ForwardedBytes::default(),
            effects: Vec::new(),
        };
        leader.arm_all(registry, now);
        leader.arm_stops(registry, now);
        leader.sweep(registry);
        leader
    }

    /// Handles one input; this is the whole behaviour, a few lines for each kind.
    #[expect(clippy::too_many_lines, reason = "a table of the kinds of input")]
    pub(crate) fn step(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        input: Input,
    ) -> Vec<Effect> {
        self.book.advance(now.at);
        let Some(input) = self.permitted(registry, input) else {
            return std::mem::take(&mut self.effects);
        };
        self.note_contact(now, &input);
        match input {
            Input::AgentHello { link, actor, hello } => {
                self.agent_hello(registry, now, link, actor, *hello)
            }
            Input::AgentReport { link, updates } => self.agent_report(registry, now, link, updates),
            Input::AgentList {
                link,
                floor,
                held,
                last,
            } => self.agent_list(registry, now, link, floor, held, last),
            Input::AgentPing { link, serial } => self.agent_ping(now, link, serial),
            Input::AgentMessage { link, message } => {
                self.agent_message(registry, now, link, message)
            }
            Input::AgentClosed { link } => self.agent_closed(link),
            Input::Subscribe {
                link,
                actor,
                subscription,
            } => self.subscribe(registry, now, link, actor, *subscription),
            Input::FrameworkClosed { link } => self.framework_closed(now, link),
            Input::FrameworkHeartbeat { request, .. } => {
                self.answer(request, LeaderReply::HeartbeatRecorded)
            }
            Input::FrameworkBehind { link, behind } => self.framework_behind(link, behind),
            Input::Call {
                request,
                actor,
                call,
                tokens,
                filter_ms,
            } => self.call(registry, now, (request, actor), *call, &tokens, filter_ms),
            Input::Decline {
                request, decline, ..
            } => self.decline(registry, now, request, &decline),
            Input::Message {
                request, message, ..
            } => self.message(registry, now, request, message),
            Input::Acknowledge {
                request,
                actor,
                acknowledge,
            } => self.acknowledge(registry, request, actor, acknowledge),
            Input::Reconcile {
                request,
                actor,
                reconcile,
            } => self.reconcile(registry, now, request, actor, reconcile),
            Input::Operate {
                request,
                actor,
                operate,
            } => self.operate(registry, request, actor, operate),
            Input::Applied(applied) => self.applied(registry, now, applied),
            Input::RaiseLevel {
                request,
                actor,
                level,
            } => {
                let command = Command::RaiseLevel { level };
                self.propose(actor, command, ProposalOrigin::RaiseLevel(request));
            }
            Input::BeyondLevel { serial, need } => {
                let why = Rejection::NeedsLevel {
                    what: need.what,
                    needed: need.level,
                    level: self.level,
                };
                self.not_proposed(registry, now, serial, why);
            }
            Input::TooLarge { serial, bytes } => self.too_large(registry, now, serial, bytes),
            Input::Unreadable { serial, why } => {
                let why = Rejection::Internal(why.to_string());
                self.not_proposed(registry, now, serial, why);
            }
            Input::Tick => self.tick(registry, now),
        }
        self.ask_for_lists(now);
        std::mem::take(&mut self.effects)
    }

    /// Settles an applied entry before the events of its commands are handled one by one. An offer
    /// that any of them used must not count as offered and as used at the same time. So all of them
    /// are settled first.
    pub(crate) fn settle(&mut self, entry: &[AppliedProposal]) {
        for applied in entry {
            if applied.ticket.epoch == self.epoch
                && let Some(ProposalOrigin::Call(pending)) =
                    self.origins.get(&applied.ticket.serial)
            {
                self.book.settle(pending.used_offers());
            }
        }
    }

    /// Returns the feature level at which it leads.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Returns the book of open and pending offers.
    pub(crate) fn book(&self) -> &OfferBook {
        &self.book
    }

    /// Returns the offers that were closed since the last call.
    pub(crate) fn take_closed_offers(&mut self) -> Vec<ClosedOffer> {
        self.book.take_closed()
    }

    /// Returns the framework of a stream.
    pub(crate) fn framework_of(&self, link: LinkId) -> Option<FrameworkId> {
        self.framework_links.get(&link)?.framework
    }

    /// Returns whether the allocator has work.
    pub(crate) fn is_allocation_due(&self, now: LeaderTime) -> bool {
        self.allocator.next_wakeup() <= now.at || self.book.has_changes()
    }

    /// Returns the allocator.
    pub(crate) fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// Returns the number of frameworks with a stream.
    pub(crate) fn linked_frameworks(&self) -> usize {
        self.linked_frameworks.len()
    }

    /// Proposes a command that an actor has requested.
    fn propose(&mut self, actor: Actor, command: Command, origin: ProposalOrigin) -> u64 {
        self.serial += 1;
        self.origins.insert(self.serial, origin);
        self.effects.push(Effect::Propose(Box::new(ProposedCommand {
            ticket: Ticket {
                epoch: self.epoch,
                serial: self.serial,
            },
            actor,
            command,
        })));
        self.serial
    }

    /// Proposes a decision of this leader.
    fn decide(&mut self, command: Command, origin: ProposalOrigin) -> u64 {
        self.propose(Actor::Cluster, command, origin)
    }

    fn answer(&mut self, request: RequestId, answer: LeaderReply) {
        self.effects.push(Effect::Answer(request, answer));
    }

    fn applied(&mut self, registry: &Registry, now: LeaderTime, applied: AppliedProposal) {
        let ours = applied.ticket.epoch == self.epoch;
        let route = if ours {
            self.origins.remove(&applied.ticket.serial)
        } else {
            None
        };
        for event in &applied.events {
            self.allocator.observe(event);
            self.handle_event(registry, now, event);
        }
        self.keys_revoked(&applied.events);
        if let Some(route) = route {
            self.handle_outcome(registry, now, route, applied.outcome);
        }
    }

    /// Handles a proposal that no entry can hold: it was never in the log, so its callers are
    /// rejected.
    fn too_large(&mut self, registry: &Registry, now: LeaderTime, serial: u64, bytes: usize) {
        let text = format!("it takes {bytes} bytes in the log, more than an entry holds: split it");
        let field = "request".to_owned();
        self.not_proposed(registry, now, serial, Rejection::Invalid { field, text });
    }

    fn not_proposed(&mut self, registry: &Registry, now: LeaderTime, serial: u64, why: Rejection) {
        match self.origins.remove(&serial) {
            None => {}
            // The same piece would be proposed again immediately, and rejected again.
            Some(ProposalOrigin::Sweep) => self.sweeping = false,
            Some(route) => {
                if let ProposalOrigin::Call(pending) = &route {
                    self.book.settle(pending.used_offers());
                }
                self.handle_outcome(registry, now, route, Err(why));
            }
        }
    }

    fn handle_outcome(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        origin: ProposalOrigin,
        outcome: ApplyOutcome,
    ) {
        match origin {
            ProposalOrigin::Events => {}
            ProposalOrigin::Sweep => {
                self.sweeping = false;
                self.sweep(registry);
            }
            ProposalOrigin::Stopped(agent) => self.tasks_stopped(registry, now, agent, &outcome),
            ProposalOrigin::List(link) => self.list_compared(link, &outcome),
            ProposalOrigin::Agent(link) => {
                self.agent_registered(registry, now, link, outcome);
                self.registration_concluded();
            }
            ProposalOrigin::Framework(link) => {
                self.framework_subscribed(registry, now, link, outcome)
            }
            ProposalOrigin::MassLoss { hand_over } => self.mass_loss_recorded(hand_over),
            ProposalOrigin::Disconnect(framework) => self.deadlines.disconnect_concluded(framework),
            ProposalOrigin::Call(pending) => self.call_applied(registry, now, *pending, outcome),
            ProposalOrigin::Refusal(request, why) => self.refusal_confirmed(request, why, outcome),
            ProposalOrigin::Acknowledge(request, acknowledge) => {
                self.acknowledge_applied(registry, request, &acknowledge, outcome)
            }
            ProposalOrigin::Reconcile(request, reconcile) => {
                self.reconcile_applied(registry, now, request, &reconcile, outcome)
            }
            ProposalOrigin::Operate(request) => self.operation_applied(registry, request, outcome),
            ProposalOrigin::RaiseLevel(request) => {
                let answer =
                    outcome.map_or_else(|why| refused(&why), |_| LeaderReply::Acknowledged);
                self.answer(request, answer);
            }
        }
    }

    /// Handles the consequences of an event, regardless of who proposed it.
    fn handle_event(&mut self, registry: &Registry, now: LeaderTime, event: &Event) {
        match event {
            // Digests are compared by every master, leading or not.
            Event::EpochOpened(_) | Event::LevelRaised(_) | Event::DigestLogged { .. } => {}
            Event::TaskForgotten(key) => self.task_forgotten(registry, key),
            Event::AgentChanged(agent) => self.agent_changed(registry, now, *agent),
            Event::AgentGone(agent) => self.agent_gone(*agent),
            Event::AgentForgotten(agent) => self.cancel_stop_timer(*agent),
            Event::AgentUsageChanged(agent) => self.agent_usage_changed(registry, *agent),
            Event::AgentReconciled { agent, complete } => {
                self.agent_reconciled(registry, *agent, *complete)
            }
            Event::FrameworkSubscribed(framework) => {
                self.framework_changed(registry, now, *framework)
            }
            Event::FrameworkChanged(framework) => self.framework_changed(registry, now, *framework),
            // The allocator has observed them, and keys are sent together.
            Event::FrameworkRevived { .. } | Event::WeightChanged(_) | Event::AccessChanged(_) => {}
            Event::FrameworkRemoving(framework) => {
                let why = Rejection::FrameworkRemoved(*framework).to_string();
                self.framework_removed(registry, now, *framework, &why);
            }
            Event::FrameworkRemoved(framework) => {
                let why = format!("{framework} is gone: its last task ended");
                self.framework_removed(registry, now, *framework, &why);
            }
            Event::TaskLaunched { key, agent, .. } => {
                self.task_launched(registry, now, key, *agent)
            }
            Event::TaskKillRequested { agent, .. } | Event::TaskLimitsRequested { agent, .. } => {
                self.pump_orders(registry, *agent)
            }
            Event::TaskUpdated { key, agent, .. } => {
                self.arm_stop(registry, *agent);
                self.task_updated(registry, key);
            }
            Event::UpdateReleased {
                agent,
                key,
                order,
                number,
                released,
            } => self.update_settled(*agent, key, *order, *number, *released),
            Event::OrphanFound { agent, key, order } => self.kill_orphan(*agent, key, *order),
            Event::SweepNeeded => self.sweep(registry),
        }
    }

    /// Processes one piece of the marked records; the next follows when this one is applied, until
    /// no record is marked. The targets take turns: calls of a framework can restart its sweep.
    fn sweep(&mut self, registry: &Registry) {
        if self.sweeping {
            return;
        }
        let is_next = |target: &SweepTarget| Some(*target) > self.last_swept;
        let next = registry.sweeps().find(is_next);
        if let Some(target) = next.or_else(|| registry.sweeps().next()) {
            self.sweeping = true;
            self.last_swept = Some(target);
            self.decide(Command::Sweep(target), ProposalOrigin::Sweep);
        }
    }
}

/// Returns the answer to a rejected caller.
fn refused(why: &Rejection) -> LeaderReply {
    LeaderReply::from(why)
}
