//! Crash recovery: the tasks of the previous run after a start of the process.
//!
//! The agent contacts no master before it has searched for every container, so that its report is
//! correct, but waits for at most four seconds. A container that could not be queried, or has not
//! answered by then, is not reported, and is queried again.

use argosy_state::ids::TaskKey;
use argosy_state::planted_bug;
use argosy_state::task::{Code, Explanation, Reason, TaskState};

use super::effect::ContainerEffect;
use super::facts::{AgentIdentity, AgentState, ContainerName, Instance, JournalRecord};
use super::groups::group_name;
use super::input::{CommandExit, RecoveredContainer, StopCause};
use super::lifecycle::{InstancePhase, InstanceState};
use super::outcome::{FailureCause, TaskEnd, interrupted_end, unknown_end};
use super::{Core, DeferredStep, SyncMode};

/// The time after which a container that could not be queried is queried again, in milliseconds.
const QUERY_RETRY_MS: u64 = 5_000;

/// The time for which the report waits for the state of all containers, in milliseconds. An agent
/// that is silent for longer than its timeout, 15 s unless configured otherwise, is considered
/// lost, and so are all of its tasks.
const RECOVERY_TIMEOUT_MS: u64 = 4_000;

impl AgentState {
    /// Returns the containers that the facts name, including those of executors, and the names of
    /// their groups.
    pub(crate) fn known_containers(&self) -> Vec<ContainerName> {
        let executors = self.executors.keys();
        let executors = executors.filter_map(|instance| self.executor_container(*instance));
        let names = self.tasks.iter().flat_map(|(instance, task)| {
            let group = group_name(*instance, &task.launch);
            [self.container(*instance), group]
        });
        names.flatten().chain(executors).collect()
    }
}

impl Core {
    pub(super) fn recover(&mut self) {
        let former = &self.facts.identity;
        let nonce = match former.nonce {
            0 => self.random.name(),
            given => given,
        };
        let run = former.run + 1;
        let is_same_boot = former.boot_id == self.config.boot_id || planted_bug!(RebootForgotten);
        let identity = AgentIdentity {
            nonce,
            run,
            boot_run: if is_same_boot { former.boot_run } else { run },
            boot_id: self.config.boot_id.clone(),
            ..former.clone()
        };
        self.persist(JournalRecord::Identity(identity), SyncMode::Awaited);
        planted_bug!(UpdateForgotten => self.forget_updates());
        let tasks: Vec<_> = self
            .facts
            .tasks
            .iter()
            .map(|(instance, task)| (*instance, task.state))
            .collect();
        self.recover_executors();
        for (instance, state) in tasks {
            self.wait_for_group(instance);
            if self.facts.container(instance).is_none() && !state.is_terminal() {
                self.instances
                    .insert(instance, InstanceState::new(InstancePhase::Waiting));
                self.recover_hosted(instance);
            } else if state.is_terminal() {
                self.instances
                    .insert(instance, InstanceState::new(InstancePhase::Ended));
                self.when_durable(DeferredStep::Destroy(instance));
            } else {
                let mut recovering = InstanceState::new(InstancePhase::Recovering);
                recovering.failure = self.facts.tasks[&instance].failure.clone();
                self.instances.insert(instance, recovering);
                let name = self
                    .facts
                    .container(instance)
                    .expect("the task was just listed");
                let mut key = self.facts.tasks[&instance].key.clone();
                planted_bug!(AdoptedAsFirst => key = self.first_key(instance).unwrap_or(key));
                self.effects.push(ContainerEffect::Find { name, key });
            }
        }
        if !self.is_recovered() {
            let until = self.now.plus_ms(RECOVERY_TIMEOUT_MS);
            self.recovery.wait_until(until);
        }
        self.dial_if_clear();
    }

    /// Implements the planted bug `UpdateForgotten`.
    fn forget_updates(&mut self) {
        let tasks = self.facts.tasks.values_mut();
        tasks.for_each(|task| task.updates.clear());
    }

