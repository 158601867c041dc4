//! Damages of a valid registry. For each rule, the check detects at least one damage that violates
//! it.

mod access;
mod agents;
mod busy;
mod cluster;
mod completeness;
mod frameworks;
mod groups;
mod history;
mod indexes;
mod tasks;
mod updates;

use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) use busy::busy;

use super::{CheckRound, InvariantViolation};
use crate::Registry;
use crate::agent::Agent;
use crate::framework::{Framework, FrameworkInfo};
use crate::ids::{AgentId, FrameworkId, Level, Revision, TaskKey, Timestamp};
use crate::registry::Layout;
use crate::task::{Task, TaskSpec};

/// A change of a registry that `apply` never makes.
pub(super) type Change = fn(&mut Registry);
type Check = fn(&Registry) -> Result<(), InvariantViolation>;
/// A violation as [`reported`] writes it, and a change that causes it.
pub(super) type Damage = (&'static str, Change);

/// The outcome of a check that finds no violation.
const VALID: &str = "no violation";

/// The damages that [`Registry::check`] finds.
const DAMAGES: [&[Damage]; 9] = [
    cluster::DAMAGES,
    agents::DAMAGES,
    frameworks::DAMAGES,
    tasks::DAMAGES,
    updates::DAMAGES,
    history::DAMAGES,
    access::DAMAGES,
    indexes::DAMAGES,
    groups::DAMAGES,
];

/// Changes after which the registry is valid again once its indexes are rebuilt, each at a bound of
/// the rule that it names.
const BOUNDS: [&[Damage]; 8] = [
    cluster::BOUNDS,
    agents::BOUNDS,
    frameworks::BOUNDS,
    tasks::BOUNDS,
    updates::BOUNDS,
    history::BOUNDS,
    access::BOUNDS,
    groups::BOUNDS,
];

/// The damages that a round of slices does not find: those of sums over all records, and of records
/// that only [`Registry::check`] reads.
const ONLY_AS_A_WHOLE: [&str; 18] = [
    "access: its policy is valid and can be replaced",
    "agent-1: no two orders share a number",
    "framework-1/pod: it was launched as a whole",
    "framework-1/unknown: transitions are those of a task",
    "framework-1/web: only tasks with transitions have a list",
    "index: answers by principal",
    "index: bound agents",
    "index: bytes",
    "index: live tasks",
    "index: modes",
    "index: principals",
    "index: roles",
    "index: states",
    "index: totals",
    "index: unacknowledged updates",
    "index: usage",
    "index: what tasks use, which cannot be added up",
    "operator/alice: its limit is valid",
];

/// Returns a violation as `SUBJECT: RULE`. The other kinds of violations begin with their kind.
pub(super) fn reported(violation: &InvariantViolation) -> String {
    match violation {
        InvariantViolation::Index(part) => format!("index: {part}"),
        InvariantViolation::Overlap { agent, task } => format!("overlap: {agent}, {task}"),
        InvariantViolation::Usage { agent, .. } => format!("usage: {agent}"),
        InvariantViolation::Record { what, rule } => format!("{what}: {rule}"),
    }
}

/// Returns what `check` reports about a registry.
fn outcome(registry: &Registry, check: Check) -> String {
    match check(registry) {
        Ok(()) => VALID.to_owned(),
        Err(violation) => reported(&violation),
    }
}

/// Returns the base registry after a change.
fn changed(valid: &Registry, change: Change) -> Registry {
    let mut registry = valid.clone();
    change(&mut registry);
    registry
}

/// Fails unless `check` reports exactly the violation of each damage.
pub(super) fn assert_found<'a>(damages: impl IntoIterator<Item = &'a Damage>, check: Check) {
    let valid = busy().registry;
    let mut wrong = Vec::new();
    for (at, (expected, damage)) in damages.into_iter().enumerate() {
        let found = outcome(&changed(&valid, *damage), check);
        if found != *expected {
            wrong.push(format!("damage {at}: {expected:?} expected, but {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Checks all slices of a round.
pub(super) fn check_round(registry: &Registry) -> Result<(), InvariantViolation> {
    let mut round = CheckRound::default();
    while !registry.check_slice(&mut round, 10)?.is_last {}
    Ok(())
}

/// Rebuilds the indexes, so that they agree with damaged records.
pub(super) fn reindex(registry: &mut Registry) {
    registry.index = registry.indexes().unwrap();
}

fn agent(registry: &mut Registry, number: u64) -> &mut Agent {
    registry.agents.get_mut(&AgentId(number)).unwrap()
}

fn framework(registry: &mut Registry, number: u64) -> &mut Framework {
    registry.frameworks.get_mut(&FrameworkId(number)).unwrap()
}

fn info(registry: &mut Registry, number: u64) -> &mut FrameworkInfo {
    Arc::make_mut(&mut framework(registry, number).info)
}

/// Returns the key of the task with this id, whose framework may be any one.
pub(super) fn key_of(registry: &Registry, name: &str) -> TaskKey {
    let mut keys = registry.transitions.keys();
    let found = keys.find(|key| key.task.as_str() == name);
    found.expect("a framework has such a task").clone()
}

fn task<'a>(registry: &'a mut Registry, name: &str) -> &'a mut Task {
    let key = key_of(registry, name);
    registry.tasks.get_mut(&key).unwrap()
}

fn spec<'a>(registry: &'a mut Registry, name: &str) -> &'a mut TaskSpec {
    Arc::make_mut(&mut task(registry, name).spec)
}

/// Returns the newest possible revision.
fn newest(registry: &Registry) -> Revision {
    Revision {
        index: registry.applied,
        position: u32::MAX,
    }
}

/// Returns a revision that is not applied yet.
fn future(registry: &Registry) -> Revision {
    Revision {
        index: registry.applied + 1,
        position: 0,
    }
}

/// Returns a time after the present one.
fn future_time(registry: &Registry) -> Timestamp {
    registry.time.plus_ms(1)
}

/// Reduces the agents to the facts that release 0.1.0 stores.
fn reduce_agents(registry: &mut Registry) {
    for number in 1..=5 {
        agent(registry, number).reduce_to_0_1_0();
    }
}

/// Makes the level and the agents those of release 0.1. Transitions and facts of access remain.
fn lower_level(registry: &mut Registry) {
    registry.cluster.level = Level::RELEASE_0_1;
    registry.cluster.layout = Layout::Whole;
    reduce_agents(registry);
}

#[test]
fn every_damage_is_found() {
    assert_found(DAMAGES.into_iter().flatten(), Registry::check);
}

#[test]
fn a_registry_at_a_bound_is_valid() {
    let valid = busy().registry;
    let mut wrong = Vec::new();
    for (rule, change) in BOUNDS.into_iter().flatten() {
        let mut registry = changed(&valid, *change);
        reindex(&mut registry);
        let found = [Registry::check, check_round].map(|check| outcome(&registry, check));
        if found != [VALID; 2] {
            wrong.push(format!("{rule:?}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_round_of_slices_finds_all_other_damages() {
    let valid = busy().registry;
    let damages = DAMAGES.into_iter().flatten();
    let missed = damages.filter(|(_, damage)| check_round(&changed(&valid, *damage)).is_ok());
    let missed: BTreeSet<&str> = missed.map(|(expected, _)| *expected).collect();
    assert_eq!(missed, BTreeSet::from(ONLY_AS_A_WHOLE));
}
