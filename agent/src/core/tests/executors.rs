//! Tests of executors: one container for many tasks, the messages on its socket, and its end.

use argosy_proto::v1;
use argosy_state::ids::Timestamp;
use argosy_state::task::TaskState;

use super::world::{CoreFixture, file, instance, spec};
use crate::core::{CommandStatus, ExecutorEvent, Input, RecoveredContainer, StartedFact};
use crate::wire;

pub(super) fn executed(task: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        executor: Some(v1::ExecutorSpec {
            executor_id: "e".into(),
            shell: "run".into(),
            grace_ms: 5_000,
            ..v1::ExecutorSpec::default()
        }),
        resources: vec![v1::Resource {
            name: "cpus".into(),
            value: Some(v1::resource::Value::ScalarMilli(1_000)),
            ..v1::Resource::default()
        }],
        ..spec(task)
    }
}

fn disk(milli: i64) -> v1::Resource {
    v1::Resource {
        name: "disk".into(),
        value: Some(v1::resource::Value::ScalarMilli(milli)),
        ..v1::Resource::default()
    }
}

fn update(task: &str, order: u64, serial: u64, state: v1::TaskState) -> v1::ExecutorUpdate {
    v1::ExecutorUpdate {
        task_id: task.into(),
        order_index: order,
        serial,
        state: state.into(),
        ..v1::ExecutorUpdate::default()
    }
}

fn held(task: &str, order: u64) -> v1::ExecutorTask {
    v1::ExecutorTask {
        task_id: task.into(),
        order_index: order,
    }
}

impl CoreFixture {
    fn executor(&mut self, connection: u64, output: ExecutorEvent) {
        self.feed(Input::Executor {
            instance: instance(1),
            connection,
            event: output,
        });
    }

    fn subscribed(
        &mut self,
        connection: u64,
        tasks: &[v1::ExecutorTask],
        unacknowledged: &[v1::ExecutorUpdate],
    ) {
        let unacknowledged = unacknowledged.iter().cloned().map(wire::executor_update);
        self.executor(
            connection,
            ExecutorEvent::Subscribed {
                tasks: tasks.iter().cloned().map(wire::executor_task).collect(),
                unacknowledged: unacknowledged.collect(),
                version: 1,
            },
        );
    }

    pub(super) fn executor_update(
        &mut self,
        task: &str,
        order: u64,
        serial: u64,
        state: v1::TaskState,
    ) {
        let update = Box::new(wire::executor_update(update(task, order, serial, state)));
        self.executor(1, ExecutorEvent::Update(update));
    }

    /// Returns a fixture with tasks "a" and "b" of the executor "e", on its first stream; no update
    /// reports them yet.
    pub(super) fn with_executor() -> Self {
        let mut world = Self::registered();
        world.launch_spec(1, executed("a"));
        world.launch_spec(2, executed("b"));
        world.sync();
        world.sync();
        world.expect(&["start 1-1-1"]);
        world.started(1);
        world.expect(&["limit 1-1-1 by 2", "listen 1-1-1"]);
        world.subscribed(1, &[], &[]);
        world.expect(&["subscribed e", "hand a@1", "hand b@2"]);
        world
    }

    fn executor_destroyed(&mut self) {
        let name = self.core.facts().executor_container(instance(1)).unwrap();
        self.feed(Input::Destroyed { name });
    }

    fn last(&self, order: u64) -> (TaskState, v1::Reason) {
        let task = &self.core.facts().tasks[&instance(order)];
        let reason = task
            .updates
            .back()
            .map_or(0, |update| wire::update(update).reason);
        (task.state, v1::Reason::try_from(reason).unwrap())
    }
}

const RUNNING: RecoveredContainer = RecoveredContainer::Running(StartedFact {
    pid: 77,
    at: Timestamp(1_000),
});

