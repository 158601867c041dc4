//! Measures the memory of a registry that is filled to its bound of bytes.
//!
//! Run `ARGOSY_LONG=1 cargo test --release --test memory -- --nocapture`. The bound applies to an
//! estimate (ADR 44): at most twice as much may be resident.
#![allow(
    clippy::disallowed_methods,
    reason = "a measurement needs its switch from the environment"
)]

use std::fs;

use argosy_state::actor::Actor;
use argosy_state::command::{
    Accept, Call, CallAction, Command, LogEntry, OfferOperation, ProposedCommand,
};
use argosy_state::ids::{AgentId, FrameworkId};
use argosy_state::limits;
use argosy_state::task::TaskSpec;
use argosy_state::testing::{World, spec};

/// The number of tasks that a leader proposes in one accept.
const TASKS: usize = 256;

/// Returns the resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}

/// Returns the estimated bytes of tasks, and the number of tasks.
fn counted(world: &World) -> (u64, u64) {
    let usage = world.registry.usage();
    let tasks = usage.iter().find(|usage| usage.kind == "tasks").unwrap();
    (tasks.bytes.unwrap().0, tasks.records)
}

/// Applies one accept of these tasks on offered resources of an agent. Returns whether all were
/// accepted.
fn accepts(
    world: &mut World,
    framework: FrameworkId,
    agent: AgentId,
    (call, launches): (u64, Vec<TaskSpec>),
) -> bool {
    let offer = world.offer(framework, agent, "cpus:1");
    let call = Call {
        framework,
        session: offer.session,
        number: call,
        lowest_unanswered: call,
        hash: call,
        action: CallAction::Accept(Accept {
            offers: vec![offer],
            operations: vec![OfferOperation::Launch(launches)],
            all_or_nothing: true,
            wall_ms: 0,
        }),
    };
    let entry = LogEntry {
        at: world.now,
        commands: vec![ProposedCommand {
            ticket: world.ticket(),
            actor: Actor::default(),
            command: Command::Call(call),
        }],
    };
    // Not through the world, which checks all records after each step.
    let registry = &mut world.registry;
    let before = registry.tasks().len();
    registry.apply(registry.applied() + 1, &entry);
    registry.take_changes();
    registry.tasks().len() == before + TASKS
}

/// Fills a registry with tasks that two frameworks launch. Returns the estimated bytes and the
/// resident bytes.
fn filled(name: &str, task: impl Fn(String) -> TaskSpec) -> (u64, u64) {
    let before = resident();
    let mut world = World::new();
    for framework in ["one", "two"] {
        let framework = world.subscribe(framework);
        let agent = world.register("cpus:100000");
        let mut call = 1;
        loop {
            let tasks = (0..TASKS).map(|at| task(format!("task-{call}-{at}")));
            let tasks = tasks.collect();
            if !accepts(&mut world, framework, agent, (call, tasks)) {
                break;
            }
            call += 1;
        }
    }
    let (bytes, tasks) = counted(&world);
    let grown = resident().saturating_sub(before);
    eprintln!(
        "{name:>6}: {tasks} tasks, {} MiB estimated, {} MiB resident",
        bytes >> 20,
        grown >> 20
    );
    (bytes, grown)
}

#[test]
fn a_full_registry_uses_at_most_twice_its_bound_of_memory() {
    if std::env::var_os("ARGOSY_LONG").is_none() {
        return;
    }
    let large = |name: String| {
        let mut task = spec(&name, "cpus:0.001");
        let value = "x".repeat(limits::ARGUMENT_BYTES - 10);
        let variables = ["A", "B", "C"].map(|name| (name.to_owned(), value.clone()));
        task.environment.extend(variables);
        task
    };
    let plain = |name: String| spec(&name, "cpus:0.001");
    for (bytes, resident) in [filled("large", large), filled("plain", plain)] {
        // The whole last accept was refused.
        assert!(bytes > limits::TASK_BYTES * 8 / 10, "{bytes} bytes");
        assert!(
            resident < 2 * limits::TASK_BYTES,
            "{resident} resident bytes for {bytes}"
        );
    }
}
