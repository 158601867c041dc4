//! Lifecycle of a task instance, from its launch order to cleanup.
//!
//! This state is lost when the process ends; durable state is in `facts`.

use argosy_state::planted_bug;
use argosy_state::task::{Code, Explanation, Reason, TaskState};

use super::check_schedule::TaskChecks;
use super::deadlines;
use super::effect::ContainerEffect;
use super::executors::HostedTask;
use super::facts::{ContainerName, Instance, JournalRecord, StartedFact};
use super::groups::{self, GroupProgress};
use super::input::{CommandExit, ContainerStart, CreateError};
use super::limits::LimitUpdateState;
use super::outcome::{FailureCause, TaskEnd, end_without_status, outcome_of};
use super::{Core, DeferredStep, SyncMode};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstancePhase {
    /// The order is not on disk yet, or waits for a registration.
    Waiting,
    /// The agent is searching for the container of an earlier run.
    Recovering,
    /// The search failed and is repeated. The container may run.
    Unknown,
    /// The files of the task are being fetched.
    Fetching,
    /// All files are fetched; the task waits for the other tasks of its group.
    Prepared,
    /// The container is being created.
    Starting,
    Running,
    Ended,
}

/// The names of the phases, as metrics and pages show them.
pub(crate) const PHASES: &[&str] = &[
    "waiting", "finding", "unknown", "fetching", "prepared", "starting", "running", "ended",
];

impl InstancePhase {
    fn may_have_processes(self) -> bool {
        use InstancePhase::{Recovering, Running, Starting, Unknown};
        matches!(self, Starting | Running | Recovering | Unknown)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Recovering => "finding",
            Self::Unknown => "unknown",
            Self::Fetching => "fetching",
            Self::Prepared => "prepared",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }
}

/// The host resources of an instance that remain to be cleaned up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CleanupState {
    /// No host resource was ever acquired.
    Nothing,
    /// A container, running or not, or host resources that were acquired for one.
    Container,
    /// The cleanup has begun.
    Destroying,
}

/// The state of one instance in this run of the agent.
#[derive(Debug)]
pub(super) struct InstanceState {
    pub(super) phase: InstancePhase,
    pub(super) end: Option<TaskEnd>,
    /// Set when the agent itself ends the task.
    pub(super) failure: Option<FailureCause>,
    /// Whether its `stop_after_ms` passed during its start.
    pub(super) is_expired: bool,
    /// The progress of the fetch, if it is to be reported.
    pub(super) fetch_progress: Option<Explanation>,
    pub(super) limit_update: LimitUpdateState,
    /// The checks, once the task runs.
    pub(super) checks: Option<TaskChecks>,
    /// The state that replaces a container if an executor runs the task.
    pub(super) hosted: Option<Box<HostedTask>>,
    /// The position in its task group, if it is in one.
    pub(super) group: GroupProgress,
    cleanup: CleanupState,
}

impl InstanceState {
    pub(super) fn new(phase: InstancePhase) -> Self {
        Self {
            phase,
            end: None,
            failure: None,
            is_expired: false,
            fetch_progress: None,
            limit_update: LimitUpdateState::default(),
            checks: None,
            hosted: None,
            group: GroupProgress::default(),
            cleanup: match phase == InstancePhase::Waiting {
                true => CleanupState::Nothing,
                false => CleanupState::Container,
            },
        }
    }

    /// Whether the state of the container of an earlier run is still unknown.
    pub(super) fn is_recovering(&self) -> bool {
        matches!(
            self.phase,
            InstancePhase::Recovering | InstancePhase::Unknown
        )
    }

    /// Records that host resources are acquired for the instance.
    pub(super) fn acquire_host(&mut self) {
        self.cleanup = CleanupState::Container;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase == InstancePhase::Ended
    }

    pub(super) fn is_cleaned_up(&self) -> bool {
        self.has_ended() && self.cleanup == CleanupState::Nothing
    }
}

