//! Orders of agents: what each is about.

use super::Registry;
use crate::capability::AgentCapability;
use crate::ids::{AgentId, OrderIndex, TaskKey};
use crate::subject::Subject;

/// A kind of order: one action on one kind of subject. An agent announces which it takes, and is sent no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// Start a task.
    Launch,
    /// End a task.
    Kill,
    /// Change the limits of a task.
    Limits,
}

impl OrderKind {
    /// What an agent must have announced to be sent one.
    #[must_use]
    pub fn capability(self) -> AgentCapability {
        match self {
            Self::Launch => AgentCapability::Launch,
            Self::Kill => AgentCapability::Kill,
            Self::Limits => AgentCapability::Limits,
        }
    }
}

/// An order that still means something. What it says is in the record of its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Start this task.
    Launch(TaskKey),
    /// End it.
    Kill(TaskKey),
    /// Change its limits.
    Limits(TaskKey),
}

impl Order {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> OrderKind {
        match self {
            Self::Launch(_) => OrderKind::Launch,
            Self::Kill(_) => OrderKind::Kill,
            Self::Limits(_) => OrderKind::Limits,
        }
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::Launch(key) | Self::Kill(key) | Self::Limits(key) => Subject::Task(key.clone()),
        }
    }
}

impl Registry {
    /// Orders of an agent above `floor` that still mean something, ascending. Numbers in between were voided.
    pub fn orders_after(
        &self,
        agent: AgentId,
        floor: OrderIndex,
    ) -> impl Iterator<Item = (OrderIndex, &Order)> {
        let behind = (std::ops::Bound::Excluded(floor), std::ops::Bound::Unbounded);
        let index = self.index.agents.get(&agent).into_iter();
        let orders = index.flat_map(move |index| index.orders.range(behind));
        orders.map(|(index, order)| (*index, order))
    }

    /// The last order made for an agent.
    #[must_use]
    pub fn last_order(&self, agent: AgentId) -> OrderIndex {
        self.agents
            .get(&agent)
            .map_or(OrderIndex(0), |agent| agent.orders)
    }
}
