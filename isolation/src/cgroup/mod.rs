//! Cgroups: the tree of an agent, the limits and the usage of its groups, and reports of OOM kills.

mod group;
pub mod limits;
pub mod oom;
mod stats;
mod tree;

pub use group::Cgroup;
pub(crate) use stats::LastUsage;
pub use stats::{CgroupStats, IoStats, Pressure, StallShares};
use tree::remove_dir;
pub use tree::{CgroupError, CgroupTree, default_parent, mount_point};
pub(crate) use tree::{read, read_controllers, write};
