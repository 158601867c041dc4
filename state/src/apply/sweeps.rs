//! Sweeps: changes that are too large for one command. The registry holds their progress, and each
//! batch is a command.

use std::ops::Bound;

use super::CommandContext;
use super::tasks::TaskChange;
use crate::Registry;
use crate::agent::AgentMode;
use crate::command::{ApplyOutcome, CommandReply, SweepTarget};
use crate::event::Event;
use crate::ids::{AgentId, FrameworkId, TaskKey};
use crate::level::Level;
use crate::registry::SweepMark;
use crate::task::{Reason, Task, TaskState};

impl Registry {
    /// Records the sweep and applies its first batch.
    pub(super) fn begin_sweep(
        &mut self,
        context: &mut CommandContext,
        target: SweepTarget,
        wall_ms: i64,
    ) {
        let mark = SweepMark {
            after: None,
            wall_ms,
        };
        self.put_sweep(target, mark);
        self.sweep_piece(context, target);
    }

    pub(super) fn sweep(
        &mut self,
        context: &mut CommandContext,
        target: SweepTarget,
    ) -> ApplyOutcome {
        if target == SweepTarget::Layout {
            self.split_records(context);
        } else if self.cluster.sweeps.contains_key(&target) {
            self.sweep_piece(context, target);
        }
        Ok(CommandReply::Done)
    }

    fn sweep_piece(&mut self, context: &mut CommandContext, target: SweepTarget) {
        let Some(SweepMark { after, wall_ms }) = self.cluster.sweeps.get(&target).cloned() else {
            return;
        };
        if let SweepTarget::Framework(id) = target {
            self.sweep_answers(context, id);
        }
        let cost = self.sweep_cost(target);
        let most = context.sweep_budget / cost;
        let keys = match target {
            SweepTarget::Agent(id) | SweepTarget::PrunedAgent(id) => {
                self.agent_keys(id, after.clone(), most)
            }
            SweepTarget::Framework(id) => self.framework_keys(id, after.clone(), most),
            SweepTarget::Layout => Vec::new(),
        };
        let mut swept = 0;
        for key in &keys {
            if !self.fits(context, target, key) {
                break;
            }
            swept += 1;
            match target {
                SweepTarget::Agent(id) => self.sweep_agent_task(context, id, key, wall_ms),
                SweepTarget::PrunedAgent(_) => self.end_removed_task(context, key, wall_ms),
                SweepTarget::Framework(_) => self.sweep_framework_task(context, key),
                SweepTarget::Layout => {}
            }
        }
        context.sweep_budget -= swept * cost;
        if swept == most || swept < keys.len() {
            let last = swept.checked_sub(1).and_then(|last| keys.get(last));
            let after = last.cloned().or(after);
            let mark = SweepMark { after, wall_ms };
            self.put_sweep(target, mark);
            context.emit(Event::SweepNeeded);
            return;
        }
        self.remove_sweep(target);
        if let SweepTarget::Framework(id) = target {
            self.remove_framework_if_done(context, id);
        }
    }

    /// Subtracts the records that the sweep may change for this task from the budget. Returns
    /// whether there were enough: a task may have many transitions, and so may one that is evicted
    /// from the history for it.
    fn fits(&self, context: &mut CommandContext, target: SweepTarget, key: &TaskKey) -> bool {
        if self.level() < Level::RELEASE_0_2 {
            return true;
        }
        let Some(task) = self.tasks.get(key) else {
            return true;
        };
        let is_gone = |id| {
            let agent = self.agents.get(&id);
            agent.is_some_and(|agent| agent.mode() == AgentMode::Gone)
        };
        let records = match target {
            SweepTarget::Agent(id) => self.records_of_decision(key, is_gone(id)),
            SweepTarget::PrunedAgent(_) => self.records_of_decision(key, true),
            SweepTarget::Framework(_) if task.is_terminal() => self.records_of_finishing(task),
            // The order to kill, and the counter of its agent.
            SweepTarget::Framework(_) => 2,
            SweepTarget::Layout => 0,
        };
        let left = context.record_budget.checked_sub(records);
        context.record_budget = left.unwrap_or(context.record_budget);
        left.is_some()
    }

