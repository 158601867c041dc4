//! The agent's decisions: one input and the time in, effects as data out.
//!
//! The core uses no clock, no IO, and no randomness but the rare branches of a simulation. Every
//! effect that reports a fact, or acts on an order, waits in `deferred` until all earlier records
//! are on disk. Reading order: `messages`, `launch`, `numbered_update`, `input`, `effect`, `facts`,
//! `evidence`, `orders`, `preparing`, `lifecycle`, `stop_after`, `groups`, `network`, `executors`,
//! `checks`, `check_schedule`, `disk`, `space`, `limits`, `outcome`, `updates`, `link`, `recovery`,
//! `views`.

mod check_schedule;
pub mod checks;
mod disk;
mod effect;
mod evidence;
mod executors;
mod facts;
mod groups;
mod input;
mod launch;
mod lifecycle;
mod limits;
mod link;
pub mod messages;
mod network;
mod numbered_update;
mod orders;
mod outcome;
mod preparing;
mod random;
mod recovery;
mod space;
mod stop_after;
#[cfg(test)]
mod tests;
mod updates;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use argosy_state::agent::AgentInfo;
use argosy_state::ids::Timestamp;

use effect::EffectQueue;
use executors::Executors;
use groups::TaskGroupOrders;
use lifecycle::InstanceState;
use link::{DialState, Link};
pub(crate) use random::RandomSequence;
use views::ReportedCheck;

pub use disk::DiskDefault;
pub(crate) use disk::limit_bytes as disk_limit_bytes;
pub use effect::{ContainerEffect, Effect, JournalEffect, LinkEffect};
pub use executors::{
    ExecutorEvent, ExecutorInfo, ExecutorMessage, ExecutorRecord, ExecutorTask, ExecutorUpdate,
};
pub use facts::{
    AgentIdentity, AgentState, CheckTimes, ContainerName, Instance, InvalidContainerName,
    JournalRecord, OrderBody, StartedFact, TaskFacts,
};
pub(crate) use groups::group_name;
pub use launch::{LaunchOrder, OrderForm};
pub(crate) use lifecycle::PHASES;
pub use limits::UnappliedLimits;
pub use numbered_update::{LimitsReport, NumberedUpdate};
pub(crate) use orders::key as task_key;
pub(crate) use views::{ContainerView, TaskView};

pub use input::{
    CommandExit, CommandStatus, ContainerStart, CreateError, GroupNetwork, GroupStart, Input,
    RecoveredContainer, StopCause,
};

/// The configuration of the core.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// The description of the agent that it registers with.
    pub info: AgentInfo,
    /// The present boot of the host.
    pub boot_id: String,
    /// Whether a part of the journal was damaged when this process read it.
    pub journal_damaged: bool,
    /// Timeout of an executor's subscription, from its start or the end of its last stream, in
    /// milliseconds.
    pub executor_timeout_ms: u64,
    /// Disk limit of tasks that request no `disk`.
    pub disk_default: DiskDefault,
    /// Seed of nonces, incarnations and jitter; must differ between agents and between starts.
    pub seed: u64,
    /// Milliseconds to add to the time of a step to get those of the Unix epoch, for display.
    pub wall_offset_ms: i64,
}

/// The state machine of the agent.
#[derive(Debug)]
pub struct Core {
    facts: AgentState,
    instances: BTreeMap<Instance, InstanceState>,
    executors: Executors,
    config: CoreConfig,
    random: RandomSequence,
    now: Timestamp,
    /// Number of records appended to the journal so far.
    appended: u64,
    /// The newest record that a deferred effect waits for.
    awaited: u64,
    /// Number of the newest record that is known to be on disk.
    durable: u64,
    /// Effects that wait for the journal, in order. Bounded by what the inputs before the next sync
    /// can cause.
    deferred: VecDeque<(u64, DeferredStep)>,
    /// Whether the disk is full: then only kills and ends of tasks are recorded in full.
    journal_is_full: bool,
    link: Option<Link>,
    /// The send time of the newest message that an active leader has answered, over any link;
    /// `None` before the first one in this run of the process.
    acked_at: Option<Timestamp>,
    dial: DialState,
    /// Whether this process has put a new incarnation into the identity.
    has_incarnation: bool,
    /// Tasks whose newest state is not in an update yet.
    dirty: BTreeSet<Instance>,
    report_at: Option<Timestamp>,
    /// The time at which ended tasks are reported.
    report_ends_at: Option<Timestamp>,
    reported_at: Timestamp,
    /// Deadlines by `max_completion_ms`.
    completion_deadlines: BTreeSet<(Timestamp, Instance)>,
    /// The next steps of the checks of running tasks.
    check_deadlines: BTreeSet<(Timestamp, Instance)>,
    /// The times at which containers that could not be queried are queried again.
    query_retries: BTreeSet<(Timestamp, Instance)>,
    /// The time until which the hello waits for the containers of the previous run.
    recovery_deadline: Option<Timestamp>,
    /// Groups with orders that have not arrived.
    incomplete_groups: BTreeSet<TaskGroupOrders>,
    /// The times of the next kills in groups.
    group_kills: BTreeSet<(Timestamp, Instance)>,
    /// Groups without tasks whose shared resources are being released.
    releasing_groups: BTreeSet<ContainerName>,
    /// Recovered launches that never started; they wait for a registration.
    unstarted: BTreeSet<Instance>,
    effects: EffectQueue,
}

