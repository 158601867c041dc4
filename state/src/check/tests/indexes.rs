//! Damages of the indexes.

use std::sync::Arc;

use super::{Damage, agent, assert_found, reindex, task};
use crate::Registry;
use crate::ids::Role;
use crate::registry::DeadlineKind;
use crate::resources::{Resource, ResourceIdentity, Resources, Value};
use crate::subject::Subject;

pub(super) const DAMAGES: &[Damage] = &[
    (
        "index: what tasks use, which cannot be added up",
        |registry| {
            let most = Resource {
                identity: ResourceIdentity::plain("cpus"),
                value: Value::Scalar(i64::MAX),
            };
            for number in [1, 2] {
                let info = &mut Arc::make_mut(&mut agent(registry, number).report).info;
                info.resources = Resources::from_normal(vec![most.clone()]).unwrap();
            }
        },
    ),
    ("index: agents", |registry| {
        registry.index.agents.first_mut().unwrap().live += 1;
    }),
    ("index: frameworks", |registry| {
        registry.index.frameworks.first_mut().unwrap().answers += 1;
    }),
    ("index: roles", |registry| {
        registry.index.roles.first_mut().unwrap().own = Resources::none();
    }),
    ("index: modes", |registry| registry.index.modes.clear()),
    ("index: nonces", |registry| registry.index.nonces.clear()),
    ("index: bound agents", |registry| {
        registry.index.bound.clear()
    }),
    ("index: sessions", |registry| {
        registry.index.sessions.clear()
    }),
    ("index: deadlines", |registry| {
        let agent = registry.agents().next().unwrap();
        let (at, subject) = (agent.mode_since(), Subject::Agent(agent.id));
        let deadlines = &mut registry.index.deadlines;
        deadlines.damage(DeadlineKind::Lost, at, subject);
    }),
    ("index: finished tasks", |registry| {
        registry.index.history.by_key.clear();
    }),
    ("index: principals", |registry| {
        registry.index.principals.clear();
    }),
    ("index: answers by principal", |registry| {
        registry.index.answers_by_principal.clear();
    }),
    ("index: bytes", |registry| registry.index.bytes.tasks += 1),
    ("index: totals", |registry| {
        registry.index.total = Resources::none();
    }),
    ("index: usage", |registry| {
        registry.index.used = Resources::none();
    }),
    ("index: live tasks", |registry| {
        registry.index.live_tasks += 1
    }),
    ("index: states", |registry| registry.index.states.clear()),
    ("index: unacknowledged updates", |registry| {
        registry.index.unacknowledged += 1;
    }),
    ("agent-1: no two orders share a number", |registry| {
        let shared = task(registry, "resized").limits_change.as_ref();
        let shared = shared.unwrap().order;
        task(registry, "dying").kill.as_mut().unwrap().order = shared;
        reindex(registry);
    }),
    ("the agents: no two agents share a nonce", |registry| {
        agent(registry, 2).nonce = agent(registry, 1).nonce;
        reindex(registry);
    }),
];

/// Damages of the usage of roles, which [`Registry::check`] finds first by comparing the index with
/// the records. These rules would detect a defect that both share.
pub(super) const ROLE_DAMAGES: &[Damage] = &[
    (
        "eng: a role counts the usage of its descendants",
        |registry| {
            let eng = Role::new("eng").unwrap();
            let used = registry.index.roles.get_mut(&eng).unwrap();
            used.descendants = Resources::none();
        },
    ),
    (
        "eng/web: a role counts the usage of its descendants",
        |registry| {
            let web = Role::new("eng/web").unwrap();
            let used = registry.index.roles.get_mut(&web).unwrap();
            used.descendants = used.own.clone();
        },
    ),
    ("the roles: each ancestor is counted", |registry| {
        let eng = Role::new("eng").unwrap();
        registry.index.roles.remove(&eng);
    }),
];

#[test]
fn a_wrong_sum_of_a_role_is_found() {
    assert_found(ROLE_DAMAGES, Registry::check_roles);
}
