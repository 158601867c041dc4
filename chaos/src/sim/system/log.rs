//! The committed log, applied to a separate registry as it grows. Committed facts are recorded in
//! its order.
//!
//! The registry is the real one, with its real results. They are recorded here, and checked against
//! the rules that no result may break.

use std::collections::BTreeMap;

use argosy_state::agent::AgentMode;
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{
    Call, CallAction, Command, CommandReply, LogEntry, ProposedCommand, RegisterAgent, UpdateTasks,
};
use argosy_state::event::Event;
use argosy_state::ids::{AgentId, Epoch, FrameworkId, OfferId, Revision, TaskKey, Timestamp};
use argosy_state::level::Level;
use argosy_state::{Registry, encode};

use super::actors;
use super::hosts::{AGENT_TIMEOUT_MS, FRAMEWORK_GRACE_MS};
use super::world::World;
use crate::history::{
    AgentFact, FrameworkFact, Observation, OfferFact, RaftFact, Removal, TaskFact,
};

/// The name under which committed facts are recorded. It is not a process.
const RECORDER_NAME: &str = "log";
/// Digests that are kept for masters that apply later.
const MAX_DIGESTS: usize = 4_096;
/// Maximum difference of the hosts' clocks, in milliseconds.
const TIME_TOLERANCE_MS: u64 = 50;

/// A follower of the entries that any master has applied.
pub(super) struct LogFollower {
    world: World,
    registry: Registry,
    /// The digest after every entry.
    digests: BTreeMap<u64, u128>,
    epoch: Epoch,
    /// The newest epoch in which the cluster was at a level without actors.
    unnamed: Option<Epoch>,
    /// Cluster time at which the epoch began.
    epoch_started: Timestamp,
    sessions: BTreeMap<FrameworkId, u64>,
    agents: BTreeMap<AgentId, KnownAgent>,
    /// Agents that became unreachable, in order.
    unreachable: Vec<AgentId>,
}

/// The last recorded state of an agent.
#[derive(Clone, Copy)]
struct KnownAgent {
    incarnation: u64,
    mode: AgentMode,
    revision: Revision,
}

/// A command with its result.
struct AppliedCommand<'a> {
    /// The entry of the command, and its position in the entry.
    revision: Revision,
    command: &'a Command,
    ticket: Epoch,
    applied: &'a AppliedProposal,
}

impl LogFollower {
    pub(super) fn new(world: World) -> Self {
        Self {
            world,
            registry: Registry::new(),
            digests: BTreeMap::new(),
            epoch: Epoch::default(),
            unnamed: None,
            epoch_started: Timestamp(0),
            sessions: BTreeMap::new(),
            agents: BTreeMap::new(),
            unreachable: Vec::new(),
        }
    }

    /// Returns the agents that became unreachable after the first `count` ones.
    pub(super) fn unreachable_since(&self, count: usize) -> &[AgentId] {
        self.unreachable.get(count..).unwrap_or_default()
    }

    /// Returns the registry with the entries that any master has applied.
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns the digest of the registry after this entry, if it is still kept.
    pub(super) fn digest(&self, index: u64) -> Option<u128> {
        self.digests.get(&index).copied()
    }

    /// Applies every entry that a master has applied by now.
    pub(super) fn follow(&mut self) {
        let stores = self.world.stores.clone();
        loop {
            let next = self.registry.applied() + 1;
            let mut ahead = stores.iter().filter(|store| store.applied() >= Some(next));
            let Some(first) = ahead.next() else {
                return;
            };
            let entry = first.entry(next);
            let entry = entry.or_else(|| ahead.find_map(|store| store.entry(next)));
            match entry {
                Some(committed) => self.apply_entry(&committed),
                // A snapshot covers it on any master that is this far ahead.
                None => match first.registry() {
                    Some((index, records)) => self.load_snapshot(index, records),
                    None => return,
                },
            }
        }
    }

