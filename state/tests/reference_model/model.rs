//! The registry of the second interpreter: plain maps of records, and the commands of the cluster.
//!
//! There is no index, no sum and no cache: each question is answered by a scan of all records.

pub(crate) use std::collections::{BTreeMap, BTreeSet};
pub(crate) use std::sync::Arc;

pub(crate) use argosy_state::resources::Resources;
pub(crate) use argosy_state::{access::*, actor::*, agent::*, command::*, event::*, framework::*};
pub(crate) use argosy_state::{ids::*, limits, registry::*, secret::*, task::*};

/// The form of the records of agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Records {
    /// An agent has one mode with one time, as in release 0.1.0.
    #[default]
    Whole,
    /// As before, until a sweep has converted the records.
    Converting,
    /// An agent has separate times of administration and reachability, and a principal.
    Split,
}

/// All facts that the second interpreter has.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) time: Timestamp,
    pub(crate) cluster: ClusterRecord,
    pub(crate) records: Records,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    pub(crate) frameworks: BTreeMap<FrameworkId, Framework>,
    pub(crate) tasks: BTreeMap<TaskKey, Task>,
    pub(crate) transitions: BTreeMap<TaskKey, Vec<(u32, TaskTransition)>>,
    /// The history, by serial.
    pub(crate) finished_tasks: BTreeMap<u64, Task>,
    pub(crate) finished_frameworks: Vec<FinishedFramework>,
    pub(crate) answers: BTreeMap<AnswerKey, CallAnswer>,
    pub(crate) operator_answers: BTreeMap<(String, String), OperatorAnswer>,
    pub(crate) weights: BTreeMap<Role, u64>,
    pub(crate) secrets: BTreeMap<SecretName, SealedSecret>,
    /// The policy and its revision, if it was ever set.
    pub(crate) policy: Option<(Arc<Policy>, Revision)>,
    pub(crate) tokens: BTreeMap<TokenId, Token>,
    pub(crate) revoked: BTreeMap<KeyHash, RevokedKey>,
    pub(crate) bindings: BTreeMap<Principal, KeyHash>,
    pub(crate) limits: BTreeMap<Subject, RateLimit>,
    /// The next revision.
    pub(crate) next: Revision,
    pub(crate) actor: Actor,
    events: Vec<Event>,
}

/// The answer to a command, and its events.
pub(crate) type Answer = (ApplyOutcome, Vec<Event>);

pub(crate) type Checked<T = ()> = Result<T, Rejection>;

/// The refused parts of an acceptance.
pub(crate) type Refused = Vec<(Position, Rejection)>;

/// Returns the rejection of a field. The words of the message are not modelled.
pub(crate) fn invalid(field: &str) -> Rejection {
    let (field, text) = (field.to_owned(), String::new());
    Rejection::Invalid { field, text }
}

pub(crate) fn refuse(is_refused: bool, why: Rejection) -> Checked {
    (!is_refused).then_some(()).ok_or(why)
}

impl Model {
    /// Applies the entry at log `index`. Returns the answer to each command.
    pub(crate) fn apply(&mut self, index: u64, entry: &LogEntry) -> Vec<Answer> {
        self.time = self.time.max(entry.at);
        self.next = Revision { index, position: 0 };
        let mut answers = Vec::new();
        for proposed in &entry.commands {
            self.actor = proposed.actor.clone();
            let (epoch, command) = (self.cluster.epoch, &proposed.command);
            let is_open = epoch != Epoch(0) && proposed.ticket.epoch == epoch;
            let outcome = match is_open || matches!(command, Command::OpenEpoch(_)) {
                true => self.command(command),
                false => Err(Rejection::StaleEpoch),
            };
            if self.records != Records::Split {
                self.agents.values_mut().for_each(reduce_to_one_mode);
            }
            answers.push((outcome, std::mem::take(&mut self.events)));
        }
        answers
    }

