//! Builders of facts for tests. Every fact goes through the real `apply`, and is checked after
//! every step.
//!
//! They panic if a test requests something impossible, and are never part of a production build.

mod line;
mod update;

use std::collections::BTreeMap;

use crate::Registry;
use crate::actor::Actor;
use crate::agent::AgentInfo;
use crate::apply::AppliedProposal;
use crate::capability::AgentCapability;
use crate::check::CheckRound;
use crate::command::{
    Accept, Acknowledge, AgentDecision, ApplyOutcome, Call, CallAction, Command, CommandReply,
    FrameworkDecision, HeldTask, LogEntry, OfferOperation, OfferTerms, OpenEpoch, Operate,
    OperatorOperation, ProposedCommand, ReconcileAgent, RegisterAgent, Subscribe, UpdateTasks,
};
use crate::framework::FrameworkInfo;
use crate::ids::{
    AgentId, FrameworkId, NodeId, OfferId, OrderIndex, Role, TaskId, TaskKey, Ticket, Timestamp,
};
use crate::level::{self, Level};
use crate::limits;
use crate::registry::RecordWrite;
use crate::resources::Resources;
use crate::task::{CommandSpec, ExecutorSpec, TaskSpec, TaskState};

pub use line::ScenarioLine;
pub use update::{next_update, update};

/// The number of records in a slice of checks; few, so that a round takes several entries.
const SLICE: usize = 5;

/// A registry in its first epoch, and the facts that a leader, its agents and its schedulers would
/// remember.
#[derive(Debug, Clone)]
pub struct World {
    /// The registry.
    pub registry: Registry,
    /// The stored records.
    pub stored: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The clock of the leader.
    pub now: Timestamp,
    /// The level at which leaders open epochs.
    pub level: Level,
    /// The applied entries, if they are to be kept.
    pub log: Option<Vec<LogEntry>>,
    /// The number of the next proposal and offer.
    serial: u64,
    calls: BTreeMap<(FrameworkId, u64), u64>,
    /// The progress of the checks in slices, which run as on a master.
    round: CheckRound,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Returns a registry with one epoch and nothing else.
    #[must_use]
    pub fn new() -> Self {
        let mut world = Self::empty();
        world.open_epoch(NodeId(1));
        world
    }

