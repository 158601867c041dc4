//! Counts of what passes the leader: calls, events, offers, and what becomes of tasks.
//!
//! The leader itself counts nothing: the replica records its inputs, effects and applied events
//! here. The counts are those of this process. They remain when leadership ends, because they stay
//! true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::command::CallAction;
use argosy_state::event::Event;
use argosy_state::ids::{FrameworkId, TaskKey, Timestamp};
use argosy_state::task::{Reason, TaskState};
use metrics::{Counter, Histogram, counter, histogram};

use super::gauges::state_name;
use crate::leader::{Effect, Input, Leader};
use crate::links::LinkId;
use crate::offers::{ClosedOffer, OfferOutcome};

/// Maximum number of names of frameworks that have their own series.
const NAMES: usize = 200;
/// Maximum number of remembered frameworks; beyond it, their names are looked up again.
const KNOWN_FRAMEWORKS: usize = 4_096;
/// Maximum number of codes of declines that have their own series.
const DECLINE_CODES: usize = 50;
/// Maximum number of characters of such a code.
const CODE_CHARACTERS: usize = 64;
/// Maximum number of tasks whose start is timed at the same time.
const STARTING: usize = 100_000;
/// The label of everything beyond a maximum.
const OTHER: &str = "other";
/// Ends for which the cluster is responsible. They are counted from 0 on, because an increase is
/// only seen after a first sample.
const ENDS_BY_CLUSTER: [(TaskState, Reason); 10] = [
    (TaskState::Failed, Reason::ContainerLaunchFailed),
    (TaskState::Failed, Reason::TaskMissingOnAgent),
    (TaskState::Failed, Reason::AgentRestarted),
    (TaskState::Failed, Reason::AgentRebooted),
    (TaskState::Failed, Reason::StoppedWithoutLeader),
    (TaskState::Dropped, Reason::LaunchVoided),
    (TaskState::Dropped, Reason::AgentIncapable),
    (TaskState::Gone, Reason::TaskMissingOnAgent),
    (TaskState::Gone, Reason::AgentRemoved),
    (TaskState::GoneByOperator, Reason::AgentRemovedByOperator),
];

/// The counters of the frameworks with one name, by call and by event.
#[derive(Default)]
struct FrameworkCounts {
    calls: BTreeMap<&'static str, Counter>,
    events: BTreeMap<&'static str, Counter>,
}

/// See the module.
pub(crate) struct DecisionMetrics {
    by_name: BTreeMap<String, FrameworkCounts>,
    /// The names under which frameworks are counted.
    names: BTreeMap<FrameworkId, String>,
    /// Streams whose subscription is not answered yet. Its name is counted once a framework has it.
    subscribing: BTreeSet<LinkId>,
    decline_codes: BTreeSet<String>,
    /// Tasks that were accepted and do not run yet.
    starting: BTreeMap<TaskKey, Timestamp>,
    started: Histogram,
    rounds: Histogram,
    held: Histogram,
    made: Counter,
    outcomes: [Counter; 4],
    orphans: Counter,
}

impl DecisionMetrics {
    pub(crate) fn new() -> Self {
        let offers = |outcome: &'static str| counter!("argosy_offers_total", "outcome" => outcome);
        for (state, reason) in ENDS_BY_CLUSTER {
            ends(state, reason).increment(0);
        }
        Self {
            by_name: BTreeMap::new(),
            names: BTreeMap::new(),
            subscribing: BTreeSet::new(),
            decline_codes: BTreeSet::new(),
            starting: BTreeMap::new(),
            started: histogram!("argosy_task_start_duration_seconds"),
            rounds: histogram!("argosy_allocator_round_duration_seconds"),
            held: histogram!("argosy_offer_hold_seconds"),
            made: counter!("argosy_offers_made_total"),
            outcomes: ["accepted", "declined", "expired", "rescinded"].map(offers),
            orphans: counter!("argosy_task_orphans_total"),
        }
    }

    /// Forgets what has begun in an epoch that has ended.
    pub(crate) fn stop_leading(&mut self) {
        self.starting.clear();
        self.names.clear();
        for _ in std::mem::take(&mut self.subscribing) {
            self.call(OTHER.to_owned(), "subscribe");
        }
    }

    /// Records a turn in which the allocator had work.
    pub(crate) fn allocated(&self, took: Duration) {
        self.rounds.record(took);
    }

    /// Records the offers that have left the book.
    pub(crate) fn closed(&self, offers: &[ClosedOffer]) {
        for offer in offers {
            let [accepted, declined, expired, rescinded] = &self.outcomes;
            let counter = match offer.outcome {
                OfferOutcome::Accepted => accepted,
                OfferOutcome::Declined => declined,
                OfferOutcome::Expired => expired,
                OfferOutcome::Rescinded => rescinded,
            };
            counter.increment(1);
            self.held.record(Duration::from_millis(offer.held_ms));
        }
    }

    /// Records an input of the leader that is a call of a framework.
    pub(crate) fn input(&mut self, registry: &Registry, input: &Input) {
        let (framework, call) = match input {
            Input::Call { call, .. } => (call.framework, action(&call.action)),
            Input::Decline { decline, .. } => {
                let present = registry.framework(decline.framework);
                let is_own = present.is_some_and(|present| present.session == decline.session);
                let code = if is_own {
                    decline.reason.0.as_str()
                } else {
                    OTHER
                };
                self.declined(code, decline.offers.len());
                (decline.framework, "decline")
            }
            Input::Message { message, .. } => (message.framework, "message"),
            Input::Acknowledge { acknowledge, .. } => (acknowledge.framework, "acknowledge"),
            Input::Reconcile { reconcile, .. } => (reconcile.framework, "reconcile"),
            Input::FrameworkHeartbeat { framework, .. } => (*framework, "heartbeat"),
            Input::Subscribe { link, .. } => {
                self.subscribing.insert(*link);
                return;
            }
            Input::FrameworkClosed { link } if self.subscribing.remove(link) => {
                return self.call(OTHER.to_owned(), "subscribe");
            }
            _ => return,
        };
        let name = self.name(registry, framework);
        self.call(name, call);
        if call == "update" {
            // The name may change.
            self.names.remove(&framework);
        }
    }