impl Core {
    /// Continues a launch whose order is on disk.
    pub(super) fn launch(&mut self, instance: Instance) {
        let Some(state) = self.instances.get(&instance) else {
            return;
        };
        if state.phase != InstancePhase::Waiting {
            return;
        }
        let Some(task) = self.facts.tasks.get(&instance) else {
            return;
        };
        if !task.held || task.kill_grace_ms.is_some() {
            self.end_unstarted(instance);
            return;
        }
        if let Some(end) = self.no_space_end() {
            return self.end(instance, end);
        }
        if let Some(why) = groups::is_malformed(instance, &task.launch) {
            let end = TaskEnd::by_agent(TaskState::Error, Reason::TaskInvalid, why);
            return self.end(instance, end);
        }
        // Before its executor is started, whose description may have the defect.
        if let Some(why) = task.launch.defect.clone() {
            let end = TaskEnd::by_agent(TaskState::Error, Reason::TaskInvalid, why);
            self.end(instance, end);
            return;
        }
        if task.executor().is_some() {
            self.host(instance);
            return;
        }
        let is_brought = task.launch.needs_fetch();
        if self.join_group(instance) {
            return;
        }
        match is_brought {
            true => self.fetch(instance),
            false => self.start(instance),
        }
    }

    pub(super) fn fetch(&mut self, instance: Instance) {
        self.enter(instance, InstancePhase::Fetching);
        if let Some(state) = self.instances.get_mut(&instance) {
            // Its files need an owner: host user ids are allocated for it.
            state.acquire_host();
        }
        let start = self.description(instance);
        self.effects.push(ContainerEffect::Fetch(start));
        self.measure(instance);
        self.mark_dirty(instance);
    }

    pub(super) fn start(&mut self, instance: Instance) {
        if let Some(end) = self.expired_end(instance) {
            return self.end(instance, end);
        }
        self.enter(instance, InstancePhase::Starting);
        if let Some(state) = self.instances.get_mut(&instance) {
            state.acquire_host();
        }
        let start = self.description(instance);
        self.effects.push(ContainerEffect::Start(start));
    }

    pub(super) fn description(&self, instance: Instance) -> Box<ContainerStart> {
        let task = &self.facts.tasks[&instance];
        let name = self.facts.container(instance);
        Box::new(ContainerStart {
            name: name.expect("the task was just found"),
            key: task.key.clone(),
            launch: task.launch.clone(),
            task_amounts: Vec::new(),
            stop_at: self.stop_at(instance),
            group: self.group_start(instance),
            predecessors: self.predecessors(instance),
        })
    }

    pub(super) fn fetch_progressed(&mut self, instance: Instance, progress: Explanation) {
        let fetches = |state: &&mut InstanceState| state.phase == InstancePhase::Fetching;
        if let Some(state) = self.instances.get_mut(&instance).filter(fetches) {
            state.fetch_progress = Some(progress);
            self.mark_dirty(instance);
        }
    }

    pub(super) fn fetched(&mut self, instance: Instance, result: Result<(), CreateError>) {
        if self.phase(instance) != Some(InstancePhase::Fetching) {
            return;
        }
        match result {
            Ok(()) if self.group(instance).is_some() => {
                self.enter(instance, InstancePhase::Prepared);
                self.advance_group_of(instance);
            }
            Ok(()) => self.start(instance),
            Err(refusal) => self.end(instance, TaskEnd::not_created(refusal)),
        }
    }

    pub(super) fn started(&mut self, instance: Instance, fact: StartedFact) {
        let Some(
            was @ (InstancePhase::Starting | InstancePhase::Recovering | InstancePhase::Unknown),
        ) = self.phase(instance)
        else {
            return;
        };
        self.enter(instance, InstancePhase::Running);
        let Some(task) = self.facts.tasks.get(&instance) else {
            return;
        };
        let mut limit_ms = task.launch.spec.max_completion_ms;
        // Its limits count from the start in the journal, if that has one.
        let at = task.started.unwrap_or(fact).at;
        let (has_failed, is_killed) = (
            task.failure.is_some(),
            !task.held || task.kill_grace_ms.is_some(),
        );
        if task.started.is_none() {
            // The supervisor's state files prove the start after a crash: no step waits for this
            // record.
            self.persist(JournalRecord::Started { instance, fact }, SyncMode::Lazy);
        }
        planted_bug!(CompletionForgotten if was != InstancePhase::Starting => limit_ms = 0);
        if limit_ms > 0 {
            self.completions.insert(at.plus_ms(limit_ms), instance);
        }
        self.mark_started(instance);
        if has_failed {
            self.kill(instance);
        } else if is_killed {
            // The order may not be on disk yet.
            self.when_durable(DeferredStep::Kill(instance));
        } else {
            self.start_checks(instance, at, was);
            self.measure(instance);
            self.apply_limits(instance);
        }
    }

