//! Damages of the updates and transitions of tasks.

use super::{Damage, key_of, lower_level, reindex, spec, task};
use crate::Registry;
use crate::ids::{FrameworkId, Revision};
use crate::limits;
use crate::task::{TaskState, TaskTransition};
use crate::testing::key;

/// Sets the number of transitions of a task. The newest one is unchanged.
fn set_transitions(registry: &mut Registry, name: &str, count: usize) {
    let all = transitions(registry, name);
    let (_, newest) = *all.last().unwrap();
    let numbers = 1..=u32::try_from(count).unwrap();
    let former = numbers.map(|position| {
        let transition = TaskTransition {
            revision: Revision { index: 0, position },
            state: TaskState::Running,
            ..newest
        };
        (position, transition)
    });
    *all = former.collect();
    all.last_mut().unwrap().1 = newest;
}

fn transitions<'a>(registry: &'a mut Registry, name: &str) -> &'a mut Vec<(u32, TaskTransition)> {
    let key = key_of(registry, name);
    registry.transitions.get_mut(&key).unwrap()
}

pub(super) const DAMAGES: &[Damage] = &[
    (
        "framework-1/web: only an unreachable task with stop_after_ms has stopped itself",
        |registry| {
            spec(registry, "web").stop_after_ms = 1;
            task(registry, "web").latest.stopped = true;
        },
    ),
    (
        "framework-2/away: only an unreachable task with stop_after_ms has stopped itself",
        |registry| task(registry, "away").latest.stopped = true,
    ),
    (
        "framework-1/ending: only an unreachable task with stop_after_ms has stopped itself",
        |registry| task(registry, "ending").unacknowledged[0].stopped = true,
    ),
    (
        "framework-1/dying: below level 3 no transitions are kept",
        lower_level,
    ),
    ("framework-1/web: its transitions are bounded", |registry| {
        set_transitions(registry, "web", limits::TRANSITIONS + 1);
    }),
    (
        "framework-1/ending: its transitions are bounded",
        |registry| {
            set_transitions(registry, "ending", limits::ENDED_TRANSITIONS + 1);
        },
    ),
    (
        "framework-2/task-0: its transitions are bounded",
        |registry| {
            set_transitions(registry, "task-0", limits::ENDED_TRANSITIONS + 1);
        },
    ),
    ("framework-1/web: its transitions ascend", |registry| {
        let all = transitions(registry, "web");
        all[1].0 = all[0].0;
    }),
    ("framework-1/web: its transitions ascend", |registry| {
        let all = transitions(registry, "web");
        all[0].1.revision = all[1].1.revision;
    }),
    (
        "framework-1/web: its newest transition led to its state",
        |registry| {
            transitions(registry, "web").pop();
        },
    ),
    (
        "framework-1/web: its newest transition led to its state",
        |registry| {
            let newest = task(registry, "web").latest.revision;
            let (_, last) = transitions(registry, "web").last_mut().unwrap();
            last.revision = newest;
            last.revision.position += 1;
        },
    ),
    (
        "framework-1/web: no transition follows its end",
        |registry| {
            transitions(registry, "web")[0].1.state = TaskState::Finished;
        },
    ),
    (
        "framework-1/unknown: transitions are those of a task",
        |registry| {
            let all = transitions(registry, "web").clone();
            let unknown = key(FrameworkId(1), "unknown");
            registry.transitions.insert(unknown, all);
        },
    ),
    (
        "framework-1/web: only tasks with transitions have a list",
        |registry| {
            transitions(registry, "web").clear();
            reindex(registry);
        },
    ),
    ("framework-1/ending: its updates ascend", |registry| {
        let updates = &mut task(registry, "ending").unacknowledged;
        updates[0].revision = updates[1].revision;
    }),
    (
        "framework-1/web: at most one update of each kind is unacknowledged",
        |registry| {
            let task = task(registry, "web");
            let mut former = task.latest.clone();
            former.revision = Revision::default();
            task.unacknowledged = vec![former, task.latest.clone()];
        },
    ),
    (
        "framework-1/ending: at most one update of each kind is unacknowledged",
        |registry| {
            let task = task(registry, "ending");
            let mut former = task.latest.clone();
            former.revision = Revision::default();
            task.unacknowledged = vec![former, task.latest.clone()];
        },
    ),
    (
        "framework-1/web: its newest unacknowledged update is its newest one",
        |registry| {
            let updates = &mut task(registry, "web").unacknowledged;
            updates.last_mut().unwrap().message.push('x');
        },
    ),
    (
        "framework-1/ending: an ended and acknowledged task is history",
        |registry| task(registry, "ending").unacknowledged.clear(),
    ),
];

pub(super) const BOUNDS: &[Damage] = &[
    ("its transitions are bounded", |registry| {
        set_transitions(registry, "web", limits::TRANSITIONS);
        set_transitions(registry, "ending", limits::ENDED_TRANSITIONS);
        set_transitions(registry, "task-0", limits::ENDED_TRANSITIONS);
    }),
    ("its newest transition led to its state", |registry| {
        // A later update of the same state adds no transition.
        let task = task(registry, "quiet");
        task.revision.position += 1;
        task.latest.revision = task.revision;
    }),
    ("an ended and acknowledged task is history", |registry| {
        task(registry, "web").unacknowledged.clear();
    }),
];
