//! The scheduler of one job: accepts the first offer that fits, declines the rest, forwards events.
//!
//! It never launches twice: a launch is repeated only after a certain rejection.

use argosy_client::scheduler::{
    Accept, Answer, CallKey, Driver, Outcome, Scheduler, SchedulerError, Subscription,
};
use argosy_proto::v1;
use tokio::sync::mpsc;

use super::job::Job;

/// Filter time of declined offers that are too small or not needed, in milliseconds.
const NOT_AGAIN_MS: u64 = 600_000;
/// Filter time of an offer that is too small now, in milliseconds: its agent may have more soon.
const SOON_MS: u64 = 1_000;

/// Events for the waiting run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The framework is registered.
    Registered { framework_id: String },
    /// The launch is committed.
    Launched { agent_id: String },
    /// The launch was rejected; another offer is awaited.
    Refused { code: String, message: String },
    /// The task's state.
    Status(Box<v1::TaskStatus>),
    /// The masters cannot be reached; the client library reconnects.
    Disconnected { why: String },
    /// The masters are reachable again.
    Reconnected,
}

/// The progress of the launch.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Looking,
    Asked { call: CallKey, agent_id: String },
    Done,
}

/// The scheduler and its state.
pub(crate) struct Placer {
    job: Job,
    step: Step,
    events: mpsc::Sender<Event>,
}

impl Placer {
    pub(crate) fn new(job: Job, events: mpsc::Sender<Event>) -> Self {
        Self {
            job,
            step: Step::Looking,
            events,
        }
    }

    fn tell(&self, event: Event) {
        // Full or closed: see the channel's capacity. A closed receiver needs no events.
        let _ = self.events.try_send(event);
    }

    fn answered_launch(&mut self, driver: &Driver, agent_id: String, answer: &Answer) {
        let refused = match &answer.outcome {
            Outcome::Done { refused, .. } => match refused.first() {
                Some(refused) => (refused.code.clone(), refused.message.clone()),
                None => return self.launched(driver, agent_id),
            },
            Outcome::Refused(refusal) => (refusal.reason.clone(), refusal.message.clone()),
            Outcome::NotSent(why) => (String::new(), why.clone()),
            // The launch may have happened. Its updates or a reconciliation show it.
            Outcome::Lost(_) => {
                let tasks = self.job.tasks().iter();
                let tasks = tasks.map(|task| task.task_id.clone()).collect();
                drop(driver.reconcile(tasks));
                return self.launched(driver, agent_id);
            }
        };
        self.step = Step::Looking;
        let (code, message) = refused;
        self.tell(Event::Refused { code, message });
        drop(driver.revive(Vec::new()));
    }

    fn launched(&mut self, driver: &Driver, agent_id: String) {
        self.step = Step::Done;
        drop(driver.suppress(Vec::new()));
        self.tell(Event::Launched { agent_id });
    }
}

impl Scheduler for Placer {
    fn registered(&mut self, _: &Driver, subscription: &Subscription) {
        let framework_id = subscription.framework_id.clone();
        self.tell(Event::Registered { framework_id });
    }

    fn offers(&mut self, driver: &Driver, offers: Vec<v1::Offer>) {
        for offer in offers {
            if self.step != Step::Looking {
                driver.decline_because(
                    vec![offer.offer_id],
                    Some(NOT_AGAIN_MS),
                    "not-needed",
                    "its work has an agent",
                );
            } else if !self.job.is_allowed(&offer) {
                let text = "the agent does not allow the security options of its tasks";
                driver.decline_because(vec![offer.offer_id], Some(SOON_MS), "not-allowed", text);
            } else if self.job.fits(&offer) {
                let call = driver.accept_with(Accept {
                    offer_ids: vec![offer.offer_id],
                    operations: vec![self.job.operation()],
                    filter_ms: Some(NOT_AGAIN_MS),
                    all_or_nothing: true,
                });
                self.step = Step::Asked {
                    call: call.key,
                    agent_id: offer.agent_id,
                };
            } else {
                let text = format!("{} does not fit", self.job.wanted());
                driver.decline_because(vec![offer.offer_id], Some(SOON_MS), "too-small", &text);
            }
        }
    }

    fn answered(&mut self, driver: &Driver, answer: &Answer) {
        if let Step::Asked { call, agent_id } = &self.step
            && *call == answer.call
        {
            let agent_id = agent_id.clone();
            self.answered_launch(driver, agent_id, answer);
        }
    }

    fn update(&mut self, _: &Driver, status: &v1::TaskStatus) {
        self.tell(Event::Status(Box::new(status.clone())));
    }

    fn disconnected(&mut self, _: &Driver, why: &str) {
        self.tell(Event::Disconnected {
            why: why.to_owned(),
        });
    }

    fn reconnected(&mut self, _: &Driver, _: &Subscription) {
        self.tell(Event::Reconnected);
    }

    fn error(&mut self, _: &Driver, _: &SchedulerError) {
        // The end of the run carries it.
    }
}
