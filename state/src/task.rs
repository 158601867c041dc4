//! Tasks: what has been observed of them, and the one table of transitions.

pub mod cause;
mod check;
mod container;
mod executor;
mod group;
mod kill_signal;
mod limits;
mod opt_outs;
mod sizes;
mod spec;
mod volume;
pub(crate) mod words;

pub use self::cause::{Cause, Code, Explanation};
pub use self::check::{Check, CheckKind, HealthCheck, Scheme};
pub use self::container::{CniNetwork, Container, ImagePull, Network, PublishedPort};
pub use self::executor::ExecutorSpec;
pub use self::group::TaskGroup;
pub use self::kill_signal::KillSignal;
pub use self::limits::{DiskLimit, Limits, LimitsChange, LimitsReport};
pub use self::opt_outs::{Capability, OptOuts};
pub use self::sizes::{Beyond, Sizes};
pub(crate) use self::spec::RESTRICTIONS;
pub use self::spec::{HostPath, Run, TaskSpec, Uri};
pub use self::volume::{TaskVolume, VolumeSource};
pub use self::words::LIMITS_NOT_CHANGED;

use std::sync::Arc;

use crate::encode::codec::{Fault, Read};
use crate::encode::stored::stored;
use crate::ids::{AgentId, OrderIndex, Revision, Role, TaskKey};

/// The state of a task, named as Mesos names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Accepted; not yet heard of from its agent.
    Staging,
    /// The agent has it and prepares it.
    Starting,
    /// Its process runs.
    Running,
    /// Asked to end; in its grace.
    Killing,
    /// Ended by itself with code 0.
    Finished,
    /// Ended otherwise, or could not be started.
    Failed,
    /// Ended because it was asked to.
    Killed,
    /// Its description is invalid.
    Error,
    /// Never started, never will.
    Dropped,
    /// Known to be dead without a status of its own.
    Gone,
    /// An operator said so.
    GoneByOperator,
    /// Its agent is not heard of; it may run.
    Unreachable,
    /// Only ever an answer: the registry has never heard of it, or no longer.
    Unknown,
}

impl TaskState {
    /// Whether nothing can follow.
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

    /// The table: whether a task may go from this state to `next`. An agent repeats a state (a new
    /// message, a check) while it is not terminal; nothing leaves KILLING but an end or UNREACHABLE.
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

/// Who made an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A master.
    Master,
    /// The agent.
    Agent,
    /// The task's own process, by its exit.
    Task,
}

/// Why a task is in its state. Most have a namesake in Mesos.
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

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// Its exit code.
    Code(i32),
    /// The signal that ended it.
    Signal(i32),
}

/// What the checks of a task have found; neither says anything of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether it is healthy; `None` without a check, and until one had a result that counts.
    pub healthy: Option<bool>,
    /// Whether it is ready; `None` without a check, and until one had a result.
    pub ready: Option<bool>,
}

/// A fact about a task, kept until its framework has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// When it became true; with the task, its name to the framework.
    pub revision: Revision,
    /// The state.
    pub state: TaskState,
    /// Who made it.
    pub source: Source,
    /// Why.
    pub reason: Reason,
    /// What its agent reports beyond the reason; none before level 3.
    pub causes: Vec<Cause>,
    /// Free text behind that, at most [`crate::limits::MESSAGE_BYTES`]. Before level 3 the whole text.
    pub message: String,
    /// How the process ended, if it has.
    pub exit: Option<Exit>,
    /// What its checks had found then; nothing where only a master speaks.
    pub standing: Standing,
    /// With UNREACHABLE: its `stop_after_ms` has passed, so that it does not run any more and may be replaced.
    pub stopped: bool,
    /// Milliseconds of the Unix epoch, for display only.
    pub wall_ms: i64,
}

/// A wish to end a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// The order that carries it.
    pub order: OrderIndex,
    /// Milliseconds from the signal that asks it to end to KILL.
    pub grace_ms: u64,
}

/// A task in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its framework and id.
    pub key: TaskKey,
    /// Where it runs.
    pub agent: AgentId,
    /// On whose account.
    pub role: Role,
    /// The order that launched it: with the key, one instance.
    pub order: OrderIndex,
    /// What was asked for. Shared with all copies of the task: only its limits ever change.
    pub spec: Arc<TaskSpec>,
    /// Set once it is wanted dead.
    pub kill: Option<Kill>,
    /// Set once its limits were changed.
    pub limits_change: Option<LimitsChange>,
    /// What the framework is told.
    pub state: TaskState,
    /// What its agent said last; differs from `state` while unreachable.
    pub agent_state: TaskState,
    /// What its checks have found, as its agent said last.
    pub standing: Standing,
    /// Number of the newest committed update of its agent; 0 before the first.
    pub reported: u64,
    /// The newest fact, acknowledged or not.
    pub latest: Update,
    /// At most the newest non-terminal one and the terminal one, oldest first.
    pub unacknowledged: Vec<Update>,
    /// When this record last changed.
    pub revision: Revision,
}

impl Task {
    /// Whether it has ended.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.state.is_terminal()
    }

    /// Whether it is UNREACHABLE and known to have stopped itself.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state == TaskState::Unreachable && self.latest.stopped
    }

    /// The silence of its agent after which it has stopped itself, in milliseconds, if that is still
    /// to be committed.
    #[must_use]
    pub fn stops_after_ms(&self) -> Option<u64> {
        let waits = self.state == TaskState::Unreachable && !self.latest.stopped;
        self.spec.stopped_after_ms().filter(|_| waits)
    }
}

/// A task that has ended and is acknowledged: kept for display, and to keep its id taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedTask {
    /// The task as it was.
    pub task: Task,
}

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

fn describes_itself(task: &Task) -> Read<()> {
    if task.spec.task == task.key.task {
        Ok(())
    } else {
        Err(Fault::Wrong("task id in its description"))
    }
}

stored!(message Update {
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

stored!(message Standing {
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
    fn nothing_follows_an_end() {
        for from in ALL.into_iter().filter(|state| state.is_terminal()) {
            assert!(
                ALL.into_iter().all(|next| !from.may_become(next)),
                "{from:?}"
            );
        }
    }

    #[test]
    fn killing_never_runs_again() {
        assert!(!Killing.may_become(Running) && !Killing.may_become(Starting));
        assert!(Killing.may_become(Killed) && Killing.may_become(Unreachable));
    }

    #[test]
    fn unknown_is_only_an_answer() {
        assert!(
            ALL.into_iter()
                .all(|state| !state.may_become(Unknown) && !Unknown.may_become(state))
        );
    }

    #[test]
    fn an_unreachable_task_may_come_back_in_any_state() {
        for next in [Staging, Starting, Running, Killing, Finished] {
            assert!(Unreachable.may_become(next));
        }
    }
}
