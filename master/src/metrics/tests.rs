//! Tests that the published metrics are those of the registry.

use std::collections::BTreeMap;

use argosy_raft::{LogProgress, RaftStatus};
use argosy_state::Registry;
use argosy_state::command::OperatorOperation;
use argosy_state::ids::Role;
use argosy_state::limits;
use argosy_state::task::TaskState;
use argosy_state::testing::World;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::links::Outbox;

/// Returns the registry's metrics in `/metrics`: by name without `argosy_registry_`, and by kind.
fn shown(registry: &Registry) -> BTreeMap<(String, String), u64> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let counts = OwnerCounts::of(&OwnerState {
        registry,
        leader: None,
        status: &RaftStatus::default(),
        progress: &LogProgress::default(),
        links: &Outbox::default(),
    });
    metrics::with_local_recorder(&recorder, || counts.export());
    let text = recorder.handle().render();
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("argosy_registry_")?.split_once('{')?;
        let (kind, value) = rest.strip_prefix("kind=\"")?.split_once("\"} ")?;
        let value: u64 = value.parse().unwrap();
        Some(((name.to_owned(), kind.to_owned()), value))
    });
    lines.collect()
}

fn of(all: &BTreeMap<(String, String), u64>, name: &str, kind: &str) -> Option<u64> {
    all.get(&(name.to_owned(), kind.to_owned())).copied()
}

#[test]
fn registry_metrics_match_the_contents_of_the_registry() {
    let mut world = World::new();
    let empty = shown(&world.registry);
    let agent = world.register("cpus:8");
    world.register("cpus:8");
    let framework = world.subscribe("one");
    let tasks = ["a", "b", "c"].map(|name| world.launch(framework, agent, name, "cpus:1"));
    let end = |world: &mut World, key| {
        world.update(key, TaskState::Finished);
        world.acknowledge(key);
    };
    end(&mut world, &tasks[0]);
    let role = Role::new("ops").unwrap();
    let weight_milli = 2_000;
    let set = OperatorOperation::SetWeight { role, weight_milli };
    world.operate(set).unwrap();
    let full = shown(&world.registry);
    for (kind, before, after) in [
        ("tasks", 0, 2),
        ("finished_tasks", 0, 1),
        ("frameworks", 0, 1),
        ("finished_frameworks", 0, 0),
        ("agents", 0, 2),
        ("weights", 0, 1),
    ] {
        assert_eq!(of(&empty, "records", kind), Some(before), "{kind}");
        assert_eq!(of(&full, "records", kind), Some(after), "{kind}");
    }
    let usage = world.registry.usage().into_iter();
    for answers in usage.filter(|usage| usage.kind.ends_with("answers")) {
        assert_eq!(of(&full, "records", answers.kind), Some(answers.records));
    }
    for kind in ["tasks", "finished_tasks", "frameworks", "agents"] {
        assert_eq!(of(&empty, "bytes", kind), Some(0), "{kind}");
        // Each takes a kilobyte at least.
        let records = of(&full, "records", kind).unwrap();
        assert!(of(&full, "bytes", kind) >= Some(1_024 * records), "{kind}");
    }
    for key in &tasks[1..] {
        end(&mut world, key);
    }
    let ended = shown(&world.registry);
    assert_eq!(of(&ended, "records", "tasks"), Some(0));
    assert_eq!(of(&ended, "bytes", "tasks"), Some(0));
    assert_eq!(of(&ended, "records", "finished_tasks"), Some(3));
}

#[test]
fn registry_metrics_include_every_bound() {
    let shown = shown(&World::new().registry);
    for (kind, records, bytes) in [
        ("tasks", None, Some(limits::TASK_BYTES)),
        (
            "finished_tasks",
            Some(limits::FINISHED_TASKS),
            Some(limits::FINISHED_TASK_BYTES),
        ),
        (
            "frameworks",
            Some(limits::FRAMEWORKS),
            Some(limits::FRAMEWORK_BYTES),
        ),
        (
            "finished_frameworks",
            Some(limits::FINISHED_FRAMEWORKS),
            None,
        ),
        ("agents", Some(limits::AGENTS), Some(limits::AGENT_BYTES)),
        ("weights", Some(limits::WEIGHTS), None),
        ("answers", Some(limits::ANSWERS), None),
        (
            "operator_answers",
            Some(limits::OPERATOR_ANSWERS),
            Some(limits::OPERATOR_ANSWER_BYTES),
        ),
    ] {
        let records = records.map(|records| records as u64);
        assert_eq!(of(&shown, "records_limit", kind), records, "{kind}");
        assert_eq!(of(&shown, "bytes_limit", kind), bytes, "{kind}");
    }
}
