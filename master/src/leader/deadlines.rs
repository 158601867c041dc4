//! Deadlines: which agents, frameworks and tasks are overdue.
//!
//! Replicated deadlines are read from the index of the registry. Facts that only this leader knows,
//! such as the time of the last heartbeat, have timers: one ordered set, checked at each tick. A
//! heartbeat does not move its timer; the timer finds on expiry that it is too early.

use std::collections::{BTreeMap, BTreeSet};

use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::command::{AgentDecision, Command, FrameworkDecision};
use argosy_state::framework::{Framework, SchedulerConnection};
use argosy_state::ids::{AgentId, FrameworkId, Timestamp};
use argosy_state::planted_bug;
use argosy_state::registry::DeadlineKind;
use argosy_state::subject::Subject;

use super::{Leader, LeaderTime, ProposalOrigin};
use crate::links::LinkId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// An agent may have been silent for too long.
    Agent(AgentId),
    /// A framework may have been without a stream for too long.
    Stream(FrameworkId),
    /// A scheduler that sends heartbeats may have been silent for too long.
    Silence(LinkId),
}

/// Timers and heartbeats that the current turn can still process.
#[derive(Debug, Clone, Copy)]
struct TimerBudget(usize);

impl TimerBudget {
    /// The budget of one turn: a step takes up to three microseconds.
    const TURN: Self = Self(512);
}

impl Default for TimerBudget {
    fn default() -> Self {
        Self::TURN
    }
}

/// The leader's progress through the due deadlines of the registry. A pass handles each deadline
/// once. The deadline stays in the index until the decision is applied; if that decision was
/// overtaken and rejected, the next pass finds the deadline again.
#[derive(Debug, Default)]
struct DeadlinePass {
    /// The deadline that was handled last.
    last: Option<(DeadlineKind, Timestamp, Subject)>,
    /// The earliest start of the next pass.
    next: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct LeaderTimers {
    timers: BTreeSet<(Timestamp, Timer)>,
    pass: DeadlinePass,
    /// Watched agents, and when the last message of each arrived.
    last_contact: BTreeMap<AgentId, Timestamp>,
    /// Frameworks without a stream, and the time since which each has none.
    without_stream: BTreeMap<FrameworkId, Timestamp>,
    /// Frameworks whose disconnection is being committed, and the number of these decisions in the
    /// log.
    disconnecting: BTreeMap<FrameworkId, usize>,
    last_heartbeat: Timestamp,
    /// The first stream that has not been sent the current heartbeat.
    next_heartbeat: Option<LinkId>,
    /// The last tick, while timers or heartbeats that were due at it are left.
    unfinished_tick: Option<LeaderTime>,
    steps: TimerBudget,
    /// Cluster time of the newest entry, or of the last tick that was proposed.
    last_entry: Timestamp,
}

impl LeaderTimers {
    pub(super) fn record_contact(&mut self, agent: AgentId, at: Timestamp) {
        if let Some(heard) = self.last_contact.get_mut(&agent) {
            *heard = at;
        }
    }

    /// Returns the number of agents that are expected to send heartbeats: those that are neither
    /// unreachable nor gone.
    pub(super) fn watched(&self) -> usize {
        self.last_contact.len()
    }

    /// Returns whether a decision that the framework is disconnected is in flight in the log. Until
    /// it is applied, the record does not show whether the framework is connected.
    pub(super) fn is_disconnecting(&self, id: FrameworkId) -> bool {
        self.disconnecting.contains_key(&id)
    }

