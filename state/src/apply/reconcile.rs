//! Reconciliation of the tasks that an agent holds with those that it should hold, in bounded
//! chunks.
//!
//! First connections, reconnections and new leaders use the same comparison.

use std::ops::Bound;
use std::sync::Arc;

use super::CommandContext;
use super::tasks::{TaskChange, too_many};
use crate::Registry;
use crate::agent::AgentInfo;
use crate::command::{ApplyOutcome, CommandReply, HeldTask, ReconcileAgent, Rejection};
use crate::event::Event;
use crate::ids::TaskKey;
use crate::level::Level;
use crate::limits;
use crate::planted_bug;
use crate::registry::OrderKind;
use crate::task::{Reason, Task, TaskState, UpdateSource};

impl ReconcileAgent {
    /// Divides the list into parts, for each of which the registry has a bounded number of tasks:
    /// as many as one command may change. The last part ends where this list does.
    #[must_use]
    pub fn parts(self, registry: &Registry) -> Vec<Self> {
        let inside = |key: &TaskKey| {
            self.after.as_ref().is_none_or(|after| key > after)
                && self.through.as_ref().is_none_or(|through| key < through)
        };
        let mut cuts = Vec::new();
        let (mut tasks, mut records) = (0, 0);
        let mut last: Option<&TaskKey> = None;
        for task in registry.tasks_on(self.agent) {
            if !inside(&task.key) {
                continue;
            }
            let of_task = registry.records_of_comparison(task);
            if tasks == limits::TASKS_PER_SWEEP || records + of_task > limits::CHANGED_RECORDS {
                cuts.extend(last.cloned());
                (tasks, records) = (0, 0);
            }
            tasks += 1;
            records += of_task;
            last = Some(&task.key);
        }
        let mut parts = Vec::with_capacity(cuts.len() + 1);
        let mut rest = self;
        for cut in cuts {
            let held = rest.held.partition_point(|held| held.key <= cut);
            let later = rest.held.split_off(held);
            let mut part = rest.clone();
            part.through = Some(cut.clone());
            rest.held = later;
            rest.after = Some(cut);
            parts.push(part);
        }
        parts.push(rest);
        parts
    }
}

impl Registry {
    /// Returns the largest number of records that a comparison changes for this task: it may end,
    /// or return, and a change of its limits may be finished.
    fn records_of_comparison(&self, task: &Task) -> usize {
        let change = |is_end| self.records_of_decision(&task.key, is_end);
        let limits = match task.limits_change {
            Some(_) => 3,
            None => 0,
        };
        change(true).max(change(false)) + limits
    }

    pub(super) fn reconcile_agent(
        &mut self,
        context: &mut CommandContext,
        list: &ReconcileAgent,
    ) -> ApplyOutcome {
        let agent = self
            .agents
            .get(&list.agent)
            .ok_or(Rejection::UnknownAgent(list.agent))?;
        if agent.report.incarnation != list.incarnation || agent.mode().is_lost() {
            return Err(Rejection::Conflict);
        }
        check_list(list)?;
        let reported = Arc::clone(&agent.report);
        let answers_limits = reported.info.takes(OrderKind::Limits);
        for key in &self.known(list) {
            let held = list
                .held
                .binary_search_by(|held| held.key.cmp(key))
                .ok()
                .map(|at| &list.held[at]);
            self.compare(context, list, &reported.info, key, held);
            if !answers_limits {
                self.finish_limits_changes(context, key, held, list.wall_ms);
            }
        }
        for held in &list.held {
            let wanted = self
                .tasks
                .get(&held.key)
                .filter(|task| task.order == held.order && task.agent == list.agent);
            if wanted.is_none_or(Task::is_terminal) {
                context.emit(Event::OrphanFound {
                    agent: list.agent,
                    key: held.key.clone(),
                    order: held.order,
                });
            }
        }
        context.emit(Event::AgentReconciled {
            agent: list.agent,
            complete: list.through.is_none(),
        });
        Ok(CommandReply::Done)
    }

    /// Returns the tasks in the range of the list that the agent should hold, or once should have
    /// held.
    fn known(&self, list: &ReconcileAgent) -> Vec<TaskKey> {
        let from = list
            .after
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let to = list
            .through
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Included);
        let tasks = self.index.agents.get(&list.agent).map(|index| &index.tasks);
        tasks
            .into_iter()
            .flat_map(|tasks| tasks.range::<TaskKey, _>((from, to)))
            .cloned()
            .collect()
    }

    fn compare(
        &mut self,
        context: &mut CommandContext,
        list: &ReconcileAgent,
        info: &AgentInfo,
        key: &TaskKey,
        held: Option<&HeldTask>,
    ) {
        let judges_more = self.level() >= Level::RELEASE_0_2;
        let task = self
            .tasks
            .get(key)
            .expect("the index names only existing tasks");
        if task.is_terminal() {
            return;
        }
        // Its disk may be an older copy, from before the launch: it must not start the task again.
        let was_delivered = task.order <= list.floor || (judges_more && task.reported > 0);
        let change = match held.filter(|held| held.order == task.order) {
            Some(_) if task.state == TaskState::Unreachable => {
                TaskChange::by_master(task.agent_state, Reason::AgentReregistered, list.wall_ms)
                    .with_standing(task.standing)
            }
            Some(_) => return,
            None if was_delivered => {
                TaskChange::by_master(TaskState::Gone, Reason::TaskMissingOnAgent, list.wall_ms)
            }
            None if planted_bug!(LaunchAfterUnreachable) => return,
            None if task.state == TaskState::Unreachable => {
                TaskChange::by_master(TaskState::Dropped, Reason::LaunchVoided, list.wall_ms)
            }
            // The task was launched when its agent had more capabilities. An order that needs more
            // is never sent.
            None if judges_more && !info.can_launch(&task.spec) => {
                TaskChange::by_master(TaskState::Dropped, Reason::AgentIncapable, list.wall_ms)
            }
            None => return,
        };
        debug_assert_eq!(change.source, UpdateSource::Master);
        self.set_state(context, key, change);
    }
}

/// Rejects a list that does not ascend or leaves its range. Such a list would make running tasks
/// appear missing.
fn check_list(list: &ReconcileAgent) -> Result<(), Rejection> {
    if list.held.len() > limits::RECORDS_PER_COMMAND {
        return Err(too_many("held", list.held.len()));
    }
    let ascends = list.held.windows(2).all(|pair| pair[0].key < pair[1].key);
    let inside = |key: &TaskKey| {
        list.after.as_ref().is_none_or(|after| key > after)
            && list.through.as_ref().is_none_or(|through| key <= through)
    };
    let part = match (&list.after, &list.through) {
        (Some(after), Some(through)) => after < through,
        (None, _) | (_, None) => true,
    };
    if ascends && part && list.held.iter().all(|held| inside(&held.key)) {
        Ok(())
    } else {
        Err(Rejection::Invalid {
            field: "held".into(),
            text: "the list does not ascend from its first key to its last".into(),
        })
    }
}
