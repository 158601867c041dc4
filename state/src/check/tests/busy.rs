//! A valid registry with records of every kind and in every state that the rules distinguish.

use crate::access::Policy;
use crate::actor::Actor;
use crate::command::{
    Accept, ApplyOutcome, CallAction, Command, CommandReply, LogEntry, OfferOperation, Operate,
    OperatorOperation, ProposedCommand, Subscribe, TasksStopped,
};
use crate::framework::FrameworkInfo;
use crate::ids::{AgentId, FrameworkId, GroupId, Role, TaskId};
use crate::limits;
use crate::task::{CommandSpec, ExecutorSpec, TaskGroup, TaskLimits, TaskSpec, TaskState};
use crate::testing::{World, executor, framework_info, key, registration, spec};

const FIRST: AgentId = AgentId(1);
const SECOND: AgentId = AgentId(2);
/// The agent that becomes unreachable.
const LOST: AgentId = AgentId(3);
/// The agent that is declared gone.
const GONE: AgentId = AgentId(4);

const DEMO: FrameworkId = FrameworkId(1);
const OTHER: FrameworkId = FrameworkId(2);

/// Returns a world with five agents and seven frameworks.
pub(in crate::check) fn busy() -> World {
    let mut world = World::with_running_task("web");
    world.pass(5_000);
    for _ in [SECOND, LOST, GONE] {
        world.register("cpus:8;mem:4096");
    }
    register_principal(&mut world);
    world.subscribe_as(FrameworkInfo {
        roles: ["eng", "eng/web"].map(role).into(),
        ..framework_info("other")
    });
    add_tasks(&mut world);
    add_executors(&mut world);
    add_groups(&mut world);
    add_many_tasks(&mut world);
    add_frameworks(&mut world);
    lose_agents(&mut world);
    add_answers(&mut world);
    world
}

fn role(text: &str) -> Role {
    Role::new(text).unwrap()
}

fn id(text: &str) -> TaskId {
    TaskId::new(text).unwrap()
}

/// Registers `agent-5` as a proven principal, and deactivates it.
fn register_principal(world: &mut World) {
    let ticket = world.ticket();
    let entry = LogEntry {
        at: world.now,
        commands: vec![ProposedCommand {
            ticket,
            actor: Actor::Principal("agent/five".parse().unwrap()),
            command: Command::RegisterAgent(registration(5_000, "cpus:8")),
        }],
    };
    let (applied, _) = world.apply_entry(&entry);
    assert_eq!(applied[0].outcome, Ok(CommandReply::Agent(AgentId(5))));
    operate(world, &["deactivate", "agent-5"]);
}

/// Applies an operator's change, given as in scenarios.
fn operate(world: &mut World, words: &[&str]) {
    let operation = OperatorOperation::from_words(words, None, &TaskLimits::default()).unwrap();
    match world.operate(operation) {
        Ok(CommandReply::Operate { outcomes, .. }) => assert_eq!(outcomes, [Ok(())], "{words:?}"),
        other => panic!("{words:?}: {other:?}"),
    }
}

/// Adds tasks of `framework-1` on `agent-1`, each in another state.
fn add_tasks(world: &mut World) {
    for name in ["quiet", "ending", "dying", "shot", "resized"] {
        let task = world.launch(DEMO, FIRST, name, "cpus:0.1;mem:1");
        world.update(&task, TaskState::Running);
    }
    world.acknowledge(&key(DEMO, "quiet"));
    world.update(&key(DEMO, "ending"), TaskState::Finished);
    for name in ["dying", "shot"] {
        let kill = CallAction::Kill {
            task: id(name),
            grace_ms: None,
        };
        world.call(DEMO, kill).outcome.unwrap();
    }
    world.update(&key(DEMO, "shot"), TaskState::Killed);
    let change = CallAction::UpdateLimits {
        task: id("resized"),
        limits: TaskLimits {
            pids: Some(100),
            ..TaskLimits::default()
        },
    };
    world.call(DEMO, change).outcome.unwrap();
}

/// Adds two executors on `agent-1`. The first one has a task that has ended.
fn add_executors(world: &mut World) {
    for (name, of) in [
        ("exec-a", "runner"),
        ("exec-b", "runner"),
        ("exec-c", "second"),
        ("exec-d", "runner"),
    ] {
        let of: ExecutorSpec = executor(of, "cpus:0.1;mem:1");
        let task = TaskSpec {
            executor: Some(Box::new(of)),
            run: CommandSpec::Image,
            ..spec(name, "cpus:0.1;mem:1")
        };
        let offer = world.offer(DEMO, FIRST, "cpus:0.2;mem:2");
        let applied = world.accept(DEMO, vec![offer], vec![task]);
        assert_accepted(applied.outcome);
    }
    world.update(&key(DEMO, "exec-d"), TaskState::Finished);
}

fn assert_accepted(outcome: ApplyOutcome) {
    match outcome {
        Ok(CommandReply::Call { refused, .. }) => assert_eq!(refused, []),
        other => panic!("{other:?}"),
    }
}

