//! The outcome of an instance for its framework: state, reason, explanation.

use argosy_state::task::{Code, Exit, Explanation, Reason, TaskState, UpdateSource};

use super::input::{CommandExit, CommandStatus, CreateError, StopCause};

/// The reason for which the agent itself ends a task, which then has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureCause {
    /// Its `max_completion_ms` has passed.
    DeadlineExceeded,
    /// Its health check failed too often.
    Unhealthy(Explanation),
    /// It exceeds its disk limit.
    DiskLimitExceeded(Explanation),
}

/// The end of an instance, for its last update.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TaskEnd {
    pub(super) state: TaskState,
    pub(super) reason: Reason,
    pub(super) source: UpdateSource,
    pub(super) why: Explanation,
    pub(super) exit: Option<Exit>,
}

impl TaskEnd {
    /// Implements the planted bug `SignalAsCode`: a signal becomes 128 plus its number.
    pub(super) fn turn_signal_into_code(&mut self) {
        if let Some(Exit::Signal(number)) = self.exit {
            self.exit = Some(Exit::Code(128 + number));
        }
    }

    pub(super) fn by_agent(state: TaskState, reason: Reason, why: impl Into<Explanation>) -> Self {
        Self {
            state,
            reason,
            source: UpdateSource::Agent,
            why: why.into(),
            exit: None,
        }
    }

    /// Returns the end of an instance whose container was never created.
    pub(super) fn not_created(refusal: CreateError) -> Self {
        let state = match refusal.reason {
            Reason::TaskInvalid => TaskState::Error,
            _ => TaskState::Failed,
        };
        Self::by_agent(state, refusal.reason, refusal.why)
    }
}

impl FailureCause {
    fn reason(&self) -> Reason {
        match self {
            Self::DeadlineExceeded => Reason::MaxCompletionTime,
            Self::Unhealthy(_) => Reason::HealthCheckFailed,
            Self::DiskLimitExceeded(_) => Reason::LimitDisk,
        }
    }

    /// Returns the explanation of an end that has this cause.
    fn explain(&self, ended: Explanation) -> Explanation {
        match self {
            Self::Unhealthy(why) | Self::DiskLimitExceeded(why) => why.clone().then(ended),
            Self::DeadlineExceeded => ended,
        }
    }
}

/// Translates the end of a command. It is KILLED even if it exited with 0 in its grace period, as
/// in Mesos.
pub(super) fn outcome_of(
    ended: CommandExit,
    killed: bool,
    failing: Option<&FailureCause>,
) -> TaskEnd {
    let failed = failing.map(FailureCause::reason);
    let exit = match ended.status {
        CommandStatus::Code(code) => Some(Exit::Code(code)),
        CommandStatus::Signal(signal) => Some(Exit::Signal(signal)),
        CommandStatus::NotStarted => None,
    };
    let (state, reason) = match (ended.status, ended.stop) {
        (CommandStatus::NotStarted, _) if killed => (TaskState::Killed, Reason::KilledDuringLaunch),
        (CommandStatus::NotStarted, _) => (TaskState::Failed, Reason::CommandNotStarted),
        _ if killed => (TaskState::Killed, Reason::TaskKilled),
        (_, Some(StopCause::StopAfter)) => (TaskState::Failed, Reason::StoppedWithoutLeader),
        (_, Some(StopCause::Ordered)) if let Some(reason) = failed => (TaskState::Failed, reason),
        // A task may be stopped by a signal at its limit, too, without an order.
        (CommandStatus::Signal(_), None) if failed == Some(Reason::LimitDisk) => {
            (TaskState::Failed, Reason::LimitDisk)
        }
        _ if ended.out_of_memory => (TaskState::Failed, Reason::LimitMemory),
        (CommandStatus::Code(0), _) => (TaskState::Finished, Reason::CommandExited),
        (CommandStatus::Code(_) | CommandStatus::Signal(_), _) => {
            (TaskState::Failed, Reason::CommandExited)
        }
    };
    TaskEnd {
        state,
        reason,
        source: match ended.status {
            CommandStatus::NotStarted => UpdateSource::Agent,
            CommandStatus::Code(_) | CommandStatus::Signal(_) => UpdateSource::Task,
        },
        why: match failing {
            Some(failing) if Some(reason) == failed => failing.explain(ended.why),
            _ => ended.why,
        },
        exit,
    }
}

/// Returns the end of an instance whose container is gone without an exit status. `end` is that of
/// a task that the agent was not to end.
pub(super) fn end_without_status(
    end: TaskEnd,
    killed: bool,
    failing: Option<&FailureCause>,
) -> TaskEnd {
    match failing {
        _ if killed => TaskEnd {
            state: TaskState::Killed,
            reason: Reason::TaskKilled,
            ..end
        },
        Some(failing) => TaskEnd {
            state: TaskState::Failed,
            reason: failing.reason(),
            why: failing.explain(end.why),
            ..end
        },
        None => end,
    }
}

/// Returns the end of an instance whose container has no exit status.
pub(super) fn unknown_end(rebooted: bool) -> TaskEnd {
    let (reason, code) = match rebooted {
        true => (Reason::AgentRebooted, Code::AgentRebooted),
        false => (Reason::AgentRestarted, Code::SupervisorGone),
    };
    TaskEnd::by_agent(TaskState::Failed, reason, Explanation::of(code, &[]))
}

/// Returns the end of a task whose start was interrupted, and that must not be started again.
pub(super) fn interrupted_end() -> TaskEnd {
    let why = Explanation::of(Code::GroupAgentRestarted, &[]);
    TaskEnd::by_agent(TaskState::Failed, Reason::AgentRestarted, why)
}
