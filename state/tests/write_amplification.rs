//! Measures the bytes that storage is given for a command: at most three times the bytes of the
//! command.
//!
//! Facts that do not change with an update (descriptions, attributes) are in separate records. `--
//! --nocapture` prints the figures, with those of level 2, where an object is one record.

use argosy_state::actor::Actor;
use argosy_state::command::{
    Accept, Acknowledge, AgentDecision, AgentUpdate, Call, CallAction, Command, CommandReply,
    LogEntry, OfferOperation, Operate, OperatorOperation, ProposedCommand, RegisterAgent,
    UpdateTasks,
};
use argosy_state::encode;
use argosy_state::ids::{AgentId, FrameworkId, NodeId, Revision, TaskKey};
use argosy_state::level::Level;
use argosy_state::limits;
use argosy_state::task::{
    DiskLimit, Exit, LimitsReport, Reason, TaskLimits, TaskSpec, TaskState, UpdateSource,
};
use argosy_state::testing::{World, key, next_update, registration, spec};

/// The largest number of bytes that an entry of one command may write, for each byte of the
/// command.
const MAX_RATIO: usize = 3;

/// A cluster with large values in the records that an update does not change.
struct LargeCluster {
    world: World,
    agent: AgentId,
    framework: FrameworkId,
    calls: u64,
    figures: Vec<(&'static str, usize, usize)>,
}

impl LargeCluster {
    fn new(level: Level) -> Self {
        let mut world = World::empty();
        world.level = level;
        world.open_epoch(NodeId(1));
        sweeps(&mut world);
        let mut register = registration(77, "cpus:100000");
        let value = "x".repeat(limits::ATTRIBUTE_BYTES - 10);
        let attributes = (0..256).map(|at| (format!("name-{at}"), value.clone()));
        register.info.attributes = attributes.collect();
        register.info.changes_limits = true;
        let registered = world.apply(Command::RegisterAgent(register));
        let Ok(CommandReply::Agent(agent)) = registered.outcome else {
            panic!("{registered:?}");
        };
        let framework = world.subscribe("measured");
        for at in 0..limits::USED_OFFERS {
            world.launch(framework, agent, &format!("other-{at}"), "cpus:0.001");
        }
        Self {
            world,
            agent,
            framework,
            calls: 1_000,
            figures: Vec::new(),
        }
    }

    /// Applies a single command, and records the sizes of the command and of its changes.
    fn measure(&mut self, name: &'static str, command: Command) {
        self.world.pass(5);
        let proposed = ProposedCommand {
            ticket: self.world.ticket(),
            actor: Actor::Unauthenticated,
            command,
        };
        let bytes = encode::command(&proposed, self.world.registry.level()).len();
        let entry = LogEntry {
            at: self.world.now,
            commands: vec![proposed],
        };
        let (applied, writes) = self.world.apply_entry(&entry);
        assert!(applied[0].outcome.is_ok(), "{name}: {applied:?}");
        let value = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        let written = writes
            .iter()
            .map(|write| write.key.len() + value(&write.value));
        self.figures.push((name, bytes, written.sum()));
    }

    fn update(&mut self, name: &'static str, key: &TaskKey, change: impl FnOnce(&mut AgentUpdate)) {
        let task = self.world.registry.task(key).unwrap();
        let mut update = AgentUpdate {
            wall_ms: 1_700_000_000_000,
            ..next_update(task, TaskState::Running)
        };
        change(&mut update);
        let report = UpdateTasks {
            agent: self.agent,
            updates: vec![update],
        };
        self.measure(name, Command::UpdateTasks(report));
    }

    fn call(&mut self, name: &'static str, action: CallAction) {
        self.calls += 1;
        let session = self.session();
        let call = Call {
            framework: self.framework,
            session,
            number: self.calls,
            lowest_unanswered: self.calls,
            hash: 0x0123_4567_89ab_cdef,
            action,
        };
        self.measure(name, Command::Call(call));
    }

    fn launch(&mut self, spec: TaskSpec) {
        let offer = self.world.offer(self.framework, self.agent, "cpus:1");
        let accept = Accept {
            offers: vec![offer],
            operations: vec![OfferOperation::Launch(vec![spec])],
            all_or_nothing: false,
            wall_ms: 1_700_000_000_000,
        };
        self.call("launched", CallAction::Accept(accept));
    }