    pub(super) fn not_started(&mut self, instance: Instance, refusal: CreateError) {
        self.forget_secrets(instance);
        if self.phase(instance) != Some(InstancePhase::Starting) {
            return;
        }
        if self.is_unwanted(instance) {
            self.end_unstarted(instance);
            return;
        }
        self.end(instance, TaskEnd::not_created(refusal));
    }

    pub(super) fn exited(&mut self, instance: Instance, exit: CommandExit) {
        let phase = self.phase(instance);
        if !phase.is_some_and(InstancePhase::may_have_processes) {
            return;
        }
        let state = self.instances.get(&instance);
        let failing = state.and_then(|state| state.failure.clone());
        let failing = failing.or_else(|| self.disk_failure(instance, &exit));
        let failing = failing.or_else(|| self.missed_deadline(instance, &exit));
        let killed = self.is_unwanted(instance);
        let mut end = outcome_of(exit, killed, failing.as_ref());
        planted_bug!(SignalAsCode if self.is_adopted(instance) => end.turn_signal_into_code());
        self.end(instance, end);
    }

    pub(super) fn lost(&mut self, instance: Instance, why: Explanation) {
        if !matches!(
            self.phase(instance),
            Some(InstancePhase::Starting | InstancePhase::Running)
        ) {
            return;
        }
        let end = TaskEnd::by_agent(TaskState::Failed, Reason::CommandExited, why);
        self.end_without_status(instance, end);
    }

    /// Handles the end of a container without an exit status. `end` is that of a task that the
    /// agent was not to end.
    pub(super) fn end_without_status(&mut self, instance: Instance, end: TaskEnd) {
        let state = self.instances.get(&instance);
        let failing = state.and_then(|state| state.failure.as_ref());
        let end = end_without_status(end, self.is_unwanted(instance), failing);
        self.end(instance, end);
    }

    /// Continues a kill whose order is on disk.
    pub(super) fn kill(&mut self, instance: Instance) {
        let task = self.facts.tasks.get(&instance);
        if task.is_some_and(|task| task.executor().is_some()) {
            self.kill_hosted(instance);
            return;
        }
        match self.phase(instance) {
            Some(InstancePhase::Waiting | InstancePhase::Prepared) => self.end_unstarted(instance),
            Some(InstancePhase::Fetching) => {
                self.effects.push(ContainerEffect::CancelFetch(instance));
                self.end_unstarted(instance);
            }
            Some(InstancePhase::Running) if self.defer_group_kill(instance) => {}
            Some(InstancePhase::Running) => drop(self.end_running(instance)),
            // The task is killed as soon as it is known to run, if its command is executed by then.
            Some(InstancePhase::Starting) => {
                self.effects.push(ContainerEffect::CancelStart(instance));
            }
            Some(InstancePhase::Recovering) => {}
            // The next result decides: kill if found, destroy if the query fails again.
            Some(InstancePhase::Unknown) => {}
            Some(InstancePhase::Ended) | None => {}
        }
    }

    /// Sends TERM, and KILL after the grace period, which it returns in milliseconds.
    pub(super) fn end_running(&mut self, instance: Instance) -> u64 {
        let grace_ms = self.grace_ms(instance);
        self.stop_checks(instance);
        self.effects
            .push(ContainerEffect::Kill { instance, grace_ms });
        self.mark_dirty(instance);
        grace_ms
    }

    pub(super) fn deadline_exceeded(&mut self, instance: Instance) {
        if self.phase(instance) != Some(InstancePhase::Running) {
            return;
        }
        if let Some(state) = self.instances.get_mut(&instance) {
            state.failure.get_or_insert(FailureCause::DeadlineExceeded);
        }
        self.end_running(instance);
    }

    /// Kills every task, because the agent is being stopped. It takes no order from now on.
    pub(super) fn end_all(&mut self) {
        self.ending = true;
        let live = self.instances.iter().filter(|(_, one)| !one.has_ended());
        let live: Vec<_> = live.map(|(instance, _)| *instance).collect();
        for instance in live {
            self.request_kill(instance);
        }
    }

