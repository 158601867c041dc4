//! Tests of the behaviour at bounds that random commands do not reach.

use std::sync::Arc;

use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{
    Acknowledge, AgentUpdate, Call, CallAction, Command, CommandReply, HeldTask, LogEntry, Operate,
    OperatorOperation, ProposedCommand, ReconcileAgent, Rejection, Subscribe, SweepTarget,
    UpdateTasks,
};
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{FrameworkId, NodeId, OrderIndex, Revision, TaskId, Timestamp};
use argosy_state::level::Level;
use argosy_state::limits;
use argosy_state::task::{Reason, Task, TaskLimits, TaskState, UpdateSource};
use argosy_state::testing::{World, framework_info, key, next_update, spec};

fn revive(framework: FrameworkId, session: u64, number: u64, lowest: u64) -> Command {
    Command::Call(Call {
        framework,
        session,
        number,
        lowest_unanswered: lowest,
        hash: number,
        action: CallAction::Revive(Vec::new()),
    })
}

#[test]
fn unread_answers_block_only_calls_of_their_session() {
    let mut world = World::new();
    let id = world.subscribe("web");
    let session = world.registry.framework(id).unwrap().session;
    let most = limits::ANSWERS_PER_FRAMEWORK as u64;
    for number in 1..=most {
        let outcome = world.apply(revive(id, session, number, 1)).outcome;
        assert!(matches!(outcome, Ok(CommandReply::Call { .. })), "{number}");
    }
    let full = world.apply(revive(id, session, most + 1, 1)).outcome;
    assert_eq!(full, Err(Rejection::TooManyAnswers));
    let read = world.apply(revive(id, session, most + 1, 3)).outcome;
    assert!(matches!(read, Ok(CommandReply::Call { .. })));

    // The answers of the next session replace those of this one.
    let info = framework_info("web");
    let next = session + 1;
    let subscribe = Subscribe {
        framework: Some(id),
        session: next,
        info,
    };
    world.apply(Command::Subscribe(subscribe)).outcome.unwrap();
    let kept = world.apply(revive(id, session, most, 1)).outcome;
    assert!(matches!(kept, Ok(CommandReply::Repeated(_))));
    for number in 1..=most {
        let outcome = world.apply(revive(id, next, number, 1)).outcome;
        assert!(matches!(outcome, Ok(CommandReply::Call { .. })), "{number}");
    }
    let full = world.apply(revive(id, next, most + 1, 1)).outcome;
    assert_eq!(full, Err(Rejection::TooManyAnswers));
}

#[test]
fn a_removed_framework_is_deleted_after_its_sweep() {
    let mut world = World::new();
    let agent = world.register("cpus:4");
    let id = world.subscribe("web");
    let task = world.launch(id, agent, "last", "cpus:1");
    let session = world.registry.framework(id).unwrap().session;
    for number in 2..=limits::TASKS_PER_SWEEP as u64 + 2 {
        world.apply(revive(id, session, number, 1)).outcome.unwrap();
    }
    world.operate(OperatorOperation::Teardown(id)).unwrap();
    assert_eq!(world.registry.sweeps().count(), 1, "answers are left");
    // The last task of the framework ends before its answers are dropped.
    world.update(&task, TaskState::Killed);
    assert!(world.registry.framework(id).is_some());
    world.apply(Command::Sweep(SweepTarget::Framework(id)));
    assert!(world.registry.framework(id).is_none());
    assert_eq!(world.registry.sweeps().count(), 0);
    assert!(world.reloaded() == world.registry);
}

/// Returns the first update of a task, which ends it.
fn ended(task: &Task) -> AgentUpdate {
    AgentUpdate {
        source: UpdateSource::Task,
        reason: Reason::CommandExited,
        ..next_update(task, TaskState::Finished)
    }
}

/// Applies a command, which must change at most this number of records.
fn apply_within(world: &mut World, most: usize, command: Command) {
    let commands = vec![ProposedCommand {
        ticket: world.ticket(),
        actor: Actor::default(),
        command,
    }];
    let at = world.now;
    let (applied, writes) = world.apply_entry(&LogEntry { at, commands });
    assert_eq!(applied[0].outcome, Ok(CommandReply::Done));
    assert!(writes.len() <= most, "{} records", writes.len());
}