#[test]
fn tasks_of_an_executor_share_its_container_which_ends_after_the_last_task() {
    let mut world = CoreFixture::with_executor();
    world.executor_update("a", 1, 1, v1::TaskState::Running);
    world.wait(5);
    world.expect(&[]);
    world.sync();
    world.expect(&["acknowledge a 1", "report a 1 Running"]);
    world.executor_update("a", 1, 2, v1::TaskState::Finished);
    world.sync();
    world.expect(&["acknowledge a 2", "report a 2 Finished", "limit 1-1-1 by 1"]);
    // A third one joins it.
    world.launch_spec(3, executed("c"));
    world.sync();
    world.expect(&["limit 1-1-1 by 2", "hand c@3"]);
    world.executor_update("b", 2, 1, v1::TaskState::Failed);
    world.executor_update("c", 3, 1, v1::TaskState::Killed);
    world.sync();
    world.sync();
    world.expect(&[
        "acknowledge b 1",
        "report b 1 Failed",
        "limit 1-1-1 by 1",
        "acknowledge c 1",
        "report c 1 Killed",
        "shut down in 5000",
    ]);
    world.check_snapshot();
    world.exited(1, CommandStatus::Code(0));
    world.sync();
    world.expect(&["stop listening 1-1-1", "destroy 1-1-1"]);
    world.executor_destroyed();
    assert!(world.core.facts().executors.is_empty());
}

#[test]
fn a_task_whose_executor_has_an_invalid_part_starts_nothing() {
    let mut world = CoreFixture::registered();
    let mut task = executed("a");
    // A capability that this release does not know: without it and the image, the command would run
    // on the programs of the host.
    task.executor.as_mut().unwrap().container = Some(v1::ContainerSpec {
        image: "example.org/tools:1".into(),
        opt_outs: Some(v1::OptOuts {
            capabilities: vec!["OF_A_LATER_RELEASE".into()],
            ..v1::OptOuts::default()
        }),
        ..v1::ContainerSpec::default()
    });
    world.launch_spec(1, task);
    world.sync();
    world.report();
    world.sync();
    assert_eq!(world.last(1), (TaskState::Error, v1::Reason::TaskInvalid));
    assert!(world.core.facts().executors.is_empty());
    let starts = world
        .effects
        .iter()
        .filter(|effect| effect.starts_with("start "));
    assert_eq!(starts.count(), 0, "{:?}", world.effects);
    world.discard_effects();
}

#[test]
fn an_executor_that_outlives_its_last_task_is_killed() {
    let mut world = CoreFixture::with_executor();
    world.executor_update("a", 1, 1, v1::TaskState::Finished);
    world.executor_update("b", 2, 1, v1::TaskState::Finished);
    world.sync();
    world.sync();
    world.discard_effects();
    world.wait(4_900);
    world.discard_effects();
    world.wait(200);
    assert!(world.effects.contains(&"kill 1 in 5000".to_owned()));
}

#[test]
fn a_task_for_an_executor_that_is_ending_waits_for_a_new_one() {
    let mut world = CoreFixture::with_executor();
    world.executor_update("a", 1, 1, v1::TaskState::Finished);
    world.executor_update("b", 2, 1, v1::TaskState::Finished);
    world.sync();
    world.sync();
    world.discard_effects();
    world.launch_spec(3, executed("c"));
    world.sync();
    world.expect(&[]);
    world.exited(1, CommandStatus::Code(0));
    world.sync();
    world.expect(&["stop listening 1-1-1", "destroy 1-1-1"]);
    world.executor_destroyed();
    world.sync();
    world.expect(&["start 1-3-1"]);
}