    fn load_snapshot(&mut self, index: u64, records: argosy_raft::RegistryRecords) {
        match Registry::load(index, records) {
            Ok(registry) => {
                self.registry = registry;
                for (id, known) in &mut self.agents {
                    if let Some(agent) = self.registry.agent(*id) {
                        known.incarnation = agent.report.incarnation;
                    }
                }
            }
            Err(why) => {
                let message = format!("a registry cannot be read at {index}: {why}");
                self.world.notes.violation(message);
            }
        }
        self.keep_digest();
    }

    fn keep_digest(&mut self) {
        let index = self.registry.applied();
        self.digests.insert(index, self.registry.digest());
        if self.digests.len() > MAX_DIGESTS {
            self.digests.pop_first();
        }
    }

    fn apply_entry(&mut self, committed: &argosy_raft::CommittedEntry) {
        let read = committed
            .commands
            .iter()
            .map(|bytes| encode::read_command(bytes));
        let commands: Vec<ProposedCommand> = match read.collect() {
            Ok(commands) => commands,
            Err(why) => {
                let message = format!("entry {} cannot be read: {why}", committed.index);
                return self.world.notes.violation(message);
            }
        };
        let at = Timestamp(committed.at_ms);
        let entry = LogEntry { at, commands };
        self.note_unnamed();
        let all = self.registry.apply(committed.index, &entry);
        // A cluster may begin at such a level.
        self.note_unnamed();
        // This registry is not stored.
        drop(self.registry.take_changes());
        self.keep_digest();
        self.check_time();
        for (position, (proposed, applied)) in (0..).zip(entry.commands.iter().zip(&all)) {
            let index = committed.index;
            if let Some(words) = actors::check_actor(proposed, self.unnamed) {
                self.violation(format!("in entry {index} {words}"));
            }
            let done = AppliedCommand {
                revision: Revision { index, position },
                command: &proposed.command,
                ticket: proposed.ticket.epoch,
                applied,
            };
            self.check(&done);
            self.record(&done);
        }
    }

    fn note_unnamed(&mut self) {
        let epoch = self.registry.epoch();
        if epoch != Epoch::default() && self.registry.level() < Level::RELEASE_0_2 {
            self.unnamed = Some(epoch);
        }
    }

    fn violation(&self, message: String) {
        self.world.notes.violation(message);
    }

    fn note(&self, fact: impl Into<Observation>, revision: Revision) {
        self.world
            .notes
            .recorder
            .observe_at(RECORDER_NAME, fact, revision);
    }

    /// Checks cluster time: it stops without a leader, and a pause of the leader counts as at most
    /// one second.
    fn check_time(&self) {
        let cluster_ms = self.registry.time().0;
        let most_ms = self.world.cluster_time_ms() + TIME_TOLERANCE_MS;
        if cluster_ms > most_ms {
            self.violation(format!(
                "cluster time is {cluster_ms} ms, and only {most_ms} ms can have passed"
            ));
        }
    }

    /// Checks the rules about single commands.
    fn check(&self, done: &AppliedCommand<'_>) {
        let AppliedCommand {
            revision: Revision { index, .. },
            applied,
            ..
        } = *done;
        let took_effect = !applied.events.is_empty();
        match done.command {
            Command::OpenEpoch(_) => {}
            _ if done.ticket != self.epoch && took_effect => self.violation(format!(
                "AtMostOnce: in entry {index} a command of epoch {} took effect in epoch {}",
                done.ticket.0, self.epoch.0
            )),
            Command::PruneAgent(decision) if took_effect => {
                self.check_decision(index, decision.agent, decision.decided_on);
            }
            Command::TasksStopped(stopped) if took_effect => {
                self.check_decision(index, stopped.agent, stopped.decided_on);
            }
            Command::AgentUnreachable(decision) if took_effect => {
                self.check_decision(index, decision.agent, decision.decided_on);
                self.check_grace(index, AGENT_TIMEOUT_MS, &decision.agent.to_string());
            }
            Command::DisconnectFramework(decision) if took_effect => {
                self.check_grace(index, FRAMEWORK_GRACE_MS, &decision.framework.to_string());
            }
            Command::Call(call) if matches!(applied.outcome, Ok(CommandReply::Call { .. })) => {
                let session = self.sessions.get(&call.framework);
                if session.is_some_and(|session| *session != call.session) {
                    self.violation(format!(
                        "UniqueIdentity: entry {index} grants a call of {} in session {}, which was superseded",
                        call.framework, call.session
                    ));
                }
            }
            _ => {}
        }
    }

