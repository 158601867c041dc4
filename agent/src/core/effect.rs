//! The effects of the core, by the part of the agent that performs them.

use std::sync::Arc;

use argosy_state::access::KeyHash;
use argosy_state::ids::{OrderIndex, TaskKey, Timestamp};
use argosy_state::resources::Resource;
use argosy_state::task::CheckKind;

use super::SyncMode;
use super::checks::{CancelReason, ProbeId};
use super::executors::ExecutorMessage;
use super::facts::{ContainerName, Instance, JournalRecord};
use super::input::ContainerStart;
use super::launch::LaunchOrder;
use super::messages::{AgentMessage, Hello, SecretsAnswer};

/// An action that the core requests. Actions are performed in order.
#[derive(Debug)]
pub enum Effect {
    Journal(JournalEffect),
    Link(LinkEffect),
    Container(ContainerEffect),
}

/// A request to the writer of the journal.
#[derive(Debug)]
pub enum JournalEffect {
    /// Append to the journal.
    Append {
        /// The number of the record in this run.
        number: u64,
        record: Box<JournalRecord>,
        /// The urgency of the sync.
        sync: SyncMode,
    },
    /// Replace the journal by these records, which are equivalent to all before.
    Compact(Vec<JournalRecord>),
}

/// An action on the stream to the leader.
#[derive(Debug)]
pub enum LinkEffect {
    /// Connect to the leader after this many milliseconds.
    Dial {
        after_ms: u64,
        /// The first message; nothing in it changes while there is no link.
        hello: Box<Hello>,
    },
    /// Send a message to the master.
    Send {
        /// The number of the stream.
        link: u64,
        message: Box<AgentMessage>,
    },
    /// End a stream.
    Hangup {
        link: u64,
        /// The reason, for the log.
        why: String,
    },
    /// Accept no connection of these keys any more.
    Revoke(Vec<KeyHash>),
    /// Log that this task runs although the registry of the restored cluster lacks it.
    Quarantined(TaskKey),
}

/// An action on the containers of the host, or on the streams of executors in them.
#[derive(Debug)]
pub enum ContainerEffect {
    /// Fetch a task's files.
    Fetch(Box<ContainerStart>),
    /// Cancel the fetch; its result is no longer needed.
    CancelFetch(Instance),
    /// Prepare a start while its order is being synced: the removal of the container releases all
    /// acquired resources, and nothing is executed. Either [`Self::Start`] or [`Self::Destroy`]
    /// follows, unless this process ends before.
    Prepare(Box<ContainerStart>),
    /// Start a container, at most once.
    Start(Box<ContainerStart>),
    /// Pass secrets of the registry to the start that waits for them, or the reason why there are
    /// none.
    DeliverSecrets {
        instance: Instance,
        answer: Box<SecretsAnswer>,
    },
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
        launch: Arc<LaunchOrder>,
        /// The amounts of its tasks, as in `ContainerStart`.
        task_amounts: Vec<Resource>,
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
        message: Box<ExecutorMessage>,
    },
    /// Remove everything of a container but its sandbox.
    Destroy { name: ContainerName, key: TaskKey },
    /// Release the shared resources of a group, but keep its directory. All of its containers are
    /// removed.
    DestroyGroup { name: ContainerName },
}

impl From<JournalEffect> for Effect {
    fn from(effect: JournalEffect) -> Self {
        Self::Journal(effect)
    }
}

impl From<LinkEffect> for Effect {
    fn from(effect: LinkEffect) -> Self {
        Self::Link(effect)
    }
}

impl From<ContainerEffect> for Effect {
    fn from(effect: ContainerEffect) -> Self {
        Self::Container(effect)
    }
}

/// The effects of the present step, in order.
#[derive(Debug, Default)]
pub(super) struct EffectQueue(Vec<Effect>);

impl EffectQueue {
    pub(super) fn push(&mut self, effect: impl Into<Effect>) {
        self.0.push(effect.into());
    }

    pub(super) fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.0)
    }
}
