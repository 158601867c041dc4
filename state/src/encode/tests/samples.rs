//! Samples of every record and command, with a distinctive value in each field.

mod access;
mod actors;
mod agents;
mod limits;
pub(in crate::encode) mod names;
mod operations;
mod tasks;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::Registry;
use crate::access::TicketSecrets;
use crate::actor::Actor;
use crate::agent::AgentInfo;
use crate::command::{
    Accept, Acknowledge, AgentDecision, AgentUpdate, Call, CallAction, ClusterFacts, Command,
    CompareDigest, FormerCluster, FrameworkDecision, HeldTask, OfferOperation, OfferTerms,
    OpenEpoch, Operate, OperatorOperation, Position, ProposedCommand, RaiseLowWater,
    ReconcileAgent, RegisterAgent, Subscribe, SweepTarget, TasksStopped, UpdateTasks,
};
use crate::framework::{FinishedFramework, Framework, FrameworkInfo, SchedulerConnection};
use crate::ids::{
    AgentId, ClusterId, Epoch, FrameworkId, NodeId, OfferId, OrderIndex, Revision, Role, TaskId,
    TaskKey, Ticket, Timestamp,
};
use crate::level::Level;
use crate::registry::{
    Ancestor, ClusterRecord, Layout, OperatorAnswer, SweepMark, reduce_to_history,
};
use crate::secret::SealedSecret;
use crate::task::{
    CheckResults, CommandSpec, Exit, FinishedTask, Reason, SecurityOptions, Sizes, Task, TaskState,
    TaskTransition, UpdateSource,
};
use tasks::{
    attached, checked_task, checks, containers, executors, group, https_check, resources, spec,
    stopped_task, task,
};

fn revision(index: u64, position: u32) -> Revision {
    Revision { index, position }
}

fn position(operation: u32, task: u32) -> Position {
    Position { operation, task }
}

fn texts(name: &str, value: &str) -> BTreeMap<String, String> {
    [(name.to_owned(), value.to_owned())].into()
}

fn offer_id(epoch: u64, serial: u64) -> OfferId {
    OfferId {
        epoch: Epoch(epoch),
        serial,
    }
}

fn key(framework: u64, task: &str) -> TaskKey {
    TaskKey {
        framework: FrameworkId(framework),
        task: TaskId::new(task).unwrap(),
    }
}

fn role(name: &str) -> Role {
    Role::new(name).unwrap()
}

fn agent_info() -> AgentInfo {
    AgentInfo {
        host_name: "host".to_owned(),
        address: "10.0.0.1:5051".to_owned(),
        resources: resources(),
        attributes: texts("rack", "r1"),
        version: "1.2.3".to_owned(),
        missing_controllers: vec!["io".to_owned()],
        isolation: "full".to_owned(),
        allowed_security_options: SecurityOptions::default(),
        largest_sizes: Sizes::default(),
        changes_limits: false,
        capabilities: BTreeSet::new(),
    }
}

fn framework_info() -> FrameworkInfo {
    FrameworkInfo {
        name: "web".to_owned(),
        user: "www".to_owned(),
        roles: [role("web"), role("*")].into(),
        failover_timeout_ms: 700,
        principal: "alice".to_owned(),
        labels: texts("team", "a"),
        detached: true,
        offer_timeout_ms: 800,
        web_url: "http://web".to_owned(),
        capabilities: BTreeSet::new(),
    }
}

fn capable_info() -> FrameworkInfo {
    FrameworkInfo {
        capabilities: ["gpus", "of-a-later-release"].map(ToOwned::to_owned).into(),
        ..framework_info()
    }
}

