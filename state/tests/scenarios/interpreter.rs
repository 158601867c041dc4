//! The interpreter of scenario scripts.

use std::collections::BTreeMap;

use argosy_state::actor::Actor;
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{
    Accept, Acknowledge, AgentDecision, AgentUpdate, Call, CallAction, Command, CompareDigest,
    FrameworkDecision, HeldTask, LogEntry, OfferOperation, OfferTerms, OpenEpoch, Operate,
    OperatorOperation, ProposedCommand, RaiseLowWater, ReconcileAgent, RegisterAgent, Rejection,
    Subscribe, SweepTarget, TasksStopped, UpdateTasks,
};
use argosy_state::ids::{
    Epoch, GroupId, NodeId, OfferId, OrderIndex, Role, TaskId, Ticket, Timestamp,
};
use argosy_state::level::{self, Level};
use argosy_state::task::{
    CheckResults, ContainerNetwork, Discovery, DiscoveryPort, DiskLimit, LimitsReport,
    PublishedPort, Reason, TaskGroup, TaskLimits, TaskSpec, TaskState, UpdateSource,
};
use argosy_state::testing::{self, ScenarioLine, World, framework_info, registration, spec};

use crate::print;

pub(crate) struct Interpreter {
    pub(crate) world: World,
    offers: BTreeMap<String, OfferTerms>,
    former_epoch: Epoch,
    /// The actor of the line, by its pair `by`.
    actor: Actor,
}

impl Interpreter {
    /// Returns an interpreter whose leaders are at this level.
    pub(crate) fn new(level: Level) -> Self {
        let mut world = World::empty();
        world.level = level;
        Self {
            world,
            offers: BTreeMap::new(),
            former_epoch: Epoch(0),
            actor: Actor::default(),
        }
    }

    /// Executes one line and returns its output.
    pub(crate) fn play(&mut self, text: &str) -> String {
        if let Some(rest) = text.strip_prefix("stale ") {
            let command = self.command(&ScenarioLine::new(rest));
            return print::applied(&self.propose(self.former_epoch, command));
        }
        let line = ScenarioLine::new(text);
        match line.word(0) {
            "pass" => {
                self.world.pass(line.read(line.word(1)));
                String::new()
            }
            "rewind" => {
                let back: u64 = line.read(line.word(1));
                self.world.now = Timestamp(self.world.now.0 - back);
                String::new()
            }
            "offer" => {
                self.offer(&line);
                String::new()
            }
            "show" => print::facts(&self.world.registry, line.word(1)),
            "reload" => {
                let reloaded = self.world.reloaded();
                assert_eq!(reloaded.digest(), self.world.registry.digest());
                self.world.registry = reloaded;
                "reloaded\n".to_owned()
            }
            "sweep-all" => self.sweep_all(),
            "spend" => self.spend(&line),
            _ => {
                let command = self.command(&line);
                self.actor = line
                    .pair("by")
                    .map_or_else(Actor::default, |by| line.read(by));
                let epoch = self.world.registry.epoch();
                if matches!(command, Command::OpenEpoch(_)) {
                    self.former_epoch = epoch;
                }
                print::applied(&self.propose(epoch, command))
            }
        }
    }

    fn propose(&mut self, epoch: Epoch, mut command: Command) -> AppliedProposal {
        let ticket = Ticket { epoch, serial: 1 };
        if level::first_unsupported(self.world.level, &command).is_some() {
            return AppliedProposal {
                ticket,
                actor: Actor::default(),
                outcome: Err(Rejection::Conflict),
                events: Vec::new(),
            };
        }
        level::reduce(self.world.level, &mut command);
        let entry = LogEntry {
            at: self.world.now,
            commands: vec![ProposedCommand {
                ticket,
                actor: self.actor.clone(),
                command,
            }],
        };
        let (mut applied, _) = self.world.apply_entry(&entry);
        applied.pop().unwrap()
    }

    fn sweep_all(&mut self) -> String {
        let mut pieces = 0;
        loop {
            let next = self.world.registry.sweeps().next();
            let Some(target) = next else { break };
            self.world.apply(Command::Sweep(target));
            pieces += 1;
        }
        format!("{pieces} pieces\n")
    }

