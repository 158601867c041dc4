//! The actual events of tasks, and the updates that their frameworks received. They are checked
//! immediately.
//!
//! It is the witness of the simulation: it relies on machines, never on masters or agents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use argosy_agent::core::CommandStatus;
use argosy_proto::{convert, v1};
use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use crate::history::{ProcessExit, TaskFact, witness};
use crate::sim::run::SimContext;

/// The events of all tasks. Cheap to clone.
#[derive(Clone)]
pub(super) struct TaskOracle {
    pub(super) notes: SimContext,
    tasks: Arc<Mutex<BTreeMap<TaskKey, TaskEvents>>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TaskEvents {
    pub(super) start: Option<witness::ProcessStart>,
    pub(super) end: Option<CommandStatus>,
    /// The terminal state that its framework received.
    pub(super) received: Option<TaskState>,
    /// The incarnation of the framework that last received it.
    received_in: u64,
    /// Whether a call that launches it was answered as done.
    pub(super) accepted: bool,
    /// The guarantee of an UNKNOWN update to its framework: none of these calls starts it any more.
    guarantee: Option<UnknownGuarantee>,
    /// The session and number of the call that launched it, and the entry.
    launch: Option<(u64, u64, u64)>,
}

/// The guarantee of an UNKNOWN update.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnknownGuarantee {
    /// The session of the calls.
    pub(super) session: u64,
    /// The calls have numbers below this one.
    pub(super) below_call: u64,
    /// The last entry that the response is based on.
    pub(super) index: u64,
}

impl TaskEvents {
    /// Checks the guarantee against the launch, in either order.
    fn check_guarantee(&self, key: &TaskKey, notes: &SimContext) {
        let (Some(guarantee), Some((session, number, index))) = (self.guarantee, self.launch)
        else {
            return;
        };
        if session == guarantee.session && number < guarantee.below_call && index > guarantee.index
        {
            notes.violation(format!(
                "Kills: entry {index} launches {key} by call {number}, after its framework was informed by entry {} that no call below {} does",
                guarantee.index, guarantee.below_call
            ));
        }
    }
}

fn end_from(how: v1::exit::How) -> ProcessExit {
    match how {
        v1::exit::How::Code(code) => ProcessExit::Code(code),
        v1::exit::How::Signal(signal) => ProcessExit::Signal(signal),
    }
}

impl TaskOracle {
    pub(super) fn new(notes: SimContext) -> Self {
        let stories = Arc::default();
        Self {
            notes,
            tasks: stories,
        }
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskKey, TaskEvents>> {
        self.tasks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records that its process was started.
    pub(super) fn started(&self, host: &str, key: &TaskKey, start: witness::ProcessStart) {
        self.notes.count("tasks started");
        let mut stories = self.tasks();
        let story = stories.entry(key.clone()).or_default();
        if let Some(former) = &story.start {
            self.notes.violation(format!(
                "SingleStart: {key} is started twice: {start:?} after {former:?}"
            ));
        }
        // An operator's declaration that a host is gone takes precedence, even while an order to
        // the host is in flight.
        if let Some(reported) = story.received
            && reported != TaskState::GoneByOperator
        {
            self.notes.violation(format!(
                "{key} is started on {host} after its framework received {reported:?}"
            ));
        }
        story.start = Some(start.clone());
        let task = key.clone();
        let fact = TaskFact::Witnessed { task, start };
        self.notes.recorder.observe(host, fact);
    }

    /// Records that its process has ended.
    pub(super) fn ended(&self, host: &str, key: &TaskKey, how: CommandStatus) {
        self.tasks().entry(key.clone()).or_default().end = Some(how);
        let end = match how {
            CommandStatus::Code(code) => ProcessExit::Code(code),
            CommandStatus::Signal(signal) => ProcessExit::Signal(signal),
            CommandStatus::NotStarted => return,
        };
        let task = key.clone();
        let fact = TaskFact::Ended { task, end };
        self.notes.recorder.observe(host, fact);
    }

    /// Records that a call that launches it was answered as done.
    pub(super) fn accepted(&self, key: TaskKey) {
        self.tasks().entry(key).or_default().accepted = true;
    }

    /// Records that its framework received UNKNOWN, in response to a reconciliation that named its
    /// calls.
    pub(super) fn unknown(&self, key: &TaskKey, guarantee: UnknownGuarantee) {
        let mut stories = self.tasks();
        let story = stories.entry(key.clone()).or_default();
        story.guarantee = Some(guarantee);
        story.check_guarantee(key, &self.notes);
    }

    /// Records that a call that launches it was granted.
    pub(super) fn launched(&self, key: &TaskKey, session: u64, number: u64, index: u64) {
        let mut stories = self.tasks();
        let story = stories.entry(key.clone()).or_default();
        story.launch = Some((session, number, index));
        story.check_guarantee(key, &self.notes);
    }

    /// Records that its framework received an update, or a reconciliation response.
    pub(super) fn update_received(
        &self,
        framework: &str,
        incarnation: u64,
        key: &TaskKey,
        status: &v1::TaskStatus,
    ) {
        let Ok(state) = convert::state_from(status.state) else {
            let message =
                format!("{framework} received a state that no agent reported: {status:?}");
            return self.notes.violation(message);
        };
        if status.revision.is_some() {
            let fact = TaskFact::UpdateReceived {
                task: key.clone(),
                update: convert::revision_from(status.revision),
                state,
                end: status.exit.as_ref().and_then(|exit| exit.how).map(end_from),
            };
            self.notes.recorder.observe(framework, fact);
        }
        let mut stories = self.tasks();
        let story = stories.entry(key.clone()).or_default();
        // A new incarnation receives unacknowledged updates again, the earlier ones first.
        let is_past = !state.is_terminal() && story.received_in != incarnation;
        if let Some(former) = story.received
            && state != former
            && state != TaskState::Unknown
            && !is_past
        {
            let message = format!("{framework} received that {key} is {state:?} after {former:?}");
            self.notes.violation(message);
        }
        if state.is_terminal() {
            story.received_in = incarnation;
        }
        if !state.is_terminal() || story.received.is_some() {
            return;
        }
        self.notes.count("ends reported");
        story.received = Some(state);
        let truth = (&story.start, story.end);
        let is_true = match state {
            TaskState::Finished => matches!(truth, (Some(_), Some(CommandStatus::Code(0)))),
            TaskState::Failed | TaskState::Killed => truth.0.is_none() || truth.1.is_some(),
            TaskState::Dropped | TaskState::Error => truth.0.is_none(),
            // For a host that is gone nothing can be known.
            _ => true,
        };
        if !is_true {
            let TaskEvents { start, end, .. } = story.clone();
            // The end did not happen, or it was another one.
            let rule = if end.is_none() { "Kills" } else { "Adoption" };
            self.notes.violation(format!(
                "{rule}: {framework} received that {key} is {state:?} ({}), but in truth {start:?}, {end:?}",
                status.message
            ));
        }
    }

    pub(super) fn all(&self) -> BTreeMap<TaskKey, TaskEvents> {
        self.tasks().clone()
    }
}