/// An effect or step that waits for the journal.
#[derive(Debug)]
enum DeferredStep {
    /// Connect to the leader after this many milliseconds.
    Dial(u64),
    /// Send a message on this link.
    Send(u64, Box<messages::AgentMessage>),
    /// Continue a launch.
    Launch(Instance),
    /// Continue a kill.
    Kill(Instance),
    /// Apply changed limits of a task.
    Limit(Instance),
    /// Clean up a container whose end is recorded.
    Destroy(Instance),
    /// Create the container of an executor.
    Execute(Instance),
    /// Send a message to an executor.
    SendToExecutor(Instance, Box<ExecutorMessage>),
    /// Detach this task from its executor.
    DetachTask(Instance, Instance),
    /// Clean up an executor whose tasks' ends are recorded.
    ClearExecutor(Instance),
    /// Record that a master has answered a message sent at this time.
    Renew(Timestamp),
    /// Complete the registration on this link.
    Registered(u64),
}

/// The urgency of a record's sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// An effect waits for the record.
    Awaited,
    /// The record is synced with the next awaited one: its loss costs a repetition, never a fact.
    Lazy,
}

impl Core {
    /// Returns a core with these `facts`. The first input must be [`Input::Begin`].
    #[must_use]
    pub fn new(facts: AgentState, config: CoreConfig) -> Self {
        Self {
            facts,
            instances: BTreeMap::new(),
            executors: Executors::default(),
            random: RandomSequence::new(config.seed),
            config,
            now: Timestamp(0),
            appended: 0,
            awaited: 0,
            durable: 0,
            deferred: VecDeque::new(),
            journal_is_full: false,
            link: None,
            acked_at: None,
            dial: DialState::default(),
            has_incarnation: false,
            dirty: BTreeSet::new(),
            report_at: None,
            report_ends_at: None,
            reported_at: Timestamp(0),
            completion_deadlines: BTreeSet::new(),
            check_deadlines: BTreeSet::new(),
            query_retries: BTreeSet::new(),
            recovery_deadline: None,
            incomplete_groups: BTreeSet::new(),
            group_kills: BTreeSet::new(),
            releasing_groups: BTreeSet::new(),
            unstarted: BTreeSet::new(),
            effects: EffectQueue::default(),
        }
    }

    /// Returns the durable facts.
    #[must_use]
    pub fn facts(&self) -> &AgentState {
        &self.facts
    }