    /// Records an effect of the leader that is an event for a framework.
    pub(crate) fn effect(&mut self, registry: &Registry, leader: Option<&Leader>, effect: &Effect) {
        let Effect::ToFramework(link, event) = effect else {
            return;
        };
        let Some(event) = &event.event else {
            return;
        };
        if let v1::event::Event::Offers(offers) = event {
            self.made.increment(offers.offers.len() as u64);
        }
        // The last event of a stream comes after its end.
        let framework = leader.and_then(|leader| leader.framework_of(*link));
        let name = match framework {
            Some(framework) => self.name(registry, framework),
            None => OTHER.to_owned(),
        };
        // The first event of a stream answers its subscription.
        if self.subscribing.remove(link) {
            self.call(name.clone(), "subscribe");
        }
        let kind = event_kind(event);
        let counts = self.by_name.entry(name.clone()).or_default();
        let counter = counts.events.entry(kind).or_insert_with(
            || counter!("argosy_framework_events_total", "framework" => name, "event" => kind),
        );
        counter.increment(1);
    }

    /// Records an applied event at the leader.
    pub(crate) fn event(&mut self, registry: &Registry, event: &Event) {
        match event {
            Event::TaskLaunched { key, .. } if self.starting.len() < STARTING => {
                self.starting.insert(key.clone(), registry.time());
            }
            Event::TaskUpdated { key, state, .. } => {
                if *state == TaskState::Running
                    && let Some(since) = self.starting.remove(key)
                {
                    let took_ms = registry.time().0.saturating_sub(since.0);
                    self.started.record(Duration::from_millis(took_ms));
                }
                if state.is_terminal() {
                    self.starting.remove(key);
                    count_end(registry, key, *state);
                }
            }
            Event::TaskForgotten(key) => drop(self.starting.remove(key)),
            Event::OrphanFound { .. } => self.orphans.increment(1),
            Event::FrameworkRemoved(framework) => drop(self.names.remove(framework)),
            _ => {}
        }
    }
}

impl DecisionMetrics {
    fn call(&mut self, name: String, call: &'static str) {
        let counts = self.by_name.entry(name.clone()).or_default();
        let counter = counts.calls.entry(call).or_insert_with(
            || counter!("argosy_framework_calls_total", "framework" => name, "call" => call),
        );
        counter.increment(1);
    }

    fn declined(&mut self, code: &str, offers: usize) {
        let code: String = code.chars().take(CODE_CHARACTERS).collect();
        let code = match code.as_str() {
            "" => "none".to_owned(),
            OTHER => code,
            known if self.decline_codes.contains(known) => code,
            _ if self.decline_codes.len() < DECLINE_CODES => {
                self.decline_codes.insert(code.clone());
                code
            }
            _ => OTHER.to_owned(),
        };
        counter!("argosy_declines_total", "reason" => code).increment(offers as u64);
    }

    /// Returns the name under which a framework is counted.
    fn name(&mut self, registry: &Registry, id: FrameworkId) -> String {
        if let Some(name) = self.names.get(&id) {
            return name.clone();
        }
        let Some(framework) = registry.framework(id) else {
            return OTHER.to_owned();
        };
        let name = self.label(&framework.info.name);
        if self.names.len() >= KNOWN_FRAMEWORKS {
            self.names.clear();
        }
        self.names.insert(id, name.clone());
        name
    }

    /// Returns a name, or `other` if too many names have series.
    fn label(&self, name: &str) -> String {
        let has_room = self.by_name.len() < NAMES || self.by_name.contains_key(name);
        if has_room { name } else { OTHER }.to_owned()
    }
}

/// Counts the end of a task, which may be acknowledged already.
fn count_end(registry: &Registry, key: &TaskKey, state: TaskState) {
    let finished = || registry.finished_task(key).map(|finished| &finished.task);
    let task = registry.task(key).or_else(finished);
    let reason = task.map_or(Reason::None, |task| task.latest.reason);
    ends(state, reason).increment(1);
}

fn ends(state: TaskState, reason: Reason) -> Counter {
    let reason = kebab(&format!("{reason:?}"));
    counter!("argosy_task_terminal_total", "state" => state_name(state), "reason" => reason)
}

/// Returns the name of a variant in lower case, with its words separated by hyphens.
fn kebab(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push('-');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

fn action(action: &CallAction) -> &'static str {
    match action {
        CallAction::Accept(_) => "accept",
        CallAction::Kill { .. } => "kill",
        CallAction::UpdateLimits { .. } => "update-limits",
        CallAction::Suppress(_) => "suppress",
        CallAction::Revive(_) => "revive",
        CallAction::Update(_) => "update",
        CallAction::Teardown => "teardown",
    }
}

fn event_kind(event: &v1::event::Event) -> &'static str {
    match event {
        v1::event::Event::Subscribed(_) => "subscribed",
        v1::event::Event::Offers(_) => "offers",
        v1::event::Event::Rescind(_) => "rescind",
        v1::event::Event::Update(_) => "update",
        v1::event::Event::Failure(_) => "failure",
        v1::event::Event::DemandUnmet(_) => "demand-unmet",
        v1::event::Event::Heartbeat(_) => "heartbeat",
        v1::event::Event::Error(_) => "error",
        v1::event::Event::Message(_) => "message",
    }
}
