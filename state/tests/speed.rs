//! Measures how fast commands are encoded, decoded and applied.
//!
//! Run `ARGOSY_LONG=1 cargo test --release --test speed -- --nocapture`. The test fails below the
//! rate that the log needs.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a measurement needs a clock and its switches from the environment"
)]

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::check::CheckRound;
use argosy_state::command::{
    Accept, Acknowledge, AgentUpdate, Call, CallAction, Command, LogEntry, OfferOperation,
    ProposedCommand, UpdateTasks,
};
use argosy_state::encode;
use argosy_state::ids::{AgentId, FrameworkId, TaskKey};
use argosy_state::level::Level;
use argosy_state::task::{Exit, Reason, TaskState, UpdateSource};
use argosy_state::testing::{World, key, next_update, spec};

/// The commands per second that one core must encode, and decode, at least.
const FLOOR: f64 = 100_000.0;
const AGENTS: usize = 200;
const TASKS: usize = 20_000;
/// The largest number of tasks of one accept, and of one acknowledgement, that a leader proposes.
const ACCEPTED: usize = 256;
const ACKNOWLEDGED: usize = 250;

/// Four commands for each task: launch, running, finished, acknowledged; and the state of their
/// proposals.
struct TaskLifecycles {
    world: World,
    framework: FrameworkId,
    agents: Vec<AgentId>,
}

impl TaskLifecycles {
    fn new() -> Self {
        let mut world = World::new();
        let agents = (0..AGENTS)
            .map(|_| world.register("cpus:64;mem:65536"))
            .collect();
        let framework = world.subscribe("load");
        Self {
            world,
            framework,
            agents,
        }
    }

    fn launch(&mut self, at: usize) -> Command {
        self.accept(at, at..at + 1)
    }

    /// Returns one call that launches all of these tasks on one agent.
    fn accept(&mut self, at: usize, tasks: Range<usize>) -> Command {
        let agent = self.agents[at % AGENTS];
        let count = tasks.len();
        let offered = format!("cpus:{};mem:{}", count as f64 / 10.0, 32 * count);
        let offer = self.world.offer(self.framework, agent, &offered);
        let launches = tasks.map(|at| {
            let mut task = spec(&format!("task-{at}"), "cpus:0.1;mem:32");
            for name in ["HOME", "PATH", "LANG", "PORT"] {
                let value = "/usr/local/bin:/usr/bin:/bin".to_owned();
                task.environment.insert(name.to_owned(), value);
            }
            task
        });
        let launches = launches.collect();
        let number = at as u64 + 1;
        Command::Call(Call {
            framework: self.framework,
            session: offer.session,
            number,
            lowest_unanswered: number.saturating_sub(8),
            hash: number,
            action: CallAction::Accept(Accept {
                offers: vec![offer],
                operations: vec![OfferOperation::Launch(launches)],
                all_or_nothing: false,
                wall_ms: 1_700_000_000_000,
            }),
        })
    }

    fn update(&self, at: usize, number: u64, state: TaskState) -> Command {
        let key = self.key(at);
        let task = self.world.registry.task(&key).unwrap();
        let update = AgentUpdate {
            number,
            source: UpdateSource::Task,
            reason: Reason::CommandExited,
            message: "exited with code 0".to_owned(),
            exit: Some(Exit::Code(0)),
            wall_ms: 1_700_000_000_000,
            ..next_update(task, state)
        };
        Command::UpdateTasks(UpdateTasks {
            agent: task.agent,
            updates: vec![update],
        })
    }

    fn acknowledge(&self, tasks: Range<usize>) -> Command {
        let updates = tasks.map(|at| {
            let key = self.key(at);
            let task = self.world.registry.task(&key).unwrap();
            (key.task, task.latest.revision)
        });
        let updates = updates.collect();
        let session = self.world.registry.framework(self.framework).unwrap();
        Command::Acknowledge(Acknowledge {
            framework: self.framework,
            session: session.session,
            updates,
        })
    }

    fn key(&self, at: usize) -> TaskKey {
        key(self.framework, &format!("task-{at}"))
    }

    /// Applies commands in entries of 64. Returns the commands per second, including storage.
    fn apply(&mut self, commands: Vec<Command>) -> f64 {
        let count = commands.len();
        let mut entries = Vec::new();
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let commands = commands
                .by_ref()
                .take(64)
                .map(|command| ProposedCommand {
                    ticket: self.world.ticket(),
                    actor: Actor::default(),
                    command,
                })
                .collect();
            entries.push(LogEntry {
                at: self.world.now,
                commands,
            });
        }
        let registry: &mut Registry = &mut self.world.registry;
        let started = Instant::now();
        for entry in &entries {
            let applied = registry.apply(registry.applied() + 1, entry);
            assert!(applied.iter().all(|applied| applied.outcome.is_ok()));
            black_box(registry.take_changes());
        }
        count as f64 / started.elapsed().as_secs_f64()
    }
}

