//! Faults that a harness injects into the cluster.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a fault. Runs count kinds, because a kind that was never injected proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// kill -9, or a crash of a simulated host that keeps its synced data.
    Crash,
    /// A crash that also loses unsynced writes: a power cut.
    PowerCut,
    Restart,
    RollingRestart,
    /// SIGSTOP, or a simulated host that does not run.
    Pause,
    Resume,
    PartitionBoth,
    PartitionOneWay,
    /// A connectivity graph that is not a clean split. `detail` names it.
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
    /// All files of a node are deleted.
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
    /// Files of certificates are replaced. `detail` names the way.
    CertificateRenewal,
    /// A rule denies something for a while, or a token is revoked. `detail` names the right.
    RuleChange,
    /// The key of a client is revoked while it has connections. `detail` names the client.
    KeyRevocation,
    /// A switch in the code itself that makes rare orders of events frequent.
    Buggify,
}

impl FaultKind {
    /// Whether this kind ends an earlier fault, or only makes rare orders of events frequent.
    /// Neither counts as a fault.
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

/// A fault that was injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    #[serde(rename = "fault")]
    pub kind: FaultKind,
    /// The target: "master-1", "agent-3", "master-1>master-2" for one direction, "*" for all.
    pub target: String,
    /// Amounts and details, such as "300 ms". May be empty.
    #[serde(default)]
    pub detail: String,
}

impl Fault {
    /// Returns a fault without details.
    #[must_use]
    pub fn new(kind: FaultKind, target: impl Into<String>) -> Self {
        Self {
            kind,
            target: target.into(),
            detail: String::new(),
        }
    }

    /// Returns the same fault with details.
    #[must_use]
    pub fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}