    /// Uses offers one by one without launching: first call, epoch, first serial, count.
    fn spend(&mut self, line: &ScenarioLine<'_>) -> String {
        let first: u64 = line.read(line.word(3).trim_start_matches('#'));
        let (epoch, serial): (u64, u64) = (line.read(line.word(4)), line.read(line.word(5)));
        let count: u64 = line.read(line.word(6));
        for at in 0..count {
            let id = format!("{epoch}.{}", serial + at);
            let (framework, agent) = (line.word(1), line.word(2));
            self.play(&format!(
                "offer spent {framework} {agent} cpus:0.001 id={id}"
            ));
            let output = self.play(&format!(
                "call {framework} #{} accept offers=spent",
                first + at
            ));
            assert!(output.starts_with("called"), "{id}: {output}");
        }
        format!("{count} spent\n")
    }

    fn offer(&mut self, line: &ScenarioLine<'_>) {
        let (framework, agent) = (line.framework(2), line.agent(3));
        let mut offer = self.world.offer(framework, agent, line.word(4));
        if let Some(role) = line.pair("role") {
            offer.role = Role::new(role).unwrap();
        }
        if let Some(session) = line.number("session") {
            offer.session = session;
        }
        if let Some(id) = line.pair("id") {
            offer.id = line.read::<OfferId>(id);
        }
        if let Some(ms) = line.number("expires") {
            offer.expires = self.world.now.plus_ms(ms);
        }
        self.offers.insert(line.word(1).to_owned(), offer);
    }

    fn command(&self, line: &ScenarioLine<'_>) -> Command {
        match line.word(0) {
            "epoch" => open_epoch(line, self.world.level),
            "agent" => register(line),
            "unreachable" => Command::AgentUnreachable(self.agent_decision(line)),
            "prune" => Command::PruneAgent(self.agent_decision(line)),
            "stopped" => {
                let decision = self.agent_decision(line);
                Command::TasksStopped(TasksStopped {
                    agent: decision.agent,
                    decided_on: decision.decided_on,
                    silent_ms: line.number("silent").unwrap_or(0),
                    wall_ms: 0,
                })
            }
            "list" => self.list(line),
            "update" => update(line),
            "subscribe" => subscribe(line),
            "disconnect" => Command::DisconnectFramework(self.decision(line)),
            "expire" => Command::ExpireFramework(self.decision(line)),
            "call" => self.call(line),
            "ack" => self.acknowledge(line),
            "raise" => Command::RaiseLowWater(RaiseLowWater {
                framework: line.framework(1),
                session: self.session(line),
                to: line.read(line.word(2)),
            }),
            "operate" => operate(line),
            "sweep" if line.has("pruned") => {
                Command::Sweep(SweepTarget::PrunedAgent(line.agent(1)))
            }
            "sweep" if line.word(1).starts_with("agent") => {
                Command::Sweep(SweepTarget::Agent(line.agent(1)))
            }
            "sweep" => Command::Sweep(SweepTarget::Framework(line.framework(1))),
            "tick" => Command::Tick,
            "mass-loss" => Command::MassLoss,
            "raise-level" => Command::RaiseLevel {
                level: Level(line.read(line.word(1))),
            },
            "digest" => Command::CompareDigest(CompareDigest {
                index: line.read(line.word(1)),
                digest: u128::from_str_radix(line.word(2), 16).unwrap(),
            }),
            other => panic!("unknown command {other:?}"),
        }
    }

    fn session(&self, line: &ScenarioLine<'_>) -> u64 {
        let known = self.world.registry.framework(line.framework(1));
        let present = known.map_or(0, |framework| framework.session);
        line.number("session").unwrap_or(present)
    }

    fn agent_decision(&self, line: &ScenarioLine<'_>) -> AgentDecision {
        let agent = line.agent(1);
        let known = self.world.registry.agent(agent);
        let present = known.map(|agent| agent.revision).unwrap_or_default();
        let decided_on = line.pair("on").map_or(present, |text| line.revision(text));
        AgentDecision {
            agent,
            decided_on,
            wall_ms: 0,
        }
    }

