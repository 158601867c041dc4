//! Which lost agents are forgotten: those lost for too long, and the oldest of too many that run nothing.
//!
//! A task that may still run is given up for its agent's age only, never for the number of lost agents: it would be killed
//! when the agent returns. Decides only; that the record has not moved since, and that no task is left, is judged where it is
//! applied.

use argosy_state::Registry;
use argosy_state::agent::{Agent, AgentMode};
use argosy_state::command::{AgentDecision, Command};
use argosy_state::ids::{AgentId, Timestamp};
use argosy_state::limits::LOST_AGENTS;

use super::{Leader, Now, Route};

/// How often it is looked who is to be forgotten, in milliseconds.
const LOOK_MS: u64 = 60_000;
/// Agents that are forgotten in one look at most: the rest waits for the next.
const AGENTS_PER_LOOK: usize = 100;

impl Leader {
    pub(super) fn prune(&mut self, registry: &Registry, now: Now) {
        if now.at < self.next_prune {
            return;
        }
        self.next_prune = now.at.plus_ms(LOOK_MS);
        for agent in overdue(registry, now.at, self.limits.lost_agent_ms, LOST_AGENTS) {
            let decision = AgentDecision {
                agent: agent.id,
                decided_on: agent.revision,
                wall_ms: now.wall_ms,
            };
            self.propose(Command::PruneAgent(decision), Route::Events);
        }
    }
}

/// Lost agents to forget now, the longest lost first.
pub(super) fn overdue(
    registry: &Registry,
    now: Timestamp,
    kept_ms: u64,
    kept: usize,
) -> Vec<&Agent> {
    let lost = registry.agents_in(AgentMode::Unreachable) + registry.agents_in(AgentMode::Gone);
    if lost == 0 {
        return Vec::new();
    }
    let mut agents: Vec<&Agent> = registry.agents().filter(|agent| is_lost(agent)).collect();
    agents.sort_unstable_by_key(|agent| (agent.since, agent.id));
    let surplus = agents.len().saturating_sub(kept);
    let old = agents.partition_point(|agent| now.since_ms(agent.since) >= kept_ms);
    let rest = agents.split_off(old);
    let idle = rest
        .into_iter()
        .filter(|agent| !has_live_tasks(registry, agent.id));
    agents.extend(idle.take(surplus.saturating_sub(old)));
    // What a framework has not acknowledged yet keeps the record; it goes when that has.
    agents.retain(|agent| agent.mode == AgentMode::Unreachable || !has_tasks(registry, agent.id));
    agents.truncate(AGENTS_PER_LOOK);
    agents
}

fn is_lost(agent: &Agent) -> bool {
    match agent.mode {
        AgentMode::Unreachable | AgentMode::Gone => true,
        AgentMode::Registered
        | AgentMode::Draining
        | AgentMode::Drained
        | AgentMode::Deactivated => false,
    }
}

fn has_live_tasks(registry: &Registry, id: AgentId) -> bool {
    registry.agent_index(id).is_some_and(|index| index.live > 0)
}

fn has_tasks(registry: &Registry, id: AgentId) -> bool {
    registry
        .agent_index(id)
        .is_some_and(|index| !index.tasks.is_empty())
}
