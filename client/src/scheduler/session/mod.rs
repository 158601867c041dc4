//! The session core of a framework: held offers, unanswered requests, next steps.
//!
//! Pure: inputs in, effects out; the time is an argument, and the edge performs the effects. This
//! file is the overview; `stream` handles events of masters, `requests` the scheduler's requests
//! (`surplus` their part that exceeds one call), and `answers` the masters' answers.

mod answers;
mod excess_tasks;
mod requests;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use argosy_proto::{convert, v1};
use argosy_state::limits::TASKS_PER_CALL;

use self::stream::pause_ms;
use super::calls::{CallRequest, OpenCalls};
use super::driver::{CallKey, Command};
use super::offers::SessionOffers;
use super::updates::UpdateTracker;
use super::{AcknowledgeMode, CallOutcome, CallResult, SchedulerError, Subscription};
use crate::failure::{CallError, MasterRejection};
use excess_tasks::ExcessTasks;

/// An input of the session.
#[derive(Debug)]
pub(crate) enum Input {
    Begin,
    Command(Command),
    Event {
        link: u64,
        event: v1::event::Event,
    },
    Closed {
        link: u64,
        why: String,
    },
    ConnectFailed {
        link: u64,
        error: CallError,
    },
    Refused {
        link: u64,
        refusal: MasterRejection,
    },
    /// The callback for this update has returned.
    Handled {
        task_id: String,
        revision: v1::Revision,
    },
    Answered {
        number: u64,
        result: Result<CallReply, CallError>,
    },
    Acknowledged(Result<(), CallError>),
    /// A decline or a message was delivered, or is lost.
    DeclineSent {
        serial: u64,
    },
    MessageSent,
    /// The time of a stop is over; some requests may not be answered.
    DrainTimedOut,
    Reconciled {
        serial: u64,
        result: Result<v1::ReconcileReply, CallError>,
    },
}

/// A successful answer to a numbered call.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct CallReply {
    pub(crate) revision: v1::Revision,
    pub(crate) refused: Vec<v1::Refused>,
}

/// A notification for the scheduler.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Notification {
    Registered(Subscription),
    Reconnected(Subscription),
    Disconnected(String),
    Offers(Vec<v1::Offer>),
    Rescinded { offer_id: String, reason: String },
    Update(v1::TaskStatus),
    AgentLost { agent_id: String, reason: String },
    DemandUnmet(v1::DemandUnmet),
    Message(v1::ExecutorMessage),
    Answered(CallResult),
}

/// An effect of the session, to be performed by the edge.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    Subscribe {
        link: u64,
        after_ms: u64,
        request: v1::SubscribeRequest,
    },
    Send {
        number: u64,
        request: CallRequest,
    },
    Acknowledge {
        after_ms: u64,
        request: v1::AcknowledgeRequest,
    },
    Decline {
        serial: u64,
        request: v1::DeclineRequest,
    },
    Message(v1::MessageRequest),
    Reconcile {
        serial: u64,
        request: v1::ReconcileRequest,
    },
    Notify(Notification),
    End(Result<(), SchedulerError>),
}

/// The identity of the session.
#[derive(Debug, Clone)]
pub(crate) struct SessionIdentity {
    /// The last description of the framework that the masters have confirmed.
    pub(crate) info: v1::FrameworkInfo,
    pub(crate) framework_id: Option<String>,
    pub(crate) session: u64,
    pub(crate) acknowledge: AcknowledgeMode,
    pub(crate) seed: u64,
}

#[derive(Debug)]
struct PendingReconcile {
    serial: u64,
    key: CallKey,
    task_ids: Vec<String>,
    next_number: u64,
    /// The start of the next page.
    page_token: String,
    is_in_flight: bool,
}

