//! The messages of updates from masters, by their reasons. They are built for display, and stored
//! only below level 3.

use super::{Reason, TaskUpdate, UpdateSource, cause};

/// The refusal of a change of limits that the agent's release cannot answer.
pub const LIMITS_NOT_CHANGED: &str =
    "its agent is of a release that cannot change limits of a task: upgrade it, and ask again";

impl TaskUpdate {
    /// Returns the text for display.
    #[must_use]
    pub fn text(&self) -> String {
        let is_empty = self.message.is_empty() && self.causes.is_empty();
        match is_empty && self.source == UpdateSource::Master {
            true => of_master(self.reason).to_owned(),
            false => cause::text(&self.causes, &self.message),
        }
    }
}

/// Returns the message of a master for this reason.
pub(crate) fn of_master(reason: Reason) -> &'static str {
    match reason {
        Reason::AgentUnreachable => "its agent is not heard of; it may run",
        Reason::AgentRemoved => "its agent was lost for so long that the cluster has forgotten it",
        Reason::AgentRemovedByOperator => "an operator declared its agent gone",
        Reason::AgentReregistered => "its agent is back",
        Reason::TaskMissingOnAgent => "its agent does not have it any more",
        Reason::LaunchVoided => {
            "it was not delivered before its agent became unreachable; it never started"
        }
        Reason::StoppedWithoutLeader => {
            "its agent is unreachable and its stop_after_ms has passed: it no longer runs"
        }
        Reason::LimitsUpdated => LIMITS_NOT_CHANGED,
        Reason::AgentIncapable => {
            "its agent has returned with a release that does not support its description; it never started"
        }
        Reason::None
        | Reason::TaskInvalid
        | Reason::InvalidOffers
        | Reason::AgentRestarted
        | Reason::AgentRebooted
        | Reason::ContainerLaunchFailed
        | Reason::FetchFailed
        | Reason::CommandExited
        | Reason::CommandNotStarted
        | Reason::TaskKilled
        | Reason::KilledDuringLaunch
        | Reason::FrameworkRemoved
        | Reason::Reconciliation
        | Reason::LimitMemory
        | Reason::MaxCompletionTime
        | Reason::TaskUnknown
        | Reason::HealthCheckStatusUpdated
        | Reason::ReadinessCheckStatusUpdated
        | Reason::HealthCheckFailed
        | Reason::LimitDisk
        | Reason::ExecutorTerminated
        | Reason::ExecutorRegistrationTimeout => "",
    }
}