    fn decision(&self, line: &ScenarioLine<'_>) -> FrameworkDecision {
        let framework = line.framework(1);
        let known = self.world.registry.framework(framework);
        let present = known
            .map(|framework| framework.revision)
            .unwrap_or_default();
        FrameworkDecision {
            framework,
            decided_on: line.pair("on").map_or(present, |text| line.revision(text)),
        }
    }

    fn list(&self, line: &ScenarioLine<'_>) -> Command {
        let agent = line.agent(1);
        let known = self.world.registry.agent(agent);
        let held = line.words_from(2).iter().map(|text| {
            let (key, order) = line.instance(text);
            HeldTask { key, order }
        });
        Command::ReconcileAgent(ReconcileAgent {
            agent,
            incarnation: line
                .number("incarnation")
                .unwrap_or_else(|| known.map_or(0, |agent| agent.report.incarnation)),
            floor: OrderIndex(line.number("floor").unwrap_or(0)),
            after: line.pair("after").map(|text| line.key(text)),
            through: line.pair("through").map(|text| line.key(text)),
            held: held.collect(),
            wall_ms: 0,
        })
    }

    fn call(&self, line: &ScenarioLine<'_>) -> Command {
        let number = line.read(line.word(2).trim_start_matches('#'));
        Command::Call(Call {
            framework: line.framework(1),
            session: self.session(line),
            number,
            lowest_unanswered: line.number("low").unwrap_or(number),
            hash: line.number("hash").unwrap_or(number),
            action: self.action(line),
        })
    }

    fn action(&self, line: &ScenarioLine<'_>) -> CallAction {
        let roles = || line.roles("roles").unwrap_or_default();
        match line.word(3) {
            "accept" => CallAction::Accept(self.accept(line)),
            "kill" => CallAction::Kill {
                task: TaskId::new(line.word(4)).unwrap(),
                grace_ms: line.number("grace"),
            },
            "limits" => CallAction::UpdateLimits {
                task: TaskId::new(line.word(4)).unwrap(),
                limits: limits(line),
            },
            "suppress" => CallAction::Suppress(roles()),
            "revive" => CallAction::Revive(roles()),
            "update" => CallAction::Update(info(line, line.word(4))),
            "teardown" => CallAction::Teardown,
            other => panic!("unknown call {other:?}"),
        }
    }

    fn accept(&self, line: &ScenarioLine<'_>) -> Accept {
        let names = line.pair("offers").unwrap_or_default().split(',');
        let offers = names
            .filter(|name| !name.is_empty())
            .map(|name| self.offers[name].clone());
        // Consecutive tasks are one launch, unless `then` separates them. A group is one operation.
        let mut operations: Vec<OfferOperation> = Vec::new();
        let words = line.words_from(4).iter();
        for word in words.filter(|word| !["all", "flat"].contains(word)) {
            // `name@executor/own/cpus:1` is a task of an executor with the resources `own`.
            let (word, executor) = match word.split_once('@') {
                None => ((*word).to_owned(), None),
                Some((name, rest)) => {
                    let (executor, rest) = rest.split_once('/').unwrap();
                    let (own, resources) = rest.split_once('/').unwrap();
                    let executor = Some(Box::new(testing::executor(executor, own)));
                    (format!("{name}:{resources}"), executor)
                }
            };
            if let Some(group) = word.strip_prefix("group:") {
                operations.push(OfferOperation::LaunchGroup(self::group(group)));
                continue;
            }
            if word == "then" {
                operations.push(OfferOperation::Launch(Vec::new()));
                continue;
            }
            if !matches!(operations.last(), Some(OfferOperation::Launch(_))) {
                operations.push(OfferOperation::Launch(Vec::new()));
            }
            let Some(OfferOperation::Launch(launches)) = operations.last_mut() else {
                unreachable!("one was just pushed")
            };
            let (name, resources) = word.split_once(':').unwrap();
            // `name*3:cpus:1` stands for name1, name2 and name3.
            match name.split_once('*') {
                None => launches.push(TaskSpec {
                    executor,
                    ..spec(name, resources)
                }),
                Some((name, count)) => launches.extend(
                    (1..=line.read::<u32>(count)).map(|at| spec(&format!("{name}{at}"), resources)),
                ),
            }
        }
        let tasks = operations.iter_mut().flat_map(OfferOperation::tasks_mut);
        for launch in tasks {
            launch.stop_after_ms = line.number("stop_after").unwrap_or(0);
            find(line, launch);
        }
        let accept = Accept {
            offers: offers.collect(),
            operations,
            all_or_nothing: line.has("all"),
            wall_ms: 0,
        };
        // In the form of format 2.
        match line.has("flat") {
            true => accept.in_one_launch(),
            false => accept,
        }
    }