#[test]
fn detached_frameworks_that_end_together_leave_their_answers_to_sweeps() {
    let mut world = World::new();
    let agent = world.register("cpus:4");
    let mut detached = framework_info("batch");
    detached.detached = true;
    let ids: Vec<FrameworkId> = (0..5)
        .map(|_| world.subscribe_as(detached.clone()))
        .collect();
    for id in &ids {
        world.launch(*id, agent, "only", "cpus:0.1");
        let session = world.registry.framework(*id).unwrap().session;
        let calls = 2..=limits::TASKS_PER_SWEEP as u64 + 2;
        let calls = calls.map(|number| revive(*id, session, number, 1));
        world.apply_all(calls.collect());
        world.disconnect(*id);
    }
    let updates = world.registry.tasks().map(ended).collect();
    let report = Command::UpdateTasks(UpdateTasks { agent, updates });
    apply_within(&mut world, limits::RECORDS_PER_COMMAND, report);
    assert_eq!(world.registry.tasks().count(), 0);
    assert!(
        world
            .registry
            .sweeps()
            .eq(ids.iter().map(|id| SweepTarget::Framework(*id)))
    );
    // It cannot return: some of its calls would be applied twice.
    let again = Command::Subscribe(Subscribe {
        framework: Some(ids[0]),
        session: 7,
        info: detached,
    });
    let refused = Err(Rejection::FrameworkRemoved(ids[0]));
    assert_eq!(world.apply(again).outcome, refused);
    assert!(world.reloaded() == world.registry);
    while let Some(target) = { world.registry.sweeps().next() } {
        apply_within(
            &mut world,
            limits::TASKS_PER_SWEEP + 4,
            Command::Sweep(target),
        );
    }
    assert_eq!(world.registry.frameworks().count(), 0);
    let reasons = world
        .registry
        .finished_frameworks()
        .map(|ended| &*ended.reason);
    assert_eq!(reasons.collect::<Vec<_>>(), ["detached"; 5]);
    assert!(world.reloaded() == world.registry);
}

/// Returns a description with this number of labels of three bytes.
fn labelled(count: u32) -> FrameworkInfo {
    let digit = |digit| char::from_digit(digit % 32, 32).unwrap();
    let names = (0..count).map(|at| [at / 1_024, at / 32, at].map(digit).iter().collect());
    let mut info = framework_info("web");
    info.labels = names.map(|name| (name, String::new())).collect();
    info
}

/// Returns a world of level 3 with a framework that has had 20,000 labels since level 2.
fn with_former_labels() -> (World, FrameworkId) {
    let mut world = World::empty();
    world.level = Level::RELEASE_0_1;
    world.open_epoch(NodeId(1));
    let id = world.subscribe_as(labelled(20_000));
    world.level = Level::NEWEST;
    let level = world.level;
    let raised = world.apply(Command::RaiseLevel { level }).outcome;
    assert_eq!(raised, Ok(CommandReply::Done));
    (world, id)
}

#[test]
fn the_number_of_new_labels_is_bounded_since_level_3() {
    let (mut world, id) = with_former_labels();
    let subscribe = |world: &mut World, framework, session, count| {
        let info = labelled(count);
        let subscribe = Command::Subscribe(Subscribe {
            framework,
            session,
            info,
        });
        world.apply(subscribe).outcome
    };
    let refused = Err(Rejection::Invalid {
        field: "info.labels".to_owned(),
        text: "257 of them; at most 256".to_owned(),
    });
    assert_eq!(subscribe(&mut world, None, 7, 257), refused);
    let added = subscribe(&mut world, None, 7, 256);
    assert_eq!(added, Ok(CommandReply::Framework(FrameworkId(id.0 + 1))));
    // The former labels are kept over sessions and other changes, but not replaced by as many.
    let kept = subscribe(&mut world, Some(id), 8, 20_000);
    assert_eq!(kept, Ok(CommandReply::Framework(id)));
    let mut info = labelled(20_000);
    info.failover_timeout_ms += 1;
    let changed = world.call(id, CallAction::Update(info)).outcome;
    assert!(matches!(changed, Ok(CommandReply::Call { .. })));
    let replaced = world.call(id, CallAction::Update(labelled(257))).outcome;
    assert_eq!(replaced, refused.map(|_: CommandReply| CommandReply::Done));
}

/// Applies 256 calls of a framework in one entry, to a copy of the registry that shares its facts,
/// as the copies of readers do. Returns the copy.
fn applied_together(
    world: &mut World,
    framework: FrameworkId,
    action: impl Fn(u64) -> CallAction,
) -> Registry {
    let session = world.registry.framework(framework).unwrap().session;
    let first = 1_000;
    let commands = (first..first + 256).map(|number| ProposedCommand {
        ticket: world.ticket(),
        actor: Actor::default(),
        command: Command::Call(Call {
            framework,
            session,
            number,
            lowest_unanswered: number,
            hash: number,
            action: action(number),
        }),
    });
    let entry = LogEntry {
        at: Timestamp(0),
        commands: commands.collect(),
    };
    let mut registry = world.registry.clone();
    let applied = registry.apply(registry.applied() + 1, &entry);
    let is_done = |one: &AppliedProposal| matches!(one.outcome, Ok(CommandReply::Call { .. }));
    assert!(applied.iter().all(is_done), "{applied:?}");
    registry
}

