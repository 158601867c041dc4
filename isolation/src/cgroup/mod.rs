//! Cgroups: the tree of an agent, the limits and the usage of its groups, and reports of OOM kills.

mod agent_trees;
mod files;
mod group;
pub mod limits;
pub mod oom;
mod parent;
mod stats;
mod tree;

pub use agent_trees::{agent_tree, remove_agent_tree};
pub use files::{CgroupError, mount_point};
pub use group::Cgroup;
pub use parent::{default_parent, parent_of};
pub(crate) use stats::LastUsage;
pub use stats::{CgroupStats, IoStats, Pressure, StallShares};
pub use tree::CgroupTree;