/// Returns a registry with one of each record. Its indexes are not built.
pub(super) fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.applied = 50;
    registry.time = Timestamp(123_456);
    registry.cluster = cluster();
    registry.weights.insert(role("web"), 2_500);
    let (name, secret) = SealedSecret::sample();
    registry.secrets.insert(name, secret);
    registry.agents.insert(AgentId(3), agents::agent());
    registry.agents.insert(AgentId(5), agents::bound());
    registry.frameworks.insert(FrameworkId(4), framework());
    registry.tasks.insert(key(4, "web-1"), task("web-1"));
    registry.tasks.insert(key(4, "web-6"), checked_task());
    registry.tasks.insert(key(4, "web-84"), stopped_task());
    for task in limits::changed() {
        registry.tasks.insert(task.key.clone(), task);
    }
    operations::add_answers(&mut registry);
    registry.operator_answers.insert(
        ("alice".to_owned(), "r-1".to_owned()),
        OperatorAnswer {
            hash: 0x1234,
            at: Timestamp(999),
            revision: revision(31, 0),
            outcomes: vec![None, Some(limits::refusal(2, "no agent-9", &[]))],
        },
    );
    let finished = FinishedTask {
        task: Task {
            unacknowledged: Vec::new(),
            ..task("old")
        },
    };
    registry.finished_tasks.insert(6, finished);
    registry.finished_frameworks.insert(
        7,
        FinishedFramework {
            id: FrameworkId(2),
            info: framework_info(),
            revision: revision(20, 1),
            reason: "removed".to_owned(),
        },
    );
    add_long_messages(&mut registry);
    add_transitions(&mut registry);
    registry.access = access::facts();
    registry.index = registry.indexes().unwrap();
    registry
}

/// Adds the transitions of a task of which some were dropped, and of one in the history.
fn add_transitions(registry: &mut Registry) {
    let launched = TaskTransition {
        revision: revision(40, 0),
        state: TaskState::Staging,
        source: UpdateSource::Master,
        reason: Reason::None,
        exit: None,
        wall_ms: 61,
    };
    let lost = TaskTransition {
        revision: revision(40, 7),
        state: TaskState::Unreachable,
        reason: Reason::AgentUnreachable,
        ..launched
    };
    let task = &registry.tasks[&key(4, "web-1")];
    let present = TaskTransition::of(&task.latest);
    let all = vec![(1, launched), (300, lost), (301, present)];
    registry.transitions.insert(key(4, "web-1"), all);
    let ended = &registry.finished_tasks[&8].task;
    let end = TaskTransition {
        exit: Some(Exit::Signal(9)),
        ..TaskTransition::of(&ended.latest)
    };
    let key = ended.key.clone();
    registry.transitions.insert(key, vec![(4, end)]);
}

/// Adds a task whose newest update has a long message, and one in the history whose end has one.
fn add_long_messages(registry: &mut Registry) {
    let mut talking = checked_task();
    talking.key = key(4, "web-9");
    let spec = Arc::make_mut(&mut talking.spec);
    spec.task = talking.key.task.clone();
    // The resources do not overlap those of the other running tasks.
    spec.resources = "cpus:0.25".parse().unwrap();
    talking.latest.message = "a long message ".repeat(3);
    talking.unacknowledged = vec![talking.latest.clone()];
    registry.tasks.insert(talking.key.clone(), talking);
    let mut recent = task("recent");
    recent.latest.message = "a long message ".repeat(3);
    recent.unacknowledged.clear();
    reduce_to_history(Arc::make_mut(&mut recent.spec));
    let finished = FinishedTask { task: recent };
    registry.finished_tasks.insert(8, finished);
}

fn cluster() -> ClusterRecord {
    let sweep = |after| SweepMark { after, wall_ms: 88 };
    ClusterRecord {
        facts: ClusterFacts {
            id: ClusterId(0x0102),
            offer_key: [3; 32],
            former_offer_key: Some([4; 32]),
        },
        level: Level::NEWEST,
        epoch: Epoch(45),
        leader: NodeId(2),
        process: 0x55,
        term: 6,
        last_agent: 3,
        last_framework: 4,
        last_finished: 8,
        last_whole: 6,
        sweeps: [
            (SweepTarget::Agent(AgentId(3)), sweep(Some(key(4, "web-0")))),
            (SweepTarget::Framework(FrameworkId(4)), sweep(None)),
        ]
        .into(),
        mass_loss: Some(Timestamp(89)),
        layout: Layout::Split,
        ticket_secrets: Some(TicketSecrets {
            former: [5; 32],
            current: [6; 32],
            next: [7; 32],
            rotated_at: Timestamp(87),
        }),
        ancestors: vec![Ancestor {
            id: ClusterId(0x0101),
            epoch: Epoch(30),
            index: 44,
        }],
    }
}

fn framework() -> Framework {
    Framework {
        id: FrameworkId(4),
        info: framework_info().into(),
        session: 77,
        past_sessions: [75, 76].into(),
        connection: SchedulerConnection::Disconnected {
            since: Timestamp(98),
        },
        low_water: 8,
        suppressed: [role("*")].into(),
        removing: true,
        revision: revision(43, 1),
    }
}

