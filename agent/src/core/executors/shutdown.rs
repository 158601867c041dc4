//! Shutdown of an executor: after its last task, or before its tasks, which end with it.

use argosy_state::planted_bug;
use argosy_state::task::{Code, Explanation, Reason, TaskState};

use super::{ExecutorInfo, ExecutorMessage, ExecutorRecord};
use crate::core::effect::ContainerEffect;
use crate::core::facts::{ContainerName, Instance, JournalRecord, TaskFacts};
use crate::core::lifecycle::InstancePhase;
use crate::core::outcome::TaskEnd;
use crate::core::{Core, DeferredStep, SyncMode};

impl ExecutorInfo {
    /// Returns the grace period in milliseconds: from the shutdown request to TERM, and from TERM
    /// to KILL.
    fn grace_ms(&self) -> u64 {
        self.launch.spec.grace_ms
    }
}

impl Core {
    /// Handles the end of an executor. Its tasks end with it: with `end`, if the agent has not
    /// ended the executor for a reason that the framework must know.
    pub(super) fn executor_ended(&mut self, instance: Instance, end: TaskEnd) {
        let end = self.failure_of_executor(instance).unwrap_or(end);
        let Some(executor) = self.executors.all.get_mut(&instance) else {
            return;
        };
        if executor.phase == InstancePhase::Ended {
            return;
        }
        executor.phase = InstancePhase::Ended;
        executor.connection = None;
        for task in std::mem::take(&mut executor.tasks) {
            if self.phase(task) == Some(InstancePhase::Ended) {
                continue;
            }
            let killed = self.is_unwanted(task);
            let end = if killed {
                TaskEnd {
                    state: TaskState::Killed,
                    reason: Reason::TaskKilled,
                    ..end.clone()
                }
            } else {
                end.clone()
            };
            self.end(task, end);
        }
        // The ends of its tasks are on disk before its files are removed.
        self.report();
        self.when_durable(DeferredStep::ClearExecutor(instance));
    }

    /// Returns the end of the tasks of an executor that the agent itself ends.
    fn failure_of_executor(&self, instance: Instance) -> Option<TaskEnd> {
        let facts = self.facts.executors.get(&instance)?;
        if let Some(why) = &facts.disk_excess {
            return Some(over_disk(why));
        }
        let executor = self.executors.all.get(&instance)?;
        executor.subscribe_timed_out.then(|| {
            let waited = self.config.executor_timeout_ms / 1_000;
            let reason = Reason::ExecutorRegistrationTimeout;
            let why = Explanation::of(Code::ExecutorSilent, &[&waited]);
            TaskEnd::by_agent(TaskState::Failed, reason, why)
        })
    }

    /// Allows the removal of its container.
    pub(in crate::core) fn clear_executor(&mut self, instance: Instance) {
        let Some(name) = self.facts.executor_container(instance) else {
            return;
        };
        let key = self.facts.executors[&instance].key.clone();
        if let Some(executor) = self.executors.all.get_mut(&instance)
            && !std::mem::replace(&mut executor.is_cleaning_up, true)
        {
            self.effects.push(ContainerEffect::StopListening(name));
            self.effects.push(ContainerEffect::Destroy { name, key });
        }
    }

    /// Handles the cleanup of an executor's container. That of an earlier attempt has no effect on
    /// the present one.
    pub(super) fn executor_cleared(&mut self, name: ContainerName) {
        if self.facts.executor_container(name.instance) == Some(name) {
            self.forget_executor(name.instance);
        }
    }

    /// Forgets an executor that is removed. Tasks that waited for this may start another one.
    fn forget_executor(&mut self, instance: Instance) {
        let cleared = ExecutorRecord::Cleared { instance };
        self.persist(JournalRecord::Executor(cleared), SyncMode::Lazy);
        self.executors.all.remove(&instance);
        for task in std::mem::take(&mut self.executors.unhosted) {
            self.host(task);
        }
        self.dial_if_clear();
    }

    /// Shuts down an executor that has no task left.
    pub(super) fn shut_down(&mut self, instance: Instance) {
        match self.executors.phase(instance) {
            Some(InstancePhase::Waiting) => self.forget_executor(instance),
            Some(InstancePhase::Fetching) => {
                self.effects.push(ContainerEffect::CancelFetch(instance));
                self.executor_ended(instance, terminated(Explanation::default()));
            }
            // It is killed as soon as it is known to run.
            Some(InstancePhase::Starting | InstancePhase::Recovering | InstancePhase::Unknown) => {
                self.mark_ending(instance)
            }
            Some(InstancePhase::Running) => {
                self.mark_ending(instance);
                let grace_ms = self.executor_grace_ms(instance);
                if self.send_to_executor(instance, ExecutorMessage::Shutdown { grace_ms }) {
                    self.kill_executor_at(instance, grace_ms);
                } else {
                    planted_bug!(ExecutorLeft => return);
                    self.kill_executor(instance);
                }
            }
            // Only tasks of groups wait, prepared, for others.
            Some(InstancePhase::Prepared | InstancePhase::Ended) | None => {}
        }
    }

