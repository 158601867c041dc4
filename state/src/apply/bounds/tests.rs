//! Tests of the bounds: each one rejects with a message when reached, and accepts again when there
//! is space.
//!
//! Bounds of gigabytes are reached by setting their counters, on a copy of the registry. Every test
//! checks the counters after every step.

use crate::Registry;
use crate::access::{AccessOperation, KeyHash};
use crate::actor::Actor;
use crate::command::{
    Acknowledge, AgentUpdate, ApplyOutcome, CallAction, Command, CommandReply, FrameworkDecision,
    LogEntry, Operate, OperatorOperation, Position, ProposedCommand, RegisterAgent, Rejection,
    Subscribe, UpdateTasks,
};
use crate::framework::{AnswerOutcome, CallAnswer};
use crate::ids::{AgentId, FrameworkId, Revision, Role, TaskKey};
use crate::limits;
use crate::task::{
    Check, CheckKind, CommandSpec, Discovery, HealthCheck, Reason, TaskLimits, TaskSpec, TaskState,
    TaskVolume, UpdateSource, Uri, VolumeSource,
};
use crate::testing::{World, framework_info, key, next_update, registration, spec};

/// Returns the outcome of a command after `fill` has used up a bound.
fn answered(world: &mut World, fill: impl FnOnce(&mut Registry), command: Command) -> ApplyOutcome {
    let mut registry = world.registry.clone();
    fill(&mut registry);
    let entry = LogEntry {
        at: world.now,
        commands: vec![ProposedCommand {
            ticket: world.ticket(),
            actor: Actor::default(),
            command,
        }],
    };
    let applied = registry.apply(registry.applied() + 1, &entry);
    applied.into_iter().next().unwrap().outcome
}

fn full(outcome: &ApplyOutcome) -> &str {
    match outcome {
        Err(Rejection::Full(text)) => text,
        other => panic!("not refused because of a bound: {other:?}"),
    }
}

fn bytes(world: &World, kind: &str) -> u64 {
    let usage = world.registry.usage();
    let usage = usage.iter().find(|usage| usage.kind == kind).unwrap();
    usage.bytes.unwrap().0
}

fn records(world: &World, kind: &str) -> u64 {
    let usage = world.registry.usage();
    let usage = usage.iter().find(|usage| usage.kind == kind).unwrap();
    usage.records
}

/// Returns a task with an environment of `kib` KiB.
fn large(name: &str, kib: usize) -> TaskSpec {
    let parts = (0..kib / 100).map(|at| (format!("V{at}"), "x".repeat(100 << 10)));
    TaskSpec {
        environment: parts.collect(),
        ..spec(name, "cpus:0.1")
    }
}

/// Returns the positions of the refused launches of a call, with the reasons.
fn refused(outcome: ApplyOutcome) -> Vec<(Position, Rejection)> {
    match outcome {
        Ok(CommandReply::Call { refused, .. }) => refused,
        other => panic!("not called: {other:?}"),
    }
}

fn end(world: &mut World, key: &TaskKey) {
    world.update(key, TaskState::Finished);
    world.acknowledge(key);
}

#[test]
fn bytes_of_tasks_are_counted_until_they_end() {
    let mut world = World::new();
    let agent = world.register("cpus:8;mem:1024");
    let (one, two) = (world.subscribe("one"), world.subscribe("two"));
    for (id, name) in [(one, "a"), (one, "b"), (two, "c")] {
        let offer = world.offer(id, agent, "cpus:1");
        let applied = world.accept(id, vec![offer], vec![large(name, 400)]);
        assert_eq!(refused(applied.outcome), []);
    }
    let all = bytes(&world, "tasks");
    assert!((1_200 << 10..1_300 << 10).contains(&all), "{all}");
    let of_one = world.registry.task_bytes_of(one);
    assert!((800 << 10..850 << 10).contains(&of_one), "{of_one}");
    assert!(world.reloaded() == world.registry);
    for (id, name) in [(one, "a"), (one, "b"), (two, "c")] {
        world.update(&key(id, name), TaskState::Running);
        end(&mut world, &key(id, name));
    }
    assert_eq!(
        (bytes(&world, "tasks"), world.registry.task_bytes_of(one)),
        (0, 0)
    );
    // The history keeps nothing of their environments.
    assert!(bytes(&world, "finished_tasks") < 8 << 10);
    assert!(world.reloaded() == world.registry);
}

