//! The protocol between an executor and its agent.
//!
//! An update is on disk before it is acknowledged. Each stream begins with the executor's
//! unacknowledged updates and its tasks; the agent sends missing tasks again.

use std::collections::BTreeSet;

use argosy_state::ids::{OrderIndex, TaskKey};
use argosy_state::task::{Code, Explanation, Reason, TaskState, UpdateSource};

use super::recovery::is_unreported;
use super::shutdown::terminated;
use super::{ExecutorEvent, ExecutorMessage, ExecutorTask, ExecutorUpdate};
use crate::core::effect::ContainerEffect;
use crate::core::facts::{Instance, JournalRecord};
use crate::core::lifecycle::InstancePhase;
use crate::core::messages::AgentMessage;
use crate::core::outcome::TaskEnd;
use crate::core::{Core, DeferredStep, ExecutorRecord, SyncMode};

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
                self.executors.deadlines.insert(by, instance);
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
        let key = facts.key.clone();
        self.send_to_executor(instance, ExecutorMessage::Subscribed { version, key });
    }

    fn subscribed(
        &mut self,
        instance: Instance,
        listed: &[ExecutorTask],
        unacknowledged: Vec<ExecutorUpdate>,
    ) {
        for update in unacknowledged {
            self.executor_update(instance, update);
        }
        let mut held = BTreeSet::new();
        for task in listed {
            match self.task_of(instance, &task.task, task.order) {
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

    /// Returns a task of this executor that has not ended. It is found by its order: an executor
    /// lists thousands of tasks at once. All tasks of an executor have its agent id, since an agent
    /// gets another one only after its executors have ended.
    fn task_of(&self, executor: Instance, task: &str, order: OrderIndex) -> Option<Instance> {
        let instance = Instance { order, ..executor };
        if !self.executors.all.get(&executor)?.tasks.contains(&instance) {
            return None;
        }
        let framework = self.facts.executors.get(&executor)?.key.framework;
        let key = &self.facts.tasks.get(&instance)?.key;
        let is_named = key.framework == framework && key.task.as_str() == task;
        is_named.then_some(instance)
    }

    /// Sends a task to its executor, if that is connected.
    pub(super) fn deliver(&mut self, instance: Instance) {
        let Some(executor) = self.hosted(instance).and_then(|hosted| hosted.executor) else {
            return;
        };
        let launch = ExecutorMessage::Launch {
            order: instance.order,
            launch: self.facts.tasks[&instance].launch.clone(),
        };
        if self.send_to_executor(executor, launch) {
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
                let kill = ExecutorMessage::Kill {
                    task: task.key.task.to_string(),
                    order: instance.order,
                    grace_ms: task.grace_ms(),
                };
                // An executor that is not connected receives this after it has reconnected.
                self.send_to_executor(executor, kill);
                self.mark_dirty(instance);
                self.set_executor_deadline(executor);
            }
        }
    }

    fn kill_unknown_task(&mut self, executor: Instance, task: &ExecutorTask) {
        let kill = ExecutorMessage::Kill {
            task: task.task.clone(),
            order: task.order,
            grace_ms: 0,
        };
        self.send_to_executor(executor, kill);
    }

    /// Handles an update of an executor. A repeated update, an update of an ended or foreign task,
    /// and one that an executor may not send are acknowledged and change nothing.
    fn executor_update(&mut self, executor: Instance, update: ExecutorUpdate) {
        let found = self.task_of(executor, &update.task, update.order);
        let task = found.and_then(|instance| self.facts.tasks.get(&instance));
        let (Some(instance), Some(task)) = (found, task) else {
            let acknowledged = acknowledgement(&update.task, update.order, update.serial);
            self.when_durable(DeferredStep::SendToExecutor(
                executor,
                Box::new(acknowledged),
            ));
            return;
        };
        let (state, known) = (update.state, task.executor_serial);
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
            exit: update.exit,
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
    pub(in crate::core) fn mark_updated(&mut self, instance: Instance) {
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
        let acknowledged = acknowledgement(task, instance.order, serial);
        self.when_durable(DeferredStep::SendToExecutor(
            executor,
            Box::new(acknowledged),
        ));
    }

    /// Sends a message to the framework. It is lost without a link: delivery is not guaranteed.
    fn forward_to_framework(&mut self, instance: Instance, data: Vec<u8>) {
        let link = self.link.registered();
        let facts = self.facts.executors.get(&instance);
        if let (Some(link), Some(facts)) = (link, facts) {
            let message = AgentMessage::ExecutorMessage {
                framework: facts.key.framework,
                agent: instance.agent,
                executor: facts.key.task.clone(),
                data,
            };
            self.send_message(link, message);
        }
    }

    /// Sends a message to an executor. It is lost without a stream.
    pub(in crate::core) fn pass_to_executor(&mut self, key: Option<&TaskKey>, data: Vec<u8>) {
        let named = key.and_then(|key| self.facts.executor_named(key));
        if let Some((instance, _)) = named {
            self.send_to_executor(instance, ExecutorMessage::FrameworkMessage(data));
        }
    }

    /// Sends to an executor. Returns false if it has no stream now: the next stream begins with its
    /// current state.
    pub(in crate::core) fn send_to_executor(
        &mut self,
        instance: Instance,
        message: ExecutorMessage,
    ) -> bool {
        let executor = self.executors.all.get(&instance);
        let Some(connection) = executor.and_then(|executor| executor.connection) else {
            return false;
        };
        self.effects.push(ContainerEffect::SendToExecutor {
            instance,
            connection,
            message: Box::new(message),
        });
        true
    }
}

fn acknowledgement(task: &str, order: OrderIndex, serial: u64) -> ExecutorMessage {
    ExecutorMessage::Acknowledged {
        task: task.to_owned(),
        order,
        serial,
    }
}
