//! The keys of the sample records, in both layouts.

use super::{key, role};
use crate::access::{KeyHash, TokenId};
use crate::command::SweepTarget;
use crate::ids::{AgentId, FrameworkId, TaskKey};
use crate::registry::RecordKey;
use crate::secret::SealedSecret;

/// The tasks of [`registry`](super::registry).
const TASKS: [&str; 7] = [
    "web-1", "web-6", "web-8", "web-81", "web-82", "web-83", "web-84",
];

/// Returns the keys of the records of [`registry`](super::registry).
pub(in crate::encode) fn records() -> Vec<RecordKey> {
    let mut names = vec![
        RecordKey::Time,
        RecordKey::Cluster,
        RecordKey::Weight(role("web")),
        RecordKey::Framework(FrameworkId(4)),
        RecordKey::CallAnswer(FrameworkId(4), 77, 8),
        RecordKey::CallAnswer(FrameworkId(4), 77, 9),
        RecordKey::CallAnswer(FrameworkId(4), 77, 10),
        RecordKey::CallAnswer(FrameworkId(4), 77, 11),
        RecordKey::OperatorAnswer(Box::new(("alice".to_owned(), "r-1".to_owned()))),
        RecordKey::FinishedTask(6),
        RecordKey::FinishedFramework(7),
    ];
    for (task, kinds) in SPLIT_RECORDS {
        let key = key(4, task);
        names.extend(kinds.iter().map(|kind| kind(key.clone())));
    }
    names.extend([
        RecordKey::AgentCounters(AgentId(3)),
        RecordKey::Sweep(SweepTarget::Agent(AgentId(3))),
        RecordKey::Sweep(SweepTarget::Framework(FrameworkId(4))),
        RecordKey::History,
        RecordKey::AgentReport(AgentId(3)),
        RecordKey::AgentAdministration(AgentId(3)),
        RecordKey::AgentStatus(AgentId(3)),
        RecordKey::TaskTransition(key(4, "recent"), 4),
        RecordKey::TaskTransition(key(4, "web-1"), 1),
        RecordKey::TaskTransition(key(4, "web-1"), 300),
        RecordKey::TaskTransition(key(4, "web-1"), 301),
    ]);
    names.extend(access());
    names.push(RecordKey::Secret(SealedSecret::sample().0));
    let bound = AgentId(5);
    names.extend([
        RecordKey::AgentCounters(bound),
        RecordKey::AgentReport(bound),
        RecordKey::AgentAdministration(bound),
        RecordKey::AgentStatus(bound),
    ]);
    names
}

/// Returns the keys of the records of [`registry`](super::registry) in the layout of level 2.
pub(in crate::encode) fn whole_records() -> Vec<RecordKey> {
    let split = records()
        .into_iter()
        .filter(|name| *name < RecordKey::TaskFacts(key(0, "0")));
    let agent = RecordKey::Agent(AgentId(3));
    let tasks = TASKS.map(|task| RecordKey::Task(key(4, task)));
    split.chain([agent]).chain(tasks).collect()
}

/// Returns the keys of the records of access.
fn access() -> impl Iterator<Item = RecordKey> {
    let principal = |text: &str| RecordKey::KeyBinding(text.parse().unwrap());
    let subject = |text: &str| RecordKey::RateLimit(Box::new(text.parse().unwrap()));
    let key = |byte| RecordKey::RevokedKey(Box::new(KeyHash([byte; 32])));
    [
        RecordKey::Policy,
        RecordKey::Token(TokenId(0xa1)),
        RecordKey::Token(TokenId(0xa2)),
        key(0xb1),
        principal("agent/host-1"),
        subject("anonymous"),
        subject("everyone"),
        subject("operator/*"),
        subject("operator/alice"),
        subject("group:admin"),
        subject("group:framework:eng/web"),
        subject("group:ops"),
    ]
    .into_iter()
}

type TaskRecordKind = fn(TaskKey) -> RecordKey;

const FACTS: TaskRecordKind = RecordKey::TaskFacts;
const SPEC: TaskRecordKind = RecordKey::TaskSpec;
const STATUS: TaskRecordKind = RecordKey::TaskStatus;

/// The records of each task in the layout of level 3.
const SPLIT_RECORDS: [(&str, &[TaskRecordKind]); 9] = [
    ("recent", &[FACTS, STATUS, RecordKey::TaskEndMessage]),
    ("web-1", &[FACTS, SPEC, STATUS]),
    ("web-6", &[FACTS, SPEC, STATUS]),
    ("web-8", LIMITED),
    ("web-81", LIMITED),
    ("web-82", LIMITED),
    (
        "web-83",
        &[
            FACTS,
            SPEC,
            STATUS,
            RecordKey::TaskLimits,
            RecordKey::SecondLimits,
            RecordKey::LimitsChange,
        ],
    ),
    ("web-84", &[FACTS, SPEC, STATUS]),
    ("web-9", &[FACTS, SPEC, STATUS, RecordKey::TaskMessage]),
];

const LIMITED: &[TaskRecordKind] = &[
    FACTS,
    SPEC,
    STATUS,
    RecordKey::TaskLimits,
    RecordKey::LimitsChange,
];