    /// Checks that a decision on a record that has changed since has no effect.
    fn check_decision(&self, index: u64, agent: AgentId, decided_on: Revision) {
        let known = self.agents.get(&agent);
        if known.is_some_and(|known| known.revision != decided_on) {
            self.violation(format!(
                "AgentReturns: entry {index} gives {agent} up, which has been heard of since that was decided"
            ));
        }
    }

    /// Checks that a new leader gives every agent and framework the whole timeout.
    fn check_grace(&self, index: u64, grace_ms: u64, who: &str) {
        let waited_ms = self.registry.time().0.saturating_sub(self.epoch_started.0);
        if waited_ms + TIME_TOLERANCE_MS < grace_ms {
            self.violation(format!(
                "TaskSurvival: entry {index} gives {who} up {waited_ms} ms after a new leader became active"
            ));
        }
    }

    fn record(&mut self, done: &AppliedCommand<'_>) {
        match (done.command, &done.applied.outcome) {
            (Command::RegisterAgent(register), Ok(CommandReply::Agent(id))) => {
                self.registered(*id, register, done.revision);
            }
            (Command::Subscribe(subscribe), Ok(CommandReply::Framework(id))) => {
                self.sessions.insert(*id, subscribe.session);
            }
            (Command::Call(call), Ok(CommandReply::Call { revision, refused })) => {
                self.note_call(call, *revision, refused.len(), &done.applied.events);
            }
            _ => {}
        }
        for event in &done.applied.events {
            self.event(done, event);
        }
    }

    fn registered(&mut self, id: AgentId, register: &RegisterAgent, at: Revision) {
        let Some(agent) = self.registry.agent(id) else {
            return;
        };
        let Some((incarnation, earlier)) = register.tried.split_last() else {
            return;
        };
        let known = self.agents.get(&id).map_or(0, |known| known.incarnation);
        let former = match earlier.contains(&known) {
            true => known,
            false => register.confirmed,
        };
        let fact = AgentFact::Registered {
            agent: id,
            incarnation: *incarnation,
            former,
            boot_id: register.boot_id.clone(),
        };
        // The record has the state at the end of its entry, which may register an agent twice.
        self.note(fact, at);
        let (mode, revision) = (agent.mode(), agent.revision);
        let known = self.agents.entry(id).or_insert(KnownAgent {
            incarnation: *incarnation,
            mode: AgentMode::Gone,
            revision,
        });
        known.incarnation = *incarnation;
        if known.mode != mode {
            self.agent_changed(id);
        }
    }

    /// Records the offers and tasks of a granted call.
    fn note_call(&self, call: &Call, revision: Revision, refused: usize, events: &[Event]) {
        let CallAction::Accept(accept) = &call.action else {
            return;
        };
        if accept.tasks().count() <= refused {
            return;
        }
        let offers: Vec<OfferId> = accept.offers.iter().map(|offer| offer.id).collect();
        let framework = self.registry.framework(call.framework);
        let principal = framework.map_or("", |framework| framework.info.principal.as_str());
        let mut tasks = Vec::new();
        for event in events {
            if let Event::TaskLaunched { key, agent, order } = event {
                tasks.push(key.clone());
                let (session, number) = (call.session, call.number);
                let ledger = &self.world.oracle;
                ledger.launched(key, session, number, revision.index);
                let fact = TaskFact::Launched {
                    task: key.clone(),
                    order: *order,
                    agent: *agent,
                    offers: offers.clone(),
                    principal: principal.to_owned(),
                };
                self.note(fact, revision);
            }
        }
        self.check_groups(revision.index, &tasks);
        for offer in offers {
            let fact = OfferFact::Used {
                offer,
                framework: call.framework,
                session: call.session,
                tasks: tasks.clone(),
            };
            self.note(fact, revision);
        }
    }

