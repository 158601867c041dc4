//! What comes into the core, and what it wants done.

use std::sync::Arc;

use argosy_proto::v1;
use argosy_state::ids::{OrderIndex, TaskKey, Timestamp};
use argosy_state::task::{CheckKind, Explanation};

use super::Sync;
use super::checks::{Answer, Cause, Look};
use super::executors::ExecutorSaid;
use super::facts::{ContainerName, Instance, Record, StartedFact};
use super::limits::Unmet;

/// Something has happened.
#[derive(Debug)]
pub enum Input {
    /// The process has started and read its journal. Comes once, before all others but [`Input::JournalFull`].
    Begin,
    /// A stream to a master is open, and the hello is said.
    Connected {
        /// Counts the streams.
        link: u64,
    },
    /// A stream has ended.
    Disconnected {
        /// Which.
        link: u64,
        /// For the log.
        why: String,
    },
    /// No leader could be reached.
    DialFailed,
    /// A master said something.
    Message {
        /// On which stream.
        link: u64,
        /// What.
        message: Box<v1::ToAgent>,
    },
    /// All records up to this number are on disk.
    Durable {
        /// The newest.
        number: u64,
    },
    /// The journal is much larger than what it says.
    JournalLarge,
    /// Whether the disk of the journal is full.
    JournalFull(bool),
    /// The files of a task take their time.
    Fetching {
        /// Whose.
        instance: Instance,
        /// What comes, and how much of it is here.
        what: Explanation,
    },
    /// The files of a task are there, or cannot be had.
    Fetched {
        /// Whose.
        instance: Instance,
        /// Why not, with its URI.
        result: Result<(), Explanation>,
    },
    /// A command has been executed.
    Started {
        /// Whose.
        instance: Instance,
        /// Which process, when.
        fact: StartedFact,
    },
    /// A container could not be made.
    NotStarted {
        /// Whose.
        instance: Instance,
        /// Why.
        refusal: Refusal,
    },
    /// A command has ended.
    Exited {
        /// Whose.
        instance: Instance,
        /// How.
        ended: Ended,
    },
    /// A supervisor is gone without a word.
    Lost {
        /// Whose.
        instance: Instance,
        /// How that is known.
        why: Explanation,
    },
    /// What became of a container of an earlier life.
    Found {
        /// Whose.
        instance: Instance,
        /// What.
        found: Found,
    },
    /// Nothing is left of a container, or of what a group of them had in common.
    Destroyed {
        /// Which.
        name: ContainerName,
    },
    /// A running task was looked at.
    Looked {
        /// Which.
        instance: Instance,
        /// Of which of its checks, and which time.
        look: Look,
        /// What was found.
        answer: Answer,
    },
    /// Other limits of a running task are in force, or not.
    Limited {
        /// Whose.
        instance: Instance,
        /// The order that wanted them.
        order: OrderIndex,
        /// Whether they are in force.
        outcome: Result<(), Unmet>,
    },
    /// A task has more on the disk than it may.
    OverDisk {
        /// Which.
        instance: Instance,
        /// How much, of how much.
        why: Explanation,
    },
    /// Something came from the socket of an executor.
    Executor {
        /// Which executor.
        instance: Instance,
        /// Counts the streams of all executors.
        connection: u64,
        /// What.
        said: ExecutorSaid,
    },
    /// A deadline has come.
    Tick,
    /// The operator wants every task ended before the agent stops.
    EndAll,
}

/// Why a container could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// TASK_INVALID if another host would refuse it too.
    pub reason: v1::Reason,
    /// Why.
    pub why: Explanation,
}

/// How a command ended, as far as a supervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The status.
    pub how: How,
    /// Set if the supervisor ended it.
    pub stop: Option<StopCause>,
    /// Its memory limit was reached.
    pub out_of_memory: bool,
    /// How, for people.
    pub why: Explanation,
}

/// The status of an ended command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was never executed.
    NotStarted,
}

/// Why a supervisor ended a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// The agent asked.
    Ordered,
    /// `stop_after` passed.
    StopAfter,
}

/// What became of a container of an earlier life of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Running(StartedFact),
    /// It ended, and its status was kept.
    Exited(Ended),
    /// It was started, and nobody knows how it ended.
    Gone,
    /// It could not be asked, and may run.
    Unknown,
    /// It never started, and never will under this container name.
    NeverStarted,
}

/// A container to start.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its name.
    pub name: ContainerName,
    /// The task.
    pub key: TaskKey,
    /// What was ordered.
    pub launch: Arc<v1::LaunchOrder>,
    /// When it is to end itself unless renewed, on the boot clock.
    pub stop_at: Option<Timestamp>,
    /// What it has in common with others, if it is one of a group.
    pub group: Option<Box<GroupStart>>,
}