/// A turn counts 10 µs for such a call, and 256 of them fit into an entry.
#[test]
fn suppressions_do_not_copy_the_description_of_a_framework() {
    let (mut world, id) = with_former_labels();
    let registry = applied_together(&mut world, id, |number| match number % 2 {
        0 => CallAction::Revive(Vec::new()),
        _ => CallAction::Suppress(Vec::new()),
    });
    let [before, after] = [&world.registry, &registry].map(|one| one.framework(id).unwrap());
    assert_ne!(before.suppressed, after.suppressed);
    assert!(Arc::ptr_eq(&before.info, &after.info));
}

#[test]
fn limits_that_do_not_change_do_not_copy_the_description_of_a_task() {
    let mut world = World::new();
    let agent = world.register("cpus:4");
    let id = world.subscribe("web");
    let key = world.launch(id, agent, "large", "cpus:1");
    let registry = applied_together(&mut world, id, |_| CallAction::UpdateLimits {
        task: key.task.clone(),
        limits: TaskLimits::default(),
    });
    let [before, after] = [&world.registry, &registry].map(|one| one.task(&key).unwrap());
    assert!(Arc::ptr_eq(&before.spec, &after.spec));
}

#[test]
fn sessions_beyond_the_bound_count_as_new() {
    let mut world = World::new();
    let id = world.subscribe("web");
    let subscribe = |session| {
        Command::Subscribe(Subscribe {
            framework: Some(id),
            session,
            info: framework_info("web"),
        })
    };
    let first = world.registry.framework(id).unwrap().session;
    let most = limits::PAST_SESSIONS as u64;
    for at in 1..=most {
        world.apply(subscribe(first + at)).outcome.unwrap();
    }
    let superseded = world.apply(subscribe(first)).outcome;
    assert_eq!(superseded, Err(Rejection::Superseded(id)));
    world.apply(subscribe(first + most + 1)).outcome.unwrap();
    let forgotten = world.apply(subscribe(first)).outcome;
    assert_eq!(forgotten, Ok(CommandReply::Framework(id)));
}

/// Its scheduler must acknowledge updates again, and has not received the remaining ones.
#[test]
fn a_framework_that_is_no_longer_detached_keeps_ends_that_were_not_swept() {
    let mut world = World::new();
    let agent = world.register("cpus:1000");
    let id = world.subscribe("batch");
    let session = world.registry.framework(id).unwrap().session;
    let count = limits::TASKS_PER_SWEEP;
    let offer = world.offer(id, agent, "cpus:1000");
    let tasks = (0..count).map(|at| spec(&format!("t{at:04}"), "cpus:0.1"));
    world
        .accept(id, vec![offer], tasks.collect())
        .outcome
        .unwrap();
    for at in 0..count {
        world.update(&key(id, &format!("t{at:04}")), TaskState::Finished);
    }
    let set_detached = |world: &mut World, detached| {
        let mut info = framework_info("batch");
        info.detached = detached;
        let subscribe = Subscribe {
            framework: Some(id),
            session,
            info,
        };
        world.apply(Command::Subscribe(subscribe)).outcome.unwrap();
    };
    set_detached(&mut world, true);
    let left = world.registry.tasks().count();
    assert!(left > 0 && left < count, "{left} of {count}");
    set_detached(&mut world, false);
    while world.registry.sweeps().count() > 0 {
        world.apply(Command::Sweep(SweepTarget::Framework(id)));
    }
    assert_eq!(world.registry.tasks().count(), left);
    set_detached(&mut world, true);
    while world.registry.sweeps().count() > 0 {
        world.apply(Command::Sweep(SweepTarget::Framework(id)));
    }
    assert_eq!(world.registry.tasks().count(), 0);
}

