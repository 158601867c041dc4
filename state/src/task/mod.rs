//! Tasks: their observed facts, and the table of state transitions.

pub mod cause;
mod check;
mod container;
mod discovery;
mod estimated_size;
mod executor;
mod group;
mod kill_signal;
mod limits;
mod registry_secrets;
mod security_options;
mod sizes;
mod spec;
mod transition;
pub(crate) mod update_messages;
mod volume;

pub use self::cause::{Cause, Code, Explanation, ReportedText};
pub use self::check::{Check, CheckKind, HealthCheck, Scheme};
pub use self::container::{CniNetwork, Container, ContainerNetwork, ImagePull, PublishedPort};
pub(crate) use self::discovery::has_port;
pub use self::discovery::{Discovery, DiscoveryPort};
pub use self::executor::ExecutorSpec;
pub use self::group::TaskGroup;
pub use self::kill_signal::KillSignal;
pub use self::limits::{DiskLimit, LimitsChange, LimitsReport, TaskLimits};
pub use self::security_options::{LinuxCapability, SecurityOptions};
pub use self::sizes::{SizeExceeded, Sizes};
pub(crate) use self::spec::{CAPABILITIES, CapabilityRule, FIELD_RULES};
pub use self::spec::{CommandSpec, HostPath, TaskSpec, Uri};
pub use self::transition::TaskTransition;
pub use self::update_messages::LIMITS_NOT_CHANGED;
pub use self::volume::{TaskVolume, VolumeSource};

use std::sync::Arc;

use crate::codec::error::{CodecError, DecodeResult};
use crate::codec::scalars::numbered;
use crate::codec::stored::stored;
use crate::ids::{AgentId, OrderIndex, Revision, Role, TaskKey};

/// The state of a task, with the names of Mesos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Accepted; the agent has not reported it yet.
    Staging,
    /// The agent has the task and prepares it.
    Starting,
    /// The process of the task runs.
    Running,
    /// The task is being killed, within its grace period.
    Killing,
    /// The process exited by itself with code 0.
    Finished,
    /// The process ended otherwise, or could not be started.
    Failed,
    /// The task ended because it was killed.
    Killed,
    /// The description is invalid.
    Error,
    /// The task was never started and never will be.
    Dropped,
    /// The task has ended without a reported status.
    Gone,
    /// The agent of the task was declared gone by an operator.
    GoneByOperator,
    /// No heartbeat of the agent has arrived in time; the task may still run.
    Unreachable,
    /// The registry does not hold the task. Used only in answers.
    Unknown,
}

impl TaskState {
    /// Returns whether no other state can follow.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Finished
            | Self::Failed
            | Self::Killed
            | Self::Error
            | Self::Dropped
            | Self::Gone
            | Self::GoneByOperator => true,
            Self::Staging
            | Self::Starting
            | Self::Running
            | Self::Killing
            | Self::Unreachable
            | Self::Unknown => false,
        }
    }

    /// Returns whether a task may change from this state to `next`. An agent may report a
    /// non-terminal state repeatedly (with a new message or check result). Only a terminal state or
    /// UNREACHABLE follows KILLING.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        if self.is_terminal() || self == Self::Unknown || next == Self::Unknown {
            return false;
        }
        if next.is_terminal() || next == Self::Unreachable {
            return true;
        }
        match self {
            Self::Staging | Self::Unreachable => true,
            Self::Starting => next != Self::Staging,
            Self::Running => next == Self::Running || next == Self::Killing,
            Self::Killing => next == Self::Killing,
            Self::Finished
            | Self::Failed
            | Self::Killed
            | Self::Error
            | Self::Dropped
            | Self::Gone
            | Self::GoneByOperator
            | Self::Unknown => false,
        }
    }
}

/// The origin of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpdateSource {
    /// A master.
    Master,
    /// The agent.
    Agent,
    /// The task's process, by its exit.
    Task,
}

