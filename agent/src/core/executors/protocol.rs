//! The protocol between an executor and its agent.
//!
//! An update is on disk before it is acknowledged. Each stream begins with the executor's
//! unacknowledged updates and its tasks; the agent sends missing tasks again.

use std::collections::BTreeSet;

use argosy_proto::convert::exit_from;
use argosy_proto::v1;
use argosy_proto::v1::to_executor::Message as Tell;
use argosy_proto::versions::VersionRange;
use argosy_state::ids::OrderIndex;
use argosy_state::task::{Code, Explanation, Reason, TaskState, UpdateSource};

use super::recovery::is_unreported;
use super::shutdown::terminated;
use crate::core::effect::ContainerEffect;
use crate::core::facts::{Instance, JournalRecord};
use crate::core::lifecycle::InstancePhase;
use crate::core::orders::key;
use crate::core::outcome::TaskEnd;
use crate::core::{Core, DeferredStep, ExecutorRecord, SyncMode, wire};

/// A message from the socket of an executor.
#[derive(Debug, Clone)]
pub enum ExecutorEvent {
    /// The executor has presented its token on a new stream.
    Subscribed {
        /// Its tasks.
        tasks: Vec<v1::ExecutorTask>,
        /// Its unacknowledged updates.
        unacknowledged: Vec<v1::ExecutorUpdate>,
        /// The negotiated version of the protocol.
        version: u32,
    },
    /// One of its tasks is in a new state.
    Update(Box<v1::ExecutorUpdate>),
    /// A message for its framework.
    Message(Vec<u8>),
    /// The stream has ended.
    Closed,
}

impl Core {
    /// Handles a message of an executor. Messages of any stream but the present one are outdated
    /// and ignored.
    pub(super) fn executor_event(
        &mut self,
        instance: Instance,
        connection: u64,
        event: ExecutorEvent,
    ) {
        let Some(executor) = self.executors.all.get_mut(&instance) else {
            return;
        };
        let is_present = executor.connection == Some(connection);
        match event {
            ExecutorEvent::Subscribed {
                tasks,
                unacknowledged,
                version,
            } if executor.phase == InstancePhase::Running => {
                executor.connection = Some(connection);
                executor.subscribe_by = None;
                self.send_subscribed(instance, version);
                self.subscribed(instance, &tasks, unacknowledged);
            }
            ExecutorEvent::Update(update) if is_present => self.executor_update(instance, *update),
            ExecutorEvent::Closed if is_present => {
                let by = self.now.plus_ms(self.config.executor_timeout_ms);
                executor.connection = None;
                executor.subscribe_by = Some(by);
                self.executors.deadlines.insert((by, instance));
            }
            ExecutorEvent::Message(data) if is_present => self.forward_to_framework(instance, data),
            ExecutorEvent::Subscribed { .. }
            | ExecutorEvent::Update(_)
            | ExecutorEvent::Message(_)
            | ExecutorEvent::Closed => {}
        }
    }

    fn send_subscribed(&mut self, instance: Instance, version: u32) {
        let Some(facts) = self.facts.executors.get(&instance) else {
            return;
        };
        let subscribed = v1::ExecutorSubscribed {
            protocol: Some(VersionRange::OWN.answer(version)),
            framework_id: facts.key.framework.to_string(),
            executor_id: facts.key.task.to_string(),
        };
        self.send_to_executor(instance, Tell::Subscribed(subscribed));
    }

    fn subscribed(
        &mut self,
        instance: Instance,
        listed: &[v1::ExecutorTask],
        unacknowledged: Vec<v1::ExecutorUpdate>,
    ) {
        for update in unacknowledged {
            self.executor_update(instance, update);
        }
        let mut held = BTreeSet::new();
        for task in listed {
            match self.task_of(instance, &task.task_id, task.order_index) {
                Some(found) => drop(held.insert(found)),
                // It has ended here, or never was a task of this executor.
                None => self.kill_unknown_task(instance, task),
            }
        }
        let executor = self.executors.all.get(&instance);
        let tasks: Vec<_> = executor
            .map(|executor| executor.tasks.iter().copied().collect())
            .unwrap_or_default();
        for task in tasks {
            if held.contains(&task) {
                self.mark_delivered(task);
                if self.is_unwanted(task) {
                    self.kill_hosted(task);
                }
            } else {
                self.task_missing(task);
            }
        }
    }

    /// Handles a task that the executor does not have: it never received it, or has lost it.
    fn task_missing(&mut self, instance: Instance) {
        let task = self.facts.tasks.get(&instance);
        let (Some(task), false) = (task, self.phase(instance) == Some(InstancePhase::Ended)) else {
            return;
        };
        if self.is_unwanted(instance) {
            let why = Explanation::of(Code::KilledBeforeExecutor, &[]);
            let reason = Reason::KilledDuringLaunch;
            self.end(instance, TaskEnd::by_agent(TaskState::Killed, reason, why));
        } else if is_unreported(task) {
            if let Some(hosted) = self.hosted(instance) {
                hosted.delivered = false;
            }
            self.deliver(instance);
        } else {
            let why = Explanation::of(Code::ExecutorLostTask, &[]);
            self.end(instance, terminated(why));
        }
    }

