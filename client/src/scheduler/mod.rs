//! The framework SDK: a scheduler implements callbacks, and the library keeps the session with the
//! masters.
//!
//! A scheduler never sees a change of leader unless it implements the callbacks for it; every
//! unanswered request is repeated under its number. Reading order: this file, `driver`, `calls`,
//! `offers`, `updates`, `session` (the pure core), `run` and `wire` (the edge).

mod calls;
mod driver;
mod offers;
mod run;
mod session;
#[cfg(test)]
mod tests;
mod updates;
mod wire;

use std::time::Duration;

use argosy_proto::v1;

use crate::connector::{ConnectorConfig, random_seed};
use crate::failure::{CallError, MasterRejection};
use crate::masters::Masters;

pub use driver::{Accept, CallHandle, CallKey, OfferOperation, SchedulerDriver};
pub use run::{SchedulerRunner, run};

/// Callbacks of a framework for the events of the cluster.
///
/// Callbacks are serial and in order. They run on the task that awaits [`SchedulerRunner::run`], so
/// a callback that takes long delays the next ones; no event is lost.
#[allow(unused_variables, reason = "the defaults ignore their arguments")]
pub trait Scheduler {
    /// Called once in each run, when the framework is registered under `subscription.framework_id`.
    /// Keep that id to take the framework over in a later process.
    fn registered(&mut self, driver: &SchedulerDriver, subscription: &Subscription) {}

    /// Called with offers of resources: answer each with [`SchedulerDriver::accept`] or
    /// [`SchedulerDriver::decline`], now or later. A held offer stays valid over a change of leader
    /// until it is rescinded.
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>);

    /// Called when an offer that was held is no longer valid.
    fn rescinded(&mut self, driver: &SchedulerDriver, offer_id: &str, reason: &str) {}

    /// Called when a task has changed: at least once for the newest state and the final one, in
    /// order for each task, and never twice in one process. A status without a revision answers
    /// [`SchedulerDriver::reconcile`]; it is omitted if a newer update has arrived.
    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus);

    /// Called when a call was answered, or never will be.
    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {}

    /// Called when the masters have lost an agent. The effect on its tasks arrives as updates.
    fn agent_lost(&mut self, driver: &SchedulerDriver, agent_id: &str, reason: &str) {}

    /// Called with a message of an executor of this framework. It may arrive twice; one that was
    /// sent while a link was down never arrives.
    fn message(&mut self, driver: &SchedulerDriver, message: &v1::ExecutorMessage) {}

    /// Called with the reason for which nothing is offered.
    fn demand_unmet(&mut self, driver: &SchedulerDriver, demand: &v1::DemandUnmet) {}

    /// Called at each interval of [`SchedulerConfig::tick`].
    fn tick(&mut self, driver: &SchedulerDriver) {}

    /// Called when the stream of events has broken; it is being resumed.
    fn disconnected(&mut self, driver: &SchedulerDriver, why: &str) {}

    /// Called when the stream of events is open again. Offers that are no longer valid have already
    /// been rescinded.
    fn reconnected(&mut self, driver: &SchedulerDriver, subscription: &Subscription) {}

    /// Called when the session has ended and the run ends: see [`SchedulerError`].
    fn error(&mut self, driver: &SchedulerDriver, error: &SchedulerError) {}
}