/// The reason for the state of a task. Most have the names of Mesos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(
    missing_docs,
    reason = "each is a name of the protocol, documented in docs/protocol.md"
)]
pub enum Reason {
    None,
    TaskInvalid,
    InvalidOffers,
    AgentUnreachable,
    AgentRemoved,
    AgentRemovedByOperator,
    AgentRestarted,
    AgentReregistered,
    AgentRebooted,
    ContainerLaunchFailed,
    FetchFailed,
    CommandExited,
    CommandNotStarted,
    TaskKilled,
    KilledDuringLaunch,
    FrameworkRemoved,
    Reconciliation,
    TaskMissingOnAgent,
    LaunchVoided,
    LimitMemory,
    MaxCompletionTime,
    StoppedWithoutLeader,
    TaskUnknown,
    HealthCheckStatusUpdated,
    ReadinessCheckStatusUpdated,
    HealthCheckFailed,
    LimitDisk,
    ExecutorTerminated,
    ExecutorRegistrationTimeout,
    LimitsUpdated,
    AgentIncapable,
}

impl Reason {
    /// Returns all reasons.
    #[cfg(any(test, feature = "builders"))]
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=u8::MAX.into()).filter_map(<Self as crate::codec::scalars::AsNumber>::of)
    }
}

/// The exit status of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// Its exit code.
    Code(i32),
    /// The signal that killed it.
    Signal(i32),
}

/// The results of a task's checks. The two are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckResults {
    /// Whether the task is healthy; `None` without a check, and until a result has counted.
    pub healthy: Option<bool>,
    /// Whether the task is ready; `None` without a check, and until there is a result.
    pub ready: Option<bool>,
}

/// A fact about a task, kept until its framework has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskUpdate {
    /// The revision at which it became true. With the task, it identifies the update to the
    /// framework.
    pub revision: Revision,
    /// The new state.
    pub state: TaskState,
    /// The origin of the update.
    pub source: UpdateSource,
    /// The reason for the state.
    pub reason: Reason,
    /// The details that the agent reports in addition to the reason; none before level 3.
    pub causes: Vec<Cause>,
    /// Free text after the causes, at most [`crate::limits::MESSAGE_BYTES`]. Before level 3 the
    /// whole text.
    pub message: String,
    /// The exit status of the process, if it has ended.
    pub exit: Option<Exit>,
    /// The results of the task's checks at that time; empty in an update of a master without them.
    pub standing: CheckResults,
    /// Whether the `stop_after_ms` of an UNREACHABLE task has passed, so that it no longer runs and
    /// may be replaced.
    pub stopped: bool,
    /// The wall-clock time in milliseconds of the Unix epoch, for display only.
    pub wall_ms: i64,
}

/// A requested kill of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// The order that carries the kill.
    pub order: OrderIndex,
    /// The grace period: milliseconds between the first signal and SIGKILL.
    pub grace_ms: u64,
}

/// A task in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The framework and id of the task.
    pub key: TaskKey,
    /// The agent that runs the task.
    pub agent: AgentId,
    /// The role that the task is charged to.
    pub role: Role,
    /// The order that launched the task. With the key, it identifies one instance.
    pub order: OrderIndex,
    /// The requested description, shared with all copies of the task. Only its limits ever change.
    pub spec: Arc<TaskSpec>,
    /// The requested kill, if any.
    pub kill: Option<Kill>,
    /// The newest change of its limits, if any.
    pub limits_change: Option<LimitsChange>,
    /// The state as reported to the framework.
    pub state: TaskState,
    /// The state that the agent last reported. It differs from `state` while unreachable.
    pub agent_state: TaskState,
    /// The results of its checks that the agent last reported.
    pub standing: CheckResults,
    /// The number of the agent's newest committed update; 0 before the first.
    pub reported: u64,
    /// The newest update, acknowledged or not.
    pub latest: TaskUpdate,
    /// The unacknowledged updates, oldest first: at most the newest non-terminal one and the
    /// terminal one.
    pub unacknowledged: Vec<TaskUpdate>,
    /// The revision of its newest update, kill or change of limits. Acknowledgements, and updates
    /// of an agent that have no effect, do not change it.
    pub revision: Revision,
}

impl Task {
    /// Returns whether the task has ended.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.state.is_terminal()
    }

    /// Returns whether the task is UNREACHABLE and recorded as stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state == TaskState::Unreachable && self.latest.stopped
    }

    /// Returns the silence of its agent, in milliseconds, after which the task has stopped itself,
    /// if that is not committed yet.
    #[must_use]
    pub fn stops_after_ms(&self) -> Option<u64> {
        let waits = self.state == TaskState::Unreachable && !self.latest.stopped;
        self.spec.stopped_after_ms().filter(|_| waits)
    }
}

/// A task that has ended and is acknowledged. It is kept for display, and to keep its id taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedTask {
    /// The task at its end.
    pub task: Task,
}

