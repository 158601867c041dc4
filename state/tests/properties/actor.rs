//! Random schedulers, operators and leaders that mostly act correctly, and sometimes arbitrarily.

use std::collections::BTreeMap;

use argosy_state::Registry;
use argosy_state::access::{AccessOperation, NewToken, TokenPurpose};
use argosy_state::actor::PrincipalKind;
use argosy_state::command::{
    Accept, Acknowledge, Call, CallAction, Command, CompareDigest, FrameworkDecision, LogEntry,
    OfferOperation, OfferTerms, OpenEpoch, Operate, OperatorOperation, ProposedCommand,
    RaiseLowWater, RegisterAgent, Subscribe, SweepTarget,
};
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{
    AgentId, Epoch, FrameworkId, GroupId, NodeId, OfferId, Revision, Role, TaskId, TaskKey, Ticket,
    Timestamp,
};
use argosy_state::level::{self, Level};
use argosy_state::task::{Task, TaskGroup, TaskLimits, TaskSpec};
use argosy_state::testing::{amounts, executor, framework_info, spec};

use crate::agents::{new_agent, reconcile, silence, stopped, updates};
use crate::rng::TestRng;

pub(crate) struct CommandGenerator {
    now: Timestamp,
    serial: u64,
    offers: Vec<OfferTerms>,
    numbers: BTreeMap<(FrameworkId, u64), u64>,
    /// Past proposals, which may be repeated late.
    past: Vec<ProposedCommand>,
    /// Whether agents of this run may lose resources.
    shrinking: bool,
    /// The level of its leaders.
    pub(crate) level: Level,
}

impl CommandGenerator {
    pub(crate) fn new(dice: &mut TestRng, level: Level) -> Self {
        Self {
            now: Timestamp(1),
            serial: 0,
            offers: Vec::new(),
            numbers: BTreeMap::new(),
            past: Vec::new(),
            shrinking: dice.percent(50),
            level,
        }
    }

    /// Returns what a leader proposes at the level of the cluster. Facts that the level does not
    /// have are removed; `None` if the leader refuses the command.
    pub(crate) fn at_level(level: Level, mut proposed: ProposedCommand) -> Option<ProposedCommand> {
        level::reduce(level, &mut proposed.command);
        match level::first_unsupported(level, &proposed.command) {
            None => Some(proposed),
            Some(_) => None,
        }
    }

    pub(crate) fn entry(
        &mut self,
        dice: &mut TestRng,
        registry: &Registry,
        count: usize,
    ) -> LogEntry {
        // The clock of a leader may also be behind.
        let ms = dice.next() % 2_000;
        if dice.percent(5) {
            self.now = Timestamp(self.now.0.saturating_sub(ms));
        } else {
            self.now = self.now.plus_ms(ms);
        }
        let commands = (0..count).map(|_| self.proposed(dice, registry)).collect();
        LogEntry {
            at: self.now,
            commands,
        }
    }

    fn proposed(&mut self, dice: &mut TestRng, registry: &Registry) -> ProposedCommand {
        if dice.percent(5)
            && let Some(again) = dice.pick(&self.past)
        {
            return again;
        }
        self.serial += 1;
        let mut epoch = registry.epoch();
        if dice.percent(1) {
            epoch = Epoch(epoch.0.saturating_sub(1));
        }
        let ticket = Ticket {
            epoch,
            serial: self.serial,
        };
        let command = self.command(dice, registry);
        let proposed = ProposedCommand {
            ticket,
            actor: actor(self.serial),
            command,
        };
        if self.past.len() < 100 {
            self.past.push(proposed.clone());
        } else {
            let at = dice.below(100);
            self.past[at] = proposed.clone();
        }
        proposed
    }

