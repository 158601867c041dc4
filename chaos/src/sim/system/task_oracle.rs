//! The actual events of tasks, and the updates that their frameworks received. They are checked
//! immediately.
//!
//! It is the witness of the simulation: it relies on machines, never on masters or agents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use argosy_agent::core::How;
use argosy_proto::{convert, v1};
use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use crate::history::{End, TaskFact, witness};
use crate::sim::run::Notes;

/// The stories of all tasks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ledger {
    pub(super) notes: Notes,
    stories: Arc<Mutex<BTreeMap<TaskKey, Story>>>,
}

/// The events of one task.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    pub(super) start: Option<witness::Start>,
    pub(super) end: Option<How>,
    /// The terminal state that its framework received.
    pub(super) told: Option<TaskState>,
    /// The incarnation of the framework that last received it.
    told_in: u64,
    /// Whether a call that launches it was answered as done.
    pub(super) accepted: bool,
    /// The promise of UNKNOWN to its framework: none of these calls starts it any more.
    promise: Option<Promise>,
    /// The session and number of the call that launched it, and the entry.
    launched: Option<(u64, u64, u64)>,
}

/// The promise of an UNKNOWN update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    /// The session of the calls.
    pub(super) session: u64,
    /// The calls have numbers below this one.
    pub(super) below: u64,
    /// The last entry that the response is based on.
    pub(super) index: u64,
}

impl Story {
    /// Checks the promise against the launch, in either order.
    fn is_kept(&self, key: &TaskKey, notes: &Notes) {
        let (Some(promise), Some((session, number, index))) = (self.promise, self.launched) else {
            return;
        };
        if session == promise.session && number < promise.below && index > promise.index {
            notes.violation(format!(
                "T6: entry {index} launches {key} by call {number}, after its framework was told by entry {} that no call below {} does",
                promise.index, promise.below
            ));
        }
    }
}

fn end_from(how: v1::exit::How) -> End {
    match how {
        v1::exit::How::Code(code) => End::Code(code),
        v1::exit::How::Signal(signal) => End::Signal(signal),
    }
}

impl Ledger {
    pub(super) fn new(notes: Notes) -> Self {
        let stories = Arc::default();
        Self { notes, stories }
    }

    fn stories(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Story>> {
        self.stories
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records that its process was started.
    pub(super) fn started(&self, host: &str, key: &TaskKey, start: witness::Start) {
        self.notes.count("tasks started");
        let mut stories = self.stories();
        let story = stories.entry(key.clone()).or_default();
        if let Some(former) = &story.start {
            self.notes.violation(format!(
                "T1: {key} is started twice: {start:?} after {former:?}"
            ));
        }
        // An operator's declaration that a host is gone takes precedence, even while an order to
        // the host is in flight.
        if let Some(told) = story.told
            && told != TaskState::GoneByOperator
        {
            self.notes.violation(format!(
                "{key} is started on {host} after its framework was told {told:?}"
            ));
        }
        story.start = Some(start.clone());
        let task = key.clone();
        let fact = TaskFact::Witnessed { task, start };
        self.notes.recorder.observe(host, fact);
    }

    /// Records that its process has ended.
    pub(super) fn ended(&self, host: &str, key: &TaskKey, how: How) {
        self.stories().entry(key.clone()).or_default().end = Some(how);
        let end = match how {
            How::Code(code) => End::Code(code),
            How::Signal(signal) => End::Signal(signal),
            How::NotStarted => return,
        };
        let task = key.clone();
        let fact = TaskFact::Ended { task, end };
        self.notes.recorder.observe(host, fact);
    }

    /// Records that a call that launches it was answered as done.
    pub(super) fn accepted(&self, key: TaskKey) {
        self.stories().entry(key).or_default().accepted = true;
    }

    /// Records that its framework received UNKNOWN, in response to a reconciliation that named its
    /// calls.
    pub(super) fn unknown(&self, key: &TaskKey, promise: Promise) {
        let mut stories = self.stories();
        let story = stories.entry(key.clone()).or_default();
        story.promise = Some(promise);
        story.is_kept(key, &self.notes);
    }

    /// Records that a call that launches it was granted.
    pub(super) fn launched(&self, key: &TaskKey, session: u64, number: u64, index: u64) {
        let mut stories = self.stories();
        let story = stories.entry(key.clone()).or_default();
        story.launched = Some((session, number, index));
        story.is_kept(key, &self.notes);
    }

    /// Records that its framework received an update, or a reconciliation response.
    pub(super) fn told(&self, framework: &str, life: u64, key: &TaskKey, status: &v1::TaskStatus) {
        let Ok(state) = convert::state_from(status.state) else {
            let words = format!("{framework} was told a state that nobody knows: {status:?}");
            return self.notes.violation(words);
        };
        if status.revision.is_some() {
            let fact = TaskFact::Told {
                task: key.clone(),
                update: convert::revision_from(status.revision),
                state,
                end: status.exit.as_ref().and_then(|exit| exit.how).map(end_from),
            };
            self.notes.recorder.observe(framework, fact);
        }
        let mut stories = self.stories();
        let story = stories.entry(key.clone()).or_default();
        // A new incarnation receives unacknowledged updates again, the earlier ones first.
        let is_past = !state.is_terminal() && story.told_in != life;
        if let Some(former) = story.told
            && state != former
            && state != TaskState::Unknown
            && !is_past
        {
            let words = format!("{framework} was told {key} is {state:?} after {former:?}");
            self.notes.violation(words);
        }
        if state.is_terminal() {
            story.told_in = life;
        }
        if !state.is_terminal() || story.told.is_some() {
            return;
        }
        self.notes.count("ends told");
        story.told = Some(state);
        let truth = (&story.start, story.end);
        let is_true = match state {
            TaskState::Finished => matches!(truth, (Some(_), Some(How::Code(0)))),
            TaskState::Failed | TaskState::Killed => truth.0.is_none() || truth.1.is_some(),
            TaskState::Dropped | TaskState::Error => truth.0.is_none(),
            // For a host that is gone nothing can be known.
            _ => true,
        };
        if !is_true {
            let Story { start, end, .. } = story.clone();
            // The end did not happen, or it was another one.
            let rule = if end.is_none() { "T6" } else { "T8" };
            self.notes.violation(format!(
                "{rule}: {framework} was told {key} is {state:?} ({}), but in truth {start:?}, {end:?}",
                status.message
            ));
        }
    }

    pub(super) fn all(&self) -> BTreeMap<TaskKey, Story> {
        self.stories().clone()
    }
}
