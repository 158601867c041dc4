//! Limits that are changed after the launch: on disk first, in force once the task runs, told once.

use argosy_proto::v1;
use argosy_state::ids::OrderIndex;

use super::course::Phase;
use super::facts::{Instance, Record, Taken};
use super::input::Effect;
use super::orders::key;
use super::{Core, Deferred, Sync};

/// What became of an order that changes limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limited {
    order: OrderIndex,
    outcome: Result<(), String>,
}

impl Limited {
    pub(super) fn report(&self) -> v1::LimitsReport {
        v1::LimitsReport {
            order_index: self.order.0,
            refusal: self.outcome.clone().err(),
        }
    }

    pub(super) fn words(&self) -> String {
        match &self.outcome {
            Ok(()) => "its limits are changed".to_owned(),
            Err(why) => format!("not all of its limits are in force: {why}"),
        }
    }
}

impl Core {
    /// A task of an executor has no limits of its own: no master orders any.
    pub(super) fn take_limits(&mut self, order: OrderIndex, wanted: v1::LimitsOrder) {
        let held = key(&wanted.framework_id, &wanted.task_id)
            .and_then(|key| self.facts.held.get(&key).copied())
            .filter(|instance| self.facts.container(*instance).is_some());
        let Some(instance) = held else {
            return self.take_nothing(order);
        };
        let what = Taken::Limits {
            instance,
            limits: wanted.limits,
        };
        self.persist(Record::Took { order, what }, Sync::Awaited);
        self.when_durable(Deferred::Limit(instance));
    }

    /// Whatever was ordered last is put in force, unless an update has told of it: once the order is on disk, once the
    /// task runs, and once it is found running after a restart of the agent.
    pub(super) fn limit(&mut self, instance: Instance) {
        let task = self.facts.tasks.get(&instance);
        let Some(task) = task.filter(|task| task.limits_order > task.limits_told) else {
            return;
        };
        let name = self.facts.container(instance);
        if let Some(name) = name.filter(|_| self.phase(instance) == Some(Phase::Running)) {
            self.effects.push(Effect::Limit {
                name,
                launch: task.launch.clone(),
                order: Some(task.limits_order),
            });
        }
    }

    /// What became of an order that a later one has replaced is not told.
    pub(super) fn limited(
        &mut self,
        instance: Instance,
        order: OrderIndex,
        outcome: Result<(), String>,
    ) {
        let task = self.facts.tasks.get(&instance);
        let is_newest = task.is_some_and(|task| task.limits_order == order);
        let course = self.courses.get_mut(&instance);
        let course = course.filter(|course| course.phase == Phase::Running && is_newest);
        if let Some(course) = course {
            course.limited = Some(Limited { order, outcome });
            self.mark_dirty(instance);
        }
    }
}