    fn command(&mut self, dice: &mut TestRng, registry: &Registry) -> Command {
        if registry.epoch() == Epoch(0) || dice.percent(1) {
            return open_epoch(dice, self.level);
        }
        let agents: Vec<AgentId> = registry.agents().map(|agent| agent.id).collect();
        let frameworks: Vec<FrameworkId> = registry.frameworks().map(|known| known.id).collect();
        let (Some(agent), Some(framework)) = (dice.pick(&agents), dice.pick(&frameworks)) else {
            return match dice.below(2) {
                0 => new_agent(dice),
                _ => new_framework(dice),
            };
        };
        match dice.below(100) {
            0..3 if agents.len() < 6 => new_agent(dice),
            0..8 => self.register(dice, registry, agent),
            8..10 => Command::AgentUnreachable(silence(dice, registry, agent)),
            10..11 => Command::PruneAgent(silence(dice, registry, agent)),
            11..12 => stopped(dice, registry, agent),
            12..16 => reconcile(dice, registry, agent),
            16..45 => updates(dice, registry, agent),
            45..48 if frameworks.len() < 5 => new_framework(dice),
            45..50 => resubscribe(dice, registry, framework),
            50..52 => Command::DisconnectFramework(decision(dice, registry, framework)),
            52..53 => Command::ExpireFramework(decision(dice, registry, framework)),
            53..82 => self.call(dice, registry, framework, agent),
            82..90 => acknowledge(dice, registry, framework),
            90..91 => raise(dice, registry, framework),
            91..96 => operate(dice, registry, framework, agent),
            96..97 => sweep(dice, registry, framework, agent),
            97..98 if dice.percent(20) => Command::RaiseLevel {
                level: Level::NEWEST,
            },
            97..98 => Command::MassLoss,
            98..99 => Command::CompareDigest(CompareDigest {
                index: registry.applied(),
                digest: registry.digest(),
            }),
            _ => Command::Tick,
        }
    }

    fn register(&self, dice: &mut TestRng, registry: &Registry, id: AgentId) -> Command {
        let agent = registry.agent(id).unwrap();
        let mut info = agent.report.info.clone();
        if dice.percent(20) {
            let text = if self.shrinking && dice.percent(50) {
                "cpus:2;mem:500;ports:[1-4]"
            } else {
                "cpus:12;mem:9000;gpus:2;ports:[1-20];zones:{a,b}"
            };
            info.resources = amounts(text);
        }
        if dice.percent(20) {
            let value = dice.below(3).to_string();
            info.attributes.insert("rack".to_owned(), value);
        }
        let confirmed = if dice.percent(90) {
            agent.report.incarnation
        } else {
            dice.next() % 50
        };
        let tried = match dice.below(4) {
            0 => vec![dice.next() % 50, 1 + dice.next() % 1_000],
            1 => vec![1 + dice.next() % 1_000],
            2 => vec![0],
            _ => Vec::new(),
        };
        Command::RegisterAgent(RegisterAgent {
            agent: dice.percent(80).then_some(id),
            nonce: agent.nonce,
            confirmed,
            tried,
            boot_id: agent.report.boot_id.clone(),
            info,
            follows: None,
        })
    }

    fn call(
        &mut self,
        dice: &mut TestRng,
        registry: &Registry,
        id: FrameworkId,
        agent: AgentId,
    ) -> Command {
        let known = registry.framework(id).unwrap();
        let session = if dice.percent(97) {
            known.session
        } else {
            1 + dice.next() % 30
        };
        let last = self.numbers.entry((id, session)).or_default();
        *last += if dice.percent(90) { 1 } else { dice.next() % 3 };
        let number = *last;
        let action = self.action(dice, registry, id, agent);
        Command::Call(Call {
            framework: id,
            session,
            number,
            lowest_unanswered: number.saturating_sub(dice.next() % 4),
            hash: dice.next() % 2,
            action,
        })
    }