    pub(super) fn disconnect_concluded(&mut self, id: FrameworkId) {
        if let Some(count) = self.disconnecting.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.disconnecting.remove(&id);
            }
        }
    }

    /// Returns the next due deadline of the registry that this pass has not handled: of every exact
    /// kind, one kind after the other.
    fn due<'a>(
        &self,
        registry: &'a Registry,
        now: LeaderTime,
    ) -> Option<(DeadlineKind, Timestamp, &'a Subject)> {
        let behind = self.pass.last.as_ref();
        let from = behind.map(|(kind, _, _)| *kind);
        let kinds = DeadlineKind::ALL.into_iter();
        let mut left =
            kinds.filter(|kind| kind.is_exact() && from.is_none_or(|from| *kind >= from));
        left.find_map(|kind| {
            let behind = behind.filter(|(last, _, _)| *last == kind);
            let behind = behind.map(|(_, at, subject)| (*at, subject.clone()));
            let mut next = registry.deadlines().of(kind, behind.as_ref());
            let (at, subject) = next.next().filter(|(at, _)| *at <= now.at)?;
            Some((kind, at, subject))
        })
    }

    /// Begins another pass once no deadline of this one is left.
    fn begin_pass(&mut self, registry: &Registry, now: LeaderTime) {
        if now.at >= self.pass.next && self.due(registry, now).is_none() {
            self.pass = DeadlinePass {
                last: None,
                next: now.at.plus_ms(PASS_MS),
            };
        }
    }
}

impl Leader {
    /// Restarts every timeout when leadership begins.
    pub(super) fn arm_all(&mut self, registry: &Registry, now: LeaderTime) {
        self.begin_mass_loss(registry, now);
        for agent in registry.agents() {
            if !agent.mode().is_lost() {
                self.arm_agent(now, agent.id);
            }
        }
        planted_bug!(DeadlineLost => return);
        for framework in registry.frameworks() {
            self.arm_framework(registry, now, framework.id);
        }
    }

    /// Restarts every timeout after a pause of this process, which must not count as silence of
    /// others.
    pub(crate) fn refresh(&mut self, now: LeaderTime) {
        for heard in self.deadlines.last_contact.values_mut() {
            *heard = now.at;
        }
        for gone in self.deadlines.without_stream.values_mut() {
            *gone = now.at;
        }
        for link in self.framework_links.values_mut() {
            link.last_contact = now.at;
        }
    }

    pub(super) fn arm_agent(&mut self, now: LeaderTime, agent: AgentId) {
        let watched = self.deadlines.last_contact.insert(agent, now.at);
        if watched.is_none() {
            self.deadlines.timers.insert((
                now.at.plus_ms(self.limits.agent_timeout_ms),
                Timer::Agent(agent),
            ));
        }
    }

    /// Watches an agent whose record has changed. An agent that is already watched keeps its
    /// timeout.
    pub(super) fn watch_agent(&mut self, now: LeaderTime, agent: AgentId) {
        if !self.deadlines.last_contact.contains_key(&agent) {
            self.arm_agent(now, agent);
        }
    }

    /// Stops watching an unreachable agent; its timer finds nothing. Returns whether it was
    /// watched.
    pub(super) fn unwatch_agent(&mut self, agent: AgentId) -> bool {
        self.deadlines.last_contact.remove(&agent).is_some()
    }

    pub(super) fn arm_framework(&mut self, registry: &Registry, now: LeaderTime, id: FrameworkId) {
        let framework = registry.framework(id);
        let listened = self.linked_frameworks.contains_key(&id);
        if framework.is_some_and(is_expected) && !listened {
            self.stream_gone(now, id);
        } else {
            self.deadlines.without_stream.remove(&id);
        }
    }

    /// Records that a stream ended: its framework has a limited time to return.
    pub(super) fn stream_gone(&mut self, now: LeaderTime, id: FrameworkId) {
        self.deadlines.without_stream.insert(id, now.at);
        self.deadlines
            .timers
            .insert((now.at.plus_ms(self.framework_grace_ms()), Timer::Stream(id)));
    }

    /// Watches a stream whose scheduler sends heartbeats.
    pub(super) fn arm_stream(&mut self, now: LeaderTime, link: LinkId) {
        let due = now.at.plus_ms(self.limits.framework_timeout_ms);
        self.deadlines.timers.insert((due, Timer::Silence(link)));
    }

    fn silence_due(&mut self, now: LeaderTime, link: LinkId) {
        let Some(heard) = self
            .framework_links
            .get(&link)
            .map(|state| state.last_contact)
        else {
            return;
        };
        let due = heard.plus_ms(self.limits.framework_timeout_ms);
        if due > now.at {
            self.deadlines.timers.insert((due, Timer::Silence(link)));
        } else {
            self.framework_silent(now, link);
        }
    }