/// Returns at least one of each command, by name.
pub(super) fn commands() -> Vec<(&'static str, ProposedCommand)> {
    let mut all = agent_commands();
    all.extend(calls());
    all.extend(other_commands());
    all.extend(volumes::commands());
    all.extend(limits::commands(agent_info()));
    all.extend(operations::commands());
    let propose = |(name, command): (&'static str, Command)| {
        let ticket = Ticket {
            epoch: Epoch(45),
            serial: 300,
        };
        let actor = Actor::default();
        let proposed = ProposedCommand {
            ticket,
            actor,
            command,
        };
        (name, proposed)
    };
    let mut all: Vec<_> = all.into_iter().map(propose).collect();
    all.extend(actors::commands(&all));
    all
}

fn agent_update() -> AgentUpdate {
    AgentUpdate {
        key: key(4, "web-1"),
        order: OrderIndex(11),
        number: 2,
        state: TaskState::Killed,
        source: UpdateSource::Agent,
        reason: Reason::TaskKilled,
        causes: Vec::new(),
        message: "killed".to_owned(),
        exit: Some(Exit::Signal(9)),
        standing: CheckResults::default(),
        limits: None,
        wall_ms: 67,
    }
}

#[allow(clippy::too_many_lines, reason = "one sample after the other")]
fn agent_commands() -> Vec<(&'static str, Command)> {
    let register = |agent| {
        Command::RegisterAgent(RegisterAgent {
            agent,
            nonce: 0x11,
            confirmed: 0x21,
            tried: vec![0x22, 0x23],
            boot_id: "boot".to_owned(),
            info: agent_info(),
            follows: None,
        })
    };
    let follower = |agent| {
        Command::RegisterAgent(RegisterAgent {
            agent: Some(agent),
            nonce: 0x11,
            confirmed: 0x21,
            tried: vec![0x22],
            boot_id: "boot".to_owned(),
            info: agent_info(),
            follows: Some(FormerCluster {
                id: ClusterId(0x0101),
                floor: OrderIndex(9),
            }),
        })
    };
    let decision = |position| {
        let (agent, decided_on, wall_ms) = (AgentId(3), revision(44, position), 65);
        AgentDecision {
            agent,
            decided_on,
            wall_ms,
        }
    };
    let list = ReconcileAgent {
        agent: AgentId(3),
        incarnation: 0x22,
        floor: OrderIndex(11),
        after: Some(key(4, "a")),
        through: Some(key(4, "z")),
        held: vec![HeldTask {
            key: key(4, "web-1"),
            order: OrderIndex(11),
        }],
        wall_ms: 66,
    };
    let update = |reason, standing| {
        let update = AgentUpdate {
            reason,
            standing,
            ..agent_update()
        };
        Command::UpdateTasks(UpdateTasks {
            agent: AgentId(3),
            updates: vec![update],
        })
    };
    let unhealthy = CheckResults {
        healthy: Some(false),
        ready: None,
    };
    vec![
        ("register-agent", register(Some(AgentId(3)))),
        ("register-new-agent", register(None)),
        ("register-follower", follower(AgentId(3))),
        ("agent-unreachable", Command::AgentUnreachable(decision(2))),
        ("prune-agent", Command::PruneAgent(decision(3))),
        (
            "stopped",
            Command::TasksStopped(TasksStopped {
                agent: AgentId(3),
                decided_on: revision(44, 2),
                silent_ms: 6_305,
                wall_ms: 72,
            }),
        ),
        ("reconcile-agent", Command::ReconcileAgent(list)),
        (
            "update-tasks",
            update(Reason::TaskKilled, CheckResults::default()),
        ),
        (
            "update-tasks-standing",
            update(Reason::HealthCheckFailed, unhealthy),
        ),
    ]
}