    fn hosted(&mut self, instance: Instance) -> Option<&mut super::HostedTask> {
        self.instances.get_mut(&instance)?.hosted.as_deref_mut()
    }

    fn mark_delivered(&mut self, instance: Instance) {
        if let Some(hosted) = self.hosted(instance) {
            hosted.delivered = true;
        }
    }

    /// Returns a task of this executor that has not ended.
    fn task_of(&self, executor: Instance, task: &str, order: u64) -> Option<Instance> {
        let framework = self.facts.executors.get(&executor)?.key.framework;
        let key = key(&framework.to_string(), task)?;
        let order = OrderIndex(order);
        let mut tasks = self.executors.all.get(&executor)?.tasks.iter().copied();
        tasks.find(|instance| {
            let facts = self.facts.tasks.get(instance);
            instance.order == order && facts.is_some_and(|facts| facts.key == key)
        })
    }

    /// Sends a task to its executor, if that is connected.
    pub(super) fn deliver(&mut self, instance: Instance) {
        let Some(executor) = self.hosted(instance).and_then(|hosted| hosted.executor) else {
            return;
        };
        let launch = v1::ExecutorLaunch {
            order_index: instance.order.0,
            spec: self.facts.tasks[&instance]
                .launch
                .spec
                .clone()
                .map(|spec| v1::TaskSpec {
                    executor: None,
                    ..spec
                }),
        };
        if self.send_to_executor(executor, Tell::Launch(launch)) {
            self.mark_delivered(instance);
        }
    }

    /// Continues a kill whose order is on disk.
    pub(in crate::core) fn kill_hosted(&mut self, instance: Instance) {
        let phase = self.phase(instance);
        let hosted = self.hosted(instance);
        let handed_to = hosted.filter(|hosted| hosted.delivered);
        let executor = handed_to.and_then(|hosted| hosted.executor);
        match (phase, executor) {
            (Some(InstancePhase::Ended) | None, _) => {}
            (Some(_), None) => self.end_unstarted(instance),
            (Some(_), Some(executor)) => {
                let task = &self.facts.tasks[&instance];
                let kill = v1::ExecutorKill {
                    task_id: task.key.task.to_string(),
                    order_index: instance.order.0,
                    grace_ms: task.grace_ms(),
                };
                // An executor that is not connected receives this after it has reconnected.
                self.send_to_executor(executor, Tell::Kill(kill));
                self.mark_dirty(instance);
                self.set_executor_deadline(executor);
            }
        }
    }

    fn kill_unknown_task(&mut self, executor: Instance, task: &v1::ExecutorTask) {
        let kill = v1::ExecutorKill {
            task_id: task.task_id.clone(),
            order_index: task.order_index,
            grace_ms: 0,
        };
        self.send_to_executor(executor, Tell::Kill(kill));
    }

    /// Handles an update of an executor. A repeated update, an update of an ended or foreign task,
    /// and one that an executor may not send are acknowledged and change nothing.
    fn executor_update(&mut self, executor: Instance, update: v1::ExecutorUpdate) {
        let found = self.task_of(executor, &update.task_id, update.order_index);
        let task = found.and_then(|instance| self.facts.tasks.get(&instance));
        let (Some(instance), Some(task)) = (found, task) else {
            let acknowledged = acknowledgement(&update.task_id, update.order_index, update.serial);
            self.when_durable(DeferredStep::SendToExecutor(
                executor,
                Box::new(acknowledged),
            ));
            return;
        };
        let (state, known) = (wire::task_state(update.state), task.executor_serial);
        if self.phase(instance) == Some(InstancePhase::Ended) && update.serial > known {
            // Nothing follows an end, and nothing after it is acknowledged before it is on disk.
            return;
        }
        let Some(hosted) = self.hosted(instance) else {
            return;
        };
        if update.serial <= known.max(hosted.serial) {
            if update.serial <= known {
                self.acknowledge_executor(instance, executor, known);
            }
            return;
        }
        hosted.serial = update.serial;
        hosted.delivered = true;
        let end = TaskEnd {
            state,
            reason: Reason::None,
            source: UpdateSource::Task,
            why: update.text.into(),
            exit: exit_from(update.exit),
        };
        match state {
            TaskState::Starting | TaskState::Running => {
                hosted.reported = Some(end);
                if state == TaskState::Running {
                    self.enter(instance, InstancePhase::Running);
                }
                self.mark_dirty(instance);
            }
            TaskState::Finished | TaskState::Failed | TaskState::Killed | TaskState::Error => {
                // The update is made before the task leaves its executor, so that this executor
                // gets the acknowledgement.
                self.mark_dirty(instance);
                self.executor_reported_end(instance, executor, end);
            }
            TaskState::Staging
            | TaskState::Killing
            | TaskState::Dropped
            | TaskState::Gone
            | TaskState::GoneByOperator
            | TaskState::Unreachable
            | TaskState::Unknown => self.mark_dirty(instance),
        }
    }