    fn framework_grace_ms(&self) -> u64 {
        planted_bug!(GraceLost, self.limits.framework_grace_ms, 0)
    }

    pub(super) fn tick(&mut self, registry: &Registry, now: LeaderTime) {
        let deadlines = &mut self.deadlines;
        deadlines.unfinished_tick = Some(now);
        if deadlines.next_heartbeat.is_none()
            && now.at.since_ms(deadlines.last_heartbeat) >= HEARTBEAT_MS
        {
            deadlines.last_heartbeat = now.at;
            deadlines.next_heartbeat = Some(LinkId(0));
        }
        self.deadlines.begin_pass(registry, now);
        self.check_links(registry, now);
        self.continue_tick(registry);
        self.advance_time(registry, now);
        self.stop_tasks(registry, now);
        self.prune(registry, now);
        self.expire_offers(now);
        self.update_wait_reasons(registry);
    }

    /// Continues with the work that was due at the last tick, and returns the number of steps that
    /// the turn has taken for it. Called once at the end of each turn.
    pub(super) fn finish_tick(&mut self, registry: &Registry) -> usize {
        self.continue_tick(registry);
        let TimerBudget(left) = std::mem::take(&mut self.deadlines.steps);
        TimerBudget::TURN.0 - left
    }

    /// Returns whether timers or heartbeats are left that were due at the last tick.
    pub(super) fn has_unfinished_tick(&self) -> bool {
        self.deadlines.unfinished_tick.is_some()
    }

    fn continue_tick(&mut self, registry: &Registry) {
        let Some(now) = self.deadlines.unfinished_tick else {
            return;
        };
        while self.deadlines.steps.0 > 0 {
            // Timers come last: at each tick, as many as there are agents may be due.
            let has_worked = self.send_next_heartbeat()
                || self.check_deadline(registry, now)
                || self.check_timer(registry, now);
            if !has_worked {
                self.deadlines.unfinished_tick = None;
                return;
            }
            self.deadlines.steps.0 -= 1;
        }
    }

    /// Sends the next heartbeat that is due; false if there is none.
    fn send_next_heartbeat(&mut self) -> bool {
        let Some(from) = self.deadlines.next_heartbeat else {
            return false;
        };
        let next = self.framework_links.range(from..).next();
        let next = next.map(|(link, _)| *link);
        self.deadlines.next_heartbeat = next.map(|link| LinkId(link.0 + 1));
        if let Some(link) = next {
            self.send_to_framework(link, v1::event::Event::Heartbeat(v1::Heartbeat {}));
        }
        next.is_some()
    }

    /// Handles the next deadline of the registry that is due; false if there is none.
    fn check_deadline(&mut self, registry: &Registry, now: LeaderTime) -> bool {
        let Some((kind, at, subject)) = self.deadlines.due(registry, now) else {
            return false;
        };
        self.deadlines.pass.last = Some((kind, at, subject.clone()));
        self.deadline_due(registry, kind, subject);
        true
    }

    /// Proposes the consequence of a replicated deadline: one line for each kind.
    fn deadline_due(&mut self, registry: &Registry, kind: DeadlineKind, subject: &Subject) {
        match (kind, subject) {
            (DeadlineKind::Failover, Subject::Framework(id)) => self.framework_due(registry, *id),
            // No command sets one yet, and none ends what the deadline belongs to.
            (DeadlineKind::Administration, Subject::Agent(_)) => {}
            // These are not exact: separate passes remove old records.
            (DeadlineKind::Lost | DeadlineKind::Answer, _) => {}
            // The index has no such entries.
            (
                DeadlineKind::Failover | DeadlineKind::Administration,
                Subject::Framework(_)
                | Subject::Agent(_)
                | Subject::Task(_)
                | Subject::Request { .. },
            ) => {}
        }
    }

    /// Handles the next timer that is due; false if there is none.
    fn check_timer(&mut self, registry: &Registry, now: LeaderTime) -> bool {
        let next = self.deadlines.timers.first().copied();
        let Some((due, timer)) = next.filter(|(due, _)| *due <= now.at) else {
            return false;
        };
        self.deadlines.timers.remove(&(due, timer));
        match timer {
            Timer::Agent(agent) => self.agent_due(registry, now, agent),
            Timer::Stream(framework) => self.stream_due(registry, now, framework),
            Timer::Silence(link) => self.silence_due(now, link),
        }
        true
    }

