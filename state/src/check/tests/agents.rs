//! Damages of agents, and of the usage of their resources.

use std::sync::Arc;

use super::{Damage, agent, future, future_time, newest, reduce_agents, spec, task};
use crate::Registry;
use crate::agent::{Agent, Reachability};
use crate::ids::{AgentId, Epoch, OfferId, Role, Timestamp};
use crate::limits;
use crate::registry::Layout;
use crate::resources::Resources;
use crate::testing::amounts;

/// Fills the window of used offers.
fn use_offers(agent: &mut Agent, count: usize) {
    let floor = agent.used_offers.floor;
    let offers = (1..=count as u64).map(|serial| OfferId {
        epoch: Epoch(floor.epoch.0 + 1),
        serial,
    });
    agent.used_offers.ids = offers.collect();
}

/// Changes the layout to one in which the agents up to this one have several records.
fn split_agents(registry: &mut Registry, after: u64) {
    reduce_agents(registry);
    let after = AgentId(after);
    registry.cluster.layout = Layout::Agents { after };
}

/// Gives the executors of tasks a port.
fn set_ports(registry: &mut Registry, names: &[&str]) {
    for name in names {
        let executor = spec(registry, name).executor.as_mut().unwrap();
        executor.resources = amounts("ports:[31000-31000]");
    }
}

pub(super) const DAMAGES: &[Damage] = &[
    ("agent-5: its id was assigned", |registry| {
        registry.cluster.last_agent -= 1;
    }),
    ("agent-1: its mode began in the past", |registry| {
        agent(registry, 1).admin.since = future_time(registry);
    }),
    ("agent-1: its mode began in the past", |registry| {
        let since = future_time(registry);
        agent(registry, 1).reachability = Reachability::Reachable { since };
    }),
    ("agent-1: its revisions are past", |registry| {
        agent(registry, 1).revision = future(registry);
    }),
    ("agent-1: its revisions are past", |registry| {
        let agent = agent(registry, 1);
        agent.offer_revision = agent.revision;
        agent.offer_revision.position += 1;
    }),
    ("agent-1: its revisions are past", |registry| {
        let agent = agent(registry, 1);
        agent.admin.revision = agent.revision;
        agent.admin.revision.position += 1;
    }),
    (
        "agent-1: its administrative state ends after it began",
        |registry| {
            let admin = &mut agent(registry, 1).admin;
            admin.deadline = Some(Timestamp(admin.since.0 - 1));
        },
    ),
    (
        "agent-1: it is registered under an incarnation",
        |registry| {
            Arc::make_mut(&mut agent(registry, 1).report).incarnation = 0;
        },
    ),
    (
        "agent-1: the window of used offers is bounded",
        |registry| {
            use_offers(agent(registry, 1), limits::USED_OFFERS + 1);
        },
    ),
    ("agent-1: used offers lie above the floor", |registry| {
        let used = &mut agent(registry, 1).used_offers;
        used.floor = *used.ids.first().unwrap();
    }),
    (
        "agent-2: its single record holds all its facts",
        |registry| {
            split_agents(registry, 1);
            agent(registry, 2).admin.deadline = Some(Timestamp(1 << 40));
        },
    ),
    (
        "agent-5: its single record holds all its facts",
        |registry| {
            split_agents(registry, 4);
            agent(registry, 5).principal = Some("agent/five".parse().unwrap());
        },
    ),
    ("overlap: agent-1, framework-1/web", |registry| {
        for name in ["quiet", "web"] {
            spec(registry, name).resources = amounts("ports:[31000-31000]");
        }
    }),
    ("overlap: agent-1, framework-1/exec-c", |registry| {
        set_ports(registry, &["exec-a", "exec-b", "exec-c"]);
    }),
    ("usage: agent-1", |registry| {
        let index = registry.index.agents.get_mut(&AgentId(1)).unwrap();
        index.used = Resources::none();
    }),
    ("usage: agent-1", |registry| {
        spec(registry, "web").resources = amounts("cpus:0.5;mem:64");
    }),
    ("usage: agent-5", |registry| {
        registry.index.agents.remove(&AgentId(5));
    }),
    (
        "framework-1/exec-b: tasks of one executor on one agent describe it alike, in one role",
        |registry| {
            let executor = spec(registry, "exec-b").executor.as_mut().unwrap();
            executor.grace_ms += 1;
        },
    ),
    (
        "framework-1/exec-b: tasks of one executor on one agent describe it alike, in one role",
        |registry| task(registry, "exec-b").role = Role::new("eng").unwrap(),
    ),
];

pub(super) const BOUNDS: &[Damage] = &[
    ("its mode began in the past", |registry| {
        let since = registry.time;
        let agent = agent(registry, 1);
        agent.admin.since = since;
        agent.reachability = Reachability::Reachable { since };
    }),
    ("its revisions are past", |registry| {
        let revision = newest(registry);
        let agent = agent(registry, 1);
        agent.revision = revision;
        agent.offer_revision = revision;
        agent.admin.revision = revision;
    }),
    ("its administrative state ends after it began", |registry| {
        let admin = &mut agent(registry, 1).admin;
        admin.deadline = Some(admin.since);
    }),
    ("the window of used offers is bounded", |registry| {
        use_offers(agent(registry, 1), limits::USED_OFFERS);
    }),
    ("used offers lie above the floor", |registry| {
        agent(registry, 1).used_offers.ids.clear();
    }),
    ("its single record holds all its facts", |registry| {
        split_agents(registry, 2);
        agent(registry, 2).admin.deadline = Some(Timestamp(1 << 40));
    }),
    ("its single record holds all its facts", |registry| {
        reduce_agents(registry);
        registry.cluster.layout = Layout::Sweeps { after: None };
    }),
    (
        "tasks of one executor on one agent describe it alike",
        |registry| {
            set_ports(registry, &["exec-a", "exec-b"]);
        },
    ),
];
