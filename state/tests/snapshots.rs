//! Measures the cost of snapshots for `apply`.
//!
//! Run `ARGOSY_LONG=1 cargo test --release --test snapshots -- --nocapture`. The cost is the CPU
//! time of the thread, on which a busy machine has little influence.
#![allow(
    clippy::disallowed_methods,
    reason = "a measurement needs its switch from the environment, and a clock"
)]

use std::fs;
use std::hint::black_box;
use std::time::Duration;

use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::command::{
    Accept, AgentUpdate, Call, CallAction, Command, LogEntry, OfferOperation, ProposedCommand,
    UpdateTasks,
};
use argosy_state::ids::{AgentId, FrameworkId, TaskKey};
use argosy_state::registry::RegistrySnapshot;
use argosy_state::task::{TaskState, UpdateSource};
use argosy_state::testing::{World, key, next_update, registration, spec};

const AGENTS: usize = 10_000;
const TASKS: usize = 100_000;
/// The number of tasks of one accept.
const CALL: usize = 10;
/// The number of updates that are measured in each variant.
const UPDATES: usize = 20_000;
const ROUNDS: u32 = 8;
const SNAPSHOTS: u32 = 100_000;

/// Returns the CPU time of this thread.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let ns = text.split_whitespace().next().unwrap();
    Duration::from_nanos(ns.parse().unwrap())
}

/// Applies commands without the world's checks of all records.
fn apply(world: &mut World, commands: Vec<Command>) {
    let mut proposed = Vec::with_capacity(commands.len());
    for command in commands {
        let ticket = world.ticket();
        proposed.push(ProposedCommand {
            ticket,
            actor: Actor::Unauthenticated,
            command,
        });
    }
    let entry = LogEntry {
        at: world.now,
        commands: proposed,
    };
    let registry: &mut Registry = &mut world.registry;
    let applied = registry.apply(registry.applied() + 1, &entry);
    assert!(applied.iter().all(|applied| applied.outcome.is_ok()));
    registry.take_changes();
}

fn filled() -> (World, FrameworkId) {
    let mut world = World::new();
    let framework = world.subscribe("load");
    for number in 1..=AGENTS as u64 {
        let register = registration(number, "cpus:64;mem:65536");
        apply(&mut world, vec![Command::RegisterAgent(register)]);
    }
    for call in 0..TASKS / CALL {
        let agent = AgentId(call as u64 % AGENTS as u64 + 1);
        let offer = world.offer(framework, agent, "cpus:1;mem:320");
        let names = call * CALL..(call + 1) * CALL;
        let specs = names.map(|at| spec(&format!("task-{at}"), "cpus:0.1;mem:32"));
        let number = call as u64 + 1;
        let call = Call {
            framework,
            session: offer.session,
            number,
            lowest_unanswered: number,
            hash: number,
            action: CallAction::Accept(Accept {
                offers: vec![offer],
                operations: vec![OfferOperation::Launch(specs.collect())],
                all_or_nothing: true,
                wall_ms: 0,
            }),
        };
        apply(&mut world, vec![Command::Call(call)]);
    }
    assert_eq!(world.registry.tasks().len(), TASKS);
    (world, framework)
}

fn update(registry: &Registry, key: TaskKey, number: u64) -> Command {
    let task = registry.task(&key).unwrap();
    let update = AgentUpdate {
        number,
        source: UpdateSource::Task,
        wall_ms: 1_700_000_000_000,
        ..next_update(task, TaskState::Running)
    };
    Command::UpdateTasks(UpdateTasks {
        agent: task.agent,
        updates: vec![update],
    })
}

/// Returns the CPU time of this many updates, in entries of `commands`. A snapshot is taken before
/// every `every` entries, and dropped at the next one.
fn measured(
    world: &mut World,
    framework: FrameworkId,
    (commands, every): (usize, usize),
    number: u64,
) -> Duration {
    let mut applying = Duration::ZERO;
    let mut held: Option<RegistrySnapshot> = None;
    for entry in 0..UPDATES / commands {
        let updates = (0..commands).map(|at| {
            // The updates are spread over all tasks.
            let task = (entry * commands + at) * 7_919 % TASKS;
            update(
                &world.registry,
                key(framework, &format!("task-{task}")),
                number,
            )
        });
        let updates: Vec<Command> = updates.collect();
        let began = cpu();
        if every != usize::MAX && entry % every == 0 {
            held = Some(world.registry.snapshot());
        }
        apply(world, updates);
        applying += cpu() - began;
    }
    drop(held);
    applying
}

#[test]
fn a_snapshot_takes_constant_time_and_barely_slows_later_commands() {
    if std::env::var_os("ARGOSY_LONG").is_none() {
        return;
    }
    let (mut world, framework) = filled();
    let began = cpu();
    for _ in 0..SNAPSHOTS {
        black_box(world.registry.snapshot());
    }
    eprintln!("a snapshot: {:.2?}", (cpu() - began) / SNAPSHOTS);
    let mut number = 0;
    for commands in [1, 32] {
        // Without snapshots, and with one every so many entries. The variants alternate, so that
        // all have the same noise.
        let ways = [usize::MAX, 100, 10, 1];
        let mut took = [Duration::ZERO; 4];
        for _ in 0..ROUNDS {
            for (took, every) in took.iter_mut().zip(ways) {
                number += 1;
                *took += measured(&mut world, framework, (commands, every), number);
            }
        }
        let each = took.map(|took| took / ROUNDS / UPDATES as u32);
        eprintln!(
            "entries of {commands:>2} updates: {:.2?} an update without snapshots, {:.2?}, {:.2?} and {:.2?} with one every 100, 10 and 1 entries",
            each[0], each[1], each[2], each[3]
        );
    }
}
