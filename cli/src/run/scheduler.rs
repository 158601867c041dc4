//! The scheduler of one job: accepts the first offer that fits, declines the rest, forwards events.
//!
//! It never launches twice: a launch is repeated only after a certain rejection.

use argosy_client::scheduler::{
    Accept, CallKey, CallOutcome, CallResult, Scheduler, SchedulerDriver, SchedulerError,
    Subscription,
};
use argosy_proto::v1;
use tokio::sync::mpsc;

use super::job::Job;

/// Filter time of declined offers that are too small or not needed, in milliseconds.
const LONG_FILTER_MS: u64 = 600_000;
/// Filter time of an offer that is too small now, in milliseconds: its agent may have more soon.
const SHORT_FILTER_MS: u64 = 1_000;

/// Events for the waiting run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RunEvent {
    /// The framework is registered.
    Registered { framework_id: String },
    /// A launch is sent.
    Launching,
    /// The launch is committed.
    Launched { agent_id: String },
    /// The launch was rejected; another offer is awaited.
    Refused { code: String, message: String },
    /// The task's state.
    Status(Box<v1::TaskStatus>),
    /// The launch has no answer, and will get none: it may have happened.
    LaunchLost { why: String },
    /// The masters cannot be reached; the client library reconnects.
    Disconnected { why: String },
    /// The masters are reachable again.
    Reconnected,
}

/// The progress of the launch.
#[derive(Debug, PartialEq, Eq)]
enum LaunchStep {
    AwaitingOffer,
    LaunchSent {
        call: CallKey,
        agent_id: String,
    },
    /// It has no answer, for this reason: a reconciliation shows whether it has happened.
    Lost {
        why: String,
    },
    Done,
}

/// The scheduler and its state.
pub(crate) struct JobScheduler {
    job: Job,
    step: LaunchStep,
    events: mpsc::Sender<RunEvent>,
}

impl JobScheduler {
    pub(crate) fn new(job: Job, events: mpsc::Sender<RunEvent>) -> Self {
        Self {
            job,
            step: LaunchStep::AwaitingOffer,
            events,
        }
    }

    fn send(&self, event: RunEvent) {
        // Full or closed: see the channel's capacity. A closed receiver needs no events.
        let _ = self.events.try_send(event);
    }

    fn answered_launch(&mut self, driver: &SchedulerDriver, agent_id: String, answer: &CallResult) {
        let refused = match &answer.outcome {
            CallOutcome::Done { refused, .. } => match refused.first() {
                Some(refused) => (refused.code.clone(), refused.message.clone()),
                None => return self.launched(driver, agent_id),
            },
            CallOutcome::Refused(refusal) => (refusal.reason.clone(), refusal.message.clone()),
            CallOutcome::NotSent(why) => (String::new(), why.clone()),
            // The launch may have happened. Its updates or a reconciliation show it.
            CallOutcome::Lost(refusal) => {
                let tasks = self.job.tasks().iter();
                let tasks = tasks.map(|task| task.task_id.clone()).collect();
                drop(driver.reconcile(tasks));
                let why = refusal.message.clone();
                self.step = LaunchStep::Lost { why: why.clone() };
                drop(driver.suppress(Vec::new()));
                return self.send(RunEvent::LaunchLost { why });
            }
        };
        self.step = LaunchStep::AwaitingOffer;
        let (code, message) = refused;
        self.send(RunEvent::Refused { code, message });
        drop(driver.revive(Vec::new()));
    }

    fn launched(&mut self, driver: &SchedulerDriver, agent_id: String) {
        self.step = LaunchStep::Done;
        drop(driver.suppress(Vec::new()));
        self.send(RunEvent::Launched { agent_id });
    }
}

impl Scheduler for JobScheduler {
    fn registered(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        let framework_id = subscription.framework_id.clone();
        self.send(RunEvent::Registered { framework_id });
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            if self.step != LaunchStep::AwaitingOffer {
                driver.decline_because(
                    vec![offer.offer_id],
                    Some(LONG_FILTER_MS),
                    "not-needed",
                    "its work has an agent",
                );
            } else if !self.job.is_allowed(&offer) {
                let text = "the agent does not allow the security options of its tasks";
                driver.decline_because(
                    vec![offer.offer_id],
                    Some(SHORT_FILTER_MS),
                    "not-allowed",
                    text,
                );
            } else if !self.job.has_attributes(&offer) {
                driver.decline_because(
                    vec![offer.offer_id],
                    Some(SHORT_FILTER_MS),
                    "attributes",
                    "the agent does not have the attributes that its tasks ask for",
                );
            } else if self.job.fits(&offer) {
                let call = driver.accept_with(Accept {
                    offer_ids: vec![offer.offer_id],
                    operations: vec![self.job.operation()],
                    filter_ms: Some(LONG_FILTER_MS),
                    all_or_nothing: true,
                });
                self.step = LaunchStep::LaunchSent {
                    call: call.key,
                    agent_id: offer.agent_id,
                };
                self.send(RunEvent::Launching);
            } else {
                let text = format!("{} does not fit", self.job.wanted());
                driver.decline_because(
                    vec![offer.offer_id],
                    Some(SHORT_FILTER_MS),
                    "too-small",
                    &text,
                );
            }
        }
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        if let LaunchStep::LaunchSent { call, agent_id } = &self.step
            && *call == answer.call
        {
            let agent_id = agent_id.clone();
            self.answered_launch(driver, agent_id, answer);
        }
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        if let LaunchStep::Lost { why } = &self.step {
            let message = why.clone();
            self.step = LaunchStep::Done;
            // It has not happened, and no longer can: the reconciliation has cancelled it.
            if status.state() == v1::TaskState::Unknown {
                self.step = LaunchStep::AwaitingOffer;
                let code = "launch-lost".to_owned();
                self.send(RunEvent::Refused { code, message });
                drop(driver.revive(Vec::new()));
                return;
            }
        }
        self.send(RunEvent::Status(Box::new(status.clone())));
    }

    fn disconnected(&mut self, _: &SchedulerDriver, why: &str) {
        self.send(RunEvent::Disconnected {
            why: why.to_owned(),
        });
    }

    fn reconnected(&mut self, _: &SchedulerDriver, _: &Subscription) {
        self.send(RunEvent::Reconnected);
    }

    fn error(&mut self, _: &SchedulerDriver, _: &SchedulerError) {
        // The end of the run carries it.
    }
}