    fn action(
        &mut self,
        dice: &mut TestRng,
        registry: &Registry,
        id: FrameworkId,
        agent: AgentId,
    ) -> CallAction {
        let roles = if dice.percent(50) {
            Vec::new()
        } else {
            vec![role(dice)]
        };
        match dice.below(100) {
            0..75 => CallAction::Accept(self.accept(dice, registry, id, agent)),
            75..78 => CallAction::UpdateLimits {
                task: task_id(dice),
                limits: limits(dice),
            },
            78..90 => CallAction::Kill {
                task: task_id(dice),
                grace_ms: dice.percent(50).then(|| dice.next() % 5_000),
            },
            90..93 => CallAction::Suppress(roles),
            93..96 => CallAction::Revive(roles),
            96..99 => CallAction::Update(info(dice)),
            _ => CallAction::Teardown,
        }
    }

    fn accept(
        &mut self,
        dice: &mut TestRng,
        registry: &Registry,
        id: FrameworkId,
        agent: AgentId,
    ) -> Accept {
        let fresh = self.offer(dice, registry, id, agent);
        let mut offers = vec![fresh];
        if dice.percent(10) {
            offers.push(self.offer(dice, registry, id, agent));
        }
        if dice.percent(10) {
            offers.extend(dice.pick(&self.offers));
        }
        if dice.percent(3) {
            offers.remove(0);
        }
        self.offers.extend(offers.iter().cloned());
        if self.offers.len() > 50 {
            self.offers.drain(..10);
        }
        let mut accept = Accept {
            offers,
            operations: (0..dice.below(4)).map(|_| operation(dice)).collect(),
            all_or_nothing: dice.percent(20),
            wall_ms: 5,
        };
        if dice.percent(30) {
            // In the form of format 2.
            accept = accept.in_one_launch();
        }
        accept
    }

    fn offer(
        &mut self,
        dice: &mut TestRng,
        registry: &Registry,
        id: FrameworkId,
        agent: AgentId,
    ) -> OfferTerms {
        self.serial += 1;
        let known = registry.agent(agent).unwrap();
        let framework = registry.framework(id).unwrap();
        let roles: Vec<Role> = framework.info.roles.iter().cloned().collect();
        let resources = if dice.percent(80) {
            registry.free(agent)
        } else {
            known.total().clone()
        };
        let mut epoch = registry.epoch();
        if dice.percent(5) {
            epoch = Epoch((epoch.0 + 1).saturating_sub(dice.next() % 3));
        }
        OfferTerms {
            id: OfferId {
                epoch,
                serial: if dice.percent(95) {
                    self.serial
                } else {
                    dice.next() % 100
                },
            },
            framework: id,
            session: framework.session,
            agent,
            role: dice.pick(&roles).unwrap(),
            resources,
            offer_revision: known.offer_revision,
            expires: self.now.plus_ms(dice.next() % 100_000),
        }
    }
}

fn operation(dice: &mut TestRng) -> OfferOperation {
    let tasks: Vec<_> = (0..dice.below(3)).map(|_| task_spec(dice)).collect();
    let group = format!("g{}", dice.below(4));
    match dice.below(8) {
        0..5 => OfferOperation::Launch(tasks),
        5..7 => OfferOperation::LaunchGroup(TaskGroup::of(&GroupId::new(&group).unwrap(), tasks)),
        // No leader proposes it.
        _ => OfferOperation::LaunchGroup(tasks),
    }
}

fn open_epoch(dice: &mut TestRng, level: Level) -> Command {
    Command::OpenEpoch(OpenEpoch {
        node: NodeId(1 + dice.next() % 3),
        process: dice.next(),
        term: dice.next() % 9,
        entropy: [u8::try_from(dice.below(256)).unwrap(); 32],
        wall_ms: 1,
        level,
    })
}

fn info(dice: &mut TestRng) -> FrameworkInfo {
    let mut info = framework_info("f");
    info.roles.insert(role(dice));
    if dice.percent(30) {
        info.roles.remove(&Role::default());
    }
    info.detached = dice.percent(20);
    info.failover_timeout_ms = match dice.below(3) {
        0 => 0,
        1 => 3_000,
        _ => 1_000_000,
    };
    if dice.percent(2) {
        info.roles.clear();
    }
    info
}