    pub(super) fn request_kill(&mut self, instance: Instance) {
        let Some(task) = self.facts.tasks.get(&instance) else {
            return;
        };
        let body = super::OrderBody::Kill {
            instance,
            grace_ms: task.grace_ms(),
        };
        let order = self.facts.floor;
        self.persist(
            JournalRecord::OrderAccepted { order, body },
            SyncMode::Awaited,
        );
        self.when_durable(DeferredStep::Kill(instance));
    }

    pub(super) fn end_unstarted(&mut self, instance: Instance) {
        let end = TaskEnd::by_agent(
            TaskState::Killed,
            Reason::KilledDuringLaunch,
            Explanation::of(Code::KilledBeforeStart, &[]),
        );
        self.end(instance, end);
    }

    /// Handles an end. The cleanup waits until the end is on disk, unless no report is due.
    pub(super) fn end(&mut self, instance: Instance, end: TaskEnd) {
        self.stop_checks(instance);
        let task = self.facts.tasks.get(&instance);
        if let Some(at) = task.and_then(deadlines::of_completion) {
            self.completions.remove(at, instance);
        }
        let Some(state) = self.instances.get_mut(&instance) else {
            return;
        };
        state.phase = InstancePhase::Ended;
        state.end = Some(state.group.explain(end));
        self.recovery.forget(instance);
        self.unhost(instance);
        if self.is_held(instance) {
            self.mark_ended(instance);
        } else {
            self.destroy(instance);
        }
        self.advance_group_of(instance);
    }

    pub(super) fn destroy(&mut self, instance: Instance) {
        let name = self.facts.container(instance);
        let key = self.facts.tasks.get(&instance).map(|task| task.key.clone());
        let Some(state) = self.instances.get_mut(&instance) else {
            return;
        };
        match (state.cleanup, name.zip(key)) {
            (CleanupState::Container, Some((name, key))) => {
                state.cleanup = CleanupState::Destroying;
                self.effects.push(ContainerEffect::Destroy { name, key });
            }
            (CleanupState::Container, None) | (CleanupState::Nothing, _) => {
                state.cleanup = CleanupState::Nothing;
                self.cleared(instance);
            }
            (CleanupState::Destroying, _) => {}
        }
    }

    /// Handles the cleanup of a container. That of an earlier attempt is ignored.
    pub(super) fn destroyed(&mut self, name: ContainerName) {
        let instance = name.instance;
        let present = self.facts.container(instance);
        if self.group_released(name) || present.is_some_and(|present| present != name) {
            return;
        }
        if let Some(state) = self.instances.get_mut(&instance) {
            state.cleanup = CleanupState::Nothing;
        }
        self.cleared(instance);
    }

    fn cleared(&mut self, instance: Instance) {
        self.clear_group_of(instance);
        self.release_if_done(instance);
    }

    /// Forgets an instance when nothing remains of it and no report is due.
    pub(super) fn release_if_done(&mut self, instance: Instance) {
        let state = self.instances.get(&instance);
        let is_clear = state.is_some_and(InstanceState::is_cleaned_up);
        if !is_clear || self.is_held(instance) || self.is_retained(instance) {
            return;
        }
        self.instances.remove(&instance);
        if self.facts.tasks.contains_key(&instance) {
            self.persist(JournalRecord::Released { instance }, SyncMode::Lazy);
        }
        self.dial_if_clear();
    }

    fn is_held(&self, instance: Instance) -> bool {
        let task = self.facts.tasks.get(&instance);
        task.is_some_and(|task| task.held)
    }

    pub(super) fn phase(&self, instance: Instance) -> Option<InstancePhase> {
        self.instances.get(&instance).map(|state| state.phase)
    }

    pub(super) fn enter(&mut self, instance: Instance, phase: InstancePhase) {
        if let Some(state) = self.instances.get_mut(&instance) {
            state.phase = phase;
        }
    }

    pub(super) fn is_unwanted(&self, instance: Instance) -> bool {
        let task = self.facts.tasks.get(&instance);
        task.is_none_or(|task| !task.held || task.kill_grace_ms.is_some())
    }
}
