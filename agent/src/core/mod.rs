//! The agent's decisions: one input and the time in, effects as data out.
//!
//! The core uses no clock, no IO, and no randomness but the rare branches of a simulation. Every
//! effect that reports a fact, or acts on an order, waits until all earlier records are on disk.
//!
//! The core consists of parts, each of which owns its fields: its methods change them and return
//! values, and none knows another part. `Core` composes them: it passes values from one to another,
//! changes the facts, and collects effects. The parts are `deadlines`, `durability`, `leader_link`,
//! `update_schedule`, `recovery_state`, `groups/pending`, and `executors`, whose fields only the
//! files of its directory use.
//!
//! `Core` itself owns what the whole lifecycle of a task uses: the facts, which change only by
//! records in `persist`, and the state of each instance.
//!
//! Reading order: `messages`, `launch`, `numbered_update`, `input`, `effect`, `facts`, `evidence`,
//! `deadlines`, `durability`, `orders`, `predecessors`, `preparing`, `lifecycle`, `stop_after`,
//! `groups`, `network`, `executors`, `checks`, `check_schedule`, `disk`, `space`, `limits`,
//! `secrets`, `outcome`, `update_schedule`, `updates`, `leader_link`, `following`, `link`,
//! `recovery_state`, `recovery`, `views`.

mod check_schedule;
pub mod checks;
mod deadlines;
mod disk;
mod durability;
mod effect;
mod evidence;
mod executors;
mod facts;
mod following;
mod groups;
mod input;
mod launch;
mod leader_link;
mod lifecycle;
mod limits;
mod link;
pub mod messages;
mod network;
mod numbered_update;
mod orders;
mod outcome;
mod predecessors;
mod preparing;
mod random;
mod recovery;
mod recovery_state;
mod secrets;
mod space;
mod stop_after;
#[cfg(test)]
mod tests;
mod update_schedule;
mod updates;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::agent::AgentInfo;
use argosy_state::ids::Timestamp;

use deadlines::InstanceDeadlines;
use durability::{DeferredStep, Durability};
use effect::EffectQueue;
use executors::Executors;
use groups::PendingGroups;
use leader_link::LeaderLink;
use lifecycle::InstanceState;
use messages::ReceivedTicketKey;
pub(crate) use random::RandomSequence;
use recovery_state::RecoveryState;
use update_schedule::UpdateSchedule;
use views::ReportedCheck;

pub use disk::DiskDefault;
pub(crate) use disk::limit_bytes as disk_limit_bytes;
pub use durability::SyncMode;
pub use effect::{ContainerEffect, Effect, JournalEffect, LinkEffect};
pub use executors::{
    ExecutorEvent, ExecutorInfo, ExecutorMessage, ExecutorRecord, ExecutorTask, ExecutorUpdate,
};
pub use facts::{
    AgentIdentity, AgentState, CheckTimes, ContainerName, Instance, InvalidContainerName,
    JournalRecord, OrderBody, StartedFact, TaskFacts,
};
pub use following::Adoption;
pub(crate) use groups::group_name;
pub use launch::{LaunchOrder, OrderForm};
pub(crate) use lifecycle::PHASES;
pub use limits::UnappliedLimits;
pub use numbered_update::{LimitsReport, NumberedUpdate};
pub(crate) use orders::key as task_key;
pub use outcome::FailureCause;
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
    /// The restored cluster that the operator has confirmed.
    pub adoption: Option<Adoption>,
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
    groups: PendingGroups,
    link: LeaderLink,
    updates: UpdateSchedule,
    recovery: RecoveryState,
    durability: Durability,
    /// Deadlines by `max_completion_ms`.
    completions: InstanceDeadlines,
    /// The next steps of the checks of running tasks.
    checks: InstanceDeadlines,
    /// Tasks of the former cluster that the registry of the restored one lacks.
    quarantined: BTreeSet<Instance>,
    /// Starts that wait for secrets of the registry.
    wanted_secrets: BTreeSet<Instance>,
    /// The keys of tickets that the last registration had. They are in memory only.
    ticket_keys: Vec<ReceivedTicketKey>,
    /// The agent is being stopped with its tasks, and takes no order.
    ending: bool,
    config: CoreConfig,
    random: RandomSequence,
    now: Timestamp,
    effects: EffectQueue,
}

impl Core {
    /// Returns a core with these `facts`. The first input must be [`Input::Begin`].
    #[must_use]
    pub fn new(facts: AgentState, config: CoreConfig) -> Self {
        Self {
            facts,
            instances: BTreeMap::new(),
            executors: Executors::default(),
            groups: PendingGroups::default(),
            link: LeaderLink::default(),
            updates: UpdateSchedule::default(),
            recovery: RecoveryState::default(),
            durability: Durability::default(),
            completions: InstanceDeadlines::default(),
            checks: InstanceDeadlines::default(),
            quarantined: BTreeSet::new(),
            wanted_secrets: BTreeSet::new(),
            ticket_keys: Vec::new(),
            ending: false,
            random: RandomSequence::new(config.seed),
            config,
            now: Timestamp(0),
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
        self.link.registered().is_some()
    }

    /// Returns the keys of tickets; none until a master has registered this agent over TLS.
    #[must_use]
    pub fn ticket_keys(&self) -> &[ReceivedTicketKey] {
        &self.ticket_keys
    }

    /// Whether all containers and all shared resources of groups are removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_clear = self.instances.values().all(InstanceState::is_cleaned_up);
        is_clear && self.executors.is_empty() && self.groups.are_released()
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
                quarantined: self.quarantined.contains(instance),
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
        let all = [
            self.link.deadline(),
            self.completions.next(),
            self.checks.next(),
            self.executors.deadline(),
            self.groups.deadline(),
            self.recovery.next_deadline(),
            self.updates.deadline(),
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
            Input::JournalFull(is_full) => self.durability.set_full(is_full),
            Input::JournalLarge => self
                .effects
                .push(JournalEffect::Compact(self.facts.snapshot())),
            Input::Fetching { instance, progress } => self.fetch_progressed(instance, progress),
            Input::Fetched { instance, result } => self.fetched(instance, result),
            Input::SecretsWanted { instance } => self.secrets_wanted(instance),
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
        self.effects.push(JournalEffect::Append {
            number: self.durability.append(sync),
            record: Box::new(record),
            sync,
        });
    }

    /// Performs a step as soon as every awaited record so far is on disk.
    fn when_durable(&mut self, step: DeferredStep) {
        if let Some(step) = self.durability.defer(step) {
            self.perform(step);
        }
    }

    fn durable(&mut self, number: u64) {
        self.durability.synced(number);
        while let Some(step) = self.durability.next_step() {
            self.perform(step);
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
            DeferredStep::Registered(link) => self.complete_registration(link),
        }
    }

    fn tick(&mut self) {
        if self.updates.is_due(self.now) {
            self.report();
        }
        if self.updates.are_ends_due(self.now) {
            self.report_ends();
        }
        self.recovery_timed_out();
        while let Some(instance) = self.completions.pop_due(self.now) {
            self.deadline_exceeded(instance);
        }
        self.run_due_checks();
        self.query_unknown();
        self.check_executors();
        self.continue_group_kills();
        self.check_link();
    }
}
