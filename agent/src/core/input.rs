//! The inputs of the core.

use std::sync::Arc;

use argosy_state::ids::{GroupId, OrderIndex, TaskKey, Timestamp};
use argosy_state::resources::Resource;
use argosy_state::task::{ContainerNetwork, Explanation, Reason};

use super::checks::{CheckResult, ProbeId};
use super::executors::ExecutorEvent;
use super::facts::{ContainerName, Instance, StartedFact};
use super::launch::LaunchOrder;
use super::limits::UnappliedLimits;
use super::messages::MasterMessage;

/// An event that the core handles.
#[derive(Debug)]
pub enum Input {
    /// The process has started and read its journal. Comes once, before all others but
    /// [`Input::JournalFull`].
    Begin,
    /// A stream to a master is open, and the hello is sent.
    Connected {
        /// The number of the stream.
        link: u64,
    },
    /// A stream has ended.
    Disconnected {
        link: u64,
        /// The reason, for the log.
        why: String,
    },
    /// No leader could be reached.
    DialFailed,
    /// A message of a master.
    Message {
        /// The number of the stream.
        link: u64,
        message: Box<MasterMessage>,
    },
    /// All records up to this number are on disk.
    Durable {
        /// The newest of them.
        number: u64,
    },
    /// The journal is much larger than its live content.
    JournalLarge,
    /// Whether the disk of the journal is full.
    JournalFull(bool),
    /// The fetch of a task's files is in progress.
    Fetching {
        instance: Instance,
        /// The current file, and how much of it is fetched.
        progress: Explanation,
    },
    /// The files of a task are fetched, or the fetch failed.
    Fetched {
        instance: Instance,
        /// The error, with its URI.
        result: Result<(), CreateError>,
    },
    /// A start needs secrets of the registry.
    SecretsWanted { instance: Instance },
    /// A command has been executed.
    Started {
        instance: Instance,
        /// The process and the time.
        fact: StartedFact,
    },
    /// A container could not be created.
    NotStarted {
        instance: Instance,
        refusal: CreateError,
    },
    /// A command has ended.
    Exited {
        instance: Instance,
        /// Its status.
        exit: CommandExit,
    },
    /// A supervisor has ended without a report.
    Lost {
        instance: Instance,
        /// The evidence for this.
        why: Explanation,
    },
    /// The state of a container of an earlier run.
    ContainerFound {
        instance: Instance,
        container: RecoveredContainer,
    },
    /// A container, or the shared resources of a group, are removed.
    Destroyed { name: ContainerName },
    /// The result of a probe of a running task.
    ProbeFinished {
        instance: Instance,
        /// The check and the number of the probe.
        probe: ProbeId,
        answer: CheckResult,
    },
    /// Changed limits of a running task are in force, or could not be applied.
    LimitsApplied {
        instance: Instance,
        /// The order that changes them.
        order: OrderIndex,
        /// Whether they are in force.
        outcome: Result<(), UnappliedLimits>,
    },
    /// A task exceeds its disk limit.
    DiskLimitExceeded {
        instance: Instance,
        /// The usage and the limit.
        why: Explanation,
    },
    /// A message from the socket of an executor.
    Executor {
        instance: Instance,
        /// The number of the stream, over all executors.
        connection: u64,
        event: ExecutorEvent,
    },
    /// A deadline has passed.
    Tick,
    /// The operator requests that every task ends before the agent stops.
    KillAll,
}

/// The reason why a container could not be created, or its files not be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateError {
    /// TASK_INVALID if the task must be changed, or needs an agent with another configuration.
    pub reason: Reason,
    pub why: Explanation,
}

impl CreateError {
    /// Returns the failure of a fetch.
    pub fn fetch(why: impl Into<Explanation>) -> Self {
        Self {
            reason: Reason::FetchFailed,
            why: why.into(),
        }
    }
}

/// The end of a command, as far as the supervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandExit {
    pub status: CommandStatus,
    /// Set if the supervisor ended the command.
    pub stop: Option<StopCause>,
    /// Whether its memory limit was reached.
    pub out_of_memory: bool,
    /// The explanation, for display.
    pub why: Explanation,
}

/// The exit status of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandStatus {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was never executed.
    NotStarted,
}

/// The reason why a supervisor ended a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// The agent requested it.
    Ordered,
    /// `stop_after` passed.
    StopAfter,
}

/// The state of a container of an earlier run of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveredContainer {
    /// It runs.
    Running(StartedFact),
    /// It ended, and its status was kept.
    Exited(CommandExit),
    /// It was started, and its exit status is unknown.
    Gone,
    /// The query failed, and it may run.
    Unknown,
    /// It never started, and never will under this container name.
    NeverStarted,
}

/// The description of a container to start.
#[derive(Debug, Clone)]
pub struct ContainerStart {
    pub name: ContainerName,
    pub key: TaskKey,
    pub launch: Arc<LaunchOrder>,
    /// The amounts of its tasks, if it is an executor's: they are added to its limits. Ports and
    /// sets are only the executor's, as they cannot be added to a running container.
    pub task_amounts: Vec<Resource>,
    /// The time on the boot clock at which it ends itself unless renewed.
    pub stop_at: Option<Timestamp>,
    /// The shared resources of its task group, if it is in one.
    pub group: Option<Box<GroupStart>>,
    /// The containers and groups after whose removal it starts: they may hold its host ports or
    /// processors.
    pub predecessors: Vec<ContainerName>,
}

impl ContainerStart {
    /// Returns the name that owns its shareable resources: host user ids, and a network.
    #[must_use]
    pub fn resource_owner(&self) -> ContainerName {
        self.group.as_ref().map_or(self.name, |group| group.name)
    }
}

/// The resources that the containers of a group share.
#[derive(Debug, Clone)]
pub struct GroupStart {
    /// The name of the group on this host.
    pub name: ContainerName,
    /// The framework's name of the group.
    pub id: GroupId,
    /// The network, with the published ports of all tasks.
    pub network: GroupNetwork,
    /// The container and key of the first task, to whose disk usage the group directory counts.
    pub first: Option<(ContainerName, TaskKey)>,
}

/// The network that the containers of a group share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupNetwork {
    pub network: ContainerNetwork,
    /// Whether `ContainerNetwork::AgentDefault` is the network of the host on this agent.
    pub is_host: bool,
}
