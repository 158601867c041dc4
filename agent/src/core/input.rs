//! The inputs and effects of the core.

use std::sync::Arc;

use argosy_proto::v1;
use argosy_state::ids::{OrderIndex, TaskKey, Timestamp};
use argosy_state::task::{CheckKind, Explanation};

use super::SyncMode;
use super::checks::{CancelReason, CheckResult, ProbeId};
use super::executors::ExecutorEvent;
use super::facts::{ContainerName, Instance, JournalRecord, StartedFact};
use super::limits::UnappliedLimits;

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
        message: Box<v1::ToAgent>,
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
        result: Result<(), Explanation>,
    },
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

/// The reason why a container could not be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateError {
    /// TASK_INVALID if every other host would refuse the task too.
    pub reason: v1::Reason,
    pub why: Explanation,
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
    pub launch: Arc<v1::LaunchOrder>,
    /// The time on the boot clock at which it ends itself unless renewed.
    pub stop_at: Option<Timestamp>,
    /// The shared resources of its task group, if it is in one.
    pub group: Option<Box<GroupStart>>,
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
    pub id: String,
    /// The network, with the published ports of all tasks; `None` means that of the host.
    pub network: Option<v1::Network>,
    /// The container and key of the first task, to whose disk usage the group directory counts.
    pub first: Option<(ContainerName, TaskKey)>,
}

/// An action that the core requests. Actions are performed in order.
#[derive(Debug)]
pub enum Effect {
    /// Append to the journal.
    Persist {
        /// The number of the record in this run.
        number: u64,
        record: Box<JournalRecord>,
        /// The urgency of the sync.
        sync: SyncMode,
    },
    /// Replace the journal by these records, which are equivalent to all before.
    Compact(Vec<JournalRecord>),
    /// Connect to the leader after this many milliseconds.
    Dial {
        after_ms: u64,
        /// The first message; nothing in it changes while there is no link.
        hello: Box<v1::Hello>,
    },
    /// Send a message to the master.
    Send {
        /// The number of the stream.
        link: u64,
        message: Box<v1::FromAgent>,
    },
    /// End a stream.
    Hangup {
        link: u64,
        /// The reason, for the log.
        why: String,
    },
    /// Fetch a task's files.
    Fetch(Box<ContainerStart>),
    /// Cancel the fetch; its result is no longer needed.
    CancelFetch(Instance),
    /// Prepare a start while its order is being synced: the removal of the container releases all
    /// acquired resources, and nothing is executed. Either [`Effect::Start`] or [`Effect::Destroy`]
    /// follows, unless this process ends before.
    Prepare(Box<ContainerStart>),
    /// Start a container, at most once.
    Start(Box<ContainerStart>),
    /// Cancel a start. The outcome is reported in any case: the command was not executed, or the
    /// cancellation was too late.
    CancelStart(Instance),
    /// Determine the state of a container of an earlier run, and prevent its start from now on.
    Find { name: ContainerName, key: TaskKey },
    /// Send TERM, and KILL after the grace period.
    Kill { instance: Instance, grace_ms: u64 },
    /// Move the deadline of `stop_after`.
    Renew {
        instance: Instance,
        /// The new deadline on the boot clock.
        stop_at: Timestamp,
    },
    /// Probe a running task from inside its namespaces, and return the result under the same name.
    Probe {
        instance: Instance,
        /// The check and the number of the probe.
        probe: ProbeId,
        /// The kind of the probe.
        kind: CheckKind,
        timeout_ms: u64,
    },
    /// Cancel a probe; its result is no longer needed.
    CancelProbe {
        instance: Instance,
        /// The check and the number of the probe.
        probe: ProbeId,
        /// The reason.
        cause: CancelReason,
    },
    /// Measure the disk usage of a running task repeatedly, until it is destroyed.
    Measure {
        name: ContainerName,
        key: TaskKey,
        /// The disk limit in bytes; [`u64::MAX`] for no limit.
        limit_bytes: u64,
        /// The requested amount in bytes.
        requested_bytes: u64,
        /// Whether unlinked files count that its processes hold open. Not if some of them may lie
        /// on host paths or in a group directory, which do not belong to the task.
        counts_unlinked: bool,
        /// Id and name of the group whose directory counts toward its disk usage: then it is
        /// measured until that is destroyed.
        group: Option<(String, ContainerName)>,
    },
    /// Change the limits of a running container to those of this order.
    Limit {
        name: ContainerName,
        /// The order, as in `ContainerStart`.
        launch: Arc<v1::LaunchOrder>,
        /// The order that changes the limits, whose outcome is reported. Limits of executors follow
        /// from their tasks, and have no report.
        order: Option<OrderIndex>,
    },
    /// Accept connections of a running executor.
    Listen(ContainerName),
    /// Stop accepting them.
    StopListening(ContainerName),
    /// Send a message to an executor.
    SendToExecutor {
        instance: Instance,
        /// The number of the stream.
        connection: u64,
        message: Box<v1::ToExecutor>,
    },
    /// Remove everything of a container but its sandbox.
    Destroy { name: ContainerName, key: TaskKey },
    /// Release the shared resources of a group, but keep its directory. All of its containers are
    /// removed.
    DestroyGroup { name: ContainerName },
}