    fn agent_due(&mut self, registry: &Registry, now: LeaderTime, id: AgentId) {
        let Some(heard) = self.deadlines.last_contact.get(&id).copied() else {
            return;
        };
        let Some(agent) = registry.agent(id).filter(|agent| !agent.mode().is_lost()) else {
            self.deadlines.last_contact.remove(&id);
            return;
        };
        let due = heard.plus_ms(self.limits.agent_timeout_ms);
        if due > now.at {
            self.deadlines.timers.insert((due, Timer::Agent(id)));
            return;
        }
        if let Some(later) = self.throttle(registry, now) {
            self.deadlines.timers.insert((later, Timer::Agent(id)));
            return;
        }
        // Checked again, in case this decision is overtaken and rejected.
        self.deadlines.timers.insert((
            now.at.plus_ms(self.limits.agent_timeout_ms),
            Timer::Agent(id),
        ));
        let decision = AgentDecision {
            agent: id,
            decided_on: agent.revision,
            wall_ms: now.wall_ms,
        };
        self.decide(Command::AgentUnreachable(decision), ProposalOrigin::Events);
    }

    fn stream_due(&mut self, registry: &Registry, now: LeaderTime, id: FrameworkId) {
        let Some(since) = self.deadlines.without_stream.get(&id).copied() else {
            return;
        };
        let Some(framework) = registry.framework(id).filter(|known| is_expected(known)) else {
            self.deadlines.without_stream.remove(&id);
            return;
        };
        let due = since.plus_ms(self.framework_grace_ms());
        if due > now.at {
            self.deadlines.timers.insert((due, Timer::Stream(id)));
            return;
        }
        // Checked again, in case this decision is overtaken and rejected.
        self.deadlines.timers.insert((
            now.at.plus_ms(self.limits.framework_grace_ms),
            Timer::Stream(id),
        ));
        let decision = FrameworkDecision {
            framework: id,
            decided_on: framework.revision,
        };
        *self.deadlines.disconnecting.entry(id).or_default() += 1;
        self.decide(
            Command::DisconnectFramework(decision),
            ProposalOrigin::Disconnect(id),
        );
    }

    /// Handles a framework that has been without a stream for too long.
    fn framework_due(&mut self, registry: &Registry, id: FrameworkId) {
        let Some(framework) = registry.framework(id) else {
            return;
        };
        planted_bug!(DeadlineLost if framework.revision.index < self.epoch.0 => return);
        let decision = FrameworkDecision {
            framework: id,
            decided_on: framework.revision,
        };
        self.decide(Command::ExpireFramework(decision), ProposalOrigin::Events);
    }

    /// Commits cluster time periodically while a deadline of the registry runs, so that a change of
    /// leader loses little of it. Otherwise an idle leader commits nothing.
    fn advance_time(&mut self, registry: &Registry, now: LeaderTime) {
        self.deadlines.last_entry = self.deadlines.last_entry.max(registry.time());
        let Some(deadline) = registry.deadlines().next() else {
            return;
        };
        let step_ms = (deadline.since_ms(self.deadlines.last_entry) / 100).max(TICK_MS);
        if now.at.since_ms(self.deadlines.last_entry) >= step_ms {
            self.deadlines.last_entry = now.at;
            self.decide(Command::Tick, ProposalOrigin::Events);
        }
    }
}

/// Interval of heartbeats on a framework's stream, in milliseconds.
pub(crate) const HEARTBEAT_MS: u64 = 1_000;
/// Interval of passes over the due deadlines, in milliseconds.
const PASS_MS: u64 = 1_000;
/// Minimum interval at which cluster time is committed in an entry for that purpose, in
/// milliseconds.
const TICK_MS: u64 = 30_000;

/// Returns whether the framework is expected to have a stream.
fn is_expected(framework: &Framework) -> bool {
    framework.connection == SchedulerConnection::Connected && !framework.removing
}
