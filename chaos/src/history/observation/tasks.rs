//! Facts about tasks: what was committed, what agents did, what frameworks were told, what the
//! kernel says.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{AgentId, OfferId, OrderIndex, Revision, TaskKey};
use argosy_state::task::TaskState;

use super::super::text;
use super::super::witness::Start;

/// How a process truly ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A fact about a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum TaskFact {
    /// An applied entry made it, on these offers; recorded by a master, once or by each.
    Launched {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that carries it.
        #[serde(with = "text")]
        order: OrderIndex,
        /// Where.
        #[serde(with = "text")]
        agent: AgentId,
        /// On which offers.
        #[serde(with = "text::list")]
        offers: Vec<OfferId>,
        /// On whose behalf.
        principal: String,
    },
    /// The registry has it, or its end in its history, under this order: read by an operator, some time later.
    Recorded {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that carried it.
        #[serde(with = "text")]
        order: OrderIndex,
        /// Where.
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// An applied entry says that it has stopped itself on an unreachable agent.
    Stopped {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
    },
    /// An applied entry wants it dead; recorded once it is known whether its agent had been sent the launch before.
    KillCommitted {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// The launch was delivered to its agent before, or may have been under way.
        delivered: bool,
    },
    /// An applied entry changed its state; recorded by a master, once or by each.
    Changed {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// The new state.
        #[serde(with = "text")]
        state: TaskState,
        /// The agent's number of the update; 0 if a master made it.
        number: u64,
    },
    /// Its agent has an update on its disk.
    Made {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that launched it.
        #[serde(with = "text")]
        order: OrderIndex,
        /// Counts from 1.
        number: u64,
        /// The state.
        #[serde(with = "text")]
        state: TaskState,
    },
    /// Its agent sends an update.
    Sent {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that launched it.
        #[serde(with = "text")]
        order: OrderIndex,
        /// Its number.
        number: u64,
    },
    /// Its agent was told to forget an update and all before it.
    Settled {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that launched it.
        #[serde(with = "text")]
        order: OrderIndex,
        /// Its number.
        number: u64,
    },
    /// Its agent was told that the registry has no use for it any more.
    Stray {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// The order that launched it.
        #[serde(with = "text")]
        order: OrderIndex,
    },
    /// Its framework received an update.
    Told {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// With the task, the name of the update.
        #[serde(with = "text")]
        update: Revision,
        /// The state.
        #[serde(with = "text")]
        state: TaskState,
        /// How the process ended, as told.
        end: Option<End>,
    },
    /// Its own word that it started, from the witness file.
    Witnessed {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// What it wrote.
        start: Start,
    },
    /// Its process is there now, as the kernel says (or the simulated host).
    Alive {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// On this host.
        #[serde(with = "text")]
        agent: AgentId,
        /// Its pid, as the host sees it.
        pid: u32,
        /// Clock ticks since boot.
        start_time: u64,
        /// Of the host's kernel.
        boot_id: String,
        /// A counter of its own that only grows.
        progress: Option<u64>,
    },
    /// A restarted agent took over a process as this task.
    Adopted {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// By which agent.
        #[serde(with = "text")]
        agent: AgentId,
        /// Its pid, as the host sees it.
        pid: u32,
        /// Clock ticks since boot.
        start_time: u64,
        /// Of the host's kernel.
        boot_id: String,
    },
    /// A restarted agent ends a process of this task, because no task that it knows has it.
    Orphaned {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// On the host of which agent.
        #[serde(with = "text")]
        agent: AgentId,
    },
    /// How it truly ended, from whoever ended it or from itself.
    Ended {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// How.
        end: End,
    },
}