    /// Applies the longest limits, and the agent's report about them.
    fn change_limits(&mut self, key: &TaskKey) {
        let disk = |at| DiskLimit {
            disk: format!("/dev/disk/by-id/{at}"),
            read_bytes: Some(1 << 30),
            ..DiskLimit::default()
        };
        let limits = TaskLimits {
            io: (0..limits::DISK_LIMITS).map(disk).collect(),
            ..TaskLimits::default()
        };
        let task = key.task.clone();
        self.call("limits changed", CallAction::UpdateLimits { task, limits });
        let change = self.world.registry.task(key).unwrap().limits_change.clone();
        let order = change.unwrap().order;
        self.update("limits in force", key, |update| {
            update.reason = Reason::LimitsUpdated;
            update.limits = Some(LimitsReport {
                order,
                outcome: Ok(()),
                held: None,
                causes: Vec::new(),
            });
        });
        let task = key.task.clone();
        let small = TaskLimits {
            pids: Some(9),
            ..TaskLimits::default()
        };
        let action = CallAction::UpdateLimits {
            task,
            limits: small,
        };
        self.call("limits lowered", action);
        // These are not updates: an order writes the counters of its agent, and a call its answer,
        // however short they are.
        self.figures.pop();
        let change = self.world.registry.task(key).unwrap().limits_change.clone();
        let order = change.unwrap().order;
        self.update("limits refused", key, |update| {
            update.reason = Reason::LimitsUpdated;
            update.limits = Some(LimitsReport {
                order,
                outcome: Err("memory".to_owned()),
                held: None,
                causes: Vec::new(),
            });
        });
        self.update("unhealthy", key, |update| {
            update.reason = Reason::HealthCheckStatusUpdated;
            update.standing.healthy = Some(false);
        });
        self.acknowledge("acknowledged", key);
    }

    /// A task whose updates have no messages: their transitions are most of what they write.
    fn short_life(&mut self) {
        self.launch(spec("x", "cpus:0.001"));
        // A launch of a short description is not an update.
        self.figures.pop();
        let key = key(self.framework, "x");
        self.update("starting", &key, |update| {
            update.state = TaskState::Starting
        });
        self.update("running", &key, |update| update.source = UpdateSource::Task);
        self.acknowledge("acknowledged", &key);
        self.update("killing", &key, |update| update.state = TaskState::Killing);
        self.update("killed", &key, |update| {
            update.state = TaskState::Killed;
            update.reason = Reason::TaskKilled;
            update.exit = Some(Exit::Signal(9));
        });
        self.acknowledge("end acknowledged", &key);
        let kept = self.world.registry.transitions(&key).len();
        let is_kept = self.world.registry.level() >= Level::RELEASE_0_2;
        assert_eq!(kept, if is_kept { 5 } else { 0 });
    }

    /// An agent without tasks becomes unreachable, and returns unchanged.
    fn silence(&mut self) {
        let mut register = registration(78, "cpus:1");
        let info = self.world.registry.agent(self.agent).unwrap();
        register.info = info.report.info.clone();
        let registered = self.world.apply(Command::RegisterAgent(register));
        let Ok(CommandReply::Agent(agent)) = registered.outcome else {
            panic!("{registered:?}");
        };
        let decided_on = self.world.registry.agent(agent).unwrap().revision;
        let decision = AgentDecision {
            agent,
            decided_on,
            wall_ms: 1_700_000_000_000,
        };
        self.measure("agent silent", Command::AgentUnreachable(decision));
        let operate = |operation| {
            Command::Operate(Operate {
                request: None,
                hash: 0,
                operations: vec![operation],
                wall_ms: 1_700_000_000_000,
            })
        };
        self.measure("deactivated", operate(OperatorOperation::Deactivate(agent)));
        let known = self.world.registry.agent(agent).unwrap();
        let back = RegisterAgent {
            agent: Some(agent),
            nonce: known.nonce,
            confirmed: known.report.incarnation,
            tried: Vec::new(),
            boot_id: known.report.boot_id.clone(),
            info: known.report.info.clone(),
            follows: None,
        };
        self.measure("agent back", Command::RegisterAgent(back));
        self.measure("reactivated", operate(OperatorOperation::Reactivate(agent)));
    }