fn new_framework(dice: &mut TestRng) -> Command {
    Command::Subscribe(Subscribe {
        framework: None,
        session: dice.next() % 30,
        info: info(dice),
    })
}

fn resubscribe(dice: &mut TestRng, registry: &Registry, id: FrameworkId) -> Command {
    let known = registry.framework(id).unwrap();
    let session = if dice.percent(50) {
        known.session
    } else {
        1 + dice.next() % 30
    };
    let same = dice.percent(50);
    Command::Subscribe(Subscribe {
        framework: Some(id),
        session,
        info: if same {
            (*known.info).clone()
        } else {
            info(dice)
        },
    })
}

fn role(dice: &mut TestRng) -> Role {
    Role::new(["*", "web", "db", "web/front"][dice.below(4)]).unwrap()
}

pub(crate) fn task_id(dice: &mut TestRng) -> TaskId {
    TaskId::new(&format!("t{}", dice.below(60))).unwrap()
}

fn task_spec(dice: &mut TestRng) -> TaskSpec {
    let resources = [
        "cpus:1;mem:100",
        "cpus:0.001",
        "cpus:2;mem:500;ports:[1-2]",
        "ports:[2-3]",
        "zones:{a}",
        "cpus:100",
        "gpus:1",
    ][dice.below(7)];
    let mut spec = spec(task_id(dice).as_str(), resources);
    if dice.percent(25) {
        let (name, own) = (
            ["e1", "e2"][dice.below(2)],
            ["cpus:0.5", "cpus:0.5;mem:10", "ports:[4-5]"][dice.below(3)],
        );
        spec.executor = Some(Box::new(executor(name, own)));
    } else if dice.percent(30) {
        spec.stop_after_ms = 1 + dice.next() % 2_000;
    }
    if dice.percent(3) {
        spec.environment.insert("A=B".to_owned(), String::new());
    }
    spec
}

fn decision(dice: &mut TestRng, registry: &Registry, id: FrameworkId) -> FrameworkDecision {
    let mut decided_on = registry.framework(id).unwrap().revision;
    if dice.percent(20) {
        decided_on.position += 1;
    }
    FrameworkDecision {
        framework: id,
        decided_on,
    }
}

fn acknowledge(dice: &mut TestRng, registry: &Registry, id: FrameworkId) -> Command {
    let tasks: Vec<&Task> = registry.tasks_of(id).collect();
    let count = 1 + dice.below(4);
    let updates = (0..count).filter_map(|_| {
        let task = dice.pick(&tasks)?;
        let revision = match dice.below(10) {
            0 => Revision::default(),
            1 => task.revision,
            _ => task.latest.revision,
        };
        Some((task.key.task.clone(), revision))
    });
    Command::Acknowledge(Acknowledge {
        framework: id,
        session: registry.framework(id).unwrap().session,
        updates: updates.collect(),
    })
}

fn raise(dice: &mut TestRng, registry: &Registry, id: FrameworkId) -> Command {
    let known = registry.framework(id).unwrap();
    Command::RaiseLowWater(RaiseLowWater {
        framework: id,
        session: known.session,
        to: known.low_water + dice.next() % 3,
    })
}

