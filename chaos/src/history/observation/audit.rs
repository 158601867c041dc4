//! What the harness holds the cluster to, and what it found at the end.

use serde::{Deserialize, Serialize};

use argosy_state::ids::{AgentId, FrameworkId, OfferId, TaskKey};
use argosy_state::task::TaskState;

use super::super::text;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Faults come; only safety is judged.
    Faults,
    /// No more faults: what must come back has its time running.
    Healing,
    /// Quiet: what is found now is judged as final.
    Final,
}

/// What must be from now on. A harness states it when the ground for it is there; a checker counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "expect", rename_all = "snake_case")]
pub enum Expectation {
    /// The run enters a phase.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// A majority is connected: a new entry is committed (a `Committed`, an `EpochOpened`, or an
    /// `ok` of a write) within this time, unless a fault comes first.
    Commit {
        /// Nanoseconds.
        within_ns: u64,
    },
    /// A framework with demand gets an offer within this time, unless a fault comes first.
    Offer {
        /// Which.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// Nanoseconds.
        within_ns: u64,
    },
    /// A new leader is in office within this time, since the leader of a healthy group was just lost. Another fault
    /// before that makes it unsaid; the end of a fault does not.
    NextLeader {
        /// Nanoseconds.
        within_ns: u64,
    },
    /// A task ends within this time, because it was killed or its framework's time is over, unless a
    /// fault comes first.
    Ends {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
        /// Nanoseconds.
        within_ns: u64,
    },
    /// A task that runs goes on running, whatever happens to masters, networks and agents' processes,
    /// until somebody asks for its end or its host goes down.
    KeepsRunning {
        /// Which.
        #[serde(with = "text")]
        task: TaskKey,
    },
}

/// A task as the registry has it at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalTask {
    /// Which.
    #[serde(with = "text")]
    pub task: TaskKey,
    /// Where.
    #[serde(with = "text")]
    pub agent: AgentId,
    /// Its state.
    #[serde(with = "text")]
    pub state: TaskState,
}

/// What was found at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "audit", rename_all = "snake_case")]
pub enum Audit {
    /// Every task of the registry that has not ended.
    Registry {
        /// All of them.
        tasks: Vec<FinalTask>,
    },
    /// What runs on a host, as the kernel says (or the simulated host).
    Host {
        /// Which.
        #[serde(with = "text")]
        agent: AgentId,
        /// Every task with a process.
        #[serde(with = "text::list")]
        tasks: Vec<TaskKey>,
    },
    /// What a connected framework holds to be on offer, and what its leader does.
    Offers {
        /// Which.
        #[serde(with = "text")]
        framework: FrameworkId,
        /// By the framework's own word.
        #[serde(with = "text::list")]
        held: Vec<OfferId>,
        /// By the leader's book.
        #[serde(with = "text::list")]
        open: Vec<OfferId>,
    },
    /// What was left behind against a baseline.
    Leftovers {
        /// Where: "agent-3", "host".
        place: String,
        /// How many things were looked at: an audit of nothing shows nothing.
        looked_at: u64,
        /// What is there and was not before, as "cgroup /argosy/x", "mount /y".
        leftovers: Vec<String>,
    },
}
