//! Delivery of orders to agents: a cursor over the registry's orders, a bounded number in each
//! turn.

use argosy_proto::{convert, v1};
use argosy_state::Registry;
use argosy_state::agent::Agent;
use argosy_state::ids::{AgentId, OrderIndex};
use argosy_state::planted_bug;
use argosy_state::registry::Order;
use argosy_state::task::TaskState;
use prost::Message as _;

use super::Leader;
use super::agents::{AgentLink, LinkStage};

/// Orders and bytes that may still be sent in a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct OrderBudget {
    orders: usize,
    bytes: usize,
}

impl OrderBudget {
    /// The budget of one turn: a launch is converted in some microseconds, and may take 512 KiB.
    pub(super) const TURN: Self = Self {
        orders: 256,
        bytes: 256 << 10,
    };

    /// The budget of the inputs and entries of one turn: the rest follows at the end of a turn.
    pub(super) const AT_ONCE: Self = Self {
        orders: 32,
        bytes: 32 << 10,
    };

    fn is_spent(self) -> bool {
        self.orders == 0 || self.bytes == 0
    }

    fn spend(&mut self, order: &v1::Order) {
        self.orders -= 1;
        self.bytes = self.bytes.saturating_sub(order.encoded_len());
    }
}

impl Leader {
    /// Sends orders for which the turn has had no time, and returns their number.
    pub(super) fn pump_due_orders(&mut self, registry: &Registry) -> usize {
        self.order_budget = OrderBudget::TURN;
        while !self.order_budget.is_spent()
            && let Some(agent) = self.orders_due.pop_first()
        {
            self.pump_orders(registry, agent);
        }
        let left = std::mem::replace(&mut self.order_budget, OrderBudget::AT_ONCE);
        OrderBudget::TURN.orders - left.orders
    }

    /// Sends the orders that a ready link has not been sent, as far as this turn allows. Numbers
    /// without an order were cancelled.
    pub(super) fn pump_orders(&mut self, registry: &Registry, id: AgentId) {
        let link = self.linked_agents.get(&id).copied();
        let Some((link, state)) =
            link.and_then(|link| Some((link, self.agent_links.get_mut(&link)?)))
        else {
            return;
        };
        let AgentLink {
            stage: LinkStage::Ready { sent },
            ..
        } = state
        else {
            return;
        };
        let agent = registry.agent(id);
        let takes = |order: &Order| agent.is_some_and(|agent| can_take(registry, agent, order));
        let last = registry.last_order(id).max(*sent);
        let mut next = *sent;
        let mut orders = Vec::new();
        let mut is_cut = false;
        for (index, order) in registry.orders_after(id, *sent) {
            if self.order_budget.is_spent() {
                is_cut = true;
                break;
            }
            if index.0 > next.0 + 1 {
                orders.push(convert::order_void(OrderIndex(index.0 - 1)));
            }
            planted_bug!(KillLost if is_early_kill(registry, order) => continue);
            let order = order_message(registry, index, order, takes(order));
            self.order_budget.spend(&order);
            orders.push(order);
            next = index;
        }
        if is_cut {
            self.orders_due.insert(id);
        } else if next < last {
            orders.push(convert::order_void(last));
            next = last;
        }
        *sent = next;
        for order in orders {
            self.send_to_agent(link, v1::to_agent::Message::Order(order));
        }
    }
}

/// Returns whether an agent supports an order: its kind, and the features of a launch's
/// description.
fn can_take(registry: &Registry, agent: &Agent, order: &Order) -> bool {
    let info = &agent.report.info;
    let is_within = |key| {
        let task = registry.task(key);
        task.is_none_or(|task| info.can_launch(&task.spec))
    };
    info.takes(order.kind())
        && match order {
            Order::Launch(key) => is_within(key),
            Order::Kill(_) | Order::Limits(_) => true,
        }
}

/// Returns the wire form of the order, or a cancelled one in its place.
fn order_message(
    registry: &Registry,
    index: OrderIndex,
    order: &Order,
    is_known: bool,
) -> v1::Order {
    // The agent's release is an earlier one than when this was ordered.
    if !is_known {
        return convert::order_void(index);
    }
    let known = |key| registry.task(key);
    let message = match order {
        Order::Launch(key) => known(key).map(|task| {
            let framework = registry.framework(key.framework);
            let name = framework.map_or("", |framework| framework.info.name.as_str());
            convert::order_launch(index, task, name)
        }),
        Order::Kill(key) => known(key).map(|task| convert::order_kill(index, task)),
        Order::Limits(key) => known(key).map(|task| convert::order_limits(index, task)),
    };
    // The index names only tasks that exist.
    message.unwrap_or_else(|| convert::order_void(index))
}

fn is_early_kill(registry: &Registry, order: &Order) -> bool {
    match order {
        Order::Kill(key) => {
            let task = registry.task(key);
            task.is_some_and(|task| task.agent_state == TaskState::Staging)
        }
        Order::Launch(_) | Order::Limits(_) => false,
    }
}