    /// Implements the planted bug `AdoptedAsFirst`: returns the key of the first task of a group.
    fn first_key(&self, instance: Instance) -> Option<TaskKey> {
        let (_, first) = self.group_start(instance)?.first?;
        Some(first)
    }

    /// Stops waiting for containers that were not found in time. The search continues, and a later
    /// result is accepted.
    pub(super) fn recovery_timed_out(&mut self) {
        if !self.recovery.times_out(self.now) {
            return;
        }
        let instances = self.instances.iter();
        let slow = instances.filter(|(_, state)| state.phase == InstancePhase::Recovering);
        let slow: Vec<_> = slow.map(|(instance, _)| *instance).collect();
        for instance in &slow {
            self.enter(*instance, InstancePhase::Unknown);
        }
        for instance in slow {
            self.advance_group_of(instance);
        }
        self.give_up_finding_executors();
        self.dial_if_clear();
    }

    pub(super) fn is_recovered(&self) -> bool {
        self.instances
            .values()
            .all(|state| state.phase != InstancePhase::Recovering)
            && self.executors.are_recovered()
    }

    pub(super) fn container_found(&mut self, instance: Instance, found: RecoveredContainer) {
        if !self
            .instances
            .get(&instance)
            .is_some_and(InstanceState::is_recovering)
        {
            return;
        }
        match found {
            RecoveredContainer::Unknown if !self.is_of_earlier_boot(instance) => {
                self.not_found(instance)
            }
            RecoveredContainer::Running(fact) => {
                self.started(instance, fact);
                self.renew_adopted(instance);
            }
            RecoveredContainer::Exited(ended) => self.exited(instance, ended),
            RecoveredContainer::NeverStarted if self.is_unwanted(instance) => {
                self.end_unstarted(instance)
            }
            RecoveredContainer::NeverStarted if self.may_start_again(instance) => {
                self.start_again(instance);
            }
            RecoveredContainer::Gone
            | RecoveredContainer::NeverStarted
            | RecoveredContainer::Unknown => {
                let end = self.unknown_end(self.is_of_earlier_boot(instance));
                self.end_without_status(instance, end);
            }
        }
        self.advance_group_of(instance);
        self.dial_if_clear();
    }

    /// Handles a container that could not be queried. A running task that is still needed continues
    /// until a query succeeds; other tasks are not delayed.
    fn not_found(&mut self, instance: Instance) {
        if self.is_unwanted(instance) {
            let why = Explanation::of(Code::ContainerUnknown, &[]);
            let end = TaskEnd::by_agent(TaskState::Killed, Reason::TaskKilled, why);
            self.end(instance, end);
        } else {
            self.enter(instance, InstancePhase::Unknown);
            self.schedule_query(instance);
        }
    }

    pub(super) fn schedule_query(&mut self, instance: Instance) {
        let at = self.now.plus_ms(QUERY_RETRY_MS);
        self.recovery.query_at(at, instance);
    }

    /// Queries again the containers that could not be queried.
    pub(super) fn query_unknown(&mut self) {
        while let Some(instance) = self.recovery.next_query(self.now) {
            let executor = self.executor_to_ask(instance);
            let is_unknown = self.phase(instance) == Some(InstancePhase::Unknown);
            let task = self.facts.tasks.get(&instance).filter(|_| is_unknown);
            let task = task.and_then(|task| {
                let name = self.facts.container(instance)?;
                Some((name, task.key.clone()))
            });
            if let Some((name, key)) = executor.or(task) {
                self.effects.push(ContainerEffect::Find { name, key });
            }
        }
    }

    /// Continues with containers that were found after a registration, without waiting for the next
    /// one.
    pub(super) fn resume_if_registered(&mut self) {
        if let Some(link) = self.link.registered() {
            self.when_durable(DeferredStep::Registered(link));
        }
    }