pub(crate) struct Session {
    identity: SessionIdentity,
    cluster_id: String,
    link: u64,
    is_subscribed: bool,
    was_registered: bool,
    /// The session that this one replaces, 0 while none was named.
    replaces: u64,
    /// Whether the last subscription announced a change that is not answered.
    announced_open_info: bool,
    /// Whether such a subscription was refused, and none has succeeded since.
    open_info_refused: bool,
    // Attempts to subscribe since the last success.
    failures: u32,
    calls: OpenCalls,
    offers: SessionOffers,
    updates: UpdateTracker,
    /// The number of answered acknowledgement calls after which a teardown is sent. Later
    /// acknowledgements would delay it without limit.
    teardown_after: u64,
    reconciles: VecDeque<PendingReconcile>,
    last_reconcile: u64,
    /// Serial numbers of the declines that are being sent.
    declines: BTreeSet<u64>,
    last_decline: u64,
    /// Number of messages that are being sent.
    messages: usize,
    /// Number of refused attempts to acknowledge since the last success.
    refused_acknowledgements: u32,
    /// Tasks that exceed one call, by call: they are answered with it, as not launched.
    excess: BTreeMap<CallKey, ExcessTasks>,
    is_stopping: bool,
    has_ended: bool,
    effects: Vec<Effect>,
}

impl Session {
    pub(crate) fn new(identity: SessionIdentity) -> Self {
        Self {
            identity,
            cluster_id: String::new(),
            link: 0,
            is_subscribed: false,
            was_registered: false,
            replaces: 0,
            announced_open_info: false,
            open_info_refused: false,
            failures: 0,
            calls: OpenCalls::default(),
            offers: SessionOffers::default(),
            updates: UpdateTracker::default(),
            teardown_after: 0,
            reconciles: VecDeque::new(),
            last_reconcile: 0,
            declines: BTreeSet::new(),
            last_decline: 0,
            messages: 0,
            refused_acknowledgements: 0,
            excess: BTreeMap::new(),
            is_stopping: false,
            has_ended: false,
            effects: Vec::new(),
        }
    }

    /// Returns whether the cluster knows the framework.
    pub(crate) fn was_registered(&self) -> bool {
        self.was_registered
    }

    pub(crate) fn step(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        if self.has_ended {
            return Vec::new();
        }
        match input {
            Input::Begin => self.subscribe(now_ms),
            Input::Command(command) => self.command(now_ms, command),
            Input::Event { link, event } if link == self.link => self.event(now_ms, event),
            Input::Closed { link, why } if link == self.link => self.closed(now_ms, why),
            Input::ConnectFailed { link, error } if link == self.link => {
                self.closed(now_ms, error.to_string())
            }
            Input::Refused { link, refusal } if link == self.link => {
                self.handle_rejection(now_ms, refusal)
            }
            // Inputs of a former stream are ignored.
            Input::Event { .. }
            | Input::Closed { .. }
            | Input::ConnectFailed { .. }
            | Input::Refused { .. } => {}
            Input::Handled { task_id, revision } => {
                if self.identity.acknowledge == AcknowledgeMode::AfterCallback {
                    self.updates.acknowledge(&task_id, revision);
                }
            }
            Input::Answered { number, result } => self.answered(number, result),
            Input::Acknowledged(result) => self.acknowledged(result),
            Input::DeclineSent { serial } => drop(self.declines.remove(&serial)),
            Input::MessageSent => self.messages -= 1,
            Input::DrainTimedOut => self.end(Ok(())),
            Input::Reconciled { serial, result } => self.reconciled(serial, result),
        }
        self.send();
        std::mem::take(&mut self.effects)
    }

    /// Handles the result of acknowledging. What is refused because of the present rules or state
    /// of the masters is repeated: the tasks' next updates wait for it.
    fn acknowledged(&mut self, result: Result<(), CallError>) {
        use tonic::Code;
        match result {
            Ok(()) => {
                self.refused_acknowledgements = 0;
                self.updates.sent();
            }
            Err(CallError::Refused(refusal)) => match refusal.code {
                Code::PermissionDenied
                | Code::Unauthenticated
                | Code::ResourceExhausted
                | Code::Internal
                | Code::Unknown => {
                    self.refused_acknowledgements += 1;
                    self.updates.unsent();
                }
                _ => self.updates.sent(),
            },
            Err(CallError::NoMaster(_) | CallError::Unanswered { .. }) => self.updates.unsent(),
        }
    }

    fn notify(&mut self, notice: Notification) {
        self.effects.push(Effect::Notify(notice));
    }

    fn answer(&mut self, call: CallKey, task_ids: Vec<String>, outcome: CallOutcome) {
        let (task_ids, outcome) = match self.excess.remove(&call) {
            Some(surplus) => with_surplus(task_ids, surplus, outcome),
            None => (task_ids, outcome),
        };
        self.notify(Notification::Answered(CallResult {
            call,
            task_ids,
            outcome,
        }));
    }