    fn acknowledge(&self, line: &ScenarioLine<'_>) -> Command {
        let framework = line.framework(1);
        let updates = line.words_from(2).iter().map(|text| {
            let (name, revision) = text.split_once('@').unwrap();
            (TaskId::new(name).unwrap(), line.revision(revision))
        });
        Command::Acknowledge(Acknowledge {
            framework,
            session: self.session(line),
            updates: updates.collect(),
        })
    }
}

/// Parses `published=31000:80 metrics=80`, for all launches of the line.
fn find(line: &ScenarioLine<'_>, launch: &mut TaskSpec) {
    if let Some((host, container)) = line.pair("published").and_then(|pair| pair.split_once(':')) {
        launch.container.network = ContainerNetwork::Bridge(vec![PublishedPort {
            host: line.read(host),
            container: line.read(container),
            udp: false,
        }]);
    }
    launch.discovery = line.pair("metrics").map(|number| {
        let port = DiscoveryPort {
            name: DiscoveryPort::METRICS.to_owned(),
            number: line.read(number),
            udp: false,
            labels: BTreeMap::new(),
        };
        let ports = vec![port];
        Box::new(Discovery {
            ports,
            ..Discovery::default()
        })
    });
}

/// Parses a group: `pod/a:cpus:1,b:cpus:2` has two tasks.
fn group(text: &str) -> Vec<TaskSpec> {
    let (id, tasks) = text.split_once('/').unwrap();
    let tasks = tasks.split(',').map(|task| {
        let (name, resources) = task.split_once(':').unwrap();
        spec(name, resources)
    });
    TaskGroup::of(&GroupId::new(id).unwrap(), tasks.collect())
}

fn open_epoch(line: &ScenarioLine<'_>, level: Level) -> Command {
    let level = line
        .number("level")
        .map_or(level, |level| Level(level as u32));
    Command::OpenEpoch(OpenEpoch {
        node: NodeId(line.number("node").unwrap_or(1)),
        process: 1,
        term: 1,
        entropy: [9; 32],
        wall_ms: 0,
        level,
    })
}

fn register(line: &ScenarioLine<'_>) -> Command {
    let nonce = line.number("nonce").unwrap_or(0);
    let first = registration(nonce, line.word(1));
    let mut info = first.info;
    if line.has("old") {
        info.changes_limits = false;
        info.capabilities.clear();
    }
    for pair in line
        .pair("attributes")
        .into_iter()
        .flat_map(|text| text.split(','))
    {
        let (name, value) = pair.split_once(':').unwrap();
        info.attributes.insert(name.to_owned(), value.to_owned());
    }
    let tried = line.pair("tried").map(|text| {
        text.split(',')
            .filter(|number| !number.is_empty())
            .map(|number| line.read(number))
            .collect()
    });
    Command::RegisterAgent(RegisterAgent {
        agent: line.pair("id").map(|text| line.read(text)),
        nonce,
        confirmed: line.number("confirmed").unwrap_or(0),
        tried: tried.unwrap_or(first.tried),
        boot_id: line.pair("boot").map_or(first.boot_id, str::to_owned),
        info,
        follows: None,
    })
}