fn operate(
    dice: &mut TestRng,
    registry: &Registry,
    framework: FrameworkId,
    agent: AgentId,
) -> Command {
    let count = 1 + dice.below(2);
    let keys: Vec<TaskKey> = registry.tasks().map(|task| task.key.clone()).collect();
    let operations = (0..count).map(|_| match dice.below(40) {
        0..8 => OperatorOperation::SetAttribute {
            agent,
            name: "zone".to_owned(),
            value: "z".repeat(dice.below(3)),
        },
        8..15 => {
            let key = dice.pick(&keys).unwrap_or(TaskKey {
                framework,
                task: task_id(dice),
            });
            let samples = OperatorOperation::samples(agent, &key, &limits(dice));
            let at = usize::try_from(registry.applied()).unwrap() % samples.len();
            let sample = samples.into_iter().nth(at).unwrap().1;
            match dice.percent(30) {
                true => repeated_token(dice, registry).unwrap_or(sample),
                false => sample,
            }
        }
        15..25 => OperatorOperation::KillTask {
            key: dice.pick(&keys).unwrap_or(TaskKey {
                framework,
                task: task_id(dice),
            }),
            grace_ms: dice.percent(50).then_some(1),
        },
        25..26 => OperatorOperation::Teardown(framework),
        26..30 => OperatorOperation::SetWeight {
            role: role(dice),
            weight_milli: dice.next() % 3 * 500,
        },
        30..34 => OperatorOperation::Deactivate(agent),
        34..39 => OperatorOperation::Reactivate(agent),
        _ => OperatorOperation::MarkGone(agent),
    });
    let operations = operations.collect();
    let request = dice.percent(50).then(|| {
        let id = format!("r{}", dice.below(1_000));
        ("op".to_owned(), id)
    });
    Command::Operate(Operate {
        request,
        hash: 1,
        operations,
        wall_ms: 4,
    })
}

/// Creates a known token again: as it is, or with another purpose, secret or description.
fn repeated_token(dice: &mut TestRng, registry: &Registry) -> Option<OperatorOperation> {
    let tokens = &registry.access().tokens;
    let known: Vec<_> = tokens.into_iter().collect();
    let (id, token) = dice.pick(&known)?;
    let purpose = match dice.below(6) {
        0 => TokenPurpose::Bearer("operator/other".parse().unwrap()),
        1 => TokenPurpose::Join {
            kind: PrincipalKind::Agent,
            uses_left: 1 + u32::from(dice.percent(50)),
        },
        2 => TokenPurpose::Join {
            kind: PrincipalKind::Master,
            uses_left: 1,
        },
        _ => match token.purpose.clone() {
            // A new token has a use.
            TokenPurpose::Join { kind, uses_left } => TokenPurpose::Join {
                kind,
                uses_left: uses_left.max(1),
            },
            bearer @ TokenPurpose::Bearer(_) => bearer,
        },
    };
    let mut description = token.description.clone();
    if dice.percent(50) {
        description.push('x');
        description.truncate(20);
    }
    let new = NewToken {
        id: *id,
        purpose,
        hash: if dice.percent(10) {
            [7; 32]
        } else {
            token.hash
        },
        lifetime_ms: None,
        description,
    };
    Some(OperatorOperation::Access(AccessOperation::CreateToken(new)))
}

/// The actor does not affect the decision.
fn actor(serial: u64) -> argosy_state::actor::Actor {
    let asking = match serial % 6 {
        0 => "cluster",
        1 => "master/master-1",
        2 => "agent/agent-1",
        3 => "framework/web",
        4 => "operator/alice",
        _ => "unauthenticated",
    };
    asking.parse().unwrap()
}

/// Returns limits that are mostly valid.
fn limits(dice: &mut TestRng) -> TaskLimits {
    TaskLimits {
        cpu_millis: dice.percent(50).then(|| 1 + dice.next() % 20_000),
        pids: dice.percent(50).then(|| dice.next() % 10),
        exclusive_cpus: dice.percent(3),
        ..TaskLimits::default()
    }
}

fn sweep(
    dice: &mut TestRng,
    registry: &Registry,
    framework: FrameworkId,
    agent: AgentId,
) -> Command {
    let waiting: Vec<SweepTarget> = registry.sweeps().collect();
    let any = if dice.percent(50) {
        SweepTarget::Agent(agent)
    } else {
        SweepTarget::Framework(framework)
    };
    Command::Sweep(dice.pick(&waiting).unwrap_or(any))
}