    /// Checks that a group is launched as a whole, or not at all.
    fn check_groups(&self, index: u64, launched: &[TaskKey]) {
        let mut groups: BTreeMap<_, (u32, u32)> = BTreeMap::new();
        for key in launched {
            let task = self.registry.task(key);
            if let Some(group) = task.and_then(|task| task.spec.group.as_deref()) {
                let (count, size) = groups.entry(group.id.clone()).or_default();
                *count += 1;
                *size = group.size;
            }
        }
        for (group, (count, size)) in groups {
            if count != size {
                self.violation(format!(
                    "GroupAtomicity: entry {index} launches {count} of {size} tasks of group {group}"
                ));
            }
        }
    }

    fn event(&mut self, done: &AppliedCommand<'_>, event: &Event) {
        match event {
            Event::EpochOpened(epoch) => self.epoch_opened(*epoch),
            Event::FrameworkChanged(framework) => {
                if matches!(done.command, Command::DisconnectFramework(_)) {
                    let fact = FrameworkFact::Disconnected {
                        framework: *framework,
                        at_ms: self.registry.time().0,
                    };
                    self.note(fact, done.revision);
                }
            }
            Event::FrameworkRemoving(framework) => {
                let fact = FrameworkFact::Removing {
                    framework: *framework,
                    by: removal(done.command),
                    at_ms: self.registry.time().0,
                };
                self.note(fact, done.revision);
            }
            Event::AgentChanged(id) | Event::AgentGone(id) => self.agent_changed(*id),
            Event::TaskKillRequested { key, .. } => {
                let index = done.revision.index;
                // Otherwise the observer records it when the launch arrives.
                let delivered = self.world.deliveries.killed(key, self.epoch, index);
                if let Some(delivered) = delivered {
                    let task = key.clone();
                    let fact = TaskFact::KillCommitted { task, delivered };
                    self.note(fact, done.revision);
                }
            }
            Event::TaskUpdated {
                key,
                revision,
                state,
                ..
            } => {
                let number = match done.command {
                    Command::UpdateTasks(report) => number(report, key, *state),
                    _ => 0,
                };
                let fact = TaskFact::Changed {
                    task: key.clone(),
                    state: *state,
                    number,
                };
                self.note(fact, *revision);
                if matches!(done.command, Command::TasksStopped(_)) {
                    let fact = TaskFact::Stopped { task: key.clone() };
                    self.note(fact, *revision);
                }
            }
            _ => {}
        }
    }

    fn epoch_opened(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.epoch_started = self.registry.time();
        self.world.notes.count("reigns");
        let cluster = self.registry.cluster();
        let place = self.world.place(cluster.leader.0);
        self.world.state().leader = place.map(|place| (epoch, place));
        let fact = RaftFact::EpochOpened {
            node: cluster.leader,
            epoch,
            term: cluster.term,
            life: cluster.process,
        };
        self.world.notes.recorder.observe(RECORDER_NAME, fact);
    }

    fn agent_changed(&mut self, id: AgentId) {
        let Some(agent) = self.registry.agent(id) else {
            return;
        };
        // The registry has the state after the whole entry. Only a registration shows the order of
        // incarnations.
        let known = self.agents.get(&id);
        let now = KnownAgent {
            incarnation: known.map_or(agent.report.incarnation, |known| known.incarnation),
            mode: agent.mode(),
            revision: agent.revision,
        };
        let mode = agent.mode();
        let before = self.agents.insert(id, now);
        if before.is_none_or(|before| before.mode != mode) {
            self.unreachable
                .extend((mode == AgentMode::Unreachable).then_some(id));
            self.note(AgentFact::Mode { agent: id, mode }, now.revision);
        }
    }
}

/// Returns the kind of removal of a command that removes a framework.
fn removal(command: &Command) -> Removal {
    match command {
        Command::DisconnectFramework(_) | Command::ExpireFramework(_) => Removal::Deadline,
        Command::Subscribe(_) => Removal::Quota,
        _ => Removal::Teardown,
    }
}

/// Returns the agent's number of the update with which a task came to this state.
fn number(report: &UpdateTasks, key: &TaskKey, state: argosy_state::task::TaskState) -> u64 {
    let mut named = report.updates.iter();
    let update = named.find(|update| update.key == *key && update.state == state);
    update.map_or(0, |update| update.number)
}
