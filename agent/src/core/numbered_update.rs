//! Updates of tasks, as they are stored and sent.

use std::sync::Arc;

use argosy_state::ids::{OrderIndex, TaskKey};
use argosy_state::task::{
    CheckResults, Exit, Reason, ReportedText, TaskLimits, TaskState, UpdateSource,
};

use super::outcome::FailureCause;

/// An update of a task, with the number that this agent gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberedUpdate {
    pub key: TaskKey,
    /// The order that launched the task.
    pub order: OrderIndex,
    /// Counts from 1 for each task.
    pub number: u64,
    /// The new state; UNKNOWN if only a later release knows it.
    pub state: TaskState,
    pub source: UpdateSource,
    pub reason: Reason,
    pub text: ReportedText,
    pub exit: Option<Exit>,
    /// The time of day in milliseconds since 1970, for display.
    pub wall_ms: i64,
    pub check_results: CheckResults,
    /// The outcome of an order that changes the limits of the task, if it is new.
    pub limits: Option<LimitsReport>,
    /// The bytes that the journal has, if this release would encode the update otherwise: a later
    /// release has made it.
    pub verbatim: Option<Arc<[u8]>>,
}

impl NumberedUpdate {
    /// Returns whether the update reports that an unhealthy task is being killed.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.state == TaskState::Killing && self.reason == Reason::HealthCheckFailed
    }

    /// Returns the reason for which the agent itself is killing the task, if the next run needs the
    /// update to know it. It computes a missed deadline from the start of the task.
    pub(super) fn failure(&self) -> Option<FailureCause> {
        if self.state != TaskState::Killing {
            return None;
        }
        let why = || self.text.clone().explanation();
        match self.reason {
            Reason::HealthCheckFailed => Some(FailureCause::Unhealthy(why())),
            Reason::LimitDisk => Some(FailureCause::DiskLimitExceeded(why())),
            _ => None,
        }
    }
}

/// The outcome of an order that changes limits.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitsReport {
    pub order: OrderIndex,
    /// The reason why the limits are not in force; `None` if they are.
    pub refusal: Option<ReportedText>,
    /// The limits in force instead, if this run of the agent has applied them.
    pub held: Option<TaskLimits>,
}