    /// Returns the cost of a task in the budget of a batch: one that ends, or becomes history,
    /// takes longer.
    fn sweep_cost(&self, target: SweepTarget) -> usize {
        match target {
            SweepTarget::Framework(_) | SweepTarget::PrunedAgent(_)
                if self.level() >= Level::RELEASE_0_2 =>
            {
                5
            }
            SweepTarget::Framework(_)
            | SweepTarget::PrunedAgent(_)
            | SweepTarget::Agent(_)
            | SweepTarget::Layout => 1,
        }
    }

    /// Drops the answers of a removed framework, whose calls are never repeated.
    fn sweep_answers(&mut self, context: &mut CommandContext, id: FrameworkId) {
        if self
            .frameworks
            .get(&id)
            .is_some_and(|framework| framework.removing)
        {
            context.sweep_budget -= self.drop_answers(id, context.sweep_budget, |_| true);
        }
    }

    fn agent_keys(&self, id: AgentId, after: Option<TaskKey>, most: usize) -> Vec<TaskKey> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let tasks = self.index.agents.get(&id).map(|index| &index.tasks);
        let keys = tasks
            .into_iter()
            .flat_map(|tasks| tasks.range((from.clone(), Bound::Unbounded)));
        keys.take(most).cloned().collect()
    }

    fn framework_keys(
        &self,
        framework: FrameworkId,
        after: Option<TaskKey>,
        most: usize,
    ) -> Vec<TaskKey> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.task));
        let tasks = self
            .index
            .frameworks
            .get(&framework)
            .map(|index| &index.tasks);
        let names = tasks
            .into_iter()
            .flat_map(|tasks| tasks.range((from.clone(), Bound::Unbounded)));
        names
            .take(most)
            .map(|task| TaskKey {
                framework,
                task: task.clone(),
            })
            .collect()
    }

    fn sweep_agent_task(
        &mut self,
        context: &mut CommandContext,
        id: AgentId,
        key: &TaskKey,
        wall_ms: i64,
    ) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        let gone = self
            .agents
            .get(&id)
            .is_some_and(|agent| agent.mode() == AgentMode::Gone);
        if task.is_terminal() || (!gone && task.state == TaskState::Unreachable) {
            return;
        }
        let change = if gone {
            TaskChange::by_master(
                TaskState::GoneByOperator,
                Reason::AgentRemovedByOperator,
                wall_ms,
            )
        } else {
            TaskChange::by_master(TaskState::Unreachable, Reason::AgentUnreachable, wall_ms)
        };
        self.set_state(context, key, change);
    }

    /// Ends a task whose agent is being removed: no report of its end will arrive.
    fn end_removed_task(&mut self, context: &mut CommandContext, key: &TaskKey, wall_ms: i64) {
        if self.tasks.get(key).is_none_or(Task::is_terminal) {
            return;
        }
        let change = TaskChange::by_master(TaskState::Gone, Reason::AgentRemoved, wall_ms);
        self.set_state(context, key, change);
    }

    /// Moves an ended task to the history, and kills a live task of a framework that is being
    /// removed. A killed task becomes history when its agent has ended it.
    fn sweep_framework_task(&mut self, context: &mut CommandContext, key: &TaskKey) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        let removing = self
            .frameworks
            .get(&key.framework)
            .is_some_and(|framework| framework.removing);
        if task.is_terminal() {
            // A framework that was detached may no longer be: its scheduler acknowledges the rest.
            if self.level() < Level::RELEASE_0_2 || self.acknowledges_itself(key.framework) {
                self.finish_task(context, key);
            }
        } else if removing {
            self.request_kill(context, key, None);
        }
    }
}