/// Parses updates such as `framework-1/a@1#2:running`.
fn update(line: &ScenarioLine<'_>) -> Command {
    let updates = line.words_from(2).iter().map(|text| {
        let (instance, rest) = text.split_once('#').unwrap();
        let (number, state) = rest.split_once(':').unwrap();
        let (key, order) = line.instance(instance);
        AgentUpdate {
            key,
            order,
            number: line.read(number),
            state: state_named(state),
            source: UpdateSource::Agent,
            reason: Reason::None,
            causes: Vec::new(),
            message: line.pair("message").unwrap_or_default().to_owned(),
            exit: None,
            standing: standing(line),
            limits: limits_report(line),
            wall_ms: 0,
        }
    });
    Command::UpdateTasks(UpdateTasks {
        agent: line.agent(1),
        updates: updates.collect(),
    })
}

/// Parses `healthy=yes ready=no`, for all updates of the line.
fn standing(line: &ScenarioLine<'_>) -> CheckResults {
    let reported = |name| line.pair(name).map(|word| word == "yes");
    CheckResults {
        healthy: reported("healthy"),
        ready: reported("ready"),
    }
}

/// Parses `cpu=500 mem=64 pids=10 weight=200 disk=/dev/sda exclusive`.
fn limits(line: &ScenarioLine<'_>) -> TaskLimits {
    let disk = line.pair("disk").map(|disk| DiskLimit {
        disk: disk.to_owned(),
        write_bytes: line.number("write"),
        ..DiskLimit::default()
    });
    TaskLimits {
        cpu_millis: line.number("cpu"),
        memory_bytes: line.number("mem").map(|mib| mib << 20),
        pids: line.number("pids"),
        io_weight: line.number("weight"),
        io: disk.into_iter().collect(),
        exclusive_cpus: line.has("exclusive"),
    }
}

/// Parses `limits=5` or `limits=5 refused=WHY`, for all updates of the line; with `held=yes`, the
/// limits in force instead.
fn limits_report(line: &ScenarioLine<'_>) -> Option<LimitsReport> {
    let refusal = line.pair("refused").map(str::to_owned);
    line.number("limits").map(|order| LimitsReport {
        order: OrderIndex(order),
        outcome: refusal.map_or(Ok(()), Err),
        held: line.pair("held").map(|_| Box::new(limits(line))),
        causes: Vec::new(),
    })
}

fn state_named(name: &str) -> TaskState {
    match name {
        "staging" => TaskState::Staging,
        "starting" => TaskState::Starting,
        "running" => TaskState::Running,
        "killing" => TaskState::Killing,
        "finished" => TaskState::Finished,
        "failed" => TaskState::Failed,
        "killed" => TaskState::Killed,
        "gone" => TaskState::Gone,
        "unreachable" => TaskState::Unreachable,
        other => panic!("unknown state {other:?}"),
    }
}

fn info(line: &ScenarioLine<'_>, name: &str) -> argosy_state::framework::FrameworkInfo {
    let mut info = framework_info(name);
    if let Some(roles) = line.roles("roles") {
        info.roles = roles.into_iter().collect();
    }
    if let Some(ms) = line.number("failover") {
        info.failover_timeout_ms = ms;
    }
    info.principal = line.pair("principal").unwrap_or_default().to_owned();
    info.detached = line.has("detached");
    info
}

fn subscribe(line: &ScenarioLine<'_>) -> Command {
    Command::Subscribe(Subscribe {
        framework: line.pair("id").map(|text| line.read(text)),
        session: line.number("session").unwrap_or(0),
        info: info(line, line.word(1)),
    })
}

/// Parses operations that are separated by `+`.
fn operate(line: &ScenarioLine<'_>) -> Command {
    let operations = line.words_from(1).split(|word| *word == "+");
    let request = line
        .pair("request")
        .map(|id| ("op".to_owned(), id.to_owned()));
    Command::Operate(Operate {
        request,
        hash: line.number("hash").unwrap_or(0),
        operations: operations.map(|words| operation(line, words)).collect(),
        wall_ms: line.pair("wall").map_or(0, |wall| line.read(wall)),
    })
}

fn operation(line: &ScenarioLine<'_>, words: &[&str]) -> OperatorOperation {
    let parsed = OperatorOperation::from_words(words, line.number("grace"), &limits(line));
    parsed.unwrap_or_else(|| panic!("{words:?} is not an operation"))
}
