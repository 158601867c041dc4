//! Facts about tasks: commits, actions of agents, updates that frameworks received, observations of
//! the kernel.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{AgentId, OfferId, OrderIndex, Revision, TaskKey};
use argosy_state::task::TaskState;

use super::super::text;
use super::super::witness::ProcessStart;

/// The actual end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessExit {
    /// The process exited with this code.
    Code(i32),
    /// The process was ended by this signal.
    Signal(i32),
}

/// A fact about a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum TaskFact {
    /// An applied entry launched the task on these offers. Recorded by one master or by each.
    Launched {
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that carries the launch.
        #[serde(with = "text")]
        order: OrderIndex,
        /// The agent of the task.
        #[serde(with = "text")]
        agent: AgentId,
        /// The offers that the launch used.
        #[serde(with = "text::list")]
        offers: Vec<OfferId>,
        /// The principal of the framework.
        principal: String,
    },
    /// The registry contains the task, or its end in the task history, with this order. An operator
    /// reads it some time later.
    Recorded {
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that carried the launch.
        #[serde(with = "text")]
        order: OrderIndex,
        /// The agent of the task.
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// An applied entry records that the task stopped itself on an unreachable agent.
    Stopped {
        #[serde(with = "text")]
        task: TaskKey,
    },
    /// An applied entry kills the task. Recorded once it is known whether the launch had been sent
    /// to the agent before.
    KillCommitted {
        #[serde(with = "text")]
        task: TaskKey,
        /// Whether the launch was delivered to the agent before, or may have been in flight.
        delivered: bool,
    },
    /// An applied entry changed the state of the task. Recorded by one master or by each.
    Changed {
        #[serde(with = "text")]
        task: TaskKey,
        #[serde(with = "text")]
        state: TaskState,
        /// The agent's number of the update; 0 if a master made it.
        number: u64,
    },
    /// The agent has an update on its disk.
    #[serde(rename = "made")]
    UpdateStored {
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that launched the task.
        #[serde(with = "text")]
        order: OrderIndex,
        /// The number of the update, from 1.
        number: u64,
        #[serde(with = "text")]
        state: TaskState,
    },
    /// The agent sends an update.
    #[serde(rename = "sent")]
    UpdateSent {
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that launched the task.
        #[serde(with = "text")]
        order: OrderIndex,
        /// The number of the update.
        number: u64,
    },
    /// The masters acknowledged an update and all earlier ones, so that the agent can drop them.
    #[serde(rename = "settled")]
    UpdateAcknowledged {
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that launched the task.
        #[serde(with = "text")]
        order: OrderIndex,
        /// The number of the update.
        number: u64,
    },
    /// The masters reported to the agent that the registry no longer needs the task.
    #[serde(rename = "stray")]
    OrphanReported {
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that launched the task.
        #[serde(with = "text")]
        order: OrderIndex,
    },
    /// The framework received an update.
    #[serde(rename = "told")]
    UpdateReceived {
        #[serde(with = "text")]
        task: TaskKey,
        /// The revision of the update. Together with the task it identifies the update.
        #[serde(with = "text")]
        update: Revision,
        #[serde(with = "text")]
        state: TaskState,
        /// The end of the process, as reported.
        end: Option<ProcessExit>,
    },
    /// The task recorded its own start in the witness file.
    Witnessed {
        #[serde(with = "text")]
        task: TaskKey,
        /// The recorded start.
        start: ProcessStart,
    },
    /// The task has a process now, as reported by the kernel or by the simulated host.
    Alive {
        #[serde(with = "text")]
        task: TaskKey,
        /// The agent of the host.
        #[serde(with = "text")]
        agent: AgentId,
        /// The pid in the host's namespace.
        pid: u32,
        /// Clock ticks since boot.
        start_time: u64,
        /// The boot id of the host's kernel.
        boot_id: String,
        /// A counter of the task that only grows.
        progress: Option<u64>,
    },
    /// A restarted agent adopted a process as this task.
    Adopted {
        #[serde(with = "text")]
        task: TaskKey,
        /// The agent that adopted it.
        #[serde(with = "text")]
        agent: AgentId,
        /// The pid in the host's namespace.
        pid: u32,
        /// Clock ticks since boot.
        start_time: u64,
        /// The boot id of the host's kernel.
        boot_id: String,
    },
    /// A restarted agent kills a process of this task, because it belongs to no task that the agent
    /// knows.
    Orphaned {
        #[serde(with = "text")]
        task: TaskKey,
        /// The agent of the host.
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// The actual end of the process, recorded by the process that killed it or by the task itself.
    Ended {
        #[serde(with = "text")]
        task: TaskKey,
        /// The actual end.
        end: ProcessExit,
    },
}