    pub(super) fn mark_ending(&mut self, instance: Instance) {
        let facts = self.facts.executors.get(&instance);
        if facts.is_some_and(|facts| !facts.ending) {
            self.persist_ending(instance, None);
        }
    }

    /// Marks an executor that exceeds its disk limit. The first explanation remains.
    pub(super) fn mark_over_disk(&mut self, instance: Instance, why: Explanation) {
        let facts = self.facts.executors.get(&instance);
        if facts.is_some_and(|facts| facts.disk_excess.is_none()) {
            self.persist_ending(instance, Some(why));
        }
    }

    fn persist_ending(&mut self, instance: Instance, disk_excess: Option<Explanation>) {
        let ending = ExecutorRecord::Ending {
            instance,
            disk_excess,
        };
        self.persist(JournalRecord::Executor(ending), SyncMode::Awaited);
    }

    /// Returns the grace period of a kill in milliseconds: none for an executor that exceeds its
    /// disk limit.
    fn executor_grace_ms(&self, instance: Instance) -> u64 {
        let facts = self.facts.executors.get(&instance);
        let facts = facts.filter(|facts| facts.disk_excess.is_none());
        facts.map_or(0, ExecutorInfo::grace_ms)
    }

    /// Kills an executor. From TERM on no task joins it.
    pub(super) fn kill_executor(&mut self, instance: Instance) {
        self.mark_ending(instance);
        let grace_ms = self.executor_grace_ms(instance);
        self.effects
            .push(ContainerEffect::Kill { instance, grace_ms });
    }

    fn kill_executor_at(&mut self, instance: Instance, after_ms: u64) {
        let at = self.now.plus_ms(after_ms);
        if let Some(executor) = self.executors.all.get_mut(&instance) {
            // A repeated request does not extend the deadline.
            let at = executor.kill_at.map_or(at, |before| before.min(at));
            executor.kill_at = Some(at);
            self.executors.deadlines.insert(at, instance);
        }
    }

    /// Sets the deadline of an executor all of whose tasks are to be killed: the longest of their
    /// grace periods plus its own.
    pub(super) fn set_executor_deadline(&mut self, instance: Instance) {
        let Some(executor) = self.executors.all.get(&instance) else {
            return;
        };
        if executor.tasks.iter().any(|task| !self.is_unwanted(*task)) {
            return;
        }
        let tasks = executor.tasks.iter();
        let graces = tasks.filter_map(|task| self.facts.tasks.get(task).map(TaskFacts::grace_ms));
        let longest_ms = graces.max().unwrap_or(0);
        let own_ms = self.executor_grace_ms(instance);
        self.kill_executor_at(instance, longest_ms.saturating_add(own_ms));
    }

    /// Handles deadlines of executors.
    pub(in crate::core) fn check_executors(&mut self) {
        while let Some(instance) = self.executors.deadlines.pop_due(self.now) {
            self.check_executor_deadlines(instance);
        }
    }

    fn check_executor_deadlines(&mut self, instance: Instance) {
        let now = self.now;
        let is_due = |at: &mut Option<_>| at.take_if(|at| *at <= now).is_some();
        let Some(executor) = self.executors.all.get_mut(&instance) else {
            return;
        };
        if executor.phase != InstancePhase::Running {
            return;
        }
        let is_silent = is_due(&mut executor.subscribe_by) && executor.connection.is_none();
        executor.subscribe_timed_out |= is_silent;
        let is_late = is_due(&mut executor.kill_at);
        let tasks = &self.executors.all[&instance].tasks;
        let is_wanted = tasks.iter().any(|task| !self.is_unwanted(*task));
        if is_silent || (is_late && !is_wanted) {
            self.kill_executor(instance);
        }
    }
}

/// Returns the end of a task whose executor has ended.
pub(super) fn terminated(why: impl Into<Explanation>) -> TaskEnd {
    TaskEnd::by_agent(TaskState::Failed, Reason::ExecutorTerminated, why)
}

/// Returns the end of a task whose executor has exceeded its disk limit.
pub(super) fn over_disk(why: &Explanation) -> TaskEnd {
    let why = Explanation::of(Code::Executor, &[]).then(why.clone());
    TaskEnd::by_agent(TaskState::Failed, Reason::LimitDisk, why)
}