#[test]
fn executor_disk_limits_include_their_tasks() {
    let with_disk = |task: &str, milli| {
        let mut spec = executed(task);
        spec.resources.push(disk(milli));
        spec
    };
    let mut world = CoreFixture::registered();
    world.launch_spec(1, with_disk("a", 2_000));
    world.launch_spec(2, with_disk("b", 3_000));
    world.sync();
    world.sync();
    world.expect(&["start 1-1-1"]);
    world.started(1);
    let up_to = |mib: u64| format!("measure 1-1-1 up to {}", mib << 20);
    world.expect(&[&up_to(5), "limit 1-1-1 by 4", "listen 1-1-1"]);
    world.subscribed(1, &[], &[]);
    world.executor_update("a", 1, 1, v1::TaskState::Finished);
    world.report();
    world.report();
    let output = std::mem::take(&mut world.effects);
    assert!(output.contains(&up_to(3)), "{output:?}");
    world.feed(Input::DiskLimitExceeded {
        instance: instance(1),
        why: "out of disk: used 4 MiB of 3 MiB".into(),
    });
    world.expect(&["kill 1 in 0"]);
    world.exited(1, CommandStatus::Signal(9));
    world.sync();
    assert_eq!(world.last(2), (TaskState::Failed, v1::Reason::LimitDisk));
    let task = &world.core.facts().tasks[&instance(2)];
    let text = wire::update(task.updates.back().unwrap()).text;
    assert_eq!(text, "its executor: out of disk: used 4 MiB of 3 MiB");
}

#[test]
fn an_executor_whose_files_exceed_its_disk_limit_is_never_started() {
    let with_file = |task| {
        let mut spec = executed(task);
        let executor = spec.executor.as_mut().unwrap();
        executor.uris.push(file());
        executor.resources.push(disk(2_000));
        spec
    };
    let mut world = CoreFixture::registered();
    world.launch_spec(1, with_file("a"));
    world.sync();
    world.sync();
    let measure = format!("measure 1-1-1 up to {}", 2 << 20);
    world.expect(&["fetch for 1-1-1", &measure]);
    // The limit grows with its tasks.
    let mut second = with_file("b");
    second.resources.push(disk(1_000));
    world.launch_spec(2, second);
    world.sync();
    world.expect(&[&format!("measure 1-1-1 up to {}", 3 << 20)]);
    world.feed(Input::DiskLimitExceeded {
        instance: instance(1),
        why: "out of disk: used 4 MiB of 3 MiB".into(),
    });
    world.sync();
    let is_cancelled = |line: &String| line == "cancel the fetch for 1";
    assert!(world.effects.iter().any(is_cancelled));
    let over_disk = (TaskState::Failed, v1::Reason::LimitDisk);
    assert_eq!([1, 2].map(|order| world.last(order)), [over_disk; 2]);
}

#[test]
fn the_end_of_an_executor_ends_its_tasks() {
    let mut world = CoreFixture::with_executor();
    world.executor_update("a", 1, 1, v1::TaskState::Running);
    world.report();
    world.kill(3, "b", 2_000);
    world.sync();
    world.report();
    world.discard_effects();
    world.exited(1, CommandStatus::Signal(9));
    world.sync();
    world.expect(&[
        "report a 2 Failed, b 2 Killed",
        "stop listening 1-1-1",
        "destroy 1-1-1",
    ]);
    assert_eq!(
        world.last(1),
        (TaskState::Failed, v1::Reason::ExecutorTerminated)
    );
    assert_eq!(world.last(2), (TaskState::Killed, v1::Reason::TaskKilled));
}

#[test]
fn an_executor_whose_tasks_were_all_killed_before_delivery_is_killed() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, executed("a"));
    world.launch_spec(2, executed("b"));
    world.sync();
    world.sync();
    world.started(1);
    world.discard_effects();
    world.kill(3, "a", 0);
    world.kill(4, "b", 0);
    world.sync();
    world.expect(&["limit 1-1-1 by 1", "kill 1 in 5000"]);
    world.exited(1, CommandStatus::Signal(15));
    world.report();
    world.expect(&[
        "report a 1 Killed, b 1 Killed",
        "stop listening 1-1-1",
        "destroy 1-1-1",
    ]);
}

#[test]
fn an_executor_killed_before_creation_never_starts() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, executed("a"));
    world.kill(2, "a", 0);
    world.sync();
    world.sync();
    world.report();
    world.expect(&["report a 1 Killed"]);
    assert!(world.core.facts().executors.is_empty());
}