    /// Whether a master has registered this agent on the present link.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.registered)
    }

    /// Whether all containers and all shared resources of groups are removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_clear = self.instances.values().all(InstanceState::is_cleaned_up);
        is_clear && self.executors.is_empty() && self.releasing_groups.is_empty()
    }

    /// Returns every instance that is not cleaned up, for display.
    pub(crate) fn containers(&self) -> Vec<ContainerView> {
        let tasks = self.facts.tasks.iter();
        let views = tasks.filter_map(|(instance, task)| {
            Some(ContainerView {
                name: self.facts.container(*instance)?,
                container: self.facts.container(*instance)?.to_string(),
                framework_id: task.key.framework.to_string(),
                task_id: task.key.task.to_string(),
                order: instance.order.0,
                state: self.instances.get(instance)?.phase.name(),
                pid: task.started.map(|started| started.pid),
                held: task.held,
                healthy: ReportedCheck::of(task.check_results.healthy, task.check_times.healthy),
                ready: ReportedCheck::of(task.check_results.ready, task.check_times.ready),
                tasks: Vec::new(),
                group: group_name(*instance, &task.launch),
            })
        });
        let executors = self.executors.phases();
        let executors =
            executors.filter_map(|(instance, phase)| self.executor_view(instance, phase));
        views.chain(executors).collect()
    }

    /// Returns the time at which [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let link = self.link.as_ref().map(Link::deadline);
        let overdue = self.completion_deadlines.first().map(|(at, _)| *at);
        let look = self.check_deadlines.first().map(|(at, _)| *at);
        let executor = self.executors.deadline();
        let turn = self.group_kills.first().map(|(at, _)| *at);
        let ask = self.query_retries.first().map(|(at, _)| *at);
        let found = self.recovery_deadline;
        let all = [
            link,
            overdue,
            look,
            executor,
            turn,
            ask,
            found,
            self.report_at,
            self.report_ends_at,
        ];
        all.into_iter().flatten().min()
    }

    /// Handles one input at a time on the boot clock; returns the effects in the order of their
    /// execution.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Effect> {
        self.now = self.now.max(now);
        let Some(input) = self.executor_input(input) else {
            return self.effects.take();
        };
        match input {
            Input::Begin => self.recover(),
            Input::Connected { link } => self.connected(link),
            Input::Disconnected { link, why } => self.disconnected(link, &why),
            Input::DialFailed => self.dial_again(),
            Input::Message { link, message } => self.message(link, *message),
            Input::Durable { number } => self.durable(number),
            Input::JournalFull(is_full) => self.journal_is_full = is_full,
            Input::JournalLarge => self
                .effects
                .push(JournalEffect::Compact(self.facts.snapshot())),
            Input::Fetching { instance, progress } => self.fetch_progressed(instance, progress),
            Input::Fetched { instance, result } => self.fetched(instance, result),
            Input::Started { instance, fact } => self.started(instance, fact),
            Input::NotStarted { instance, refusal } => self.not_started(instance, refusal),
            Input::Exited { instance, exit } => self.exited(instance, exit),
            Input::Lost { instance, why } => self.lost(instance, why),
            Input::ContainerFound {
                instance,
                container,
            } => self.container_found(instance, container),
            Input::Destroyed { name } => self.destroyed(name),
            Input::ProbeFinished {
                instance,
                probe,
                answer,
            } => self.probe_finished(instance, probe, answer),
            Input::LimitsApplied {
                instance,
                order,
                outcome,
            } => self.limited(instance, order, outcome),
            Input::DiskLimitExceeded { instance, why } => self.disk_limit_exceeded(instance, why),
            // Inputs of executors were handled above.
            Input::Executor { .. } => {}
            Input::Tick => self.tick(),
            Input::KillAll => self.end_all(),
        }
        self.effects.take()
    }

    /// Records a change of facts. All facts change here.
    fn persist(&mut self, record: JournalRecord, sync: SyncMode) {
        self.facts.apply(&record);
        self.appended += 1;
        if sync == SyncMode::Awaited {
            self.awaited = self.appended;
        }
        self.effects.push(JournalEffect::Append {
            number: self.appended,
            record: Box::new(record),
            sync,
        });
    }

    /// Performs a step as soon as every awaited record so far is on disk.
    fn when_durable(&mut self, deferred: DeferredStep) {
        if self.durable >= self.awaited && self.deferred.is_empty() {
            self.perform(deferred);
        } else {
            self.deferred.push_back((self.awaited, deferred));
        }
    }

    fn durable(&mut self, number: u64) {
        self.durable = self.durable.max(number);
        while self
            .deferred
            .front()
            .is_some_and(|(until, _)| *until <= self.durable)
        {
            let (_, deferred) = self.deferred.pop_front().expect("it was just looked at");
            self.perform(deferred);
        }
    }

    fn perform(&mut self, deferred: DeferredStep) {
        match deferred {
            DeferredStep::Dial(after_ms) => self.dial_now(after_ms),
            DeferredStep::Send(link, message) => self.send_message(link, *message),
            DeferredStep::Launch(instance) => self.launch(instance),
            DeferredStep::Kill(instance) => self.kill(instance),
            DeferredStep::Limit(instance) => self.apply_limits(instance),
            DeferredStep::Destroy(instance) => self.destroy(instance),
            DeferredStep::Execute(instance) => self.execute(instance),
            DeferredStep::SendToExecutor(instance, message) => {
                self.send_to_executor(instance, *message);
            }
            DeferredStep::DetachTask(instance, executor) => self.leave(instance, executor),
            DeferredStep::ClearExecutor(instance) => self.clear_executor(instance),
            DeferredStep::Renew(acked_at) => self.lease_renewed(acked_at),
            DeferredStep::Registered(link) => self.complete_registration(link),
        }
    }

    fn tick(&mut self) {
        if self.report_at.is_some_and(|at| at <= self.now) {
            self.report();
        }
        if self.report_ends_at.is_some_and(|at| at <= self.now) {
            self.report_ends();
        }
        self.recovery_timed_out();
        while let Some((at, instance)) = self
            .completion_deadlines
            .first()
            .copied()
            .filter(|(at, _)| *at <= self.now)
        {
            self.completion_deadlines.remove(&(at, instance));
            self.deadline_exceeded(instance);
        }
        self.run_due_checks();
        self.query_unknown();
        self.check_executors();
        self.continue_group_kills();
        self.check_link();
    }
}