    /// Handles an end that the executor reported. The executor receives the acknowledgement once
    /// the end is on disk, then a request to shut down if it has no task left.
    fn executor_reported_end(&mut self, instance: Instance, executor: Instance, end: TaskEnd) {
        let reason = match end.state {
            TaskState::Killed => Reason::TaskKilled,
            _ => Reason::CommandExited,
        };
        if let Some(state) = self.instances.get_mut(&instance) {
            state.phase = InstancePhase::Ended;
            state.end = Some(TaskEnd { reason, ..end });
        }
        self.report();
        self.when_durable(DeferredStep::DetachTask(instance, executor));
    }

    /// Detaches a task whose end is on disk.
    pub(in crate::core) fn leave(&mut self, instance: Instance, executor: Instance) {
        self.detach(instance, executor);
        let task = self.facts.tasks.get(&instance);
        if task.is_some_and(|task| !task.held) {
            self.destroy(instance);
        }
    }

    /// Records that an update of this task was made.
    pub(in crate::core) fn is_told(&mut self, instance: Instance) {
        let now = self.now;
        if let Some(hosted) = self.hosted(instance) {
            hosted.updated_at = Some(now);
        }
    }

    /// Acknowledges an executor's update once it is on disk: an update contains it, or it changes
    /// nothing.
    pub(in crate::core) fn settle(&mut self, instance: Instance) {
        let task = self.facts.tasks.get(&instance);
        let hosted = self.instances.get(&instance).and_then(|state| {
            let hosted = state.hosted.as_deref()?;
            let has_news = task.is_some_and(|task| hosted.has_unreported(task));
            has_news.then_some((hosted.executor?, hosted.serial))
        });
        if let Some((executor, serial)) = hosted {
            let heard = ExecutorRecord::UpdateReceived { instance, serial };
            // An acknowledged executor does not repeat the update. The record that it was received
            // may be lost; the update before it may not.
            self.persist(JournalRecord::Executor(heard), SyncMode::Lazy);
            self.acknowledge_executor(instance, executor, serial);
        }
    }

    fn acknowledge_executor(&mut self, instance: Instance, executor: Instance, serial: u64) {
        let Some(task) = self.facts.tasks.get(&instance) else {
            return;
        };
        let task = task.key.task.as_str();
        let acknowledged = acknowledgement(task, instance.order.0, serial);
        self.when_durable(DeferredStep::SendToExecutor(
            executor,
            Box::new(acknowledged),
        ));
    }

    /// Sends a message to the framework. It is lost without a link: delivery is not guaranteed.
    fn forward_to_framework(&mut self, instance: Instance, data: Vec<u8>) {
        let link = self.link.as_ref().filter(|link| link.registered);
        let facts = self.facts.executors.get(&instance);
        if let (Some(link), Some(facts)) = (link, facts) {
            let message = v1::ExecutorMessage {
                framework_id: facts.key.framework.to_string(),
                agent_id: instance.agent.to_string(),
                executor_id: facts.key.task.to_string(),
                data,
            };
            let message = v1::from_agent::Message::ExecutorMessage(message);
            self.send_message(link.serial, message);
        }
    }

    /// Sends a message to an executor. It is lost without a stream.
    pub(in crate::core) fn pass_to_executor(&mut self, message: v1::ExecutorMessage) {
        let key = key(&message.framework_id, &message.executor_id);
        let named = key.and_then(|key| self.facts.executor_named(&key));
        if let Some((instance, _)) = named {
            self.send_to_executor(instance, Tell::FrameworkMessage(message.data));
        }
    }

    /// Sends to an executor. Returns false if it has no stream now: the next stream begins with its
    /// current state.
    pub(in crate::core) fn send_to_executor(&mut self, instance: Instance, message: Tell) -> bool {
        let executor = self.executors.all.get(&instance);
        let Some(connection) = executor.and_then(|executor| executor.connection) else {
            return false;
        };
        let message = Some(message);
        self.effects.push(ContainerEffect::SendToExecutor {
            instance,
            connection,
            message: Box::new(v1::ToExecutor { message }),
        });
        true
    }
}

fn acknowledgement(task: &str, order_index: u64, serial: u64) -> Tell {
    Tell::Acknowledged(v1::ExecutorAcknowledged {
        task_id: task.to_owned(),
        order_index,
        serial,
    })
}
