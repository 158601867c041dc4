//! Orders of the leader: numbered without gaps, taken once, on disk before they have any effect.

use std::sync::Arc;

use argosy_state::ids::{FrameworkId, OrderIndex, TaskId, TaskKey};
use argosy_state::planted_bug;

use super::facts::{AgentIdentity, Instance, JournalRecord, OrderBody};
use super::launch::LaunchOrder;
use super::lifecycle::{InstancePhase, InstanceState};
use super::messages::{AgentMessage, CommittedUpdate, Order, OrderRequest, OrderSubject};
use super::{Core, DeferredStep, SyncMode};

impl Core {
    /// Takes the next order. An order up to the last one taken is a repeat. One beyond the next
    /// shows that an order is missing; the reconciliation of a new link repairs that. Only a
    /// cancelled order may stand for all numbers up to its own.
    pub(super) fn order(&mut self, link: u64, order: Order) {
        if self.ending {
            // It would start a task that survives the stop. The masters send it to the next run.
            return;
        }
        let Order {
            index,
            subject,
            request,
        } = order;
        let is_repeated = index <= self.facts.floor;
        if is_repeated && !planted_bug!(LaunchRepeated) {
            return;
        }
        let is_void = matches!(request, OrderRequest::Void);
        if index.0 != self.facts.floor.0 + 1 && !is_void && !is_repeated {
            let floor = self.facts.floor.0;
            self.close_link(
                link,
                format!("order {} arrived after order {floor}", index.0),
            );
            return;
        }
        match request {
            _ if matches!(subject, OrderSubject::Unknown) => self.take_unknown(link, index),
            OrderRequest::Launch(launch) => self.take_launch(index, &subject, launch),
            OrderRequest::Kill { key, grace_ms } => {
                self.take_kill(index, subject.task().or(key.as_ref()), grace_ms);
            }
            OrderRequest::Limits { key, limits } => {
                self.take_limits(index, subject.task().or(key.as_ref()), limits);
            }
            OrderRequest::Void => self.skip_order(index),
            OrderRequest::Unknown => self.take_unknown(link, index),
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
        self.send_message(link, AgentMessage::UnsupportedOrder(order));
    }

    fn take_launch(
        &mut self,
        order: OrderIndex,
        subject: &OrderSubject,
        launch: Option<Box<LaunchOrder>>,
    ) {
        let named = launch.map(|launch| (launch.key(), *launch));
        let named = named.filter(|(key, _)| match subject {
            OrderSubject::Unnamed => true,
            OrderSubject::Task(_) | OrderSubject::Unknown => subject.task() == Some(key),
        });
        let (Some((key, launch)), Some(agent)) = (named, self.facts.identity.agent) else {
            // A task without a name cannot be reported; the masters find it missing.
            self.skip_order(order);
            return;
        };
        let launch = match self.durability.is_full() {
            true => launch.stripped(),
            false => launch,
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

    fn take_kill(&mut self, order: OrderIndex, key: Option<&TaskKey>, grace_ms: u64) {
        let held = key.and_then(|key| self.facts.by_key.get(key).copied());
        let Some(instance) = held else {
            self.skip_order(order);
            return;
        };
        let body = OrderBody::Kill { instance, grace_ms };
        self.persist(
            JournalRecord::OrderAccepted { order, body },
            SyncMode::Awaited,
        );
        self.when_durable(DeferredStep::Kill(instance));
    }

    pub(super) fn committed(&mut self, updates: Vec<CommittedUpdate>) {
        for update in updates {
            let Some(instance) = self.facts.find(&update.key, update.order) else {
                continue;
            };
            if update.released && self.quarantine(instance) {
                continue;
            }
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

    pub(super) fn kill_orphan(&mut self, key: Option<&TaskKey>, order: OrderIndex) {
        if let Some(instance) = key.and_then(|key| self.facts.find(key, order))
            && !self.quarantine(instance)
        {
            self.orphan(instance);
        }
    }

    /// Turns an instance into an orphan: it is not reported again, and it is ended if it runs.
    fn orphan(&mut self, instance: Instance) {
        self.persist(JournalRecord::Orphaned { instance }, SyncMode::Awaited);
        self.end_orphan(instance);
    }

    fn end_orphan(&mut self, instance: Instance) {
        self.updates.forget(instance);
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
        self.link.forget_incarnation();
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

/// Returns the name of a task, if it is valid.
pub(crate) fn key(framework: &str, task: &str) -> Option<TaskKey> {
    Some(TaskKey {
        framework: framework.parse::<FrameworkId>().ok()?,
        task: TaskId::new(task).ok()?,
    })
}