#[test]
fn only_the_launch_beyond_the_byte_limit_of_a_framework_is_rejected() {
    let mut world = World::new();
    let agent = world.register("cpus:8");
    let id = world.subscribe("web");
    let offer = world.offer(id, agent, "cpus:1");
    let launches = vec![spec("small", "cpus:0.1"), large("large", 400)];
    let accept = crate::command::Accept {
        offers: vec![offer],
        operations: vec![crate::command::OfferOperation::Launch(launches)],
        all_or_nothing: false,
        wall_ms: 0,
    };
    let call = Command::Call(crate::command::Call {
        framework: id,
        session: world.registry.framework(id).unwrap().session,
        number: 1,
        lowest_unanswered: 1,
        hash: 1,
        action: crate::command::CallAction::Accept(accept),
    });
    let room = 100 << 10;
    let fill_framework = |registry: &mut Registry| {
        let index = registry.index.frameworks.get_mut(&id).unwrap();
        index.task_bytes = limits::TASK_BYTES_PER_FRAMEWORK - room;
    };
    let result = refused(answered(&mut world, fill_framework, call.clone()));
    let [(Position { task: 1, .. }, Rejection::Full(text))] = &result[..] else {
        panic!("{result:?}");
    };
    assert!(
        text.starts_with("the tasks of framework-1 may take 768 MiB"),
        "{text}"
    );
    let fill_all = |registry: &mut Registry| registry.index.bytes.tasks = limits::TASK_BYTES - room;
    let result = refused(answered(&mut world, fill_all, call.clone()));
    let [(Position { task: 1, .. }, Rejection::Full(text))] = &result[..] else {
        panic!("{result:?}");
    };
    assert!(
        text.starts_with("the tasks of all frameworks may take 1024 MiB"),
        "{text}"
    );
    assert_eq!(result[0].1.code(), "registry-full");
    assert_eq!(refused(answered(&mut world, |_| (), call)), []);
}

/// Adds frameworks whose schedulers have crashed without keeping an id, all of them disconnected.
fn crashed(world: &mut World, principal: &str, count: usize) -> Vec<FrameworkId> {
    let mut ids = Vec::new();
    for part in (0..count).collect::<Vec<_>>().chunks(1_000) {
        let commands = part.iter().map(|at| {
            let mut info = framework_info("crashing");
            info.principal = principal.to_owned();
            Command::Subscribe(Subscribe {
                framework: None,
                session: 1_000_000 + *at as u64,
                info,
            })
        });
        let applied = world.apply_all(commands.collect());
        let new: Vec<_> = applied
            .into_iter()
            .map(|applied| match applied.outcome {
                Ok(CommandReply::Framework(id)) => id,
                other => panic!("{other:?}"),
            })
            .collect();
        world.pass(1);
        let gone = new.iter().map(|id| {
            Command::DisconnectFramework(FrameworkDecision {
                framework: *id,
                decided_on: world.registry.framework(*id).unwrap().revision,
            })
        });
        let gone = gone.collect();
        world.apply_all(gone);
        ids.extend(new);
    }
    ids
}

#[test]
fn a_scheduler_in_a_crash_loop_replaces_its_own_oldest_framework() {
    let mut world = World::new();
    let agent = world.register("cpus:8");
    let busy = world.subscribe("busy");
    let task = world.launch(busy, agent, "t", "cpus:1");
    world.disconnect(busy);
    let other = world.subscribe_as({
        let mut info = framework_info("of another");
        info.principal = "another".to_owned();
        info
    });
    world.disconnect(other);
    let principal = framework_info("busy").principal;
    let crashed = crashed(&mut world, &principal, limits::FRAMEWORKS_PER_PRINCIPAL - 1);
    assert_eq!(
        records(&world, "frameworks"),
        limits::FRAMEWORKS_PER_PRINCIPAL as u64 + 1
    );
    let next = world.subscribe("next");
    assert!(world.registry.framework(next).is_some());
    assert_eq!(
        records(&world, "frameworks"),
        limits::FRAMEWORKS_PER_PRINCIPAL as u64 + 1
    );
    assert!(
        world.registry.framework(crashed[0]).is_none(),
        "the oldest one without tasks was removed"
    );
    for kept in [busy, other, crashed[1]] {
        assert!(world.registry.framework(kept).is_some(), "{kept}");
    }
    assert!(world.registry.task(&task).is_some());
    assert!(world.reloaded() == world.registry);
}

