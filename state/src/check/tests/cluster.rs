//! Damages of the cluster's record and of sweeps.

use super::{Damage, lower_level};
use crate::Registry;
use crate::command::SweepTarget;
use crate::ids::{AgentId, Epoch, FrameworkId, Level};
use crate::limits;
use crate::registry::{Layout, OperatorAnswer, SweepMark};

fn sweep(registry: &mut Registry, target: SweepTarget) {
    registry.cluster.sweeps.insert(target, SweepMark::default());
}

/// Sets the number of answers to operators.
fn answer_operators(registry: &mut Registry, count: usize) {
    let (_, answer) = registry.operator_answers.first_key_value().unwrap();
    let answer: OperatorAnswer = answer.clone();
    for at in registry.operator_answers.len()..count {
        let name = ("operator/bob".to_owned(), at.to_string());
        registry.operator_answers.insert(name, answer.clone());
    }
}

pub(super) const DAMAGES: &[Damage] = &[
    ("the cluster: its epoch began in the past", |registry| {
        registry.cluster.epoch = Epoch(registry.applied + 1);
    }),
    (
        "the cluster: its records are laid out as its level has them",
        |registry| registry.cluster.layout = Layout::Whole,
    ),
    (
        "the cluster: its records are laid out as its level has them",
        |registry| registry.cluster.level = Level::RELEASE_0_1,
    ),
    (
        "the cluster: answers to operators are bounded",
        |registry| {
            answer_operators(registry, limits::OPERATOR_ANSWERS + 1);
        },
    ),
    (
        "agent-1: only unreachable or gone agents are swept",
        |registry| sweep(registry, SweepTarget::Agent(AgentId(1))),
    ),
    (
        "agent-99: only unreachable or gone agents are swept",
        |registry| sweep(registry, SweepTarget::Agent(AgentId(99))),
    ),
    (
        "agent-3: an agent that is removed is gone first",
        |registry| {
            sweep(registry, SweepTarget::PrunedAgent(AgentId(3)));
        },
    ),
    (
        "agent-99: an agent that is removed is gone first",
        |registry| sweep(registry, SweepTarget::PrunedAgent(AgentId(99))),
    ),
    ("a sweep: the layout holds its own progress", |registry| {
        sweep(registry, SweepTarget::Layout);
    }),
    ("framework-99: only live frameworks are swept", |registry| {
        sweep(registry, SweepTarget::Framework(FrameworkId(99)));
    }),
];

pub(super) const BOUNDS: &[Damage] = &[
    ("the cluster: its epoch began in the past", |registry| {
        registry.cluster.epoch = Epoch(registry.applied);
    }),
    (
        "the cluster: its records are laid out as its level has them",
        |registry| {
            lower_level(registry);
            registry.transitions = Default::default();
            registry.access = Default::default();
        },
    ),
    (
        "the cluster: answers to operators are bounded",
        |registry| {
            answer_operators(registry, limits::OPERATOR_ANSWERS);
        },
    ),
    ("only unreachable or gone agents are swept", |registry| {
        sweep(registry, SweepTarget::Agent(AgentId(3)));
        sweep(registry, SweepTarget::Agent(AgentId(4)));
    }),
    ("an agent that is removed is gone first", |registry| {
        sweep(registry, SweepTarget::PrunedAgent(AgentId(4)));
    }),
    ("only live frameworks are swept", |registry| {
        sweep(registry, SweepTarget::Framework(FrameworkId(1)));
    }),
];