    /// Returns a registry without an epoch.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            registry: Registry::new(),
            stored: BTreeMap::new(),
            now: Timestamp(1_000),
            level: Level::NEWEST,
            log: None,
            serial: 0,
            calls: BTreeMap::new(),
            round: CheckRound::default(),
        }
    }

    /// Returns a world with the running task `name` of the framework `framework-1` on `agent-1`.
    #[must_use]
    pub fn with_running_task(name: &str) -> Self {
        let mut world = Self::new();
        let agent = world.register("cpus:4;mem:4096;ports:[31000-31099]");
        let framework = world.subscribe("demo");
        let key = world.launch(framework, agent, name, "cpus:1;mem:64");
        world.update(&key, TaskState::Running);
        world
    }

    /// Advances cluster time.
    pub fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    /// Returns an unused ticket of the current epoch.
    pub fn ticket(&mut self) -> Ticket {
        self.serial += 1;
        Ticket {
            epoch: self.registry.epoch(),
            serial: self.serial,
        }
    }

    /// Applies one entry of commands, each with a ticket of the current epoch, and checks every
    /// invariant afterwards.
    pub fn apply_all(&mut self, commands: Vec<Command>) -> Vec<AppliedProposal> {
        let commands = commands
            .into_iter()
            .map(|mut command| {
                level::reduce(self.level, &mut command);
                ProposedCommand {
                    ticket: self.ticket(),
                    actor: Actor::default(),
                    command,
                }
            })
            .collect();
        self.apply_entry(&LogEntry {
            at: self.now,
            commands,
        })
        .0
    }

    /// Applies an entry as it is, and also returns the writes for storage.
    pub fn apply_entry(&mut self, entry: &LogEntry) -> (Vec<AppliedProposal>, Vec<RecordWrite>) {
        if let Some(log) = &mut self.log {
            log.push(entry.clone());
        }
        let applied = self.registry.apply(self.registry.applied() + 1, entry);
        let writes = self.registry.take_changes();
        self.store(&writes);
        if let Err(broken) = self.registry.check() {
            panic!("after {entry:?}: {broken}");
        }
        if let Err(broken) = self.registry.check_slice(&mut self.round, SLICE) {
            panic!("in a slice after {entry:?}: {broken}");
        }
        (applied, writes)
    }

    /// Stores writes.
    pub(crate) fn store(&mut self, writes: &[RecordWrite]) {
        for write in writes {
            match &write.value {
                Some(value) => drop(self.stored.insert(write.key.clone(), value.clone())),
                None => drop(self.stored.remove(&write.key)),
            }
        }
    }

    /// Applies one command.
    pub fn apply(&mut self, command: Command) -> AppliedProposal {
        self.apply_all(vec![command])
            .pop()
            .expect("one command has one answer")
    }

    /// Returns the registry as a restarted master would load it.
    #[must_use]
    pub fn reloaded(&self) -> Registry {
        Registry::load(self.registry.applied(), self.stored.clone())
            .expect("stored records are valid")
    }

    /// Opens an epoch of `node`.
    pub fn open_epoch(&mut self, node: NodeId) -> AppliedProposal {
        let index = self.registry.applied() + 1;
        self.apply(Command::OpenEpoch(OpenEpoch {
            node,
            process: 0x5eed + index,
            term: index,
            entropy: [7; 32],
            wall_ms: 0,
            level: self.level,
        }))
    }

    /// Registers a new agent with `resources`.
    pub fn register(&mut self, resources: &str) -> AgentId {
        let nonce = 1_000 + self.registry.agents().len() as u64;
        let register = registration(nonce, resources);
        match self.apply(Command::RegisterAgent(register)).outcome {
            Ok(CommandReply::Agent(id)) => id,
            other => panic!("a new agent is registered, not {other:?}"),
        }
    }

    /// Registers the same agent again, unchanged.
    pub fn register_again(&mut self, id: AgentId) -> AppliedProposal {
        let agent = self.registry.agent(id).expect("a known agent");
        let register = RegisterAgent {
            agent: Some(id),
            nonce: agent.nonce,
            confirmed: agent.report.incarnation,
            tried: Vec::new(),
            boot_id: agent.report.boot_id.clone(),
            info: agent.report.info.clone(),
            follows: None,
        };
        self.apply(Command::RegisterAgent(register))
    }

    /// Declares an agent unreachable.
    pub fn mark_unreachable(&mut self, agent: AgentId) -> AppliedProposal {
        let decided_on = self.registry.agent(agent).expect("a known agent").revision;
        self.apply(Command::AgentUnreachable(AgentDecision {
            agent,
            decided_on,
            wall_ms: 0,
        }))
    }

    /// Reconciles the agent, which lists every live task up to `floor`.
    pub fn reconcile(&mut self, agent: AgentId, floor: OrderIndex) -> AppliedProposal {
        let live = self
            .registry
            .tasks_on(agent)
            .filter(|task| !task.is_terminal() && task.order <= floor);
        let held = live
            .map(|task| HeldTask {
                key: task.key.clone(),
                order: task.order,
            })
            .collect();
        let incarnation = self
            .registry
            .agent(agent)
            .expect("a known agent")
            .report
            .incarnation;
        self.apply(Command::ReconcileAgent(ReconcileAgent {
            agent,
            incarnation,
            floor,
            after: None,
            through: None,
            held,
            wall_ms: 0,
        }))
    }

    /// Subscribes a new framework in role `*`.
    pub fn subscribe(&mut self, name: &str) -> FrameworkId {
        self.subscribe_as(framework_info(name))
    }

    /// Subscribes a new framework.
    pub fn subscribe_as(&mut self, info: FrameworkInfo) -> FrameworkId {
        let session = 100 + self.registry.cluster().last_framework;
        let subscribe = Subscribe {
            framework: None,
            session,
            info,
        };
        match self.apply(Command::Subscribe(subscribe)).outcome {
            Ok(CommandReply::Framework(id)) => id,
            other => panic!("a new framework is subscribed, not {other:?}"),
        }
    }

    /// Disconnects a framework.
    pub fn disconnect(&mut self, framework: FrameworkId) -> AppliedProposal {
        let decided_on = self
            .registry
            .framework(framework)
            .expect("a known framework")
            .revision;
        self.apply(Command::DisconnectFramework(FrameworkDecision {
            framework,
            decided_on,
        }))
    }

    /// Returns the terms of an offer in role `*` of the current epoch.
    pub fn offer(&mut self, framework: FrameworkId, agent: AgentId, resources: &str) -> OfferTerms {
        self.serial += 1;
        let present = self
            .registry
            .agent(agent)
            .expect("a known agent")
            .offer_revision;
        let session = self
            .registry
            .framework(framework)
            .expect("a known framework")
            .session;
        OfferTerms {
            id: OfferId {
                epoch: self.registry.epoch(),
                serial: self.serial,
            },
            framework,
            session,
            agent,
            role: Role::default(),
            resources: amounts(resources),
            offer_revision: present,
            expires: self.now.plus_ms(limits::OFFER_TIMEOUT_MS),
        }
    }

    /// Makes a numbered call in the framework's current session. All earlier answers count as
    /// processed.
    pub fn call(&mut self, framework: FrameworkId, action: CallAction) -> AppliedProposal {
        let session = self
            .registry
            .framework(framework)
            .map_or(0, |framework| framework.session);
        let number = self.calls.entry((framework, session)).or_default();
        *number += 1;
        let call = Call {
            framework,
            session,
            number: *number,
            lowest_unanswered: *number,
            hash: *number,
            action,
        };
        self.apply(Command::Call(call))
    }

    /// Accepts offers for tasks.
    pub fn accept(
        &mut self,
        framework: FrameworkId,
        offers: Vec<OfferTerms>,
        launches: Vec<TaskSpec>,
    ) -> AppliedProposal {
        let accept = Accept {
            offers,
            operations: vec![OfferOperation::Launch(launches)],
            all_or_nothing: false,
            wall_ms: 0,
        };
        self.call(framework, CallAction::Accept(accept))
    }

    /// Launches a task that always fits.
    pub fn launch(
        &mut self,
        framework: FrameworkId,
        agent: AgentId,
        name: &str,
        resources: &str,
    ) -> TaskKey {
        let offer = self.offer(framework, agent, resources);
        let applied = self.accept(framework, vec![offer], vec![spec(name, resources)]);
        match &applied.outcome {
            Ok(CommandReply::Call { refused, .. }) if refused.is_empty() => {}
            other => panic!("{name} is launched, not {other:?}"),
        }
        key(framework, name)
    }

    /// Reports from the agent that the task is in `state`.
    pub fn update(&mut self, key: &TaskKey, state: TaskState) -> AppliedProposal {
        let task = self.registry.task(key).expect("a known task");
        let agent = task.agent;
        let updates = vec![next_update(task, state)];
        self.apply(Command::UpdateTasks(UpdateTasks { agent, updates }))
    }

    /// Acknowledges the newest update of a task.
    pub fn acknowledge(&mut self, key: &TaskKey) -> AppliedProposal {
        let task = self.registry.task(key).expect("a known task");
        let updates = vec![(key.task.clone(), task.latest.revision)];
        let session = self
            .registry
            .framework(key.framework)
            .expect("a known framework")
            .session;
        self.apply(Command::Acknowledge(Acknowledge {
            framework: key.framework,
            session,
            updates,
        }))
    }

    /// Applies an operator's change without a request id.
    ///
    /// # Errors
    /// The rejection that `apply` returns.
    pub fn operate(&mut self, operation: OperatorOperation) -> ApplyOutcome {
        self.apply(Command::Operate(Operate {
            request: None,
            hash: 0,
            operations: vec![operation],
            wall_ms: 0,
        }))
        .outcome
    }
}