/// One successful subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Id of the framework, such as "framework-7".
    pub framework_id: String,
    /// Id of the cluster.
    pub cluster_id: String,
    /// Epoch of the leader that answers; the first part of the ids of its offers.
    pub epoch: u64,
    /// API address of the leader; empty if it is unknown.
    pub leader_address: String,
    /// Ids of the offers that stay valid.
    pub kept_offers: Vec<String>,
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct CallResult {
    /// The call that was answered.
    pub call: CallKey,
    /// For an accept: the tasks of all its operations, in order.
    pub task_ids: Vec<String>,
    /// The outcome of the call.
    pub outcome: CallOutcome,
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallOutcome {
    /// The call was applied.
    Done {
        /// The revision at which it was applied.
        revision: v1::Revision,
        /// The parts of an accept that were rejected. `operation` and `task` are always set, even
        /// if the master omits them; `position` is the index in [`CallResult::task_ids`].
        refused: Vec<v1::Refused>,
    },
    /// The call was rejected as a whole and changed nothing.
    Refused(MasterRejection),
    /// The call can no longer take effect, but may have done so before: reconcile its tasks to find
    /// out.
    Lost(MasterRejection),
    /// The call never left this process.
    NotSent(String),
}

impl CallResult {
    /// Returns the tasks of an accept that were certainly not launched, each with the reason.
    #[must_use]
    pub fn not_launched(&self) -> Vec<(&str, &str)> {
        let all = |why| self.task_ids.iter().map(|id| (id.as_str(), why)).collect();
        match &self.outcome {
            CallOutcome::Done { refused, .. } => {
                let task = |refused: &v1::Refused| {
                    self.task_ids.get(usize::try_from(refused.position).ok()?)
                };
                let named = |refused| Some((task(refused)?.as_str(), refused.message.as_str()));
                refused.iter().filter_map(named).collect()
            }
            CallOutcome::Refused(refusal) => all(refusal.message.as_str()),
            CallOutcome::NotSent(why) => all(why.as_str()),
            CallOutcome::Lost(_) => Vec::new(),
        }
    }

    /// Returns whether the call was applied.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, CallOutcome::Done { .. })
    }
}

/// The reason for which a run ended without a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchedulerError {
    /// Another scheduler has taken over the framework.
    #[error("another scheduler has taken over this framework: {0}")]
    Superseded(String),
    /// The framework was removed; its id is never reused.
    #[error("the framework was removed: {0}")]
    Removed(String),
    /// The masters reject the subscription.
    #[error("the subscription was refused: {0}")]
    Refused(MasterRejection),
    /// The first subscription timed out.
    #[error("{0}")]
    NotReached(CallError),
}

/// The event that acknowledges an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcknowledgeMode {
    /// The return of [`Scheduler::update`].
    #[default]
    AfterCallback,
    /// A call of [`SchedulerDriver::acknowledge`]. Until then, the update is repeated in a later
    /// process.
    Explicitly,
}

/// Settings of a scheduler.
#[derive(Clone)]
pub struct SchedulerConfig {
    /// Addresses of the masters.
    pub masters: Masters,
    /// Connection settings.
    pub connector: ConnectorConfig,
    /// Description of the framework.
    pub info: v1::FrameworkInfo,
    /// Id of an earlier process's framework, to take it over.
    pub framework_id: Option<String>,
    /// Id of this run of the scheduler; random, not 0.
    pub session: u64,
    /// The event that acknowledges updates.
    pub acknowledge: AcknowledgeMode,
    /// Interval of [`Scheduler::tick`]; zero means never.
    pub tick: Duration,
    /// Timeout of the first subscription, after which the run ends with an error; `None` means no
    /// timeout. Once subscribed, a scheduler waits for its masters without limit.
    pub first_subscription: Option<Duration>,
}

impl SchedulerConfig {
    /// Returns the settings of a framework called `name` in the default role. It has a new session,
    /// TCP, a tick each second, and 30 s for the first subscription.
    #[must_use]
    pub fn new(masters: Masters, name: &str) -> Self {
        Self {
            masters,
            connector: ConnectorConfig::default(),
            info: v1::FrameworkInfo {
                name: name.to_owned(),
                roles: vec!["*".to_owned()],
                ..Default::default()
            },
            framework_id: None,
            session: random_seed(),
            acknowledge: AcknowledgeMode::default(),
            tick: Duration::from_secs(1),
            first_subscription: Some(Duration::from_secs(30)),
        }
    }
}

/// Returns whether no process of the task runs any more, so that it is safe to launch another task
/// in its place. It has ended, or its agent is unreachable and it has stopped itself after its
/// `stop_after_ms`.
#[must_use]
pub fn is_replaceable(status: &v1::TaskStatus) -> bool {
    is_terminal(status.state()) || (status.state() == v1::TaskState::Unreachable && status.stopped)
}

/// Returns whether a task in this state has ended permanently.
#[must_use]
pub fn is_terminal(state: v1::TaskState) -> bool {
    use v1::TaskState as S;
    match state {
        S::Finished
        | S::Failed
        | S::Killed
        | S::Error
        | S::Dropped
        | S::Gone
        | S::GoneByOperator => true,
        S::Unspecified
        | S::Staging
        | S::Starting
        | S::Running
        | S::Killing
        | S::Unreachable
        | S::Unknown => false,
    }
}
