//! Damages of tasks: their references, orders, states and revisions.

use super::{Damage, agent, future, newest, spec, task};
use crate::Registry;
use crate::agent::{Administration, Reachability};
use crate::command::SweepTarget;
use crate::ids::{AgentId, FrameworkId, OrderIndex, TaskId};
use crate::registry::SweepMark;
use crate::task::TaskState;

/// Returns the number that the next order of `agent-1` has.
fn next_order(registry: &mut Registry) -> OrderIndex {
    OrderIndex(agent(registry, 1).orders.0 + 1)
}

/// Counts another order of `agent-1`, and returns its number.
fn give_order(registry: &mut Registry) -> OrderIndex {
    let order = next_order(registry);
    agent(registry, 1).orders = order;
    order
}

fn make_gone(registry: &mut Registry) {
    agent(registry, 2).admin.administration = Administration::Gone;
}

fn make_unreachable(registry: &mut Registry) {
    let since = registry.time;
    agent(registry, 2).reachability = Reachability::Unreachable { since };
}

fn sweep(registry: &mut Registry, target: SweepTarget) {
    registry.cluster.sweeps.insert(target, SweepMark::default());
}

pub(super) const DAMAGES: &[Damage] = &[
    ("framework-1/web: its agent is known", |registry| {
        task(registry, "web").agent = AgentId(99);
    }),
    ("framework-3/job: its framework is known", |registry| {
        registry.frameworks.remove(&FrameworkId(3));
    }),
    ("framework-1/web: its launch was ordered", |registry| {
        task(registry, "web").order = OrderIndex(0);
    }),
    ("framework-1/web: its launch was ordered", |registry| {
        task(registry, "web").order = next_order(registry);
    }),
    (
        "framework-1/dying: its kill was ordered after its launch",
        |registry| {
            let task = task(registry, "dying");
            task.kill.as_mut().unwrap().order = task.order;
        },
    ),
    (
        "framework-1/dying: its kill was ordered after its launch",
        |registry| {
            let order = next_order(registry);
            task(registry, "dying").kill.as_mut().unwrap().order = order;
        },
    ),
    (
        "framework-1/resized: its limits were changed by an order after its launch",
        |registry| {
            let task = task(registry, "resized");
            task.limits_change.as_mut().unwrap().order = task.order;
        },
    ),
    (
        "framework-1/resized: its limits were changed by an order after its launch",
        |registry| {
            let order = next_order(registry);
            let task = task(registry, "resized");
            task.limits_change.as_mut().unwrap().order = order;
        },
    ),
    ("framework-1/web: its description names it", |registry| {
        spec(registry, "web").task = TaskId::new("other").unwrap();
    }),
    ("framework-1/web: its state is known", |registry| {
        task(registry, "web").state = TaskState::Unknown;
    }),
    (
        "framework-1/web: its newest update has its state",
        |registry| {
            task(registry, "web").latest.state = TaskState::Starting;
        },
    ),
    (
        "framework-1/web: its state is that of its agent, unless a master has set it",
        |registry| task(registry, "web").agent_state = TaskState::Starting,
    ),
    (
        "framework-1/web: its newest update has the results of its checks",
        |registry| task(registry, "web").standing.healthy = Some(true),
    ),
    ("framework-1/web: its revisions ascend", |registry| {
        let task = task(registry, "web");
        task.latest.revision = task.revision;
        task.latest.revision.position += 1;
    }),
    ("framework-1/web: its revisions ascend", |registry| {
        task(registry, "web").revision = future(registry);
    }),
    (
        "framework-2/task-1: no task is live on a gone agent",
        make_gone,
    ),
    (
        "framework-2/task-1: a task on an unreachable agent is UNREACHABLE",
        make_unreachable,
    ),
];

pub(super) const BOUNDS: &[Damage] = &[
    ("its launch was ordered", |registry| {
        let order = give_order(registry);
        task(registry, "web").order = order;
    }),
    ("its kill was ordered after its launch", |registry| {
        let order = give_order(registry);
        task(registry, "dying").kill.as_mut().unwrap().order = order;
    }),
    ("its kill was ordered after its launch", |registry| {
        let order = give_order(registry);
        task(registry, "dying").order = order;
        let next = give_order(registry);
        task(registry, "dying").kill.as_mut().unwrap().order = next;
    }),
    (
        "its limits were changed by an order after its launch",
        |registry| {
            let order = give_order(registry);
            let task = task(registry, "resized");
            task.limits_change.as_mut().unwrap().order = order;
        },
    ),
    (
        "its newest update has the results of its checks",
        |registry| task(registry, "away").standing.healthy = Some(true),
    ),
    ("its revisions ascend", |registry| {
        task(registry, "web").revision = newest(registry);
    }),
    ("no task is live on a gone agent", |registry| {
        make_gone(registry);
        sweep(registry, SweepTarget::Agent(AgentId(2)));
    }),
    ("no task is live on a gone agent", |registry| {
        make_gone(registry);
        sweep(registry, SweepTarget::PrunedAgent(AgentId(2)));
    }),
    (
        "a task on an unreachable agent is UNREACHABLE",
        |registry| {
            make_unreachable(registry);
            sweep(registry, SweepTarget::Agent(AgentId(2)));
        },
    ),
];
