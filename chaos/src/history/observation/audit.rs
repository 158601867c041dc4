//! Expectations that the harness states during a run, and findings of its final audit.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{AgentId, FrameworkId, OfferId, TaskKey};
use argosy_state::task::TaskState;

use super::super::text;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// Faults are injected. Only safety is checked.
    Faults,
    /// No more faults are injected. The time limits for recovery run.
    Healing,
    /// The cluster is quiet. The findings are final.
    Final,
}

/// Something that must hold from now on. A harness states it when its preconditions hold, and a
/// checker measures it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "expect", rename_all = "snake_case")]
pub enum Expectation {
    /// The run enters a phase.
    Phase { phase: RunPhase },
    /// A majority is connected: a new entry is committed (a `Committed`, an `EpochOpened`, or an
    /// `ok` of a write) within this time, unless a fault comes first.
    Commit {
        /// Nanoseconds.
        within_ns: u64,
    },
    /// A framework with demand gets an offer within this time, unless a fault comes first.
    Offer {
        #[serde(with = "text")]
        framework: FrameworkId,
        /// Nanoseconds.
        within_ns: u64,
    },
    /// There is a new active leader within this time, because the leader of a healthy group was
    /// just lost. Another fault before that cancels the expectation; the end of a fault does not.
    NextLeader {
        /// Nanoseconds.
        within_ns: u64,
    },
    /// A task ends within this time, because it was killed or its framework's time is over, unless
    /// a fault comes first.
    Ends {
        #[serde(with = "text")]
        task: TaskKey,
        /// Nanoseconds.
        within_ns: u64,
    },
    /// A running task continues to run, whatever happens to masters, networks and agent processes,
    /// until its end is requested or its host goes down.
    KeepsRunning {
        #[serde(with = "text")]
        task: TaskKey,
    },
}

/// A task as it is in the registry at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalTask {
    #[serde(with = "text")]
    pub task: TaskKey,
    /// The agent of the task.
    #[serde(with = "text")]
    pub agent: AgentId,
    #[serde(with = "text")]
    pub state: TaskState,
}

/// A finding of the final audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "audit", rename_all = "snake_case")]
pub enum AuditFinding {
    /// Every task of the registry that has not ended.
    Registry { tasks: Vec<FinalTask> },
    /// The tasks that run on a host, as reported by the kernel or by the simulated host.
    Host {
        #[serde(with = "text")]
        agent: AgentId,
        /// Every task with a process.
        #[serde(with = "text::list")]
        tasks: Vec<TaskKey>,
    },
    /// The open offers of a connected framework, as known to the framework and to its leader.
    Offers {
        #[serde(with = "text")]
        framework: FrameworkId,
        /// The offers that the framework holds.
        #[serde(with = "text::list")]
        held: Vec<OfferId>,
        /// The offers in the leader's book.
        #[serde(with = "text::list")]
        open: Vec<OfferId>,
    },
    /// The objects that were left behind, compared with a baseline.
    Leftovers {
        /// The audited host or agent: "agent-3", "host".
        place: String,
        /// The number of compared objects. An audit of nothing proves nothing.
        looked_at: u64,
        /// The objects that did not exist before, such as "cgroup /argosy/x", "mount /y".
        leftovers: Vec<String>,
    },
}
