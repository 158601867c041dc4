//! Damages of task groups.

use super::{Damage, agent, key_of, reindex, spec, task};
use crate::Registry;
use crate::ids::{AgentId, OrderIndex, Role};
use crate::task::TaskGroup;

fn group<'a>(registry: &'a mut Registry, name: &str) -> &'a mut TaskGroup {
    spec(registry, name).group.as_mut().unwrap()
}

/// Removes a task of a group, which is in neither the registry nor the history then.
fn remove_task(registry: &mut Registry) {
    let key = key_of(registry, "pod-1");
    registry.tasks.remove(&key);
    registry.transitions.remove(&key);
}

pub(super) const DAMAGES: &[Damage] = &[
    (
        "framework-1/pod: each of its tasks has a place in it",
        |registry| {
            group(registry, "pod-1").place = 3;
            reindex(registry);
        },
    ),
    (
        "framework-1/full: each of its tasks has a place in it",
        |registry| {
            group(registry, "full-0").size = 17;
            reindex(registry);
        },
    ),
    (
        "framework-1/pod: no two of its tasks have the same place",
        |registry| {
            group(registry, "pod-1").place = 0;
            reindex(registry);
        },
    ),
    (
        "framework-1/pod: its tasks are on one agent, by consecutive orders",
        |registry| {
            let agent = agent(registry, 1);
            agent.orders.0 += 1;
            let order = agent.orders;
            task(registry, "pod-1").order = order;
            reindex(registry);
        },
    ),
    (
        "framework-1/pod: its tasks are on one agent, by consecutive orders",
        |registry| {
            agent(registry, 5).orders = OrderIndex(1 << 20);
            task(registry, "pod-1").agent = AgentId(5);
            reindex(registry);
        },
    ),
    (
        "framework-1/pod: its tasks agree on size and role",
        |registry| {
            group(registry, "pod-1").size = 4;
            reindex(registry);
        },
    ),
    (
        "framework-1/pod: its tasks agree on size and role",
        |registry| {
            task(registry, "pod-1").role = Role::new("eng").unwrap();
            reindex(registry);
        },
    ),
    ("framework-1/pod: it was launched as a whole", |registry| {
        remove_task(registry);
        reindex(registry);
    }),
    ("framework-1/pod: it was launched as a whole", |registry| {
        let (_, first) = registry.finished_tasks.first_key_value().unwrap();
        let first = first.clone();
        let serial = registry.next_finished();
        registry.finished_tasks.insert(serial, first);
        reindex(registry);
    }),
];

pub(super) const BOUNDS: &[Damage] = &[("it was launched as a whole", |registry| {
    remove_task(registry);
    // The history has dropped a task, which may be this one.
    registry.next_finished();
})];