    fn end(&mut self, result: Result<(), SchedulerError>) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        let why = match &result {
            Ok(()) => "the run ended before the answer".to_owned(),
            Err(error) => error.to_string(),
        };
        let calls = self.calls.drain().into_iter();
        let calls = calls.map(|call| (call.key, task_ids(&call.request)));
        let questions = self.reconciles.drain(..);
        let questions = questions.map(|question| (question.key, Vec::new()));
        for (key, task_ids) in calls.chain(questions).collect::<Vec<_>>() {
            // The call may have taken effect: only a repeat would show it, and there will be none.
            self.answer(
                key,
                task_ids,
                CallOutcome::Lost(local("run-ended", why.clone())),
            );
        }
        self.effects.push(Effect::End(result));
    }

    fn send(&mut self) {
        let Some(framework_id) = self
            .identity
            .framework_id
            .clone()
            .filter(|_| self.is_subscribed && !self.has_ended)
        else {
            return self.end_if_idle();
        };
        let session = self.identity.session;
        if let Some(acknowledgements) = self.updates.send() {
            self.effects.push(Effect::Acknowledge {
                after_ms: pause_ms(self.refused_acknowledgements),
                request: v1::AcknowledgeRequest {
                    framework_id: framework_id.clone(),
                    session,
                    acknowledgements,
                },
            });
        }
        let id = v1::CallId {
            framework_id: framework_id.clone(),
            session,
            number: 0,
            lowest_unanswered: 0,
        };
        let teardown_may_go =
            self.updates.is_empty() || self.updates.answered() >= self.teardown_after;
        let declined_below = self.declines.first().copied().unwrap_or(u64::MAX);
        let sent = self.calls.send(&id, teardown_may_go, declined_below);
        for (number, request) in sent {
            self.effects.push(Effect::Send { number, request });
        }
        for question in &mut self.reconciles {
            // UNKNOWN cancels every call below the number: none of them may still be open.
            if !question.is_in_flight && self.calls.is_answered_below(question.next_number) {
                question.is_in_flight = true;
                let request = v1::ReconcileRequest {
                    framework_id: framework_id.clone(),
                    session,
                    task_ids: question.task_ids.clone(),
                    next_number: question.next_number,
                    paged: true,
                    page_token: question.page_token.clone(),
                };
                self.effects.push(Effect::Reconcile {
                    serial: question.serial,
                    request,
                });
            }
        }
        self.end_if_idle();
    }

    /// Ends the run if a stop has nothing to wait for: it waits for earlier requests, of which
    /// there are none before the first subscription.
    fn end_if_idle(&mut self) {
        let is_idle = self.calls.is_empty()
            && self.reconciles.is_empty()
            && self.updates.is_empty()
            && self.declines.is_empty()
            && self.messages == 0;
        if self.is_stopping && (is_idle || !self.was_registered) {
            self.end(Ok(()));
        }
    }
}

/// Returns the answer to a call, including the tasks that were left out of it.
fn with_surplus(
    mut task_ids: Vec<String>,
    surplus: ExcessTasks,
    mut outcome: CallOutcome,
) -> (Vec<String>, CallOutcome) {
    if let CallOutcome::Done { refused, .. } = &mut outcome {
        let positions = surplus.tasks.iter().map(|(position, _)| *position);
        refused.extend(positions.map(|position| {
            let message =
                format!("one call launches {TASKS_PER_CALL} tasks: launch it on the next offer");
            convert::refused(&surplus.shape, position, "too-many-tasks", message)
        }));
    }
    task_ids.extend(surplus.tasks.into_iter().map(|(_, task)| task));
    (task_ids, outcome)
}

pub(super) fn local(reason: &str, message: String) -> MasterRejection {
    MasterRejection {
        code: tonic::Code::FailedPrecondition,
        reason: reason.to_owned(),
        message,
        details: Default::default(),
    }
}

fn task_ids(request: &CallRequest) -> Vec<String> {
    let CallRequest::Accept(accept) = request else {
        return Vec::new();
    };
    let launches = accept
        .operations
        .iter()
        .filter_map(|operation| operation.operation.as_ref());
    let tasks = launches.flat_map(|operation| match operation {
        v1::operation::Operation::Launch(launch) => &launch.tasks,
        v1::operation::Operation::LaunchGroup(launch) => &launch.tasks,
    });
    tasks.map(|task| task.task_id.clone()).collect()
}
