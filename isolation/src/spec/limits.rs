//! Resource limits of a container, and the policy for those that its host cannot enforce.

use serde::{Deserialize, Serialize};

/// Limits of one container. `None`, or an empty list, leaves the group's value unchanged: in a new
/// group the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Maximum processor time, in thousandths of a processor (at least 10).
    pub cpu_max_millis: Option<u64>,
    /// CPU weight under contention: 1 to 10,000; the kernel's default is 100.
    pub cpu_weight: Option<u64>,
    /// The processors that it may run on, as the kernel counts them from 0.
    pub cpuset: Vec<u32>,
    /// Protected memory, in bytes: reclaimed only when nothing else on the host can be. It holds as
    /// far as the tree itself is protected: see [`crate::CgroupTree::protect`].
    pub memory_low_bytes: Option<u64>,
    /// The threshold of memory, in bytes, above which the container is throttled and its memory
    /// reclaimed: page cache, since it has no swap.
    pub memory_high_bytes: Option<u64>,
    /// Maximum memory, in bytes, without swap; above it all processes are killed together.
    pub memory_max_bytes: Option<u64>,
    /// I/O weight when disks are busy: 1 to 10,000; the kernel's default is 100. Enforced on disks
    /// whose time the kernel divides: those with the scheduler bfq, or with `io.cost` enabled.
    pub io_weight: Option<u64>,
    /// Limits on single disks.
    pub io_max: Vec<IoMax>,
    /// Maximum number of processes and threads.
    pub pids_max: Option<u64>,
}

/// Limits of a container on one disk, per second; `None`: unlimited. Field names as in `io.max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoMax {
    /// The major number of the whole disk, never of a partition.
    pub major: u32,
    pub minor: u32,
    /// Bytes read.
    pub rbps: Option<u64>,
    /// Bytes written.
    pub wbps: Option<u64>,
    /// Read operations.
    pub riops: Option<u64>,
    /// Write operations.
    pub wiops: Option<u64>,
}

/// The policy for a limit whose controller this host lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingPolicy {
    /// Refuse to start.
    RequireAll,
    /// Start without that limit, and report the missing controller.
    AllowMissing,
}

/// Controllers that limits need and the host does not offer. Empty if all are available.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MissingControllers {
    /// Their names, as the kernel spells them; or the name of a file, such as `io.weight`, that
    /// this kernel's controller does not have.
    pub controllers: Vec<String>,
}
