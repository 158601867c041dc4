//! Orders of the leader: numbered without gaps, taken once, on disk before they have any effect.

use std::sync::Arc;

use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message as Say;
use argosy_proto::v1::order::Order as What;
use argosy_state::bugs::{self, Bug};
use argosy_state::ids::{FrameworkId, OrderIndex, TaskId, TaskKey};

use super::facts::{Identity, Instance, Record, Taken};
use super::lifecycle::{Course, Phase};
use super::{Core, Deferred, Sync, space};

impl Core {
    /// Takes the next order. An order up to the last one taken is a repeat. One beyond the next
    /// shows that an order is missing; the reconciliation of a new link repairs that. Only a
    /// cancelled order may stand for all numbers up to its own.
    pub(super) fn order(&mut self, link: u64, order: v1::Order) {
        let index = OrderIndex(order.index);
        let is_repeated = index <= self.facts.floor;
        if is_repeated && !bugs::is_on(Bug::LaunchRepeated) {
            return;
        }
        let is_void = matches!(order.order, Some(What::Void(_)));
        if index.0 != self.facts.floor.0 + 1 && !is_void && !is_repeated {
            let floor = self.facts.floor.0;
            self.hang_up(
                link,
                format!("order {} arrived after order {floor}", index.0),
            );
            return;
        }
        let subject = order.subject;
        // Its variant is one that this release does not know.
        let is_foreign = (subject.as_ref()).is_some_and(|subject| subject.subject.is_none());
        match order.order.filter(|_| !is_foreign) {
            Some(What::Launch(launch)) => self.take_launch(index, subject, launch),
            Some(What::Kill(kill)) => self.take_kill(index, subject, &kill),
            Some(What::Limits(limits)) => self.take_limits(index, subject, limits),
            Some(What::Void(v1::Void {})) => self.take_nothing(index),
            None => self.take_unknown(link, index),
        }
        self.gathered();
    }

    pub(super) fn take_nothing(&mut self, order: OrderIndex) {
        let what = Taken::Nothing;
        self.persist(Record::Took { order, what }, Sync::Awaited);
    }

    /// Takes an order of an unknown kind. Masters send only kinds that the agent announces, so this
    /// is a defect of a newer master. A new link would bring the same order again. It counts as
    /// taken, and the report states that it had no effect. A task that it should have started is
    /// missing in the agent's next list, and is GONE.
    fn take_unknown(&mut self, link: u64, order: OrderIndex) {
        self.take_nothing(order);
        let order_index = order.0;
        let unsupported = v1::UnsupportedOrder { order_index };
        self.say(link, Say::UnsupportedOrder(unsupported));
    }

    fn take_launch(
        &mut self,
        order: OrderIndex,
        subject: Option<v1::Subject>,
        mut launch: v1::LaunchOrder,
    ) {
        if self.journal_is_full {
            space::strip(&mut launch);
        }
        let named = launch.spec.as_ref().map(|spec| spec.task_id.as_str());
        let key = key(&launch.framework_id, named.unwrap_or_default());
        let key = key.filter(|key| subject.is_none() || task_of(subject) == Some(key.clone()));
        let (Some(key), Some(agent)) = (key, self.facts.identity.agent) else {
            // A task without a name cannot be reported; the masters find it missing.
            self.take_nothing(order);
            return;
        };
        let instance = Instance { agent, order };
        let former = self.facts.held.get(&key).copied();
        let former = former.filter(|former| *former != instance);
        let what = Taken::Launch {
            agent: Some(agent),
            key,
            launch: Arc::new(launch),
            life: self.facts.identity.life,
        };
        let is_lazy = bugs::is_on(Bug::OrderNotSynced);
        let sync = if is_lazy { Sync::Lazy } else { Sync::Awaited };
        self.persist(Record::Took { order, what }, sync);
        self.courses.insert(instance, Course::new(Phase::Waiting));
        self.gather(instance);
        if let Some(former) = former {
            self.end_stray(former);
        }
        self.prepare(instance);
        self.when_durable(Deferred::Launch(instance));
    }