fn calls() -> Vec<(&'static str, Command)> {
    let call = |action| {
        Command::Call(Call {
            framework: FrameworkId(4),
            session: 77,
            number: 12,
            lowest_unanswered: 10,
            hash: 0xfeed,
            action,
        })
    };
    let terms = OfferTerms {
        id: offer_id(45, 13),
        framework: FrameworkId(4),
        session: 77,
        agent: AgentId(3),
        role: role("web"),
        resources: resources(),
        offer_revision: revision(5, 1),
        expires: Timestamp(222),
    };
    let argv = CommandSpec::Argv(vec!["sleep".to_owned(), "1".to_owned()]);
    let accept = Accept {
        offers: vec![terms],
        operations: vec![OfferOperation::Launch(vec![spec("web-2", argv)])],
        all_or_nothing: true,
        wall_ms: 68,
    };
    let launching = |launches| {
        call(CallAction::Accept(Accept {
            offers: Vec::new(),
            operations: vec![OfferOperation::Launch(launches)],
            all_or_nothing: false,
            wall_ms: 69,
        }))
    };
    let kill = CallAction::Kill {
        task: TaskId::new("web-1").unwrap(),
        grace_ms: Some(0),
    };
    vec![
        ("call-accept", call(CallAction::Accept(accept))),
        ("call-kill", call(kill)),
        (
            "call-suppress",
            call(CallAction::Suppress(vec![role("web")])),
        ),
        ("call-revive", call(CallAction::Revive(vec![role("*")]))),
        ("call-update", call(CallAction::Update(framework_info()))),
        ("call-update-able", call(CallAction::Update(capable_info()))),
        ("call-teardown", call(CallAction::Teardown)),
        ("call-accept-containers", launching(containers())),
        ("call-accept-checks", launching(checks().into())),
        ("call-accept-attached", launching(vec![attached()])),
        ("call-accept-executors", launching(executors())),
        ("call-accept-group", launching(group().into())),
        ("call-accept-https-check", launching(vec![https_check()])),
    ]
}

fn other_commands() -> Vec<(&'static str, Command)> {
    let decision = FrameworkDecision {
        framework: FrameworkId(4),
        decided_on: revision(43, 1),
    };
    let subscribe = |framework| {
        Command::Subscribe(Subscribe {
            framework,
            session: 78,
            info: framework_info(),
        })
    };
    let agent = SweepTarget::Agent(AgentId(3));
    let framework = SweepTarget::Framework(FrameworkId(4));
    let pruned = SweepTarget::PrunedAgent(AgentId(2));
    let compare = CompareDigest {
        index: 300,
        digest: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
    };
    vec![
        ("open-epoch", open_epoch(Level(0))),
        ("open-epoch-format", open_epoch(Level::RELEASE_0_1)),
        ("subscribe", subscribe(Some(FrameworkId(4)))),
        ("subscribe-first", subscribe(None)),
        (
            "disconnect-framework",
            Command::DisconnectFramework(decision.clone()),
        ),
        ("expire-framework", Command::ExpireFramework(decision)),
        (
            "acknowledge",
            Command::Acknowledge(Acknowledge {
                framework: FrameworkId(4),
                session: 77,
                updates: vec![(TaskId::new("web-1").unwrap(), revision(41, 3))],
            }),
        ),
        (
            "raise-low-water",
            Command::RaiseLowWater(RaiseLowWater {
                framework: FrameworkId(4),
                session: 77,
                to: 13,
            }),
        ),
        ("operate", Command::Operate(operate())),
        ("sweep-agent", Command::Sweep(agent)),
        ("sweep-framework", Command::Sweep(framework)),
        ("sweep-pruned-agent", Command::Sweep(pruned)),
        ("sweep-layout", Command::Sweep(SweepTarget::Layout)),
        ("tick", Command::Tick),
        ("mass-loss", Command::MassLoss),
        (
            "raise-level",
            Command::RaiseLevel {
                level: Level::RELEASE_0_2,
            },
        ),
        ("compare-digest", Command::CompareDigest(compare)),
    ]
}

fn open_epoch(level: Level) -> Command {
    Command::OpenEpoch(OpenEpoch {
        node: NodeId(2),
        process: 0x55,
        term: 6,
        entropy: [5; 32],
        wall_ms: 64,
        level,
    })
}

fn operate() -> Operate {
    Operate {
        request: Some(("alice".to_owned(), "r-1".to_owned())),
        hash: 0x1234,
        operations: vec![
            OperatorOperation::SetAttribute {
                agent: AgentId(3),
                name: "zone".to_owned(),
                value: "z".to_owned(),
            },
            OperatorOperation::KillTask {
                key: key(4, "web-1"),
                grace_ms: Some(0),
            },
            OperatorOperation::Teardown(FrameworkId(4)),
            OperatorOperation::SetWeight {
                role: role("web"),
                weight_milli: 2_500,
            },
            OperatorOperation::Deactivate(AgentId(3)),
            OperatorOperation::Reactivate(AgentId(3)),
            OperatorOperation::MarkGone(AgentId(3)),
        ],
        wall_ms: 69,
    }
}
