//! Responses to agents about their updates: settled updates, and tasks that must be killed as
//! orphans.

use argosy_proto::v1;
use argosy_state::ids::{AgentId, OrderIndex, TaskKey};

use super::{Effect, Leader};

impl Leader {
    pub(super) fn update_settled(
        &mut self,
        agent: AgentId,
        key: &TaskKey,
        order: OrderIndex,
        number: u64,
        released: bool,
    ) {
        let update = v1::CommittedUpdate {
            framework_id: key.framework.to_string(),
            task_id: key.task.to_string(),
            order_index: order.0,
            number,
            released,
        };
        let Some(link) = self.linked_agents.get(&agent).copied() else {
            return;
        };
        // Neighbouring acknowledgements of one turn share a message.
        if let Some(Effect::ToAgent(last, message)) = self.effects.last_mut()
            && *last == link
            && let Some(v1::to_agent::Message::Committed(committed)) = &mut message.message
        {
            committed.updates.push(update);
            return;
        }
        let message = v1::to_agent::Message::Committed(v1::Committed {
            updates: vec![update],
        });
        self.send_to_agent(link, message);
    }

    pub(super) fn kill_orphan(&mut self, agent: AgentId, key: &TaskKey, order: OrderIndex) {
        let Some(link) = self.linked_agents.get(&agent).copied() else {
            return;
        };
        let kill = v1::KillStray {
            framework_id: key.framework.to_string(),
            task_id: key.task.to_string(),
            order_index: order.0,
        };
        self.send_to_agent(link, v1::to_agent::Message::KillStray(kill));
    }
}
