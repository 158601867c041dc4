//! The orders of each agent that are still in effect.

use super::Registry;
use crate::agent::Order;
use crate::ids::{AgentId, OrderIndex};

impl Registry {
    /// Returns the orders of an agent above `floor` that are still in effect, ascending. The
    /// missing numbers are those of cancelled orders.
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

    /// Returns the number of the last order for an agent.
    #[must_use]
    pub fn last_order(&self, agent: AgentId) -> OrderIndex {
        self.agents
            .get(&agent)
            .map_or(OrderIndex(0), |agent| agent.orders)
    }
}