#[test]
fn an_executor_that_does_not_subscribe_in_time_is_killed() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, executed("a"));
    world.sync();
    world.sync();
    world.started(1);
    world.discard_effects();
    world.now += 60_000;
    world.feed(Input::Tick);
    assert!(world.effects.contains(&"kill 1 in 5000".to_owned()));
    world.exited(1, CommandStatus::Signal(15));
    assert_eq!(
        world.last(1),
        (TaskState::Failed, v1::Reason::ExecutorRegistrationTimeout)
    );
}

#[test]
fn a_kill_reaches_the_executor_which_ends_after_its_last_task() {
    let mut world = CoreFixture::with_executor();
    world.kill(3, "a", 2_000);
    world.sync();
    world.report();
    world.expect(&["tell to kill a@1 in 2000", "report a 1 Killing"]);
    world.wait(7_100);
    assert!(
        !world.effects.contains(&"kill 1 in 5000".to_owned()),
        "b runs"
    );
    world.register(true);
    world.discard_effects();
    world.kill(4, "b", 2_000);
    world.sync();
    world.report();
    world.discard_effects();
    world.wait(7_100);
    assert!(world.effects.contains(&"kill 1 in 5000".to_owned()));
}

#[test]
fn a_killed_task_ends_though_the_last_wanted_task_leaves_its_executor_by_itself() {
    let kill = "kill 1 in 5000".to_owned();
    let mut world = CoreFixture::with_executor();
    world.kill(3, "a", 2_000);
    world.sync();
    world.report();
    world.executor_update("b", 2, 1, v1::TaskState::Finished);
    world.sync();
    world.sync();
    world.discard_effects();
    world.wait(6_900);
    assert!(!world.effects.contains(&kill), "the grace period remains");
    world.wait(200);
    assert!(world.effects.contains(&kill), "{:?}", world.effects);
}

#[test]
fn a_killed_task_ends_though_a_task_joined_its_executor_in_the_grace_period() {
    let kill = "kill 1 in 5000".to_owned();
    let mut world = CoreFixture::with_executor();
    world.executor_update("b", 2, 1, v1::TaskState::Finished);
    world.sync();
    world.sync();
    world.kill(3, "a", 2_000);
    world.sync();
    world.launch_spec(4, executed("c"));
    world.sync();
    assert!(world.effects.contains(&"hand c@4".to_owned()));
    world.wait(7_100);
    assert!(!world.effects.contains(&kill), "c runs");
    world.executor_update("c", 4, 1, v1::TaskState::Finished);
    world.sync();
    world.sync();
    world.wait(7_100);
    assert!(world.effects.contains(&kill), "{:?}", world.effects);
}

#[test]
fn a_new_stream_gives_an_executor_no_more_time_to_end_its_tasks() {
    let mut world = CoreFixture::with_executor();
    world.kill(3, "a", 1_000);
    world.kill(4, "b", 1_000);
    world.sync();
    world.wait(5_000);
    world.subscribed(2, &[held("a", 1), held("b", 2)], &[]);
    world.discard_effects();
    // The longest grace period of its tasks, plus its own.
    world.wait(1_100);
    assert!(world.effects.contains(&"kill 1 in 5000".to_owned()));
}

#[test]
fn nothing_follows_the_end_of_a_task() {
    let mut world = CoreFixture::with_executor();
    world.executor_update("a", 1, 1, v1::TaskState::Finished);
    world.executor_update("a", 1, 2, v1::TaskState::Running);
    world.sync();
    world.sync();
    world.expect(&["acknowledge a 1", "report a 1 Finished", "limit 1-1-1 by 1"]);
    assert_eq!(world.last(1).0, TaskState::Finished);
    world.executor_update("b", 2, 1, v1::TaskState::Finished);
    world.sync();
    world.sync();
    assert!(world.effects.contains(&"shut down in 5000".to_owned()));
}

#[test]
fn masters_do_not_wait_for_an_executor_whose_container_does_not_answer() {
    let mut world = CoreFixture::with_executor().restart("boot-1");
    world.sync();
    world.expect(&["find 1-1-1"]);
    world.wait(3_999);
    world.expect(&[]);
    world.wait(1);
    world.sync();
    world.expect(&["dial"]);
    world.register(true);
    world.discard_effects();
    world.found(1, RUNNING);
    world.sync();
    world.expect(&["limit 1-1-1 by 2", "listen 1-1-1"]);
    world.check_snapshot();
}