#[test]
fn a_task_id_can_be_reused_when_its_history_is_gone() {
    let mut world = World::new();
    let agent = world.register("cpus:1000");
    let mut info = framework_info("batch");
    info.detached = true;
    let id = world.subscribe_as(info);
    let wave = 500;
    let end = |world: &mut World, names: &[String]| {
        let tasks = names.iter().map(|name| key(id, name));
        let updates = tasks.map(|key| ended(world.registry.task(&key).unwrap()));
        let updates = updates.collect();
        let applied = world.apply(Command::UpdateTasks(UpdateTasks { agent, updates }));
        assert_eq!(applied.outcome, Ok(CommandReply::Done));
    };
    let launch = |world: &mut World, names: &[String]| {
        let offer = world.offer(id, agent, "cpus:1000");
        let tasks = names.iter().map(|name| spec(name, "cpus:1")).collect();
        let applied = world.accept(id, vec![offer], tasks);
        let Ok(CommandReply::Call { refused, .. }) = applied.outcome else {
            panic!("{:?}", applied.outcome);
        };
        refused.len()
    };
    for at in 0..limits::FINISHED_TASKS / wave {
        let names: Vec<String> = (0..wave).map(|task| format!("t{at}-{task}")).collect();
        assert_eq!(launch(&mut world, &names), 0);
        end(&mut world, &names);
    }
    let oldest = ["t0-0".to_owned()];
    assert_eq!(launch(&mut world, &oldest), 1, "its history still exists");
    let one_more = ["last".to_owned()];
    assert_eq!(launch(&mut world, &one_more), 0);
    end(&mut world, &one_more);
    assert!(world.registry.finished_task(&key(id, "t0-0")).is_none());
    assert_eq!(launch(&mut world, &oldest), 0);
    assert!(world.reloaded() == world.registry);
}

#[test]
fn splitting_a_task_list_does_not_change_its_effect() {
    let mut world = World::new();
    let agent = world.register("cpus:1000");
    let id = world.subscribe("web");
    let names: Vec<String> = (0..700).map(|at| format!("t{at:03}")).collect();
    let offer = world.offer(id, agent, "cpus:1000");
    let tasks = names.iter().map(|name| spec(name, "cpus:1")).collect();
    world.accept(id, vec![offer], tasks);
    let held: Vec<HeldTask> = world
        .registry
        .tasks_on(agent)
        .filter(|task| task.order.0 % 3 == 0)
        .map(|task| HeldTask {
            key: task.key.clone(),
            order: task.order,
        })
        .collect();
    let list = ReconcileAgent {
        agent,
        incarnation: world.registry.agent(agent).unwrap().report.incarnation,
        floor: world.registry.last_order(agent),
        after: None,
        through: None,
        held,
        wall_ms: 0,
    };
    let mut whole = world.clone();
    whole.apply(Command::ReconcileAgent(list.clone()));
    let parts = list.parts(&world.registry);
    assert_eq!(parts.len(), 3);
    assert!(parts[..2].iter().all(|part| part.through.is_some()));
    assert_eq!(parts[2].through, None);
    for part in parts {
        let applied = world.apply(Command::ReconcileAgent(part));
        assert_eq!(applied.outcome, Ok(CommandReply::Done));
        let ended = applied.events.len();
        assert!(ended <= 2 * limits::TASKS_PER_SWEEP + 1, "{ended} events");
    }
    let states = |world: &World| -> Vec<TaskState> {
        world.registry.tasks().map(|task| task.state).collect()
    };
    assert_eq!(states(&world), states(&whole));
    assert_eq!(world.registry.live_tasks(), 233);
}

#[test]
fn commands_that_affect_too_many_records_are_rejected_completely() {
    let mut world = World::with_running_task("web");
    let id = FrameworkId(1);
    let agent = world.registry.task(&key(id, "web")).unwrap().agent;
    let many = limits::RECORDS_PER_COMMAND + 1;
    let digest = world.registry.digest();
    let session = world.registry.framework(id).unwrap().session;
    let updates = vec![(TaskId::new("web").unwrap(), Revision::default()); many];
    let acknowledge = Command::Acknowledge(Acknowledge {
        framework: id,
        session,
        updates,
    });
    let held = (0..many).map(|at| HeldTask {
        key: key(id, &format!("t{at:06}")),
        order: OrderIndex(1),
    });
    let list = Command::ReconcileAgent(ReconcileAgent {
        agent,
        incarnation: world.registry.agent(agent).unwrap().report.incarnation,
        floor: OrderIndex(1),
        after: None,
        through: None,
        held: held.collect(),
        wall_ms: 0,
    });
    for command in [acknowledge, list] {
        let outcome = world.apply(command).outcome;
        let Err(Rejection::Invalid { text, .. }) = &outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(text, "1001 of them; at most 1000");
    }
    assert_eq!(world.registry.digest(), digest);
}

#[test]
fn request_names_are_bounded() {
    let mut world = World::new();
    let outcome = world.apply(Command::Operate(Operate {
        request: Some(("op".to_owned(), "r".repeat(limits::NAME_BYTES + 1))),
        hash: 0,
        operations: Vec::new(),
        wall_ms: 0,
    }));
    assert!(matches!(outcome.outcome, Err(Rejection::Invalid { .. })));
}
