//! Damages of the history: finished tasks and removed frameworks.

use super::{Damage, task};
use crate::Registry;
use crate::framework::FinishedFramework;
use crate::ids::FrameworkId;
use crate::limits;
use crate::task::{FinishedTask, TaskState};
use crate::testing::key;

fn first_task(registry: &Registry) -> FinishedTask {
    let (_, first) = registry.finished_tasks.first_key_value().unwrap();
    first.clone()
}

fn first_framework(registry: &Registry) -> FinishedFramework {
    let (_, first) = registry.finished_frameworks.first_key_value().unwrap();
    first.clone()
}

/// Sets the number of tasks in the history.
fn finish_tasks(registry: &mut Registry, count: usize) {
    let first = first_task(registry);
    for at in registry.finished_tasks.len()..count {
        let mut finished = first.clone();
        finished.task.key = key(FrameworkId(2), &format!("old-{at}"));
        let serial = registry.next_finished();
        registry.finished_tasks.insert(serial, finished);
    }
}

/// Sets the number of frameworks in the history.
fn finish_frameworks(registry: &mut Registry, count: usize) {
    let first = first_framework(registry);
    for _ in registry.finished_frameworks.len()..count {
        let serial = registry.next_finished();
        registry.finished_frameworks.insert(serial, first.clone());
    }
}

pub(super) const DAMAGES: &[Damage] = &[
    ("the history: it is bounded", |registry| {
        finish_tasks(registry, limits::FINISHED_TASKS + 1);
    }),
    ("the history: it is bounded", |registry| {
        finish_frameworks(registry, limits::FINISHED_FRAMEWORKS + 1);
    }),
    ("the history: its serials were assigned", |registry| {
        let finished = first_task(registry);
        let serial = registry.cluster.last_finished + 1;
        registry.finished_tasks.insert(serial, finished);
    }),
    ("the history: its serials were assigned", |registry| {
        let finished = first_framework(registry);
        let serial = registry.cluster.last_finished + 1;
        registry.finished_frameworks.insert(serial, finished);
    }),
    (
        "framework-1/pod-2: only ended and acknowledged tasks are history",
        |registry| {
            let finished = registry.finished_tasks.first_mut().unwrap();
            finished.task.state = TaskState::Running;
        },
    ),
    (
        "framework-1/pod-2: only ended and acknowledged tasks are history",
        |registry| {
            let task = &mut registry.finished_tasks.first_mut().unwrap().task;
            task.unacknowledged = vec![task.latest.clone()];
        },
    ),
    (
        "framework-1/ending: a task in the history is not live",
        |registry| {
            let live = task(registry, "ending").key.clone();
            registry.finished_tasks.first_mut().unwrap().task.key = live;
        },
    ),
    (
        "framework-1: a removed framework never returns",
        |registry| {
            registry.finished_frameworks.first_mut().unwrap().id = FrameworkId(1);
        },
    ),
];

pub(super) const BOUNDS: &[Damage] = &[
    ("it is bounded", |registry| {
        finish_tasks(registry, limits::FINISHED_TASKS);
        finish_frameworks(registry, limits::FINISHED_FRAMEWORKS);
    }),
    ("its serials were assigned", |registry| {
        // The newest one may have been dropped.
        let dropped = registry.finished_tasks.last_key_value().unwrap();
        let (serial, key) = (*dropped.0, dropped.1.task.key.clone());
        registry.finished_tasks.remove(&serial);
        registry.transitions.remove(&key);
    }),
];
