//! Orders of the leader: numbered without gaps, taken once, on disk before they have any effect.

use std::sync::Arc;

use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message as Say;
use argosy_proto::v1::order::Order as What;
use argosy_state::ids::{FrameworkId, OrderIndex, TaskId, TaskKey};
use argosy_state::planted_bug;

use super::facts::{AgentIdentity, Instance, JournalRecord, OrderBody};
use super::lifecycle::{InstancePhase, InstanceState};
use super::{Core, DeferredStep, SyncMode, space};

impl Core {
    /// Takes the next order. An order up to the last one taken is a repeat. One beyond the next
    /// shows that an order is missing; the reconciliation of a new link repairs that. Only a
    /// cancelled order may stand for all numbers up to its own.
    pub(super) fn order(&mut self, link: u64, order: v1::Order) {
        let index = OrderIndex(order.index);
        let is_repeated = index <= self.facts.floor;
        if is_repeated && !planted_bug!(LaunchRepeated) {
            return;
        }
        let is_void = matches!(order.order, Some(What::Void(_)));
        if index.0 != self.facts.floor.0 + 1 && !is_void && !is_repeated {
            let floor = self.facts.floor.0;
            self.close_link(
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
            Some(What::Void(v1::Void {})) => self.skip_order(index),
            None => self.take_unknown(link, index),
        }
        self.orders_advanced();
    }

    pub(super) fn skip_order(&mut self, order: OrderIndex) {
        let body = OrderBody::Nothing;
        self.persist(
            JournalRecord::OrderAccepted { order, body },
            SyncMode::Awaited,
        );
    }

    /// Takes an order of an unknown kind. Masters send only kinds that the agent announces, so this
    /// is a defect of a newer master. A new link would bring the same order again. It counts as
    /// taken, and the report states that it had no effect. A task that it should have started is
    /// missing in the agent's next list, and is GONE.
    fn take_unknown(&mut self, link: u64, order: OrderIndex) {
        self.skip_order(order);
        let order_index = order.0;
        let unsupported = v1::UnsupportedOrder { order_index };
        self.send_message(link, Say::UnsupportedOrder(unsupported));
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
            self.skip_order(order);
            return;
        };
        let instance = Instance { agent, order };
        let former = self.facts.by_key.get(&key).copied();
        let former = former.filter(|former| *former != instance);
        let body = OrderBody::Launch {
            agent: Some(agent),
            key,
            launch: Arc::new(launch),
            run: self.facts.identity.run,
        };
        let sync = planted_bug!(OrderNotSynced, SyncMode::Awaited, SyncMode::Lazy);
        self.persist(JournalRecord::OrderAccepted { order, body }, sync);
        self.instances
            .insert(instance, InstanceState::new(InstancePhase::Waiting));
        self.wait_for_group(instance);
        if let Some(former) = former {
            self.end_orphan(former);
        }
        self.prepare(instance);
        self.when_durable(DeferredStep::Launch(instance));
    }

    fn take_kill(&mut self, order: OrderIndex, subject: Option<v1::Subject>, kill: &v1::KillOrder) {
        let held = task_of(subject)
            .or_else(|| key(&kill.framework_id, &kill.task_id))
            .and_then(|key| self.facts.by_key.get(&key).copied());
        let Some(instance) = held else {
            self.skip_order(order);
            return;
        };
        let body = OrderBody::Kill {
            instance,
            grace_ms: kill.grace_ms,
        };
        self.persist(
            JournalRecord::OrderAccepted { order, body },
            SyncMode::Awaited,
        );
        self.when_durable(DeferredStep::Kill(instance));
    }

    pub(super) fn committed(&mut self, committed: v1::Committed) {
        for update in committed.updates {
            let key = key(&update.framework_id, &update.task_id);
            let order = OrderIndex(update.order_index);
            let Some(instance) = key.and_then(|key| self.facts.find(&key, order)) else {
                continue;
            };
            let task = &self.facts.tasks[&instance];
            let number = update.number.min(task.newest_update);
            if task.committed < number {
                self.persist(
                    JournalRecord::Committed { instance, number },
                    SyncMode::Lazy,
                );
                self.report_deferred(instance);
            }
            if update.released {
                self.release(instance);
            }
        }
    }

    /// Releases an instance that the registry no longer needs: if it runs, it is ended.
    fn release(&mut self, instance: Instance) {
        if self
            .instances
            .get(&instance)
            .is_some_and(|state| !state.has_ended())
        {
            self.orphan(instance);
            return;
        }
        let is_clear = self
            .instances
            .get(&instance)
            .is_none_or(InstanceState::is_cleaned_up);
        if is_clear && !self.is_retained(instance) {
            self.clear_group_of(instance);
            self.instances.remove(&instance);
            self.persist(JournalRecord::Released { instance }, SyncMode::Lazy);
        } else {
            self.persist(JournalRecord::Orphaned { instance }, SyncMode::Lazy);
            self.when_durable(DeferredStep::Destroy(instance));
        }
    }

    pub(super) fn kill_orphan(&mut self, kill: &v1::KillStray) {
        let key = key(&kill.framework_id, &kill.task_id);
        let order = OrderIndex(kill.order_index);
        if let Some(instance) = key.and_then(|key| self.facts.find(&key, order)) {
            self.orphan(instance);
        }
    }

    /// Turns an instance into an orphan: it is not reported again, and it is ended if it runs.
    fn orphan(&mut self, instance: Instance) {
        self.persist(JournalRecord::Orphaned { instance }, SyncMode::Awaited);
        self.end_orphan(instance);
    }

    fn end_orphan(&mut self, instance: Instance) {
        self.dirty.remove(&instance);
        let ended = self
            .instances
            .get(&instance)
            .is_none_or(InstanceState::has_ended);
        self.when_durable(if ended {
            DeferredStep::Destroy(instance)
        } else {
            DeferredStep::Kill(instance)
        });
    }

    /// Handles a registry that no longer knows this agent: all tasks are ended, and the agent
    /// registers as a new one.
    pub(super) fn shutdown(&mut self, link: u64, reason: &str) {
        let held: Vec<_> = self.facts.by_key.values().copied().collect();
        let identity = AgentIdentity {
            agent: None,
            nonce: self.random.name(),
            confirmed: 0,
            unconfirmed: Vec::new(),
            ..self.facts.identity.clone()
        };
        self.has_incarnation = false;
        self.persist(JournalRecord::IdentityReset(identity), SyncMode::Awaited);
        for instance in held {
            self.end_orphan(instance);
        }
        self.close_link(
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