#[test]
fn a_framework_beyond_the_limit_is_rejected_if_none_can_be_removed() {
    let mut world = World::new();
    let subscribe = Command::Subscribe(Subscribe {
        framework: None,
        session: 7,
        info: framework_info("one more"),
    });
    let connected = |registry: &mut Registry| {
        let id = FrameworkId(registry.cluster.last_framework);
        let model = registry.frameworks[&id].clone();
        for at in 1..limits::FRAMEWORKS_PER_PRINCIPAL as u64 {
            let mut next = model.clone();
            next.id = FrameworkId(id.0 + at);
            registry.put_framework(next);
        }
        registry.cluster.last_framework += limits::FRAMEWORKS_PER_PRINCIPAL as u64;
    };
    world.subscribe("web");
    let outcome = answered(&mut world, connected, subscribe.clone());
    assert!(
        full(&outcome).contains("5000 frameworks, all of them connected"),
        "{outcome:?}"
    );
    let bytes = |registry: &mut Registry| registry.index.bytes.frameworks = limits::FRAMEWORK_BYTES;
    let outcome = answered(&mut world, bytes, subscribe.clone());
    assert!(full(&outcome).contains("256 MiB"), "{outcome:?}");
    let many = |registry: &mut Registry| {
        let model = registry.frameworks.values().next().unwrap().clone();
        for at in 2..=limits::FRAMEWORKS as u64 {
            let mut next = model.clone();
            next.id = FrameworkId(at);
            std::sync::Arc::make_mut(&mut next.info).principal = format!("p{at}");
            registry.put_framework(next);
        }
        registry.cluster.last_framework = limits::FRAMEWORKS as u64;
    };
    let outcome = answered(&mut world, many, subscribe.clone());
    assert!(
        full(&outcome).contains("there are 10000 frameworks"),
        "{outcome:?}"
    );
    assert!(answered(&mut world, |_| (), subscribe).is_ok());
}

#[test]
fn agents_and_their_reported_facts_are_bounded() {
    let mut world = World::new();
    let id = world.register("cpus:8");
    let register = Command::RegisterAgent(registration(99, "cpus:8"));
    let many = |registry: &mut Registry| {
        let model = registry.agents[&id].clone();
        for at in 2..=limits::AGENTS as u64 {
            let mut next = model.clone();
            next.id = AgentId(at);
            registry.agents.insert(next.id, next);
        }
        registry.cluster.last_agent = limits::AGENTS as u64;
    };
    let outcome = answered(&mut world, many, register.clone());
    assert!(
        full(&outcome).contains("there are 100000 agents"),
        "{outcome:?}"
    );
    let bytes = |registry: &mut Registry| registry.index.bytes.agents = limits::AGENT_BYTES;
    let outcome = answered(&mut world, bytes, register.clone());
    assert!(full(&outcome).contains("512 MiB"), "{outcome:?}");
    let attribute = Command::Operate(Operate {
        request: None,
        hash: 0,
        operations: vec![OperatorOperation::SetAttribute {
            agent: id,
            name: "rack".to_owned(),
            value: "r1".to_owned(),
        }],
        wall_ms: 0,
    });
    let outcome = answered(&mut world, bytes, attribute);
    assert!(
        matches!(&outcome, Ok(CommandReply::Operate { outcomes: all, .. }) if matches!(all[..], [Err(Rejection::Full(_))])),
        "{outcome:?}"
    );
    assert!(answered(&mut world, |_| (), register).is_ok());
}

#[test]
fn kinds_of_resources_are_bounded() {
    let mut world = World::new();
    let kinds = |numbers: std::ops::Range<usize>| {
        let names = numbers.map(|number| format!(";kind-{number}:1"));
        format!("cpus:8{}", names.collect::<String>())
    };
    world.register(&kinds(0..40));
    let beyond = registration(98, &kinds(20..limits::RESOURCE_KINDS));
    let outcome = world.apply(Command::RegisterAgent(beyond)).outcome;
    let text = full(&outcome);
    assert!(
        text.contains("65 kinds of countable resources; at most 64"),
        "{text}"
    );
    let most = registration(99, &kinds(20..limits::RESOURCE_KINDS - 1));
    assert!(world.apply(Command::RegisterAgent(most)).outcome.is_ok());
}