/// Adds a group with a task in the history, and a group of the largest size.
fn add_groups(world: &mut World) {
    for (name, size) in [("pod", 3), ("full", limits::TASKS_PER_GROUP)] {
        let tasks = (0..size).map(|at| spec(&format!("{name}-{at}"), "cpus:0.01;mem:1"));
        let tasks = TaskGroup::of(&GroupId::new(name).unwrap(), tasks.collect());
        let offer = world.offer(DEMO, FIRST, "cpus:0.2;mem:16");
        let accept = Accept {
            offers: vec![offer],
            operations: vec![OfferOperation::LaunchGroup(tasks)],
            all_or_nothing: false,
            wall_ms: 0,
        };
        let applied = world.call(DEMO, CallAction::Accept(accept));
        assert_accepted(applied.outcome);
    }
    world.update(&key(DEMO, "pod-2"), TaskState::Finished);
    world.acknowledge(&key(DEMO, "pod-2"));
}

/// Launches a task of `framework-2`, which is charged to a role with an ancestor.
fn launch_other(world: &mut World, agent: AgentId, task: TaskSpec) {
    let mut offer = world.offer(OTHER, agent, "cpus:0.1;mem:1");
    offer.role = role("eng/web");
    let applied = world.accept(OTHER, vec![offer], vec![task]);
    assert_accepted(applied.outcome);
}

/// Adds tasks of `framework-2` on `agent-2`. Half of them have ended, and half of those are in the
/// history.
fn add_many_tasks(world: &mut World) {
    for at in 0..40 {
        let name = format!("task-{at}");
        launch_other(world, SECOND, spec(&name, "cpus:0.1;mem:1"));
        let key = key(OTHER, &name);
        if at % 2 == 0 {
            world.update(&key, TaskState::Finished);
        }
        if at % 4 == 0 {
            world.acknowledge(&key);
        }
    }
}

/// Adds a detached framework with a task, a disconnected one, one that is being removed, a removed
/// one, and one whose scheduler has started three times.
fn add_frameworks(world: &mut World) {
    let detached = world.subscribe_as(FrameworkInfo {
        detached: true,
        ..framework_info("detached")
    });
    world.launch(detached, SECOND, "job", "cpus:0.1;mem:1");
    let disconnected = world.subscribe("disconnected");
    world.disconnect(disconnected);
    let leaving = world.subscribe("leaving");
    world.launch(leaving, SECOND, "last", "cpus:0.1;mem:1");
    let removed = world.subscribe("removed");
    for id in [leaving, removed] {
        operate(world, &["teardown", &id.to_string()]);
    }
    let restarted = world.subscribe("restarted");
    for session in [7_001, 7_002] {
        world.call(restarted, CallAction::Suppress(Vec::new()));
        world.call(restarted, CallAction::Revive(Vec::new()));
        let subscribe = Subscribe {
            framework: Some(restarted),
            session,
            info: framework_info("restarted"),
        };
        world.apply(Command::Subscribe(subscribe)).outcome.unwrap();
    }
    world.call(restarted, CallAction::Suppress(Vec::new()));
}

/// Makes `agent-3` unreachable, where one of two tasks has stopped itself, and `agent-4` gone.
fn lose_agents(world: &mut World) {
    for (agent, name, stop_after_ms) in [
        (LOST, "far", 1_000),
        (LOST, "away", 0),
        (LOST, "late", 3_600_000),
        (LOST, "ended", 0),
        (GONE, "left", 0),
    ] {
        let task = TaskSpec {
            stop_after_ms,
            ..spec(name, "cpus:0.1;mem:1")
        };
        launch_other(world, agent, task);
        world.update(&key(OTHER, name), TaskState::Running);
    }
    world.update(&key(OTHER, "ended"), TaskState::Failed);
    world.mark_unreachable(LOST);
    world.pass(600_000);
    let decided_on = world.registry.agent(LOST).unwrap().revision;
    let stopped = TasksStopped {
        agent: LOST,
        decided_on,
        silent_ms: 600_000,
        wall_ms: 0,
    };
    world.apply(Command::TasksStopped(stopped)).outcome.unwrap();
    let far = world.registry.task(&key(OTHER, "far")).unwrap();
    assert!(far.is_stopped());
    operate(world, &["gone", "agent-4"]);
}

/// Adds an answer to an operator, weights, attributes, a secret and facts of access.
fn add_answers(world: &mut World) {
    let weight = OperatorOperation::SetWeight {
        role: role("eng"),
        weight_milli: 2_000,
    };
    let batch = Operate {
        request: Some(("operator/alice".to_owned(), "request-1".to_owned())),
        hash: 1,
        operations: vec![weight],
        wall_ms: 0,
    };
    world.apply(Command::Operate(batch)).outcome.unwrap();
    let policy =
        "acl group|admin|is|operator/* group|ops|is|operator/bob allow|agent/*|connect-agent|*";
    for words in [
        "attribute agent-5 zone z1",
        "secret eng/db 1 key-1 0123456789abcdef0123",
        "token a1 operator/ci 86400000 nightly",
        "join-token b2 agent 3",
        "join b2 agent/two c3",
        "revoke-key d4",
        "limit operator/alice 10 20",
        policy,
    ] {
        operate(world, &words.split(' ').collect::<Vec<_>>());
    }
    assert_ne!(*world.registry.access.policy, Policy::initial());
}
