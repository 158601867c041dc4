//! Pruning of lost agents: those lost for too long are removed, and the oldest ones that run
//! nothing when there are too many.
//!
//! A task that may still run is given up only because of its agent's age, never because of the
//! number of lost agents: it would be killed when the agent returns. This module only decides;
//! `apply` checks that the record has not changed since, and that no task is left.

use argosy_state::Registry;
use argosy_state::agent::{Agent, AgentMode};
use argosy_state::command::{AgentDecision, Command};
use argosy_state::ids::{AgentId, Timestamp};
use argosy_state::limits::LOST_AGENTS;
use argosy_state::registry::DeadlineKind;
use argosy_state::subject::Subject;

use super::{Leader, LeaderTime, ProposalOrigin};

/// Interval of passes over the lost agents, in milliseconds.
const PASS_MS: u64 = 60_000;
/// Maximum number of agents that one pass removes: the rest waits for the next pass.
const AGENTS_PER_PASS: usize = 100;
/// Maximum number of agents that one tick examines: the rest waits for the next tick.
const AGENTS_PER_TICK: usize = 1_000;

/// The schedule of passes over lost agents, and the progress of the current one.
#[derive(Debug, Default)]
pub(super) struct PruningSchedule {
    next: Timestamp,
    pass: Option<PruningPass>,
}

/// A pass over the lost agents, the longest lost first.
#[derive(Debug)]
pub(super) struct PruningPass {
    /// The agent that was examined last, and when it was lost.
    last_examined: Option<(Timestamp, Subject)>,
    /// Lost agents in excess of those that are kept, without those that the pass has chosen.
    surplus: usize,
    /// Number of agents that the pass may still return.
    removals_left: usize,
    is_over: bool,
}

impl Leader {
    pub(super) fn prune(&mut self, registry: &Registry, now: LeaderTime) {
        if now.at >= self.pruning.next {
            self.pruning.next = now.at.plus_ms(PASS_MS);
            self.pruning.pass = Some(PruningPass::new(registry, LOST_AGENTS));
        }
        let Some(mut pass) = self.pruning.pass.take() else {
            return;
        };
        for agent in pass.examine(registry, now.at, self.limits.lost_agent_ms, AGENTS_PER_TICK) {
            let decision = AgentDecision {
                agent: agent.id,
                decided_on: agent.revision,
                wall_ms: now.wall_ms,
            };
            self.decide(Command::PruneAgent(decision), ProposalOrigin::Events);
        }
        self.pruning.pass = Some(pass).filter(|pass| !pass.is_over);
    }
}

impl PruningPass {
    pub(super) fn new(registry: &Registry, keep: usize) -> Self {
        Self {
            last_examined: None,
            surplus: registry.lost_agents().saturating_sub(keep),
            removals_left: AGENTS_PER_PASS,
            is_over: false,
        }
    }

    /// Examines at most `most` lost agents and returns those to remove, the longest lost first.
    pub(super) fn examine<'a>(
        &mut self,
        registry: &'a Registry,
        now: Timestamp,
        kept_ms: u64,
        most: usize,
    ) -> Vec<&'a Agent> {
        let mut found = Vec::new();
        let mut lost = registry
            .deadlines()
            .of(DeadlineKind::Lost, self.last_examined.as_ref());
        for _ in 0..most {
            let Some((since, subject)) = lost.next() else {
                self.is_over = true;
                break;
            };
            let is_old = now.since_ms(since) >= kept_ms;
            if self.removals_left == 0 || !is_old && self.surplus == 0 {
                self.is_over = true;
                break;
            }
            self.last_examined = Some((since, subject.clone()));
            let Subject::Agent(id) = subject else {
                continue;
            };
            let Some(agent) = registry.agent(*id) else {
                continue;
            };
            if !is_old && has_live_tasks(registry, agent.id) {
                continue;
            }
            self.surplus = self.surplus.saturating_sub(1);
            // Updates that a framework has not acknowledged yet keep the record; it is removed
            // after them.
            if agent.mode() == AgentMode::Unreachable || !has_tasks(registry, agent.id) {
                self.removals_left -= 1;
                found.push(agent);
            }
        }
        found
    }

    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        self.is_over
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
