//! Faults: what a harness does to the cluster.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a fault. A kind that was never fired proves nothing about itself: runs count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(
    missing_docs,
    reason = "each is a name that the command line and docs/chaos.md explain"
)]
pub enum FaultKind {
    /// kill -9, or a crash of a simulated host that keeps what was synced.
    Crash,
    /// A crash that also loses what was written and not synced: a power cut.
    PowerCut,
    Restart,
    RollingRestart,
    /// SIGSTOP, or a simulated host that does not run.
    Pause,
    Resume,
    PartitionBoth,
    PartitionOneWay,
    /// A connectivity graph that is no clean split; `detail` names it.
    PartitionPartial,
    Heal,
    PacketLoss,
    Delay,
    SlowLink,
    HalfClose,
    CorruptBytes,
    ConnectionReset,
    DiskFull,
    DiskFreed,
    SyncFailure,
    SlowDisk,
    StalledDisk,
    /// All files of a node are gone.
    WipeDisk,
    ClockJump,
    MemoryLimit,
    DescriptorLimit,
    AgentCrashInLaunch,
    AgentCrashInDestroy,
    HostReboot,
    CloneDisk,
    FrameworkCrash,
    FrameworkFailover,
    Teardown,
    LeaderTransfer,
    MembershipChange,
    FreezeAllMasters,
    CutLeaderFromMasters,
    ReconnectStorm,
    /// A switch of the code itself that makes rare orders of events frequent.
    Buggify,
}

impl FaultKind {
    /// Whether it ends an earlier fault, or only makes rare orders of events frequent. Neither counts as a fault.
    #[must_use]
    pub fn is_repair(self) -> bool {
        matches!(
            self,
            Self::Restart | Self::Resume | Self::Heal | Self::DiskFreed | Self::Buggify
        )
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind.
    #[serde(rename = "fault")]
    pub kind: FaultKind,
    /// Who suffers it: "master-1", "agent-3", "master-1>master-2" for one direction, "*" for all.
    pub target: String,
    /// Amounts and particulars, as "300 ms"; may be empty.
    #[serde(default)]
    pub detail: String,
}

impl Fault {
    /// A fault without particulars.
    #[must_use]
    pub fn new(kind: FaultKind, target: impl Into<String>) -> Self {
        Self {
            kind,
            target: target.into(),
            detail: String::new(),
        }
    }

    /// The same with particulars.
    #[must_use]
    pub fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}
