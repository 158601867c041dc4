//! The state of a leader that readers see.

use argosy_state::ids::{AgentId, FrameworkId};
use argosy_state::persistent::Map;

use super::Leader;
use crate::links::LinkId;

/// The state of a leader that readers see.
#[derive(Debug)]
pub(crate) struct LeaderView {
    linked_agents: Map<AgentId, LinkId>,
    linked_frameworks: Map<FrameworkId, LinkId>,
    /// Open and pending offers.
    pub(crate) offers: usize,
}

impl LeaderView {
    /// Returns whether the leader had a stream of the agent that was ready for orders.
    pub(crate) fn agent_is_linked(&self, agent: AgentId) -> bool {
        self.linked_agents.contains_key(&agent)
    }

    /// Returns whether the leader had a stream of the framework.
    pub(crate) fn framework_is_linked(&self, framework: FrameworkId) -> bool {
        self.linked_frameworks.contains_key(&framework)
    }
}

impl Leader {
    /// Returns the state for readers, in constant time.
    pub(crate) fn view(&self) -> LeaderView {
        LeaderView {
            linked_agents: self.linked_agents.clone(),
            linked_frameworks: self.linked_frameworks.clone(),
            offers: self.book.len(),
        }
    }
}