    /// Returns the end of an instance whose container has no exit status.
    pub(super) fn unknown_end(&self, rebooted: bool) -> TaskEnd {
        let mut end = unknown_end(rebooted);
        if self.config.journal_damaged {
            end.why = end.why.then(Explanation::of(Code::JournalDamaged, &[]));
        }
        end
    }

    /// Whether its container, if it had one, was started before the host's present boot. This is
    /// decided by runs, not by whether the boot has changed since the last run: that run may have
    /// ended before it could report its tasks.
    pub(super) fn is_of_earlier_boot(&self, instance: Instance) -> bool {
        let task = self.facts.tasks.get(&instance);
        task.is_some_and(|task| task.run < self.facts.identity.boot_run)
    }

    /// Returns the reason for which the previous run ended a container, if its completion deadline
    /// has passed. The journal has the other ones: an order to kill, a failed health check, and an
    /// exceeded disk limit.
    pub(super) fn missed_deadline(
        &self,
        instance: Instance,
        exit: &CommandExit,
    ) -> Option<FailureCause> {
        let state = self.instances.get(&instance)?;
        let is_of_this_boot = !self.is_of_earlier_boot(instance);
        if exit.stop != Some(StopCause::Ordered) || !state.is_recovering() || !is_of_this_boot {
            return None;
        }
        let task = self.facts.tasks.get(&instance)?;
        let limit_ms = task.launch.spec.max_completion_ms;
        let deadline = task.started?.at.plus_ms(limit_ms);
        (limit_ms > 0 && deadline <= self.now).then_some(FailureCause::DeadlineExceeded)
    }

    /// Whether its container was started by an earlier run of this agent.
    pub(super) fn is_adopted(&self, instance: Instance) -> bool {
        let task = self.facts.tasks.get(&instance);
        task.is_some_and(|task| task.run < self.facts.identity.run)
    }

    /// Whether a launch may start again. The supervisor's state files may not survive a power loss.
    /// After one, their absence proves nothing, and it never overrides the journal.
    fn may_start_again(&self, instance: Instance) -> bool {
        let task = self.facts.tasks.get(&instance);
        let is_unstarted = task.is_some_and(|task| match task.state {
            // A committed update without a state is one whose record is damaged: it may report a
            // start or an end.
            TaskState::Staging => task.started.is_none() && task.committed == 0,
            TaskState::Starting => task.started.is_none(),
            TaskState::Running
            | TaskState::Killing
            | TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Dropped
            | TaskState::Unreachable
            | TaskState::Gone
            | TaskState::GoneByOperator
            | TaskState::Unknown => false,
        });
        is_unstarted && !self.is_of_earlier_boot(instance)
    }

    /// Starts a launch again that never started, once the agent is registered. Fails a task with
    /// `stop_after_ms`: masters may have reported that it can be replaced while no agent ran.
    fn start_again(&mut self, instance: Instance) {
        let task = self.facts.tasks.get(&instance);
        if task.is_some_and(|task| task.launch.spec.stop_after_ms > 0) {
            return self.end_without_status(instance, interrupted_end());
        }
        self.instances
            .insert(instance, InstanceState::new(InstancePhase::Waiting));
        self.recovery.start_later(instance);
        self.resume_if_registered();
    }

    /// Completes a registration. A launch that never started is tried again only now: an agent that
    /// was long disconnected from the masters may have been replaced, and the master that
    /// registered it would have reported that. A launch of a former cluster fails: the restored one
    /// may not have the task.
    pub(super) fn complete_registration(&mut self, link: u64) {
        if self.link.registered() != Some(link) {
            return;
        }
        self.repeat_secret_requests(link);
        let run = self.facts.identity.run;
        for instance in self.recovery.take_unstarted() {
            if self
                .facts
                .tasks
                .get(&instance)
                .is_some_and(|task| task.former)
            {
                self.end_without_status(instance, interrupted_end());
                continue;
            }
            self.persist(JournalRecord::Retried { instance, run }, SyncMode::Awaited);
            self.when_durable(DeferredStep::Launch(instance));
        }
    }
}