    fn session(&self) -> u64 {
        let framework = self.world.registry.framework(self.framework);
        framework.unwrap().session
    }

    fn acknowledge(&mut self, name: &'static str, key: &TaskKey) {
        let latest = self.world.registry.task(key).unwrap().latest.revision;
        self.acknowledge_up_to(name, key, latest);
    }

    fn acknowledge_up_to(&mut self, name: &'static str, key: &TaskKey, revision: Revision) {
        let session = self.session();
        let updates = vec![(key.task.clone(), revision)];
        let acknowledge = Acknowledge {
            framework: self.framework,
            session,
            updates,
        };
        self.measure(name, Command::Acknowledge(acknowledge));
    }
}

/// A hundred pending sweeps: the first teardown of a batch uses up the number of tasks that a
/// command may end.
fn sweeps(world: &mut World) {
    let agent = world.register("cpus:1000");
    let frameworks: Vec<FrameworkId> = (0..100)
        .map(|at| world.subscribe(&format!("removed-{at}")))
        .collect();
    for at in 0..limits::TASKS_PER_SWEEP {
        world.launch(frameworks[0], agent, &format!("t-{at}"), "cpus:0.001");
    }
    for framework in &frameworks[1..] {
        world.launch(*framework, agent, "t", "cpus:0.001");
    }
    world.apply(Command::Operate(Operate {
        request: None,
        hash: 0,
        operations: frameworks
            .into_iter()
            .map(OperatorOperation::Teardown)
            .collect(),
        wall_ms: 0,
    }));
    assert_eq!(world.registry.sweeps().count(), 100);
}

fn life(level: Level) -> Vec<(&'static str, usize, usize)> {
    let mut cluster = LargeCluster::new(level);
    let mut spec = spec("web", "cpus:0.001");
    let value = "x".repeat(16 * 1024);
    spec.environment.insert("CONTENTS".to_owned(), value);
    cluster.launch(spec);
    let key = key(cluster.framework, "web");
    cluster.update("starting", &key, |update| {
        update.state = TaskState::Starting
    });
    cluster.update("running", &key, |_| ());
    cluster.acknowledge("acknowledged", &key);
    cluster.update("healthy", &key, |update| {
        update.reason = Reason::HealthCheckStatusUpdated;
        update.standing.healthy = Some(true);
    });
    cluster.update("with a message", &key, |update| {
        update.message = "m".repeat(limits::MESSAGE_BYTES);
    });
    cluster.update("running again", &key, |_| ());
    cluster.acknowledge("acknowledged", &key);
    cluster.change_limits(&key);
    cluster.update("with a message", &key, |update| {
        update.message = "m".repeat(limits::MESSAGE_BYTES);
    });
    let running = cluster.world.registry.task(&key).unwrap().latest.revision;
    cluster.update("finished", &key, |update| {
        update.state = TaskState::Finished;
        update.source = UpdateSource::Task;
        update.reason = Reason::CommandExited;
        update.exit = Some(Exit::Code(0));
        update.message = "m".repeat(limits::MESSAGE_BYTES);
    });
    cluster.acknowledge_up_to("acknowledged", &key, running);
    cluster.acknowledge("end acknowledged", &key);
    assert_eq!(cluster.world.registry.task(&key), None);
    cluster.short_life();
    cluster.silence();
    cluster.figures
}

#[test]
fn an_update_writes_at_most_three_times_the_bytes_of_its_command() {
    let before = life(Level::RELEASE_0_1);
    let mut too_much = Vec::new();
    for ((name, bytes, written), (_, _, before)) in life(Level::NEWEST).into_iter().zip(before) {
        eprintln!("{name:>20}: {bytes} bytes, written {written}, at level 2 {before}");
        if written > MAX_RATIO * bytes {
            too_much.push(format!("{name}: {written} of {bytes}"));
        }
    }
    assert!(too_much.is_empty(), "{too_much:?}");
}