    fn take_kill(&mut self, order: OrderIndex, subject: Option<v1::Subject>, kill: &v1::KillOrder) {
        let held = task_of(subject)
            .or_else(|| key(&kill.framework_id, &kill.task_id))
            .and_then(|key| self.facts.held.get(&key).copied());
        let Some(instance) = held else {
            self.take_nothing(order);
            return;
        };
        let what = Taken::Kill {
            instance,
            grace_ms: kill.grace_ms,
        };
        self.persist(Record::Took { order, what }, Sync::Awaited);
        self.when_durable(Deferred::Kill(instance));
    }

    pub(super) fn committed(&mut self, committed: v1::Committed) {
        for update in committed.updates {
            let key = key(&update.framework_id, &update.task_id);
            let order = OrderIndex(update.order_index);
            let Some(instance) = key.and_then(|key| self.facts.find(&key, order)) else {
                continue;
            };
            let task = &self.facts.tasks[&instance];
            let number = update.number.min(task.made);
            if task.committed < number {
                self.persist(Record::Committed { instance, number }, Sync::Lazy);
                self.catch_up(instance);
            }
            if update.released {
                self.release(instance);
            }
        }
    }

    /// Releases an instance that the registry no longer needs: if it runs, it is ended.
    fn release(&mut self, instance: Instance) {
        if self
            .courses
            .get(&instance)
            .is_some_and(|course| !course.has_ended())
        {
            self.stray(instance);
            return;
        }
        let is_clear = self.courses.get(&instance).is_none_or(Course::is_clear);
        if is_clear && !self.is_kept(instance) {
            self.clear_group_of(instance);
            self.courses.remove(&instance);
            self.persist(Record::Released { instance }, Sync::Lazy);
        } else {
            self.persist(Record::Stray { instance }, Sync::Lazy);
            self.when_durable(Deferred::Destroy(instance));
        }
    }

    pub(super) fn kill_stray(&mut self, kill: &v1::KillStray) {
        let key = key(&kill.framework_id, &kill.task_id);
        let order = OrderIndex(kill.order_index);
        if let Some(instance) = key.and_then(|key| self.facts.find(&key, order)) {
            self.stray(instance);
        }
    }

    /// Turns an instance into an orphan: it is not reported again, and it is ended if it runs.
    fn stray(&mut self, instance: Instance) {
        self.persist(Record::Stray { instance }, Sync::Awaited);
        self.end_stray(instance);
    }

    fn end_stray(&mut self, instance: Instance) {
        self.dirty.remove(&instance);
        let ended = self.courses.get(&instance).is_none_or(Course::has_ended);
        self.when_durable(if ended {
            Deferred::Destroy(instance)
        } else {
            Deferred::Kill(instance)
        });
    }

    /// Handles a registry that no longer knows this agent: all tasks are ended, and the agent
    /// registers as a new one.
    pub(super) fn shutdown(&mut self, link: u64, reason: &str) {
        let held: Vec<_> = self.facts.held.values().copied().collect();
        let identity = Identity {
            agent: None,
            nonce: self.random.name(),
            confirmed: 0,
            tried: Vec::new(),
            ..self.facts.identity.clone()
        };
        self.incarnated = false;
        self.persist(Record::Forgot(identity), Sync::Awaited);
        for instance in held {
            self.end_stray(instance);
        }
        self.hang_up(
            link,
            format!("ordered to end all tasks and register again: {reason}"),
        );
    }
}

/// Returns the task that an order is about. Masters of release 0.1 send no subject.
pub(super) fn task_of(subject: Option<v1::Subject>) -> Option<TaskKey> {
    let v1::subject::Subject::Task(task) = subject?.subject?;
    key(&task.framework_id, &task.task_id)
}

/// Returns the name of a task, if it is valid.
pub(crate) fn key(framework: &str, task: &str) -> Option<TaskKey> {
    Some(TaskKey {
        framework: framework.parse::<FrameworkId>().ok()?,
        task: TaskId::new(task).ok()?,
    })
}
