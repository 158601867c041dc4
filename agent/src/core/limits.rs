//! Limits that are changed after the launch: recorded first, applied once the task runs, reported
//! once.

use argosy_state::ids::{OrderIndex, TaskKey};
use argosy_state::planted_bug;
use argosy_state::task::{Code, Explanation, ReportedText, TaskLimits};

use super::effect::ContainerEffect;
use super::facts::{Instance, JournalRecord, OrderBody, TaskFacts};
use super::lifecycle::InstancePhase;
use super::numbered_update::LimitsReport;
use super::{Core, DeferredStep, SyncMode};

/// The reason why requested limits are not in force, and the limits in force instead.
#[derive(Debug, Clone, PartialEq)]
pub struct UnappliedLimits {
    pub why: Explanation,
    /// The limits in force; `None` if an earlier run of this agent has applied them.
    pub held: Option<TaskLimits>,
}

/// The outcome of an order that changes limits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LimitUpdateResult {
    order: OrderIndex,
    outcome: Result<(), UnappliedLimits>,
}

/// The state of limit changes in this run.
#[derive(Debug, Default)]
pub(super) struct LimitUpdateState {
    /// The order that it has begun to apply.
    applying: Option<OrderIndex>,
    /// The outcome of an order, until it is reported.
    pub(super) result: Option<LimitUpdateResult>,
}

impl LimitUpdateResult {
    pub(super) fn report(&self) -> LimitsReport {
        let (refusal, held) = match &self.outcome {
            Ok(()) => (None, None),
            Err(UnappliedLimits { why, held }) => {
                (Some(ReportedText::of(why.clone())), held.clone())
            }
        };
        LimitsReport {
            order: self.order,
            refusal,
            held,
        }
    }

    pub(super) fn explanation(&self) -> Explanation {
        match &self.outcome {
            Ok(()) => Explanation::of(Code::LimitsChanged, &[]),
            Err(UnappliedLimits { why, .. }) => {
                Explanation::of(Code::LimitsRefused, &[]).then(why.clone())
            }
        }
    }
}

impl Core {
    /// Takes an order that changes limits. A task of an executor has no limits: masters do not
    /// order any.
    pub(super) fn take_limits(
        &mut self,
        order: OrderIndex,
        key: Option<&TaskKey>,
        limits: Option<TaskLimits>,
    ) {
        let held = key
            .and_then(|key| self.facts.by_key.get(key).copied())
            .filter(|instance| self.facts.container(*instance).is_some());
        let Some(instance) = held else {
            return self.skip_order(order);
        };
        let body = OrderBody::Limits { instance, limits };
        self.persist(
            JournalRecord::OrderAccepted { order, body },
            SyncMode::Awaited,
        );
        self.when_durable(DeferredStep::Limit(instance));
    }

    /// Applies the limits that were ordered last, unless an update has reported them: once the
    /// order is on disk, once the task runs, and once it is found running after a restart of the
    /// agent. Each run of the agent tries once: of two attempts the second might succeed after the
    /// first was reported as refused.
    pub(super) fn apply_limits(&mut self, instance: Instance) {
        let task = self.facts.tasks.get(&instance);
        let reported =
            |task: &TaskFacts| planted_bug!(LimitsAgain, task.limits_reported, OrderIndex(0));
        let Some(task) = task.filter(|task| task.limits_order > reported(task)) else {
            return;
        };
        let order = Some(task.limits_order);
        let state = self.instances.get_mut(&instance);
        let state = state.filter(|state| state.phase == InstancePhase::Running);
        if let (Some(name), Some(state)) = (self.facts.container(instance), state)
            && std::mem::replace(&mut state.limit_update.applying, order) != order
        {
            self.effects.push(ContainerEffect::Limit {
                name,
                launch: task.launch.clone(),
                task_amounts: Vec::new(),
                order,
            });
        }
    }

    /// Handles the outcome of an order. The outcome of an order that a later one has replaced is
    /// not reported.
    pub(super) fn limited(
        &mut self,
        instance: Instance,
        order: OrderIndex,
        outcome: Result<(), UnappliedLimits>,
    ) {
        let task = self.facts.tasks.get(&instance);
        let is_newest = task.is_some_and(|task| task.limits_order == order);
        let state = self.instances.get_mut(&instance);
        let state = state.filter(|state| state.phase == InstancePhase::Running && is_newest);
        if let Some(state) = state {
            state.limit_update.result = Some(LimitUpdateResult { order, outcome });
            self.mark_dirty(instance);
        }
    }
}
