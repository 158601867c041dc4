//! Tasks: what is asked for, what has been observed, and the one table of transitions.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{AgentId, OrderIndex, Revision, Role, TaskId, TaskKey};
use crate::resources::Resources;

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
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// Its exit code.
    Code(i32),
    /// The signal that ended it.
    Signal(i32),
}

/// A file to bring into the sandbox before the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// An absolute path, `file://`, `http://` or `https://`.
    pub value: String,
    /// Whether it gets the executable bit.
    pub executable: bool,
    /// Its name in the sandbox; empty means the last part of `value`.
    pub output_file: String,
    /// Whether it is an archive that becomes a folder.
    pub extract: bool,
    /// What its bytes must be: 64 lower-case hexadecimal digits; empty means whatever they are.
    pub sha256: String,
    /// Whether the agent keeps it for other tasks.
    pub cache: bool,
}

/// A host path made visible to the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    /// On the host, absolute.
    pub host_path: String,
    /// In the container: absolute, or relative to the sandbox.
    pub container_path: String,
    /// Whether the task may not write to it.
    pub read_only: bool,
}

/// What a container is made of beside the agent's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Name of the image that is its root; empty means the programs of the agent's host.
    pub image: String,
    /// What it reaches, and by what it is reached.
    pub network: Network,
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// That of the host.
    #[default]
    Host,
    /// Nothing but itself.
    None,
    /// An address of its own behind the host's; these ports of the host lead to it.
    Bridge(Vec<PublishedPort>),
}

/// A port of the host that leads into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// The host's; one of the task's `ports`.
    pub host: u16,
    /// The container's.
    pub container: u16,
    /// UDP, not TCP.
    pub udp: bool,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// What the image says.
    Image,
    /// A command line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments; never empty.
    Argv(Vec<String>),
}

/// What is asked of a running task, again and again, from inside its namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From the task's start to the first time, in milliseconds.
    pub delay_ms: u64,
    /// From one answer to the next time, in milliseconds; at least [`crate::limits::CHECK_INTERVAL_MS`].
    pub interval_ms: u64,
    /// How long an answer may take before it counts as a failure, in milliseconds; at least 1.
    pub timeout_ms: u64,
}

impl Check {
    /// With the times that Mesos gives to one that names none.
    #[must_use]
    pub fn of(kind: CheckKind) -> Self {
        Self {
            kind,
            delay_ms: 15_000,
            interval_ms: 10_000,
            timeout_ms: 20_000,
        }
    }
}

/// What is asked of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// That `/bin/sh -c` with this line exits with 0, beside the task's own command and as that runs.
    Shell(String),
    /// The same for a program and its arguments; never empty.
    Argv(Vec<String>),
    /// That a port of the task's loopback address answers a GET by HTTP.
    Http {
        /// Which port.
        port: u16,
        /// For what; begins with `/`.
        path: String,
        /// Which statuses mean that all is well; empty means 200 to 399.
        statuses: BTreeSet<u16>,
    },
    /// That a port of the task's loopback address takes a connection.
    Tcp {
        /// Which port.
        port: u16,
    },
}

/// A check that ends its task when it fails too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked, and when.
    pub check: Check,
    /// For so long after the task's start failures count for nothing, until one answer was good; in milliseconds.
    pub grace_ms: u64,
    /// How many failures in a row end the task; at least 1.
    pub failures: u32,
}

impl HealthCheck {
    /// With Mesos' patience.
    #[must_use]
    pub fn of(check: Check) -> Self {
        Self {
            check,
            grace_ms: 10_000,
            failures: 3,
        }
    }
}

/// What the checks of a task have found; neither says anything of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether it is healthy; `None` without a check, and until one had a result that counts.
    pub healthy: Option<bool>,
    /// Whether it is ready; `None` without a check, and until one had a result.
    pub ready: Option<bool>,
}

/// What a framework asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// Its id within the framework.
    pub task: TaskId,
    /// For people; may be empty.
    pub name: String,
    /// What it uses.
    pub resources: Resources,
    /// What to run.
    pub run: Run,
    /// What its container is made of.
    pub container: Container,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Empty means the agent's default.
    pub user: String,
    /// Brought before the start.
    pub uris: Vec<Uri>,
    /// Mounted at the start.
    pub host_paths: Vec<HostPath>,
    /// Milliseconds from TERM to KILL.
    pub grace_ms: u64,
    /// Free text of the framework.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds until it is killed; 0 means never.
    pub max_completion_ms: u64,
    /// Milliseconds without a leader until it stops itself; 0 means never.
    pub stop_after_ms: u64,
    /// Asked while it runs; ends it when it fails too often. Boxed, like the next: most tasks have none.
    pub health_check: Option<Box<HealthCheck>>,
    /// Asked while it runs; only tells.
    pub readiness_check: Option<Box<Check>>,
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
    /// For people, at most [`crate::limits::MESSAGE_BYTES`].
    pub message: String,
    /// How the process ended, if it has.
    pub exit: Option<Exit>,
    /// What its checks had found then; nothing where only a master speaks.
    pub standing: Standing,
    /// Milliseconds of the Unix epoch, for display only.
    pub wall_ms: i64,
}

/// A wish to end a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// The order that carries it.
    pub order: OrderIndex,
    /// Milliseconds from TERM to KILL.
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
    /// What was asked for.
    pub spec: TaskSpec,
    /// Set once it is wanted dead.
    pub kill: Option<Kill>,
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
}

/// A task that has ended and is acknowledged: kept for display, and to keep its id taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedTask {
    /// The task as it was.
    pub task: Task,
}

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