    fn command(&mut self, command: &Command) -> ApplyOutcome {
        match command {
            Command::OpenEpoch(open) => return Ok(self.open_epoch(open)),
            Command::RegisterAgent(register) => return self.register_agent(register),
            Command::AgentUnreachable(decision) => self.agent_unreachable(decision)?,
            Command::PruneAgent(decision) => self.prune_agent(decision)?,
            Command::TasksStopped(stopped) => self.tasks_stopped(stopped)?,
            Command::ReconcileAgent(list) => self.reconcile_agent(list)?,
            Command::UpdateTasks(report) => self.update_tasks(report)?,
            Command::Subscribe(subscribe) => return self.subscribe(subscribe),
            Command::DisconnectFramework(decision) => self.disconnect(decision)?,
            Command::ExpireFramework(decision) => self.expire(decision)?,
            Command::Call(call) => return self.call(call),
            Command::Acknowledge(acknowledge) => self.acknowledge(acknowledge)?,
            Command::RaiseLowWater(raise) => self.raise_low_water(raise)?,
            Command::Operate(operate) => return self.operate(operate),
            Command::Sweep(SweepTarget::Layout) => {
                if self.records == Records::Converting {
                    self.records = Records::Split;
                }
            }
            // The random clusters are small: every other sweep is complete after the first batch,
            // which is in the command that begins it.
            Command::Sweep(SweepTarget::Framework(id)) => self.sweep(*id),
            Command::Sweep(SweepTarget::Agent(_) | SweepTarget::PrunedAgent(_)) | Command::Tick => {
            }
            Command::MassLoss => self.cluster.mass_loss = Some(self.time),
            Command::CompareDigest(compare) => self.emit(Event::DigestLogged {
                index: compare.index,
                digest: compare.digest,
            }),
            Command::RaiseLevel { level } => {
                if self.raise_level(*level) {
                    self.emit(Event::LevelRaised(*level));
                    self.report_pending_sweep();
                }
            }
        }
        Ok(CommandReply::Done)
    }

    fn open_epoch(&mut self, open: &OpenEpoch) -> CommandReply {
        self.raise_level(open.level);
        let epoch = Epoch(self.next.index);
        self.cluster.epoch = epoch;
        self.cluster.leader = open.node;
        self.cluster.process = open.process;
        self.cluster.term = open.term;
        self.emit(Event::EpochOpened(epoch));
        self.report_pending_sweep();
        CommandReply::Epoch(epoch)
    }

    /// Sets the level if it is a higher one. The records of a cluster that has any are converted by
    /// a sweep.
    fn raise_level(&mut self, level: Level) -> bool {
        let former = self.cluster.level;
        self.cluster.level = former.max(level);
        if self.is_level_3() && self.records == Records::Whole {
            self.records = match self.agents.is_empty() && self.tasks.is_empty() {
                true => Records::Split,
                false => Records::Converting,
            };
        }
        level > former
    }

    fn report_pending_sweep(&mut self) {
        if self.records == Records::Converting || !self.cluster.sweeps.is_empty() {
            self.emit(Event::SweepNeeded);
        }
    }

    pub(crate) fn emit(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Returns a revision that no other fact has.
    pub(crate) fn revision(&mut self) -> Revision {
        let revision = self.next;
        self.next.position += 1;
        revision
    }

    pub(crate) fn is_level_3(&self) -> bool {
        self.cluster.level >= Level::RELEASE_0_2
    }

    pub(crate) fn agent(&self, id: AgentId) -> Checked<&Agent> {
        self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))
    }

    pub(crate) fn framework(&self, id: FrameworkId) -> Checked<&Framework> {
        let known = self.frameworks.get(&id);
        known.ok_or(Rejection::UnknownFramework(id))
    }

    /// Returns a framework that has been looked up before, for a change.
    pub(crate) fn framework_mut(&mut self, id: FrameworkId) -> &mut Framework {
        self.frameworks.get_mut(&id).expect("it was found")
    }

    pub(crate) fn tasks_of(&self, id: FrameworkId) -> impl Iterator<Item = &Task> {
        let is_of = move |task: &&Task| task.key.framework == id;
        self.tasks.values().filter(is_of)
    }

    pub(crate) fn live_on(&self, id: AgentId) -> impl Iterator<Item = &Task> {
        let is_live = move |task: &&Task| task.agent == id && !task.is_terminal();
        self.tasks.values().filter(is_live)
    }

    /// Returns the keys of the tasks that match.
    pub(crate) fn keys(&self, matches: impl Fn(&Task) -> bool) -> Vec<TaskKey> {
        let tasks = self.tasks.values().filter(|task| matches(task));
        tasks.map(|task| task.key.clone()).collect()
    }
}

pub(crate) fn key(framework: FrameworkId, task: &TaskId) -> TaskKey {
    let task = task.clone();
    TaskKey { framework, task }
}

/// Keeps what the record of release 0.1.0 can hold: one mode with one time.
fn reduce_to_one_mode(agent: &mut Agent) {
    let since = agent.mode_since();
    agent.reachability = match agent.mode().is_lost() {
        true => Reachability::Unreachable { since },
        false => Reachability::Reachable { since },
    };
    agent.admin.since = since;
    agent.admin.revision = Revision::default();
}