/// Other agents may have used up the kinds while it was unreachable.
#[test]
fn an_agent_returns_with_the_kinds_that_it_had() {
    let mut world = World::new();
    let first = registration(98, "cpus:8;own:1");
    let id = match world.apply(Command::RegisterAgent(first.clone())).outcome {
        Ok(CommandReply::Agent(id)) => id,
        other => panic!("{other:?}"),
    };
    world.mark_unreachable(id);
    let names = (1..limits::RESOURCE_KINDS).map(|number| format!(";kind-{number}:1"));
    world.register(&format!("cpus:8{}", names.collect::<String>()));
    let again = |resources: &str| {
        Command::RegisterAgent(RegisterAgent {
            agent: Some(id),
            ..registration(98, resources)
        })
    };
    full(&world.apply(again("cpus:8;own:1;more:1")).outcome);
    let outcome = world.apply(again("cpus:8;own:1")).outcome;
    assert_eq!(outcome, Ok(CommandReply::Agent(id)));
}

#[test]
fn weights_are_bounded_and_a_default_weight_frees_its_record() {
    let mut world = World::new();
    let weight = |at: usize, weight_milli| OperatorOperation::SetWeight {
        role: Role::new(&format!("role-{at}")).unwrap(),
        weight_milli,
    };
    let operations: Vec<OperatorOperation> =
        (0..limits::WEIGHTS).map(|at| weight(at, 2_000)).collect();
    for part in operations.chunks(limits::OPERATIONS_PER_BATCH) {
        let batch = Operate {
            request: None,
            hash: 0,
            operations: part.to_vec(),
            wall_ms: 0,
        };
        world.apply(Command::Operate(batch)).outcome.unwrap();
    }
    let one = |world: &mut World, operation| match world.operate(operation) {
        Ok(CommandReply::Operate { mut outcomes, .. }) => outcomes.pop().unwrap(),
        other => panic!("{other:?}"),
    };
    let beyond = one(&mut world, weight(limits::WEIGHTS, 2_000));
    assert!(matches!(beyond, Err(Rejection::Full(_))), "{beyond:?}");
    assert_eq!(one(&mut world, weight(3, 4_000)), Ok(()));
    assert_eq!(one(&mut world, weight(4, 1_000)), Ok(()));
    assert_eq!(one(&mut world, weight(limits::WEIGHTS, 2_000)), Ok(()));
}

#[test]
fn answers_of_all_frameworks_and_of_operators_are_bounded() {
    let mut world = World::new();
    let id = world.subscribe("web");
    let session = world.registry.framework(id).unwrap().session;
    let revive = Command::Call(crate::command::Call {
        framework: id,
        session,
        number: 1,
        lowest_unanswered: 1,
        hash: 1,
        action: crate::command::CallAction::Revive(Vec::new()),
    });
    let fill = |registry: &mut Registry| {
        let answer = CallAnswer {
            hash: 0,
            revision: Revision::default(),
            outcome: AnswerOutcome::Done {
                refused: Vec::new(),
            },
        };
        let keys = (0..limits::ANSWERS as u64).map(|at| (FrameworkId(9), 1, at));
        registry
            .answers
            .extend(keys.map(|key| (key, answer.clone())));
    };
    let outcome = answered(&mut world, fill, revive);
    assert!(
        full(&outcome).starts_with("500000 answers of all frameworks"),
        "{outcome:?}"
    );
    let batch = Command::Operate(Operate {
        request: Some(("alice".to_owned(), "r-1".to_owned())),
        hash: 1,
        operations: vec![
            OperatorOperation::Teardown(FrameworkId(77));
            limits::OPERATIONS_PER_BATCH
        ],
        wall_ms: 0,
    });
    let fill = |registry: &mut Registry| {
        registry.index.bytes.operator_answers = limits::OPERATOR_ANSWER_BYTES - (16 << 10);
    };
    let outcome = answered(&mut world, fill, batch.clone());
    assert_eq!(outcome, Err(Rejection::TooManyRequests));
    // A caller that has filled it can still be stopped.
    assert!(matches!(
        answered(&mut world, fill, revocation()),
        Ok(CommandReply::Operate { outcomes, .. }) if outcomes == [Ok(())]
    ));
    world.apply(batch).outcome.unwrap();
    assert!(bytes(&world, "operator_answers") > 16 << 10);
    // The next named batch, ten minutes later, removes it.
    world.pass(limits::OPERATOR_ANSWER_MS);
    world.apply(Command::Operate(Operate {
        request: Some(("alice".to_owned(), "r-2".to_owned())),
        hash: 2,
        operations: Vec::new(),
        wall_ms: 0,
    }));
    assert_eq!(records(&world, "operator_answers"), 1);
    assert!(bytes(&world, "operator_answers") < 4 << 10);
}

