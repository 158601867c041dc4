//! The outcome of an instance for its framework: state, reason, explanation.

use argosy_proto::v1;
use argosy_state::task::{Code, Explanation, TaskState};

use super::input::{Ended, How, StopCause};
use super::lifecycle::Failing;

/// The end of an instance, for its last update.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End {
    pub(super) state: TaskState,
    pub(super) reason: v1::Reason,
    pub(super) source: v1::Source,
    pub(super) why: Explanation,
    pub(super) exit: Option<v1::Exit>,
}

impl End {
    pub(super) fn by_agent(
        state: TaskState,
        reason: v1::Reason,
        why: impl Into<Explanation>,
    ) -> Self {
        Self {
            state,
            reason,
            source: v1::Source::Agent,
            why: why.into(),
            exit: None,
        }
    }
}

/// Translates the end of a command. It is KILLED even if it exited with 0 in its grace period, as
/// in Mesos.
pub(super) fn judge(ended: Ended, killed: bool, failing: Option<&Failing>) -> End {
    use v1::Reason;
    let failed = failing.map(|failing| match failing {
        Failing::OutOfTime => Reason::MaxCompletionTime,
        Failing::Unhealthy(_) => Reason::HealthCheckFailed,
        Failing::OverDisk(_) => Reason::LimitDisk,
    });
    let exit = match ended.how {
        How::Code(code) => Some(v1::exit::How::Code(code)),
        How::Signal(signal) => Some(v1::exit::How::Signal(signal)),
        How::NotStarted => None,
    };
    let (state, reason) = match (ended.how, ended.stop) {
        (How::NotStarted, _) if killed => (TaskState::Killed, Reason::KilledDuringLaunch),
        (How::NotStarted, _) => (TaskState::Failed, Reason::CommandNotStarted),
        _ if killed => (TaskState::Killed, Reason::TaskKilled),
        (_, Some(StopCause::StopAfter)) => (TaskState::Failed, Reason::StoppedWithoutLeader),
        (_, Some(StopCause::Ordered)) if let Some(reason) = failed => (TaskState::Failed, reason),
        // A task may be stopped by a signal at its limit, too, without an order.
        (How::Signal(_), None) if failed == Some(Reason::LimitDisk) => {
            (TaskState::Failed, Reason::LimitDisk)
        }
        _ if ended.out_of_memory => (TaskState::Failed, Reason::LimitMemory),
        (How::Code(0), _) => (TaskState::Finished, Reason::CommandExited),
        (How::Code(_) | How::Signal(_), _) => (TaskState::Failed, Reason::CommandExited),
    };
    End {
        state,
        reason,
        source: match ended.how {
            How::NotStarted => v1::Source::Agent,
            How::Code(_) | How::Signal(_) => v1::Source::Task,
        },
        why: match failing {
            Some(Failing::Unhealthy(why) | Failing::OverDisk(why)) if Some(reason) == failed => {
                why.clone().then(ended.why)
            }
            Some(Failing::Unhealthy(_) | Failing::OverDisk(_) | Failing::OutOfTime) | None => {
                ended.why
            }
        },
        exit: exit.map(|how| v1::Exit { how: Some(how) }),
    }
}

/// Returns the exit status as shells report it: a signal is 128 and its number. For a planted
/// defect only.
pub(super) fn as_shells_tell(exit: v1::Exit) -> v1::Exit {
    let how = exit.how.map(|how| match how {
        v1::exit::How::Signal(number) => v1::exit::How::Code(128 + number),
        code @ v1::exit::How::Code(_) => code,
    });
    v1::Exit { how }
}

/// Returns the end of an instance whose container has no exit status.
pub(super) fn unknown_end(rebooted: bool) -> End {
    let (reason, code) = match rebooted {
        true => (v1::Reason::AgentRebooted, Code::AgentRebooted),
        false => (v1::Reason::AgentRestarted, Code::SupervisorGone),
    };
    End::by_agent(TaskState::Failed, reason, Explanation::of(code, &[]))
}
