//! Comparison with release 0.1.0 at level 2: both releases apply the same entries, and must write
//! the same records, byte for byte.
//!
//! The former release is built from its commit (`releases.txt`) and runs as a process
//! (`release/driver.rs`). `ARGOSY_LONG=1` executes 500 runs instead of 20; `ARGOSY_SEED=N` repeats
//! one.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test runs programs and reads its switches from the environment"
)]

#[path = "properties/actor.rs"]
mod actor;
#[path = "properties/agents.rs"]
mod agents;
#[path = "properties/answer_counts.rs"]
mod answer_counts;
#[path = "release/former.rs"]
mod former;
#[path = "scenarios/interpreter.rs"]
mod interpreter;
#[path = "scenarios/print.rs"]
mod print;
#[path = "properties/rng.rs"]
mod rng;
#[path = "release/specs.rs"]
mod specs;

use std::path::Path;

use actor::CommandGenerator;
use answer_counts::{AnswerCounts, name};
use argosy_state::Registry;
use argosy_state::command::{
    Acknowledge, AgentUpdate, Command, LogEntry, ProposedCommand, UpdateTasks,
};
use argosy_state::encode;
use argosy_state::ids::{AgentId, FrameworkId, NodeId};
use argosy_state::level::{self, Level};
use argosy_state::limits;
use argosy_state::task::{Reason, Task, TaskState};
use argosy_state::testing::{World, next_update, spec};
use former::FormerRegistry;
use interpreter::Interpreter;
use rng::TestRng;

/// The level of release 0.1.0.
const LEVEL: Level = Level::RELEASE_0_1;
/// The number of commands in one run of a cluster.
const COMMANDS_PER_RUN: usize = 1_000;
/// The answers that the runs must contain to be conclusive.
const REQUIRED_ANSWERS: [&str; 20] = [
    "Accept",
    "Acknowledge",
    "Disconnect",
    "Expire",
    "Kill",
    "Operate",
    "Prune",
    "Reconcile",
    "Register",
    "Subscribe",
    "Sweep",
    "Teardown",
    "Unreachable",
    "Update",
    "UpdateTasks",
    "invalid",
    "moved",
    "offer-used",
    "repeated",
    "unknown-task",
];
/// The number of tasks that are launched together.
const BATCH_TASKS: usize = 250;

/// Returns what a leader at level 2 proposes; the level is never raised.
fn as_proposed(proposed: ProposedCommand) -> Option<ProposedCommand> {
    let proposed = CommandGenerator::at_level(LEVEL, proposed)?;
    (!matches!(proposed.command, Command::RaiseLevel { .. })).then_some(proposed)
}

/// Applies an entry to both registries, which must write the same records. Returns the counts of
/// answers.
fn apply_entry(
    registry: &mut Registry,
    former: &mut FormerRegistry,
    entry: &LogEntry,
) -> AnswerCounts {
    let commands: Vec<Vec<u8>> = entry
        .commands
        .iter()
        .map(|proposed| encode::command(proposed, LEVEL))
        .collect();
    let index = registry.applied() + 1;
    let theirs = former.apply(index, entry.at.0, &commands);
    // The commands in the form of the log: the operations of an acceptance are one launch there.
    let logged = commands
        .iter()
        .map(|bytes| encode::read_command(bytes).expect("it was just written"));
    let entry = LogEntry {
        at: entry.at,
        commands: logged.collect(),
    };
    let applied = registry.apply(index, &entry);
    let writes = registry.take_changes();
    let ours: Vec<_> = writes
        .into_iter()
        .map(|write| (write.key, write.value))
        .collect();
    if registry.digest() != theirs.digest || ours != theirs.writes {
        let difference = former::difference(&ours, &theirs.writes);
        panic!(
            "at index {index} the records differ:\n{difference}\nafter {entry:?}\nanswered {applied:?}"
        );
    }
    let mut tally = AnswerCounts::new();
    for (ProposedCommand { command, .. }, applied) in entry.commands.iter().zip(&applied) {
        *tally.entry(name(command, &applied.outcome)).or_default() += 1;
    }
    tally
}

fn run_seed(executable: &Path, seed: u64) -> AnswerCounts {
    let mut former = FormerRegistry::start(executable);
    let mut registry = Registry::new();
    let mut dice = TestRng::new(seed);
    let mut actor = CommandGenerator::new(&mut dice, LEVEL);
    let (mut commands, mut tally) = (0, AnswerCounts::new());
    while commands < COMMANDS_PER_RUN {
        let count = if dice.percent(70) { 1 } else { dice.below(4) };
        let mut entry = actor.entry(&mut dice, &registry, count);
        for proposed in &mut entry.commands {
            specs::vary(&mut dice, &mut proposed.command);
        }
        entry.commands = entry.commands.into_iter().filter_map(as_proposed).collect();
        commands += entry.commands.len().max(1);
        for (name, count) in apply_entry(&mut registry, &mut former, &entry) {
            *tally.entry(name).or_default() += count;
        }
    }
    assert_eq!(registry.level(), LEVEL);
    tally
}