#[test]
fn executors_resend_unacknowledged_updates_after_a_restart() {
    let mut world = CoreFixture::with_executor();
    world.executor_update("a", 1, 1, v1::TaskState::Running);
    world.report();
    let mut world = world.restart("boot-1");
    world.sync();
    world.expect(&["find 1-1-1"]);
    world.found(1, RUNNING);
    world.sync();
    world.expect(&["limit 1-1-1 by 2", "listen 1-1-1", "dial"]);
    world.register(true);
    world.discard_effects();
    let repeated = update("a", 1, 1, v1::TaskState::Running);
    let finished = update("a", 1, 2, v1::TaskState::Finished);
    world.subscribed(1, &[held("a", 1)], &[repeated, finished]);
    world.sync();
    world.sync();
    // Tasks that it never received are sent again.
    world.expect(&[
        "subscribed e",
        "acknowledge a 1",
        "hand b@2",
        "acknowledge a 2",
        "report a 2 Finished",
        "limit 1-1-1 by 1",
    ]);
    world.check_snapshot();
}

#[test]
fn tasks_missing_in_an_executor_fail_and_unknown_ones_are_killed() {
    let mut world = CoreFixture::with_executor();
    world.executor_update("a", 1, 1, v1::TaskState::Running);
    world.report();
    world.discard_effects();
    world.executor(1, ExecutorEvent::Closed);
    world.subscribed(2, &[held("b", 2), held("x", 9)], &[]);
    world.report();
    world.expect(&[
        "subscribed e",
        "tell to kill x@9 in 0",
        "limit 1-1-1 by 1",
        "report a 2 Failed",
    ]);
    assert_eq!(world.last(1).1, v1::Reason::ExecutorTerminated);
    // The former stream is outdated.
    world.executor_update("b", 2, 1, v1::TaskState::Finished);
    world.report();
    world.expect(&[]);
}

#[test]
fn an_executor_whose_tasks_were_killed_during_its_launch_is_killed_after_a_restart() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, executed("a"));
    world.sync();
    world.sync();
    world.kill(2, "a", 0);
    world.sync();
    world.report();
    let mut world = world.restart("boot-1");
    world.sync();
    world.found(1, RUNNING);
    assert!(
        world.effects.contains(&"kill 1 in 5000".to_owned()),
        "{:?}",
        world.effects
    );
}

#[test]
fn an_executor_that_never_subscribes_is_killed_after_an_agent_restart() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, executed("a"));
    world.sync();
    world.sync();
    let mut world = world.restart("boot-1");
    world.sync();
    world.found(1, RUNNING);
    world.register(true);
    let kill = "kill 1 in 5000".to_owned();
    assert!(!world.effects.contains(&kill), "it has its time");
    world.discard_effects();
    world.now += 60_000;
    world.feed(Input::Tick);
    assert!(world.effects.contains(&kill), "{:?}", world.effects);
    world.exited(1, CommandStatus::Signal(15));
    assert_eq!(
        world.last(1),
        (TaskState::Failed, v1::Reason::ExecutorRegistrationTimeout)
    );
}

#[test]
fn an_unstarted_executor_is_recreated_after_registration() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, executed("a"));
    world.sync();
    world.sync();
    let mut world = world.restart("boot-1");
    world.sync();
    world.found(1, RecoveredContainer::NeverStarted);
    world.sync();
    world.executor_destroyed();
    world.sync();
    world.discard_effects();
    world.register(true);
    world.sync();
    world.sync();
    assert!(
        world.effects.contains(&"start 1-1-2".to_owned()),
        "{:?}",
        world.effects
    );
}

#[test]
fn after_a_reboot_the_tasks_of_an_executor_have_failed() {
    let mut world = CoreFixture::with_executor().restart("boot-2");
    world.found(1, RecoveredContainer::Gone);
    assert_eq!(
        world.last(1),
        (TaskState::Failed, v1::Reason::AgentRebooted)
    );
}

