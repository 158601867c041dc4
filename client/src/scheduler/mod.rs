//! The framework SDK: write callbacks, and the library keeps the session with the masters.
//!
//! A scheduler never sees a change of leader unless it asks for it; whatever is unanswered is
//! repeated under its number. Reading order: this file, `driver`, `calls`, `offers`, `updates`,
//! `session` (the pure core), `run` and `wire` (the rim).

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

use crate::connector::{ConnectorConfig, chance};
use crate::failure::{CallError, Refusal};
use crate::masters::Masters;

pub use driver::{Accept, Call, CallKey, Driver, Operation};
pub use run::{Runner, run};

/// What a framework does with what the cluster tells it.
///
/// Callbacks are serial and in order. They run on the task that awaits [`Runner::run`], so a
/// callback that takes long delays the next ones; it loses nothing.
#[allow(unused_variables, reason = "the defaults ignore what they are told")]
pub trait Scheduler {
    /// The framework is known to the cluster under `subscription.framework_id`: told once a run.
    /// Keep that id to take the framework over in a later process.
    fn registered(&mut self, driver: &Driver, subscription: &Subscription) {}

    /// Resources that may be used: answer each with [`Driver::accept`] or [`Driver::decline`], now
    /// or later. An offer that is kept stays good over a change of leader until it is rescinded.
    fn offers(&mut self, driver: &Driver, offers: Vec<v1::Offer>);

    /// An offer that was held is void.
    fn rescinded(&mut self, driver: &Driver, offer_id: &str, reason: &str) {}

    /// A task changed. At least once for the newest state and the final one, in order for each
    /// task, and never twice in one process. A status without a revision answers
    /// [`Driver::reconcile`]; one that something newer has overtaken is not told.
    fn update(&mut self, driver: &Driver, status: &v1::TaskStatus);

    /// A call was answered, or never will be.
    fn answered(&mut self, driver: &Driver, answer: &Answer) {}

    /// An agent is lost, as its masters see it. What befell its tasks comes as updates.
    fn agent_lost(&mut self, driver: &Driver, agent_id: &str, reason: &str) {}

    /// Something of an executor of this framework. It may come twice, and what was sent while a link was down never does.
    fn message(&mut self, driver: &Driver, message: &v1::ExecutorMessage) {}

    /// Why nothing is offered.
    fn demand_unmet(&mut self, driver: &Driver, demand: &v1::DemandUnmet) {}

    /// Time passes: every [`SchedulerConfig::tick`].
    fn tick(&mut self, driver: &Driver) {}

    /// The stream of events broke; it is being resumed.
    fn disconnected(&mut self, driver: &Driver, why: &str) {}

    /// The stream of events is back. Offers that were not kept have been rescinded already.
    fn reconnected(&mut self, driver: &Driver, subscription: &Subscription) {}

    /// The session is over and the run ends: see [`SchedulerError`].
    fn error(&mut self, driver: &Driver, error: &SchedulerError) {}
}

/// One successful subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The framework's id, as "framework-7".
    pub framework_id: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The reign of the leader that answers; the first part of the offers it makes.
    pub epoch: u64,
    /// API address of the leader; empty if it is not told.
    pub leader_address: String,
    /// Offers that stay good.
    pub kept_offers: Vec<String>,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Which call.
    pub call: CallKey,
    /// For an accept: the tasks of all its operations, in order.
    pub task_ids: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was applied.
    Done {
        /// When.
        revision: v1::Revision,
        /// Which parts of an accept were refused. `operation` and `task` are always there, also from masters that leave
        /// them out; `position` is the place in [`Answer::task_ids`].
        refused: Vec<v1::Refused>,
    },
    /// It was refused as a whole and changed nothing.
    Refused(Refusal),
    /// It can no longer happen, but may have happened before: reconcile its tasks to know.
    Lost(Refusal),
    /// It never left this process.
    NotSent(String),
}

impl Answer {
    /// Tasks of an accept that were certainly not launched, each with the reason.
    #[must_use]
    pub fn not_launched(&self) -> Vec<(&str, &str)> {
        let all = |why| self.task_ids.iter().map(|id| (id.as_str(), why)).collect();
        match &self.outcome {
            Outcome::Done { refused, .. } => {
                let task = |refused: &v1::Refused| {
                    self.task_ids.get(usize::try_from(refused.position).ok()?)
                };
                let named = |refused| Some((task(refused)?.as_str(), refused.message.as_str()));
                refused.iter().filter_map(named).collect()
            }
            Outcome::Refused(refusal) => all(refusal.message.as_str()),
            Outcome::NotSent(why) => all(why.as_str()),
            Outcome::Lost(_) => Vec::new(),
        }
    }

    /// Whether the call was applied.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done { .. })
    }
}

/// Why a run ended although nobody asked it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchedulerError {
    /// Another scheduler has taken over the framework.
    #[error("another scheduler has taken over this framework: {0}")]
    Superseded(String),
    /// The framework is gone; its id never comes back.
    #[error("the framework was removed: {0}")]
    Removed(String),
    /// The masters refuse the subscription.
    #[error("the subscription was refused: {0}")]
    Refused(Refusal),
    /// The first subscription took too long.
    #[error("{0}")]
    NotReached(CallError),
}

/// When an update is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acknowledge {
    /// When [`Scheduler::update`] has returned.
    #[default]
    AfterCallback,
    /// When [`Driver::acknowledge`] says so. Until then the update comes again in a later process.
    Explicitly,
}

/// How a scheduler runs.
#[derive(Clone)]
pub struct SchedulerConfig {
    /// Where the masters are.
    pub masters: Masters,
    /// How they are reached.
    pub connector: ConnectorConfig,
    /// What the framework says of itself.
    pub info: v1::FrameworkInfo,
    /// The id of an earlier process's framework, to take it over.
    pub framework_id: Option<String>,
    /// Names this life of the scheduler; random, not 0.
    pub session: u64,
    /// When updates are acknowledged.
    pub acknowledge: Acknowledge,
    /// How often [`Scheduler::tick`] is called; zero means never.
    pub tick: Duration,
    /// How long the first subscription may take before the run ends with an error; `None` means
    /// for ever. Once subscribed, a scheduler waits for its masters without limit.
    pub first_subscription: Option<Duration>,
}

impl SchedulerConfig {
    /// A framework called `name` in the default role, a new session, TCP, a tick a second, 30 s for
    /// the first subscription.
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
            session: chance(),
            acknowledge: Acknowledge::default(),
            tick: Duration::from_secs(1),
            first_subscription: Some(Duration::from_secs(30)),
        }
    }
}

/// Whether nothing of the task runs any more, so that it is safe to launch another one in its place: it has ended, or its
/// agent is unreachable and it has stopped itself after its `stop_after_ms`.
#[must_use]
pub fn is_replaceable(status: &v1::TaskStatus) -> bool {
    is_terminal(status.state()) || (status.state() == v1::TaskState::Unreachable && status.stopped)
}

/// Whether a task in this state has ended for good.
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