/// Returns a named batch that revokes a key.
fn revocation() -> Command {
    let revoke = AccessOperation::RevokeKey(KeyHash([7; 32]));
    Command::Operate(Operate {
        request: Some(("alice".to_owned(), "r-0".to_owned())),
        hash: 1,
        operations: vec![OperatorOperation::Access(revoke)],
        wall_ms: 0,
    })
}

/// Ends all tasks of a detached framework, which become history immediately.
fn end_all(world: &mut World, id: FrameworkId, agent: AgentId) {
    let updates = world.registry.tasks_of(id).map(|task| AgentUpdate {
        source: UpdateSource::Task,
        reason: Reason::CommandExited,
        ..next_update(task, TaskState::Finished)
    });
    let updates = updates.collect();
    let command = Command::UpdateTasks(UpdateTasks { agent, updates });
    world.apply(command).outcome.unwrap();
}

#[test]
fn no_framework_evicts_the_history_of_another() {
    let mut world = World::new();
    let agent = world.register("cpus:1000");
    let detached = |name: &str| {
        let mut info = framework_info(name);
        info.detached = true;
        info
    };
    let quiet = world.subscribe_as(detached("quiet"));
    let busy = world.subscribe_as(detached("busy"));
    let run = |world: &mut World, id, names: Vec<String>| {
        let offer = world.offer(id, agent, "cpus:1000");
        let tasks = names.iter().map(|name| spec(name, "cpus:1")).collect();
        assert_eq!(refused(world.accept(id, vec![offer], tasks).outcome), []);
        end_all(world, id, agent);
    };
    run(&mut world, quiet, vec!["mine".to_owned()]);
    let wave = limits::TASKS_PER_ACCEPT.min(500);
    let waves = limits::FINISHED_TASKS / wave;
    for number in 0..=waves {
        let names = (0..wave).map(|at| format!("t{number}-{at}"));
        run(&mut world, busy, names.collect());
    }
    assert_eq!(
        records(&world, "finished_tasks"),
        limits::FINISHED_TASKS as u64
    );
    assert!(world.registry.finished_task(&key(quiet, "mine")).is_some());
    assert!(world.registry.finished_task(&key(busy, "t0-0")).is_none());
    assert!(
        world
            .registry
            .finished_task(&key(busy, &format!("t{waves}-0")))
            .is_some()
    );
}