impl Start {
    /// Under which name it holds what it may share: users of the host, and a network.
    #[must_use]
    pub fn holder(&self) -> ContainerName {
        self.group.as_ref().map_or(self.name, |group| group.name)
    }
}

/// What the containers of a group have in common.
#[derive(Debug, Clone)]
pub struct GroupStart {
    /// Names it on this host.
    pub name: ContainerName,
    /// As its framework calls it.
    pub id: String,
    /// With the published ports of all of them; `None` means that of the host.
    pub network: Option<v1::Network>,
    /// The container and key of the first of its tasks, as a part of whose disk its folder counts.
    pub first: Option<(ContainerName, TaskKey)>,
}

/// Something is to be done. Performed in order.
#[derive(Debug)]
pub enum Effect {
    /// Append to the journal.
    Persist {
        /// Counts the records of this process.
        number: u64,
        /// What.
        record: Box<Record>,
        /// How soon.
        sync: Sync,
    },
    /// Replace the journal by these records, which say the same as all before.
    Compact(Vec<Record>),
    /// Look for the leader after so many milliseconds.
    Dial {
        /// Milliseconds to wait first.
        after_ms: u64,
        /// What to say first; nothing in it changes while there is no link.
        hello: Box<v1::Hello>,
    },
    /// Say something to the master.
    Send {
        /// On which stream.
        link: u64,
        /// What.
        message: Box<v1::FromAgent>,
    },
    /// End a stream.
    Hangup {
        /// Which.
        link: u64,
        /// For the log.
        why: String,
    },
    /// Bring a task's files.
    Fetch(Box<Start>),
    /// Stop bringing them; nobody waits for the answer.
    CancelFetch(Instance),
    /// Prepare a start while its order is being synced: what it takes is given back by the container's removal, and nothing
    /// is executed. Either [`Effect::Start`] or [`Effect::Destroy`] follows, unless this process ends before.
    Prepare(Box<Start>),
    /// Start a container, at most once.
    Start(Box<Start>),
    /// Call a start off; how it ended is told in any case: its command was not executed, or it was too late.
    CancelStart(Instance),
    /// See what became of a container of an earlier life, and never let it start from now on.
    Find {
        /// Its name.
        name: ContainerName,
        /// The task.
        key: TaskKey,
    },
    /// TERM, grace, KILL.
    Kill {
        /// Whom.
        instance: Instance,
        /// Milliseconds from TERM to KILL.
        grace_ms: u64,
    },
    /// Move the deadline of `stop_after`.
    Renew {
        /// Whose.
        instance: Instance,
        /// On the boot clock.
        stop_at: Timestamp,
    },
    /// Look at a running task from inside its namespaces, and answer under the same name.
    Look {
        /// At which.
        instance: Instance,
        /// For which of its checks, and which time.
        look: Look,
        /// What to ask.
        kind: CheckKind,
        /// Milliseconds until nobody waits for the answer any more.
        timeout_ms: u64,
    },
    /// Stop looking; nobody waits for the answer.
    StopLooking {
        /// At which.
        instance: Instance,
        /// For which of its checks, and which time.
        look: Look,
        /// Why.
        cause: Cause,
    },
    /// Measure again and again what a running task has on the disk, until it is destroyed.
    Measure {
        /// Its container.
        name: ContainerName,
        /// The task.
        key: TaskKey,
        /// The most it may have, in bytes; [`u64::MAX`] for no limit.
        limit_bytes: u64,
        /// What it requested, in bytes.
        requested_bytes: u64,
        /// Whether files count that its processes hold open without a name. Not if some of those may lie on host paths or
        /// in a group's folder, which are not its own.
        counts_nameless: bool,
        /// Id and name of the group whose folder is a part of its disk: then it is measured until that is destroyed.
        group: Option<(String, ContainerName)>,
    },
    /// Change what a running container may use to what this order says.
    Limit {
        /// Its name.
        name: ContainerName,
        /// The order, as `Start` has it.
        launch: Arc<v1::LaunchOrder>,
        /// The order that wants it, whose outcome is to be told. Executors' follow from their tasks, and nobody waits.
        order: Option<OrderIndex>,
    },
    /// Take connections of an executor that runs.
    Listen(ContainerName),
    /// Take no more of them.
    StopListening(ContainerName),
    /// Say something to an executor.
    TellExecutor {
        /// To which.
        instance: Instance,
        /// On which of its streams.
        connection: u64,
        /// What.
        message: Box<v1::ToExecutor>,
    },
    /// Clear away all that is left of a container, but not its sandbox.
    Destroy {
        /// Its name.
        name: ContainerName,
        /// The task.
        key: TaskKey,
    },
    /// Give back what the containers of a group had in common, but not their folder. All of them are gone.
    DestroyGroup {
        /// Its name.
        name: ContainerName,
    },
}