numbered!(
    TaskState,
    Staging = 1,
    Starting = 2,
    Running = 3,
    Killing = 4,
    Finished = 5,
    Failed = 6,
    Killed = 7,
    Error = 8,
    Dropped = 9,
    Gone = 10,
    GoneByOperator = 11,
    Unreachable = 12,
    Unknown = 13,
);

numbered!(UpdateSource, Master = 1, Agent = 2, Task = 3);

numbered!(
    Reason,
    None = 1,
    TaskInvalid = 2,
    InvalidOffers = 3,
    AgentUnreachable = 4,
    AgentRemoved = 5,
    AgentRemovedByOperator = 6,
    AgentRestarted = 7,
    AgentReregistered = 8,
    AgentRebooted = 9,
    ContainerLaunchFailed = 10,
    FetchFailed = 11,
    CommandExited = 12,
    CommandNotStarted = 13,
    TaskKilled = 14,
    KilledDuringLaunch = 15,
    FrameworkRemoved = 16,
    Reconciliation = 17,
    TaskMissingOnAgent = 18,
    LaunchVoided = 19,
    LimitMemory = 20,
    MaxCompletionTime = 21,
    StoppedWithoutLeader = 22,
    TaskUnknown = 23,
    HealthCheckStatusUpdated = 24,
    ReadinessCheckStatusUpdated = 25,
    HealthCheckFailed = 26,
    LimitDisk = 27,
    ExecutorTerminated = 37,
    ExecutorRegistrationTimeout = 38,
    LimitsUpdated = 41,
    AgentIncapable = 50,
);

stored!(message Task where describes_itself {
    1 key: Part,
    2 agent: Number,
    3 role: Text,
    4 order: Number,
    5 spec: Part or "description",
    6 kill: MaybePart,
    7 state: Number or "task state",
    8 agent_state: Number or "task state",
    9 reported: Number,
    10 latest: Part or "latest update",
    11 unacknowledged: PartList,
    12 revision: Part,
    13 standing: PartOrDefault,
    40 limits_change: MaybePart,
});

fn describes_itself(task: &Task) -> DecodeResult<()> {
    if task.spec.task == task.key.task {
        Ok(())
    } else {
        Err(CodecError::Invalid("task id in its description"))
    }
}

stored!(message TaskUpdate {
    1 revision: Part,
    2 state: Number or "task state",
    3 source: Number,
    4 reason: Number,
    5 message: Text,
    6 exit: MaybePart,
    7 wall_ms: Number,
    8 standing: PartOrDefault,
    20 stopped: Number,
    50 causes: PartList,
});

stored!(message CheckResults {
    1 healthy: MaybeNumber,
    2 ready: MaybeNumber,
});

stored!(message Kill {
    1 order: Number,
    2 grace_ms: Number,
});

stored!(message Exit as (exit) {
    1 | 2 exit: OneOf,
});

stored!(oneof Exit {
    1 Code(Zigzag),
    2 Signal(Zigzag),
});

stored!(message FinishedTask {
    1 task: Part,
});

#[cfg(test)]
mod tests {
    use super::TaskState::{self, *};

    const ALL: [TaskState; 13] = [
        Staging,
        Starting,
        Running,
        Killing,
        Finished,
        Failed,
        Killed,
        Error,
        Dropped,
        Gone,
        GoneByOperator,
        Unreachable,
        Unknown,
    ];

    #[test]
    fn no_state_follows_a_terminal_state() {
        for from in ALL.into_iter().filter(|state| state.is_terminal()) {
            assert!(
                ALL.into_iter().all(|next| !from.may_become(next)),
                "{from:?}"
            );
        }
    }

    #[test]
    fn a_task_being_killed_never_returns_to_running() {
        assert!(!Killing.may_become(Running) && !Killing.may_become(Starting));
        assert!(Killing.may_become(Killed) && Killing.may_become(Unreachable));
    }

    #[test]
    fn unknown_is_only_a_reconciliation_answer() {
        assert!(
            ALL.into_iter()
                .all(|state| !state.may_become(Unknown) && !Unknown.may_become(state))
        );
    }

    #[test]
    fn an_unreachable_task_may_return_in_any_state() {
        for next in [Staging, Starting, Running, Killing, Finished] {
            assert!(Unreachable.may_become(next));
        }
    }
}
