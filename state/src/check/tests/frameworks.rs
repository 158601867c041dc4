//! Damages of frameworks and of their answers.

use super::{Damage, framework, future, future_time, info, newest, task};
use crate::Registry;
use crate::command::SweepTarget;
use crate::framework::{AnswerOutcome, CallAnswer, SchedulerConnection};
use crate::ids::{FrameworkId, Revision, Role};
use crate::limits;
use crate::registry::SweepMark;

/// Adds remembered answers of a session, as of `revision`.
fn answer(registry: &mut Registry, number: u64, session: u64, count: usize, revision: Revision) {
    for call in 1..=count as u64 {
        let answer = CallAnswer {
            hash: call,
            revision,
            outcome: AnswerOutcome::Done {
                refused: Vec::new(),
            },
        };
        let key = (FrameworkId(number), session, call);
        registry.answers.insert(key, answer);
    }
}

/// Sets the number of answers of `framework-4`, which has none.
fn answer_calls(registry: &mut Registry, count: usize) {
    let session = framework(registry, 4).session;
    answer(registry, 4, session, count, Revision::default());
}

fn sweep(registry: &mut Registry, number: u64) {
    let target = SweepTarget::Framework(FrameworkId(number));
    registry.cluster.sweeps.insert(target, SweepMark::default());
}

fn disconnect(registry: &mut Registry, number: u64) {
    let since = registry.time;
    framework(registry, number).connection = SchedulerConnection::Disconnected { since };
}

pub(super) const DAMAGES: &[Damage] = &[
    ("framework-7: its id was assigned", |registry| {
        registry.cluster.last_framework -= 1;
    }),
    ("framework-1: its revision is past", |registry| {
        framework(registry, 1).revision = future(registry);
    }),
    ("framework-1: it is in a session", |registry| {
        framework(registry, 1).session = 0;
    }),
    (
        "framework-1: its past sessions are bounded and past",
        |registry| {
            let sessions = 1..=limits::PAST_SESSIONS as u64 + 1;
            framework(registry, 1).past_sessions = sessions.map(|at| at << 32).collect();
        },
    ),
    (
        "framework-1: its past sessions are bounded and past",
        |registry| {
            let framework = framework(registry, 1);
            framework.past_sessions = [1, framework.session, 2].into();
        },
    ),
    (
        "framework-1: it is suppressed only in roles that it has",
        |registry| info(registry, 1).roles.clear(),
    ),
    (
        "framework-2: it is suppressed only in roles that it has",
        |registry| {
            let suppressed = ["eng", "eng/other"].map(|role| Role::new(role).unwrap());
            framework(registry, 2).suppressed = suppressed.into();
        },
    ),
    ("framework-4: it disconnected in the past", |registry| {
        let since = future_time(registry);
        framework(registry, 4).connection = SchedulerConnection::Disconnected { since };
    }),
    (
        "framework-1: its answers are of the current session or the previous one",
        |registry| answer(registry, 1, 999_999, 1, Revision::default()),
    ),
    (
        "framework-7: its answers are of the current session or the previous one",
        |registry| {
            let first = framework(registry, 7).past_sessions[0];
            answer(registry, 7, first, 1, Revision::default());
        },
    ),
    ("framework-4: its answers are past", |registry| {
        let session = framework(registry, 4).session;
        answer(registry, 4, session, 1, future(registry));
    }),
    ("framework-4: its answers are bounded", |registry| {
        answer_calls(registry, limits::ANSWERS_PER_FRAMEWORK + 1);
    }),
    (
        "framework-5: tasks of a removed framework are being killed",
        |registry| task(registry, "last").kill = None,
    ),
    (
        "framework-4: a removed framework ends with its last task",
        |registry| framework(registry, 4).removing = true,
    ),
    (
        "framework-2: its ended tasks are acknowledged",
        |registry| {
            info(registry, 2).detached = true;
        },
    ),
    (
        "framework-4: a detached and disconnected framework ends with its last task",
        |registry| info(registry, 4).detached = true,
    ),
];

pub(super) const BOUNDS: &[Damage] = &[
    ("its revision is past", |registry| {
        framework(registry, 1).revision = newest(registry);
    }),
    ("its past sessions are bounded and past", |registry| {
        let sessions = 1..=limits::PAST_SESSIONS as u64;
        framework(registry, 1).past_sessions = sessions.map(|at| at << 32).collect();
    }),
    ("it is suppressed only in roles that it has", |registry| {
        let roles = info(registry, 2).roles.clone();
        framework(registry, 2).suppressed = roles;
    }),
    ("it disconnected in the past", |registry| {
        disconnect(registry, 4)
    }),
    ("its answers are past", |registry| {
        let session = framework(registry, 4).session;
        answer(registry, 4, session, 1, newest(registry));
    }),
    ("its answers are bounded", |registry| {
        answer_calls(registry, limits::ANSWERS_PER_FRAMEWORK);
    }),
    (
        "tasks of a removed framework are being killed",
        |registry| {
            task(registry, "last").kill = None;
            sweep(registry, 5);
        },
    ),
    ("a removed framework ends with its last task", |registry| {
        framework(registry, 4).removing = true;
        sweep(registry, 4);
    }),
    ("its ended tasks are acknowledged", |registry| {
        info(registry, 2).detached = true;
        sweep(registry, 2);
    }),
    (
        "a detached and disconnected framework ends with its last task",
        |registry| info(registry, 7).detached = true,
    ),
    (
        "a detached and disconnected framework ends with its last task",
        |registry| disconnect(registry, 3),
    ),
];