#[test]
fn at_level_2_the_records_are_those_of_release_0_1_0() {
    let Some(executable) = former::executable() else {
        return;
    };
    let run = |seed: u64| {
        let result = std::panic::catch_unwind(|| run_seed(&executable, seed));
        result.unwrap_or_else(|panic| {
            eprintln!("repeat it with ARGOSY_SEED={seed}");
            std::panic::resume_unwind(panic)
        })
    };
    if let Ok(seed) = std::env::var("ARGOSY_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let runs = match std::env::var_os("ARGOSY_LONG") {
        Some(_) => 500,
        None => 20,
    };
    let mut tally = AnswerCounts::new();
    for (name, count) in (0..runs).flat_map(run) {
        *tally.entry(name).or_default() += count;
    }
    let commands: usize = tally.values().sum();
    eprintln!("{commands} commands in {runs} runs, seeds 0 and up: {tally:?}");
    for name in REQUIRED_ANSWERS {
        assert!(tally.contains_key(name), "no answer was {name}");
    }
}

/// Returns the entries of a scenario file, run at level 2.
fn scenario(text: &str) -> Vec<LogEntry> {
    let mut interpreter = Interpreter::new(LEVEL);
    interpreter.world.log = Some(Vec::new());
    for block in text.trim_end().split("\n\n") {
        let script = block.split("\n----").next().unwrap_or_default();
        let lines = script.lines().filter(|line| !line.starts_with('#'));
        for line in lines.filter(|line| !line.trim().is_empty()) {
            interpreter.play(line);
        }
    }
    let log = interpreter.world.log.take().unwrap_or_default().into_iter();
    // Release 0.1.0 applies nothing from here on.
    let is_raise = |one: &ProposedCommand| matches!(one.command, Command::RaiseLevel { .. });
    log.take_while(|entry| !entry.commands.iter().any(is_raise))
        .collect()
}

#[test]
fn the_scenarios_leave_the_same_records_at_level_2() {
    let Some(executable) = former::executable() else {
        return;
    };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut entries = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        eprintln!("{}", path.display());
        let mut former = FormerRegistry::start(&executable);
        let mut registry = Registry::new();
        for entry in scenario(&std::fs::read_to_string(&path).unwrap()) {
            drop(apply_entry(&mut registry, &mut former, &entry));
            entries += 1;
        }
    }
    assert!(entries > 300, "{entries} entries");
}

/// Returns the first update of a task from its agent, which ends it.
fn ended(task: &Task, reason: Reason) -> AgentUpdate {
    AgentUpdate {
        reason,
        ..next_update(task, TaskState::Finished)
    }
}

/// Launches, ends and acknowledges a wave of tasks.
fn wave(world: &mut World, framework: FrameworkId, agent: AgentId, wave: usize) {
    let launches = (0..BATCH_TASKS).map(|at| {
        let mut spec = spec(&format!("t{wave}-{at}"), "cpus:0.001");
        spec.environment.insert("A".to_owned(), "v".repeat(at));
        spec
    });
    let offer = world.offer(framework, agent, "cpus:1");
    world.accept(framework, vec![offer], launches.collect());
    let tasks = world.registry.tasks_of(framework);
    let updates = tasks.map(|task| ended(task, Reason::None)).collect();
    world.apply(Command::UpdateTasks(UpdateTasks { agent, updates }));
    let ends = world.registry.tasks_of(framework);
    let updates = ends.map(|task| (task.key.task.clone(), task.latest.revision));
    world.apply(Command::Acknowledge(Acknowledge {
        framework,
        session: world.registry.framework(framework).unwrap().session,
        updates: updates.collect(),
    }));
}

/// The former release stops at an entry with a number of a reason that it does not know.
#[test]
fn agents_report_every_reason_at_level_2() {
    let Some(executable) = former::executable() else {
        return;
    };
    let mut world = World::empty();
    (world.level, world.log) = (LEVEL, Some(Vec::new()));
    world.open_epoch(NodeId(1));
    let agent = world.register("cpus:100");
    let framework = world.subscribe("a");
    for (at, reason) in Reason::all().enumerate() {
        let key = world.launch(framework, agent, &format!("t{at}"), "cpus:0.1");
        let mut report = Command::UpdateTasks(UpdateTasks {
            agent,
            updates: vec![ended(world.registry.task(&key).unwrap(), reason)],
        });
        level::reduce(LEVEL, &mut report);
        world.apply(report).outcome.unwrap();
    }
    let mut former = FormerRegistry::start(&executable);
    let mut registry = Registry::new();
    for entry in world.log.take().unwrap_or_default() {
        drop(apply_entry(&mut registry, &mut former, &entry));
    }
    let ended = registry.tasks().filter(|task| task.is_terminal());
    assert_eq!(ended.count(), Reason::all().count());
}

/// More tasks of two frameworks end than the history keeps.
#[test]
fn the_golden_history_is_that_of_release_0_1_0() {
    let Some(executable) = former::executable() else {
        return;
    };
    let mut world = World::empty();
    (world.level, world.log) = (LEVEL, Some(Vec::new()));
    world.open_epoch(NodeId(1));
    let agent = world.register("cpus:1000");
    let frameworks = [world.subscribe("a"), world.subscribe("b")];
    for at in 0..limits::FINISHED_TASKS / BATCH_TASKS + 8 {
        wave(&mut world, frameworks[usize::from(at % 3 == 0)], agent, at);
    }
    let mut former = FormerRegistry::start(&executable);
    let mut registry = Registry::new();
    for entry in world.log.take().unwrap_or_default() {
        drop(apply_entry(&mut registry, &mut former, &entry));
    }
    assert_eq!(
        registry.finished_tasks_after(0).count(),
        limits::FINISHED_TASKS
    );
}
