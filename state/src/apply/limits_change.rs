//! Changes of the limits of launched tasks, and the results that agents report.
//!
//! The description holds the requested limits, and after a refused change the limits in force.
//! Resources, by which tasks are placed and counted, never change here.

use std::sync::Arc;

use super::CommandContext;
use super::accept::check_spec_size;
use super::confinement;
use super::tasks::{TaskChange, cut};
use crate::Registry;
use crate::command::{HeldTask, Rejection};
use crate::event::Event;
use crate::ids::{Revision, TaskKey};
use crate::level::Level;
use crate::limits::MESSAGE_BYTES;
use crate::registry::OrderKind;
use crate::task::{LimitsChange, LimitsReport, Reason, Task, TaskLimits, TaskSpec};

impl Registry {
    /// Replaces all limits of a task. A second change cancels the order of the first one and gets a
    /// new order. The same limits again change nothing, unless the agent could not apply them.
    pub(super) fn update_limits(
        &mut self,
        context: &mut CommandContext,
        key: &TaskKey,
        limits: &TaskLimits,
        revision: Revision,
    ) -> Result<(), Rejection> {
        let task = match self.tasks.get(key) {
            Some(task) if !task.is_terminal() => task,
            None if !self.index.history.contains_key(key) => {
                return Err(Rejection::UnknownTask(key.clone()));
            }
            Some(_) | None => {
                let text = format!("{key} has ended: there is nothing left to limit");
                return Err(invalid("task_id", text));
            }
        };
        let new = checked(&task.spec, limits, self.level())?;
        let agent = self.agents.get(&task.agent);
        if !agent.is_some_and(|agent| agent.report.info.takes(OrderKind::Limits)) {
            if self.level() >= Level::RELEASE_0_2 {
                let capability = OrderKind::Limits.capability();
                return Err(Rejection::AgentIncapable(task.agent, capability));
            }
            let text = format!(
                "{} is of a release that cannot change limits of a task: upgrade it, or launch the task anew",
                task.agent
            );
            return Err(invalid("task_id", text));
        }
        let outcome = task.limits_change.as_ref().map(|change| &change.outcome);
        let is_refused = matches!(outcome, Some(Some(Err(_))));
        if new == task.spec.limits && !is_refused {
            return Ok(());
        }
        self.check_limits_bytes(key, limits)?;
        let has_two = self.level() >= Level::RELEASE_0_2;
        // Whether an unanswered change was ever in force is unknown.
        let (before, is_second) = match &task.limits_change {
            Some(change) if change.outcome.is_none() => (change.before.clone(), change.is_second),
            // The limits in force stay in their record.
            Some(change) => (task.spec.limits.clone(), has_two && !change.is_second),
            None => (task.spec.limits.clone(), has_two),
        };
        let agent = task.agent;
        let order = self.next_order(agent);
        self.change_task(key, |task| {
            Arc::make_mut(&mut task.spec).limits = new;
            task.revision = revision;
            task.limits_change = Some(LimitsChange {
                order,
                revision,
                outcome: None,
                before,
                is_second,
                causes: Vec::new(),
            });
        });
        context.emit(Event::TaskLimitsRequested {
            key: key.clone(),
            agent,
            order,
        });
        Ok(())
    }
}

/// Validates new limits of a task whose other fields are valid. Returns them as a description has
/// them: `None` if all have default values. The description, which may be large, is not copied.
fn checked(
    spec: &TaskSpec,
    limits: &TaskLimits,
    level: Level,
) -> Result<Option<Box<TaskLimits>>, Rejection> {
    if spec.executor.is_some() {
        let text = "an executor runs it, in whose container it has no limits of its own: change its resources by launching it anew";
        return Err(invalid("task_id", text.to_owned()));
    }
    let has_own = spec
        .limits
        .as_ref()
        .is_some_and(|limits| limits.exclusive_cpus);
    if has_own != limits.exclusive_cpus {
        let text = "processors are given to a task alone when it starts: leave it as it was, or launch the task anew";
        return Err(invalid("limits.exclusive_cpus", text.to_owned()));
    }
    confinement::check_limits(spec, limits).map_err(|(field, text)| invalid(field, text))?;
    let (former, new) = (spec.size_of_limits(), limits.estimated_size());
    if new > former {
        check_spec_size(spec.estimated_size(level) - former + new)?;
    }
    Ok((*limits != TaskLimits::default()).then(|| Box::new(limits.clone())))
}

/// Records the result of a change of limits. A report about a cancelled order is ignored. After a
/// refusal the description holds the limits in force: those that the agent reports, if they are
/// valid, or else those before the change.
pub(super) fn finish_limits_change(task: &mut Task, report: LimitsReport, level: Level) {
    let wanted = task.limits_change.as_mut();
    let Some(change) = wanted.filter(|change| change.order == report.order) else {
        return;
    };
    let before = change.before.take();
    let was_open = change.outcome.is_none();
    let outcome = report.outcome.map_err(|why| cut(&why, MESSAGE_BYTES));
    let is_refused = outcome.is_err();
    change.outcome = Some(outcome);
    change.causes = report.causes;
    if is_refused && was_open {
        let held = report.held.map(|held| *held);
        let held = held.and_then(|held| valid_limits(&task.spec, held, level));
        if held.is_none() {
            change.is_second = level >= Level::RELEASE_0_2 && !change.is_second;
        }
        let in_force = held.unwrap_or(before);
        if task.spec.limits != in_force {
            Arc::make_mut(&mut task.spec).limits = in_force;
        }
    }
}

/// Returns the limits that an agent reports, unless they are invalid for this task.
fn valid_limits(
    spec: &TaskSpec,
    held: TaskLimits,
    level: Level,
) -> Option<Option<Box<TaskLimits>>> {
    let own = spec.limits.as_ref();
    let held = TaskLimits {
        exclusive_cpus: own.is_some_and(|limits| limits.exclusive_cpus),
        ..held
    };
    checked(spec, &held, level).ok()
}

impl Registry {
    /// Settles an open change after the agent has been replaced by a release that does not accept
    /// orders of limits, and so never answers. Tasks that it holds keep their former limits; tasks
    /// that are not launched yet get the new ones.
    pub(super) fn finish_limits_changes(
        &mut self,
        context: &mut CommandContext,
        key: &TaskKey,
        held: Option<&HeldTask>,
        wall_ms: i64,
    ) {
        let task = self.tasks.get(key).filter(|task| !task.is_terminal());
        let open = task.and_then(|task| {
            let change = task.limits_change.as_ref()?;
            change.outcome.is_none().then_some((task, change.order))
        });
        let Some((task, order)) = open else {
            return;
        };
        if held.is_none_or(|held| held.order != task.order) {
            let report = LimitsReport {
                order,
                outcome: Ok(()),
                held: None,
                causes: Vec::new(),
            };
            let level = self.level();
            return self.change_task(key, |task| finish_limits_change(task, report, level));
        }
        let text = match self.level() >= Level::RELEASE_0_2 {
            true => String::new(),
            false => format!(
                "{} is of a release that cannot change limits of a task: upgrade it, and ask again",
                task.agent
            ),
        };
        let change = TaskChange::by_master(task.state, Reason::LimitsUpdated, wall_ms)
            .with_text(&text)
            .with_standing(task.standing)
            .with_limits(LimitsReport {
                order,
                outcome: Err(text),
                held: None,
                causes: Vec::new(),
            });
        self.set_state(context, key, change);
    }
}

fn invalid(field: &str, text: String) -> Rejection {
    Rejection::Invalid {
        field: field.to_owned(),
        text,
    }
}
