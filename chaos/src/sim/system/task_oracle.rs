//! What truly happened to tasks, and what their frameworks were told: judged as it comes.
//!
//! The witness of the simulation: it believes machines, never masters or agents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use argosy_agent::core::How;
use argosy_proto::{convert, v1};
use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use crate::history::{End, TaskFact, witness};
use crate::sim::run::Notes;

/// All tasks that ever were. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ledger {
    pub(super) notes: Notes,
    stories: Arc<Mutex<BTreeMap<TaskKey, Story>>>,
}

/// One task.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    pub(super) start: Option<witness::Start>,
    pub(super) end: Option<How>,
    /// The terminal state that its framework was told.
    pub(super) told: Option<TaskState>,
    /// In which life of the framework it was told so last.
    told_in: u64,
    /// A call that launches it was answered as done.
    pub(super) accepted: bool,
    /// Its framework was told UNKNOWN: none of these calls starts it any more.
    promise: Option<Promise>,
    /// What has launched it, and by which entry.
    launched: Option<(u64, u64, u64)>,
}

/// What UNKNOWN promises.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    /// Of calls in this session.
    pub(super) session: u64,
    /// Whose numbers are below this one.
    pub(super) below: u64,
    /// The last entry that the answer was made by.
    pub(super) index: u64,
}

impl Story {
    /// Judges the promise, whichever of the two was seen first.
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

    /// Its process is there.
    pub(super) fn started(&self, host: &str, key: &TaskKey, start: witness::Start) {
        self.notes.count("tasks started");
        let mut stories = self.stories();
        let story = stories.entry(key.clone()).or_default();
        if let Some(former) = &story.start {
            self.notes.violation(format!(
                "T1: {key} is started twice: {start:?} after {former:?}"
            ));
        }
        // An operator who declares a host gone is believed, also while an order is on its way there.
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

    /// Its process has ended.
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

    /// A call that launches it was answered as done.
    pub(super) fn accepted(&self, key: TaskKey) {
        self.stories().entry(key).or_default().accepted = true;
    }

    /// Its framework was told that it is UNKNOWN, in answer to a question that named its calls.
    pub(super) fn unknown(&self, key: &TaskKey, promise: Promise) {
        let mut stories = self.stories();
        let story = stories.entry(key.clone()).or_default();
        story.promise = Some(promise);
        story.is_kept(key, &self.notes);
    }

    /// A call was granted that launches it.
    pub(super) fn launched(&self, key: &TaskKey, session: u64, number: u64, index: u64) {
        let mut stories = self.stories();
        let story = stories.entry(key.clone()).or_default();
        story.launched = Some((session, number, index));
        story.is_kept(key, &self.notes);
    }

    /// Its framework received an update, or an answer to a reconciliation.
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
        // In a new life unacknowledged updates come again, the earlier ones first.
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
            // Of a host that is gone nothing can be known.
            _ => true,
        };
        if !is_true {
            let Story { start, end, .. } = story.clone();
            // An end that has not come, or another one than it was.
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