fn write_and_read(name: &str, commands: &[Command], ticket: &ProposedCommand) -> f64 {
    let proposed: Vec<ProposedCommand> = commands
        .iter()
        .map(|command| ProposedCommand {
            command: command.clone(),
            ..ticket.clone()
        })
        .collect();
    let started = Instant::now();
    let bytes: Vec<Vec<u8>> = proposed
        .iter()
        .map(|one| encode::command(one, Level::NEWEST))
        .collect();
    let written = proposed.len() as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    for bytes in &bytes {
        black_box(encode::read_command(bytes).unwrap());
    }
    let read = proposed.len() as f64 / started.elapsed().as_secs_f64();
    let size = bytes.iter().map(Vec::len).sum::<usize>() / bytes.len();
    eprintln!("{name:>12}: {size} bytes, written {written:.0}/s, read {read:.0}/s");
    written.min(read)
}

/// Checks a whole round as a master does. A slice of 200 records must take less time than 200
/// launches, whose duration is bounded, however busy the machine is.
fn check_in_slices(registry: &Registry, launches_per_s: f64) {
    let mut round = CheckRound::default();
    let (mut records, mut slices) = (0, 0);
    let began = Instant::now();
    loop {
        let slice = registry.check_slice(&mut round, 200).unwrap();
        (records, slices) = (records + slice.records, slices + 1);
        if slice.is_last {
            break;
        }
    }
    let mean = began.elapsed() / slices;
    let launches = Duration::from_secs_f64(200.0 / launches_per_s);
    eprintln!(
        "      checks: {records} records in {slices} slices of {mean:.1?}; 200 launches {launches:.1?}"
    );
    assert!(mean < launches, "{mean:?}, and 200 launches {launches:?}");
}

/// The largest commands that a leader proposes fill one iteration of its loop (ADR 42). They must
/// take less than one and a half times as long as their tasks take one by one.
#[test]
fn the_largest_commands_take_no_longer_than_their_parts() {
    if std::env::var_os("ARGOSY_LONG").is_none() {
        return;
    }
    let mut lifecycles = TaskLifecycles::new();
    let launches: Vec<Command> = (0..ACCEPTED).map(|at| lifecycles.launch(at)).collect();
    let single = lifecycles.apply(launches);
    let accepts = (0..20).map(|call| {
        let first = ACCEPTED * (call + 1);
        lifecycles.accept(first, first..first + ACCEPTED)
    });
    let accepts: Vec<Command> = accepts.collect();
    within_its_parts("accept", (lifecycles.apply(accepts), ACCEPTED), single);
    let ended = (0..ACCEPTED * 21).map(|at| lifecycles.update(at, 1, TaskState::Finished));
    let ended: Vec<Command> = ended.collect();
    lifecycles.apply(ended);
    let one_by_one = (0..ACCEPTED).map(|at| lifecycles.acknowledge(at..at + 1));
    let one_by_one: Vec<Command> = one_by_one.collect();
    let single = lifecycles.apply(one_by_one);
    let together = (0..20).map(|call| {
        let first = ACCEPTED * (call + 1);
        lifecycles.acknowledge(first..first + ACKNOWLEDGED)
    });
    let together: Vec<Command> = together.collect();
    within_its_parts(
        "acknowledge",
        (lifecycles.apply(together), ACKNOWLEDGED),
        single,
    );
}

fn within_its_parts(name: &str, (commands_per_s, parts): (f64, usize), parts_per_s: f64) {
    let took = Duration::from_secs_f64(1.0 / commands_per_s);
    let alone = Duration::from_secs_f64(parts as f64 / parts_per_s);
    eprintln!("{name:>12}: of {parts} in {took:.1?}, one by one {alone:.1?}");
    assert!(
        took < alone * 3 / 2,
        "{name}: {took:?}, one by one {alone:?}"
    );
}

#[test]
fn commands_are_cheap() {
    if std::env::var_os("ARGOSY_LONG").is_none() {
        return;
    }
    let mut lifecycles = TaskLifecycles::new();
    let ticket = ProposedCommand {
        ticket: lifecycles.world.ticket(),
        actor: Actor::default(),
        command: Command::Tick,
    };
    let mut slowest = f64::MAX;
    let mut phase = |lifecycles: &mut TaskLifecycles, name: &str, commands: Vec<Command>| {
        slowest = slowest.min(write_and_read(name, &commands, &ticket));
        let applied = lifecycles.apply(commands);
        eprintln!("{name:>12}: applied {applied:.0}/s");
        applied
    };
    let launches = (0..TASKS).map(|at| lifecycles.launch(at)).collect();
    let launched = phase(&mut lifecycles, "launch", launches);
    let running = (0..TASKS).map(|at| lifecycles.update(at, 1, TaskState::Running));
    let running = running.collect();
    phase(&mut lifecycles, "running", running);
    check_in_slices(&lifecycles.world.registry, launched);
    let finished = (0..TASKS).map(|at| lifecycles.update(at, 2, TaskState::Finished));
    let finished = finished.collect();
    phase(&mut lifecycles, "finished", finished);
    let acknowledged = (0..TASKS)
        .map(|at| lifecycles.acknowledge(at..at + 1))
        .collect();
    phase(&mut lifecycles, "acknowledged", acknowledged);
    assert_eq!(lifecycles.world.registry.tasks().len(), 0);
    lifecycles.world.registry.check().unwrap();
    assert!(slowest > FLOOR, "{slowest:.0} commands per second");
}
