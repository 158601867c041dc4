//! The times at which tasks with `stop_after_ms` have stopped themselves on unreachable agents.
//!
//! This module decides when to propose it. `apply` selects the tasks, and checks that the agent has
//! not returned since.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::Registry;
use argosy_state::agent::{Agent, AgentMode};
use argosy_state::command::{ApplyOutcome, Command, TasksStopped};
use argosy_state::ids::{AgentId, Timestamp};
use argosy_state::level::Level;
use argosy_state::registry::DeadlineKind;
use argosy_state::subject::Subject;

use super::{Leader, LeaderTime, ProposalOrigin};

/// Agents that one tick examines; the others wait for the next tick.
const AGENTS_PER_TICK: usize = 100;
/// Delay before an agent is examined again whose record changed in the meantime, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Unreachable agents, and the time at which the next of their tasks has stopped itself.
#[derive(Debug, Default)]
pub(super) struct StopTimers {
    /// The time since which no master answers the agent, as far as this leader knows: when it
    /// applied that the agent is UNREACHABLE, or when its leadership began.
    silent_since: BTreeMap<AgentId, Timestamp>,
    timers: BTreeSet<(Timestamp, AgentId)>,
    timer_of: BTreeMap<AgentId, Timestamp>,
}

impl StopTimers {
    /// Schedules the next check of an agent, which replaces the former one.
    fn schedule(&mut self, id: AgentId, at: Option<Timestamp>) {
        let former = match at {
            Some(at) => self.timer_of.insert(id, at),
            None => self.timer_of.remove(&id),
        };
        if let Some(former) = former {
            self.timers.remove(&(former, id));
        }
        self.timers.extend(at.map(|at| (at, id)));
    }
}

impl Leader {
    /// Restarts the full time when leadership begins: the former leader may have answered an agent
    /// of which this one knows only that it is UNREACHABLE.
    pub(super) fn arm_stops(&mut self, registry: &Registry, now: LeaderTime) {
        let lost = registry.deadlines().of(DeadlineKind::Lost, None);
        for (_, subject) in lost {
            if let Subject::Agent(id) = subject
                && registry.agent(*id).is_some_and(is_unreachable)
            {
                self.start_stop_timer(registry, now, *id);
            }
        }
    }

    /// Records that the agent is UNREACHABLE, and that its link is closed.
    pub(super) fn start_stop_timer(&mut self, registry: &Registry, now: LeaderTime, id: AgentId) {
        self.stops.silent_since.entry(id).or_insert(now.at);
        self.arm_stop(registry, id);
    }

    /// Removes an agent that has returned, is gone, or was removed.
    pub(super) fn cancel_stop_timer(&mut self, id: AgentId) {
        self.stops.silent_since.remove(&id);
        self.stops.schedule(id, None);
    }

    /// Schedules a check after a task of the agent became UNREACHABLE, or has stopped.
    pub(super) fn arm_stop(&mut self, registry: &Registry, id: AgentId) {
        let Some(since) = self.stops.silent_since.get(&id).copied() else {
            return;
        };
        let index = registry.agent_index(id);
        let next = index.and_then(|index| index.stopping.first());
        let due = next.map(|(after_ms, _)| {
            since
                .plus_ms(*after_ms)
                .plus_ms(self.limits.deposed_leader_ms)
        });
        if self.stops.timer_of.get(&id).copied() != due {
            self.stops.schedule(id, due);
        }
    }

    pub(super) fn stop_tasks(&mut self, registry: &Registry, now: LeaderTime) {
        // Earlier levels do not have it. When the level is raised, the next epoch begins with all
        // agents again.
        if self.level < Level::RELEASE_0_2 {
            return;
        }
        for _ in 0..AGENTS_PER_TICK {
            let Some((due, id)) = self.stops.timers.first().copied() else {
                return;
            };
            if due > now.at {
                return;
            }
            self.stops.schedule(id, None);
            self.stop_tasks_on(registry, now, id);
        }
    }

    fn stop_tasks_on(&mut self, registry: &Registry, now: LeaderTime, id: AgentId) {
        let Some(since) = self.stops.silent_since.get(&id).copied() else {
            return;
        };
        let agent = registry.agent(id);
        let Some(agent) = agent.filter(|agent| is_unreachable(agent)) else {
            return self.cancel_stop_timer(id);
        };
        // A deposed leader may have answered the agent for a moment after that.
        let silent_ms = now
            .at
            .since_ms(since)
            .saturating_sub(self.limits.deposed_leader_ms);
        let stopped = TasksStopped {
            agent: id,
            decided_on: agent.revision,
            silent_ms,
            wall_ms: now.wall_ms,
        };
        self.decide(Command::TasksStopped(stopped), ProposalOrigin::Stopped(id));
    }

    /// Continues with the tasks that are left; checks again later if the record has changed.
    pub(super) fn tasks_stopped(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        id: AgentId,
        outcome: &ApplyOutcome,
    ) {
        match outcome {
            Ok(_) => self.arm_stop(registry, id),
            Err(_) if self.stops.silent_since.contains_key(&id) => {
                self.stops.schedule(id, Some(now.at.plus_ms(RETRY_MS)));
            }
            Err(_) => {}
        }
    }
}

fn is_unreachable(agent: &Agent) -> bool {
    agent.mode() == AgentMode::Unreachable
}