#[test]
fn tasks_killed_while_the_agent_was_down_are_not_delivered() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, executed("a"));
    world.sync();
    world.sync();
    world.started(1);
    world.kill(2, "a", 2_000);
    let mut world = world.restart_synced("boot-1");
    world.sync();
    world.found(1, RUNNING);
    world.discard_effects();
    world.subscribed(1, &[], &[]);
    world.expect(&["subscribed e", "shut down in 5000"]);
    assert!(world.core.facts().executors[&instance(1)].ending);
}

#[test]
fn messages_pass_in_both_directions_while_connected() {
    let mut world = CoreFixture::with_executor();
    let message = |executor: &str| {
        v1::to_agent::Message::ExecutorMessage(v1::ExecutorMessage {
            framework_id: "framework-1".into(),
            agent_id: "agent-1".into(),
            executor_id: executor.into(),
            data: b"hello".to_vec(),
        })
    };
    world.receive(message("e"));
    world.receive(message("none"));
    world.expect(&["tell hello"]);
    world.executor(1, ExecutorEvent::Message(b"back".to_vec()));
    world.executor(7, ExecutorEvent::Message(b"of the past".to_vec()));
    world.expect(&["message of e"]);
    world.executor(1, ExecutorEvent::Closed);
    world.receive(message("e"));
    world.expect(&[]);
}

#[test]
fn explanations_of_running_tasks_are_reported_once_a_second() {
    let mut world = CoreFixture::with_executor();
    for serial in 1..=3 {
        world.executor_update("a", 1, serial, v1::TaskState::Running);
        world.report();
    }
    world.expect(&[
        "acknowledge a 1",
        "report a 1 Running",
        "acknowledge a 2",
        "acknowledge a 3",
    ]);
    world.wait(900);
    world.wait(200);
    world.discard_effects();
    world.executor_update("a", 1, 4, v1::TaskState::Running);
    world.report();
    world.expect(&["acknowledge a 4", "report a 2 Running"]);
}

#[test]
fn tasks_are_located_in_their_executors_sandbox() {
    let mut world = CoreFixture::with_executor();
    let key = |task: &str| crate::core::task_key("framework-1", task).unwrap();
    let seen = |world: &CoreFixture, task: &str| {
        let view = world.core.locate(&key(task));
        let container = view.container.map(|name| name.to_string());
        (view.sandbox_key.task.to_string(), container, view.ended)
    };
    let there = |ended| ("e".to_owned(), Some("1-1-1".to_owned()), ended);
    assert_eq!(seen(&world, "a"), there(false));
    assert_eq!(seen(&world, "e"), there(false), "the executor itself");
    assert_eq!(seen(&world, "z"), ("z".to_owned(), None, true));
    world.executor_update("a", 1, 2, v1::TaskState::Finished);
    world.sync();
    assert_eq!(seen(&world, "a"), there(true));
    let view = world.core.containers().pop().unwrap();
    assert_eq!(
        (view.task_id.as_str(), view.tasks),
        ("e", vec!["b".to_owned()])
    );
    let world = world.restart_synced("boot-1");
    assert_eq!(seen(&world, "a"), there(true));
    assert_eq!(seen(&world, "b"), there(false));
}

#[test]
fn a_failed_executor_query_is_retried_while_its_tasks_run() {
    let mut world = CoreFixture::with_executor();
    world.executor_update("a", 1, 1, v1::TaskState::Running);
    world.report();
    let mut world = world.restart_synced("boot-1");
    world.sync();
    world.expect(&["find 1-1-1"]);
    world.found(1, RecoveredContainer::Unknown);
    world.register(true);
    world.discard_effects();
    world.wait(5_000);
    world.effects.retain(|line| line.starts_with("find"));
    world.expect(&["find 1-1-1"]);
    world.found(1, RUNNING);
    world.expect(&["limit 1-1-1 by 2", "listen 1-1-1"]);
}