#[allow(
    clippy::too_many_lines,
    reason = "one history, and all that is kept of it"
)]
#[test]
fn the_history_is_bounded_in_bytes_and_keeps_listed_fields() {
    let mut world = World::new();
    let agent = world.register("cpus:8");
    let id = world.subscribe("web");
    let mut heavy = large("heavy", 100);
    heavy.run = CommandSpec::Argv(vec![
        "prog".to_owned(),
        "é".repeat(5_000),
        "last".to_owned(),
    ]);
    heavy.name = "n".repeat(5_000);
    heavy.labels = [("a", "kept"), ("b", "x")]
        .map(|(name, value)| (name.to_owned(), value.repeat(200)))
        .into();
    heavy.labels.insert("c".to_owned(), "x".repeat(5_000));
    heavy.uris.push(Uri {
        value: "https://example.org/a".to_owned(),
        executable: false,
        output_file: String::new(),
        extract: false,
        sha256: String::new(),
        cache: false,
    });
    heavy.volumes.push(TaskVolume {
        container_path: "/secret".to_owned(),
        read_only: true,
        source: VolumeSource::Secret("password".to_owned()),
    });
    let check = Check::of(CheckKind::Tcp { port: 80 });
    heavy.health_check = Some(Box::new(HealthCheck::of(check)));
    heavy.discovery = Some(Box::new(Discovery::default()));
    let offer = world.offer(id, agent, "cpus:1");
    let applied = world.accept(id, vec![offer], vec![heavy]);
    assert_eq!(refused(applied.outcome), []);
    end(&mut world, &key(id, "heavy"));
    let kept = &world
        .registry
        .finished_task(&key(id, "heavy"))
        .unwrap()
        .task;
    assert_eq!(kept.state, TaskState::Finished);
    let spec = &kept.spec;
    assert!(spec.environment.is_empty() && spec.uris.is_empty() && spec.volumes.is_empty());
    assert_eq!((&spec.health_check, &spec.discovery), (&None, &None));
    assert_eq!(spec.name.len(), limits::FINISHED_TEXT_BYTES);
    assert_eq!(spec.labels.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(spec.resources.to_string(), "cpus:0.1");
    let CommandSpec::Argv(words) = &spec.run else {
        panic!("{:?}", spec.run);
    };
    assert_eq!((words.len(), words[0].as_str()), (2, "prog"));
    assert_eq!(words[1], "é".repeat(510));

    // Beyond its bound of bytes, the history drops a few of its oldest tasks for each new one.
    for name in ["b", "c", "d"] {
        world.launch(id, agent, name, "cpus:1");
        end(&mut world, &key(id, name));
    }
    let mut registry = world.registry.clone();
    let used = registry.index.bytes.history;
    registry.index.bytes.history = limits::FINISHED_TASK_BYTES + used / 2;
    let last = registry.finished_task(&key(id, "d")).unwrap().task.clone();
    let last = crate::task::Task {
        key: key(id, "e"),
        ..last
    };
    registry.put_finished(last, &mut limits::DROPPED_RECORDS.clone());
    assert!(registry.index.bytes.history <= limits::FINISHED_TASK_BYTES);
    assert!(registry.finished_task(&key(id, "heavy")).is_none());
    assert!(registry.finished_task(&key(id, "e")).is_some());
}

/// Launches tasks with the largest possible number of records: limits, a change of them, long
/// messages, and as many transitions as an ended task keeps.
fn full_history(world: &mut World, id: FrameworkId, agent: AgentId, names: &[String]) {
    for name in names {
        let mut task = spec(name, "cpus:0.001");
        task.environment.insert("A".to_owned(), "v".to_owned());
        let offer = world.offer(id, agent, "cpus:0.001");
        world.accept(id, vec![offer], vec![task.clone()]);
        let limits = TaskLimits {
            pids: Some(50),
            ..TaskLimits::default()
        };
        world.call(
            id,
            CallAction::UpdateLimits {
                task: task.task,
                limits,
            },
        );
    }
    report(world, id, agent, names, TaskState::Running);
    for _ in 0..limits::ENDED_TRANSITIONS / 2 {
        world.mark_unreachable(agent);
        world.register_again(agent);
        let floor = world.registry.last_order(agent);
        world.reconcile(agent, floor);
    }
    report(world, id, agent, names, TaskState::Finished);
    for name in names {
        let kept = world.registry.transitions(&key(id, name)).len();
        assert_eq!(kept, limits::ENDED_TRANSITIONS);
    }
}

/// Reports a state of each task, with a long message.
fn report(world: &mut World, id: FrameworkId, agent: AgentId, names: &[String], state: TaskState) {
    for name in names {
        let key = key(id, name);
        let task = world.registry.task(&key).unwrap();
        let update = AgentUpdate {
            message: "m".repeat(100),
            ..next_update(task, state)
        };
        let updates = vec![update];
        world.apply(Command::UpdateTasks(UpdateTasks { agent, updates }));
    }
}

#[test]
fn acknowledged_ends_change_at_most_a_thousand_records() {
    let mut world = World::new();
    let agent = world.register("cpus:1000");
    let id = world.subscribe("many");
    let most = limits::ACKNOWLEDGEMENTS_PER_COMMAND;
    let acknowledge = |world: &World| {
        let ends = world.registry.tasks_of(id);
        Command::Acknowledge(Acknowledge {
            framework: id,
            session: world.registry.framework(id).unwrap().session,
            updates: ends
                .map(|task| (task.key.task.clone(), task.latest.revision))
                .collect(),
        })
    };
    let mut changed = 0;
    for round in 0..3 {
        let names: Vec<String> = (0..most).map(|at| format!("t{round}-{at}")).collect();
        full_history(&mut world, id, agent, &names);
        let command = acknowledge(&world);
        if round < 2 {
            assert_eq!(world.apply(command).outcome, Ok(CommandReply::Done));
            continue;
        }
        // The counter is set as if the history were far beyond its bound: each new end drops as
        // many as it may.
        let mut registry = world.registry.clone();
        registry.index.bytes.history = 4 * limits::FINISHED_TASK_BYTES;
        let commands = vec![ProposedCommand {
            ticket: world.ticket(),
            actor: Actor::default(),
            command,
        }];
        let at = world.now;
        registry.apply(registry.applied() + 1, &LogEntry { at, commands });
        changed = registry.take_changes().len();
        assert!(registry.finished_tasks.len() < 3 * most);
    }
    assert!(changed <= limits::RECORDS_PER_COMMAND, "{changed}");
    assert!(changed > limits::RECORDS_PER_COMMAND * 3 / 4, "{changed}");
}
