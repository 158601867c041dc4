//! Crash recovery of executors: the executors of the previous run, and their tasks.

use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use super::Executor;
use super::lifecycle::executor_key;
use crate::core::Core;
use crate::core::effect::ContainerEffect;
use crate::core::facts::{ContainerName, Instance, TaskFacts};
use crate::core::input::RecoveredContainer;
use crate::core::lifecycle::InstancePhase;

impl Core {
    /// Searches for the executors of the previous run, and attaches their tasks to them.
    pub(in crate::core) fn recover_executors(&mut self) {
        let all: Vec<_> = self.facts.executors.keys().copied().collect();
        for instance in all {
            let executor = Executor::new(InstancePhase::Recovering);
            self.executors.all.insert(instance, executor);
            let key = self.facts.executors[&instance].key.clone();
            if let Some(name) = self.facts.executor_container(instance) {
                self.effects.push(ContainerEffect::Find { name, key });
            }
        }
    }

    /// Sets the state of an executor's task in this run, before anything is found.
    pub(in crate::core) fn recover_hosted(&mut self, instance: Instance) {
        let Some(task) = self.facts.tasks.get(&instance) else {
            return;
        };
        let is_unheard = is_unreported(task);
        let is_unwanted = self.is_unwanted(instance);
        let key = executor_key(task);
        let named = key.and_then(|key| self.facts.executor_named(&key));
        match named.map(|(executor, facts)| (executor, facts.may_have(instance))) {
            // An executor that is to end does not receive tasks that it never had.
            Some((executor, may_have)) if may_have || is_unwanted || !is_unheard => {
                self.enter(instance, InstancePhase::Starting);
                self.attach(instance, executor, true);
            }
            _ if is_unwanted => self.end_unstarted(instance),
            _ if is_unheard => self.recovery.start_later(instance),
            _ => self.end(
                instance,
                self.unknown_end(self.is_of_earlier_boot(instance)),
            ),
        }
    }

    pub(super) fn executor_found(&mut self, instance: Instance, container: RecoveredContainer) {
        let phase = self.executors.phase(instance);
        if !matches!(
            phase,
            Some(InstancePhase::Recovering | InstancePhase::Unknown)
        ) {
            return;
        }
        match container {
            RecoveredContainer::Unknown if !self.is_executor_of_earlier_boot(instance) => {
                self.executor_not_found(instance);
            }
            RecoveredContainer::Running(fact) => {
                self.executor_started(instance, fact);
                self.reapply_kills(instance);
            }
            RecoveredContainer::Exited(ended) => self.executor_exited(instance, &ended),
            RecoveredContainer::NeverStarted => {
                self.executor_never_started(instance);
                self.resume_if_registered();
            }
            RecoveredContainer::Gone | RecoveredContainer::Unknown => {
                let end = self.unknown_end(self.is_executor_of_earlier_boot(instance));
                self.executor_ended(instance, end);
            }
        }
        self.dial_if_clear();
    }

    /// Handles an executor whose container could not be queried. As with a task, it is destroyed if
    /// none of its tasks is needed.
    fn executor_not_found(&mut self, instance: Instance) {
        let is_ending = (self.facts.executors.get(&instance)).is_none_or(|facts| facts.ending);
        let tasks = self.executors.all.get(&instance);
        let mut tasks = tasks.into_iter().flat_map(|executor| &executor.tasks);
        if is_ending || tasks.all(|task| self.is_unwanted(*task)) {
            let text = "its executor could not be asked, and was destroyed";
            self.executor_ended(instance, super::shutdown::terminated(text.to_owned()));
        } else {
            self.enter_executor_phase(instance, InstancePhase::Unknown);
            self.schedule_query(instance);
        }
    }

    /// Marks the executors whose state is not known yet: other tasks no longer wait for them.
    pub(in crate::core) fn give_up_finding_executors(&mut self) {
        let all = self.executors.phases();
        let slow = all.filter(|(_, phase)| *phase == InstancePhase::Recovering);
        let slow: Vec<_> = slow.map(|(instance, _)| instance).collect();
        for instance in slow {
            self.enter_executor_phase(instance, InstancePhase::Unknown);
        }
    }

    /// Returns the container of an executor that could not be queried.
    pub(in crate::core) fn executor_to_ask(
        &self,
        instance: Instance,
    ) -> Option<(ContainerName, TaskKey)> {
        if self.executors.phase(instance) != Some(InstancePhase::Unknown) {
            return None;
        }
        let key = self.facts.executors.get(&instance)?.key.clone();
        Some((self.facts.executor_container(instance)?, key))
    }

    /// Applies kill orders that were taken before the executor could receive them.
    fn reapply_kills(&mut self, instance: Instance) {
        let executor = self.executors.all.get(&instance);
        let tasks = executor.into_iter().flat_map(|executor| &executor.tasks);
        let unwanted: Vec<_> = tasks
            .filter(|task| self.is_unwanted(**task))
            .copied()
            .collect();
        for task in unwanted {
            self.kill_hosted(task);
        }
    }

    fn is_executor_of_earlier_boot(&self, instance: Instance) -> bool {
        let executor = self.facts.executors.get(&instance);
        executor.is_some_and(|executor| executor.run < self.facts.identity.boot_run)
    }

    /// Handles an executor that never started. Its tasks wait for a registration, like others that
    /// never started, and start another one.
    fn executor_never_started(&mut self, instance: Instance) {
        let may_start = !self.is_executor_of_earlier_boot(instance)
            && (self.facts.executors.get(&instance)).is_some_and(|facts| facts.started.is_none());
        let tasks = self.executors.all.get(&instance);
        let tasks: Vec<_> = tasks
            .map(|executor| executor.tasks.iter().copied().collect())
            .unwrap_or_default();
        for task in tasks {
            let is_unheard = self.facts.tasks.get(&task).is_some_and(is_unreported);
            if may_start && is_unheard && !self.is_unwanted(task) {
                self.unassign(task);
                self.recovery.start_later(task);
            }
        }
        let end = self.unknown_end(self.is_executor_of_earlier_boot(instance));
        self.executor_ended(instance, end);
    }

    /// Detaches a task, which waits again as if no executor had been found for it.
    fn unassign(&mut self, instance: Instance) {
        let state = self.instances.get_mut(&instance);
        let hosted = state.and_then(|state| {
            state.phase = InstancePhase::Waiting;
            state.hosted.take()
        });
        let executor = hosted.and_then(|hosted| hosted.executor);
        if let Some(own) = executor.and_then(|executor| self.executors.all.get_mut(&executor)) {
            own.tasks.remove(&instance);
        }
    }
}

/// Whether no executor has ever reported this task.
pub(super) fn is_unreported(task: &TaskFacts) -> bool {
    task.state == TaskState::Staging && task.executor_serial == 0
}