/// Parses resources.
#[must_use]
pub fn amounts(text: &str) -> Resources {
    text.parse().expect("a test writes valid resources")
}

/// Returns the key of a task.
#[must_use]
pub fn key(framework: FrameworkId, name: &str) -> TaskKey {
    TaskKey {
        framework,
        task: TaskId::new(name).expect("a test writes valid task ids"),
    }
}

/// Returns a task that runs `sleep 1000`.
#[must_use]
pub fn spec(name: &str, resources: &str) -> TaskSpec {
    let task = TaskId::new(name).expect("a test writes valid task ids");
    TaskSpec {
        name: name.to_owned(),
        resources: amounts(resources),
        grace_ms: 3_000,
        ..TaskSpec::new(task, CommandSpec::Shell("sleep 1000".to_owned()))
    }
}

/// Returns an executor that runs `sleep 1000`.
#[must_use]
pub fn executor(name: &str, resources: &str) -> ExecutorSpec {
    let task = spec(name, resources);
    ExecutorSpec {
        executor: task.task,
        resources: task.resources,
        run: task.run,
        container: task.container,
        environment: task.environment,
        user: task.user,
        uris: task.uris,
        grace_ms: 5_000,
    }
}

/// Returns a framework in role `*` that may be disconnected for a week.
#[must_use]
pub fn framework_info(name: &str) -> FrameworkInfo {
    FrameworkInfo {
        name: name.to_owned(),
        roles: [Role::default()].into(),
        failover_timeout_ms: limits::FAILOVER_TIMEOUT_MS,
        offer_timeout_ms: limits::OFFER_TIMEOUT_MS,
        ..FrameworkInfo::default()
    }
}

/// Returns the first registration of an agent, whose incarnation is its nonce.
#[must_use]
pub fn registration(nonce: u64, resources: &str) -> RegisterAgent {
    RegisterAgent {
        agent: None,
        nonce,
        confirmed: 0,
        tried: vec![nonce],
        boot_id: format!("boot-{nonce}"),
        info: AgentInfo {
            host_name: format!("host-{nonce}"),
            address: format!("127.0.0.1:{nonce}"),
            resources: amounts(resources),
            isolation: "full".to_owned(),
            changes_limits: true,
            capabilities: AgentCapability::announced(),
            ..AgentInfo::default()
        },
        follows: None,
    }
}
