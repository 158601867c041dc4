//! The capabilities of the host, as the agent's start has detected them.

use std::path::PathBuf;

use argosy_content::fetcher::TaskSubnets;
use argosy_isolation::{CgroupTree, Isolation};
use serde::{Deserialize, Serialize};

/// The capabilities of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HostFeatures {
    pub(crate) isolation: Isolation,
    /// The agent's cgroup tree.
    pub(crate) tree: Option<PathBuf>,
    pub(crate) missing: Vec<String>,
    /// The address ranges of its containers, once they are known.
    pub(crate) task_subnets: Option<TaskSubnets>,
}

impl HostFeatures {
    /// Returns a simulated host, without limits and without missing features.
    pub(crate) fn simulated() -> Self {
        Self {
            isolation: Isolation::Processes,
            tree: None,
            missing: Vec::new(),
            task_subnets: None,
        }
    }

    /// Returns the agent's cgroup tree, if it has one.
    pub(crate) fn tree(&self) -> Option<CgroupTree> {
        self.tree.as_deref().map(CgroupTree::at)
    }
}
