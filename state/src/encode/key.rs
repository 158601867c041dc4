//! Keys of stored records: a canonical form of this crate, not protobuf.
//!
//! The first byte is the kind. Ids follow in big-endian order; a last text is stored as it is. So
//! records of one kind are adjacent, and keys sort in the order of [`RecordKey`].

use super::DecodeError;
use super::access_key::{binding, read_binding, read_subject, subject};
use crate::access::{KeyHash, TokenId};
use crate::command::SweepTarget;
use crate::ids::{AgentId, FrameworkId, Role, TaskId, TaskKey};
use crate::registry::RecordKey;
use crate::secret::SecretName;

const TIME: u8 = 1;
const CLUSTER: u8 = 2;
const AGENT: u8 = 3;
const WEIGHT: u8 = 4;
const FRAMEWORK: u8 = 5;
const TASK: u8 = 6;
const ANSWER: u8 = 7;
const OPERATOR_ANSWER: u8 = 8;
const FINISHED_TASK: u8 = 9;
const FINISHED_FRAMEWORK: u8 = 10;
const TASK_FACTS: u8 = 11;
const TASK_SPEC: u8 = 12;
const TASK_STATUS: u8 = 13;
const TASK_MESSAGE: u8 = 14;
const TASK_END_MESSAGE: u8 = 15;
const TASK_LIMITS: u8 = 16;
const LIMITS_CHANGE: u8 = 17;
const AGENT_COUNTERS: u8 = 18;
const SWEEP: u8 = 19;
const HISTORY: u8 = 20;
const AGENT_REPORTED: u8 = 21;
const AGENT_AGREED: u8 = 22;
const AGENT_STATUS: u8 = 23;
const SECOND_LIMITS: u8 = 24;
const TASK_TRANSITION: u8 = 25;
const POLICY: u8 = 30;
const TOKEN: u8 = 31;
const REVOKED_KEY: u8 = 32;
const KEY_BINDING: u8 = 33;
const RATE_LIMIT: u8 = 34;
const SECRET: u8 = 40;

/// The target of a sweep: a byte between the kind and the id.
const SWEPT_AGENT: u8 = 1;
const SWEPT_FRAMEWORK: u8 = 2;
const SWEPT_PRUNED_AGENT: u8 = 3;
const SWEPT_LAYOUT: u8 = 4;

/// The end mark of a text that is followed by another one. A zero byte in the text is written as
/// `0, 255`, which sorts above the mark, so that the order is kept.
const END: [u8; 2] = [0, 1];

/// Returns the stored key of a record.
#[must_use]
pub fn key(name: &RecordKey) -> Vec<u8> {
    match name {
        RecordKey::Time => vec![TIME],
        RecordKey::Cluster => vec![CLUSTER],
        RecordKey::Agent(id) => numbers(AGENT, &[id.0]),
        RecordKey::Weight(role) => with_text(vec![WEIGHT], role.as_str()),
        RecordKey::Framework(id) => numbers(FRAMEWORK, &[id.0]),
        RecordKey::Task(key) => of_task(TASK, key),
        RecordKey::CallAnswer(framework, session, number) => {
            numbers(ANSWER, &[framework.0, *session, *number])
        }
        RecordKey::OperatorAnswer(name) => {
            let (principal, request) = &**name;
            let mut bytes = vec![OPERATOR_ANSWER];
            for byte in principal.bytes() {
                bytes.push(byte);
                if byte == 0 {
                    bytes.push(255);
                }
            }
            bytes.extend(END);
            with_text(bytes, request)
        }
        RecordKey::FinishedTask(serial) => numbers(FINISHED_TASK, &[*serial]),
        RecordKey::FinishedFramework(serial) => numbers(FINISHED_FRAMEWORK, &[*serial]),
        RecordKey::TaskFacts(key) => of_task(TASK_FACTS, key),
        RecordKey::TaskSpec(key) => of_task(TASK_SPEC, key),
        RecordKey::TaskStatus(key) => of_task(TASK_STATUS, key),
        RecordKey::TaskMessage(key) => of_task(TASK_MESSAGE, key),
        RecordKey::TaskEndMessage(key) => of_task(TASK_END_MESSAGE, key),
        RecordKey::TaskLimits(key) => of_task(TASK_LIMITS, key),
        RecordKey::SecondLimits(key) => of_task(SECOND_LIMITS, key),
        RecordKey::LimitsChange(key) => of_task(LIMITS_CHANGE, key),
        RecordKey::AgentCounters(id) => numbers(AGENT_COUNTERS, &[id.0]),
        RecordKey::Sweep(target) => of_sweep(target),
        RecordKey::History => vec![HISTORY],
        RecordKey::AgentReport(id) => numbers(AGENT_REPORTED, &[id.0]),
        RecordKey::AgentAdministration(id) => numbers(AGENT_AGREED, &[id.0]),
        RecordKey::AgentStatus(id) => numbers(AGENT_STATUS, &[id.0]),
        RecordKey::TaskTransition(key, number) => {
            // A zero byte sorts below every byte of a task id.
            let mut bytes = of_task(TASK_TRANSITION, key);
            bytes.push(0);
            bytes.extend(number.to_be_bytes());
            bytes
        }
        RecordKey::Policy => vec![POLICY],
        RecordKey::Token(id) => numbers(TOKEN, &[id.0]),
        RecordKey::RevokedKey(key) => [&[REVOKED_KEY][..], &key.0].concat(),
        RecordKey::KeyBinding(principal) => binding(KEY_BINDING, principal),
        RecordKey::RateLimit(limited) => subject(RATE_LIMIT, limited),
        RecordKey::Secret(name) => with_text(vec![SECRET], name.as_str()),
    }
}

fn of_sweep(target: &SweepTarget) -> Vec<u8> {
    let (target, id) = match target {
        SweepTarget::Agent(id) => (SWEPT_AGENT, id.0),
        SweepTarget::Framework(id) => (SWEPT_FRAMEWORK, id.0),
        SweepTarget::PrunedAgent(id) => (SWEPT_PRUNED_AGENT, id.0),
        SweepTarget::Layout => (SWEPT_LAYOUT, 0),
    };
    let mut bytes = vec![SWEEP];
    bytes.extend(numbers(target, &[id]));
    bytes
}

fn of_task(kind: u8, key: &TaskKey) -> Vec<u8> {
    with_text(numbers(kind, &[key.framework.0]), key.task.as_str())
}

fn numbers(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + numbers.len() * 8);
    bytes.push(kind);
    for number in numbers {
        bytes.extend(number.to_be_bytes());
    }
    bytes
}

fn with_text(mut bytes: Vec<u8>, text: &str) -> Vec<u8> {
    bytes.extend(text.as_bytes());
    bytes
}

/// Reads the output of [`key`].
///
/// # Errors
/// If the bytes are no key, or one of a newer release.
pub fn read_key(bytes: &[u8]) -> Result<RecordKey, DecodeError> {
    parse(bytes).ok_or_else(|| DecodeError::Key(bytes.iter().take(64).copied().collect()))
}

fn parse(bytes: &[u8]) -> Option<RecordKey> {
    let (kind, rest) = bytes.split_first()?;
    Some(match *kind {
        TIME => end(rest, RecordKey::Time)?,
        CLUSTER => end(rest, RecordKey::Cluster)?,
        AGENT => RecordKey::Agent(AgentId(only_number(rest)?)),
        WEIGHT => RecordKey::Weight(Role::new(std::str::from_utf8(rest).ok()?).ok()?),
        FRAMEWORK => RecordKey::Framework(FrameworkId(only_number(rest)?)),
        TASK => RecordKey::Task(task(rest)?),
        ANSWER => {
            let (framework, rest) = number(rest)?;
            let (session, rest) = number(rest)?;
            RecordKey::CallAnswer(FrameworkId(framework), session, only_number(rest)?)
        }
        OPERATOR_ANSWER => {
            let (principal, request) = text(rest)?;
            let request = std::str::from_utf8(request).ok()?.to_owned();
            RecordKey::OperatorAnswer(Box::new((principal, request)))
        }
        FINISHED_TASK => RecordKey::FinishedTask(only_number(rest)?),
        FINISHED_FRAMEWORK => RecordKey::FinishedFramework(only_number(rest)?),
        TASK_FACTS => RecordKey::TaskFacts(task(rest)?),
        TASK_SPEC => RecordKey::TaskSpec(task(rest)?),
        TASK_STATUS => RecordKey::TaskStatus(task(rest)?),
        TASK_MESSAGE => RecordKey::TaskMessage(task(rest)?),
        TASK_END_MESSAGE => RecordKey::TaskEndMessage(task(rest)?),
        TASK_LIMITS => RecordKey::TaskLimits(task(rest)?),
        SECOND_LIMITS => RecordKey::SecondLimits(task(rest)?),
        LIMITS_CHANGE => RecordKey::LimitsChange(task(rest)?),
        AGENT_COUNTERS => RecordKey::AgentCounters(AgentId(only_number(rest)?)),
        SWEEP => {
            let (target, rest) = rest.split_first()?;
            let id = only_number(rest)?;
            RecordKey::Sweep(match *target {
                SWEPT_AGENT => SweepTarget::Agent(AgentId(id)),
                SWEPT_FRAMEWORK => SweepTarget::Framework(FrameworkId(id)),
                SWEPT_PRUNED_AGENT => SweepTarget::PrunedAgent(AgentId(id)),
                // The progress of this sweep is in the record of the cluster.
                _ => return None,
            })
        }
        HISTORY => end(rest, RecordKey::History)?,
        AGENT_REPORTED => RecordKey::AgentReport(AgentId(only_number(rest)?)),
        AGENT_AGREED => RecordKey::AgentAdministration(AgentId(only_number(rest)?)),
        AGENT_STATUS => RecordKey::AgentStatus(AgentId(only_number(rest)?)),
        TASK_TRANSITION => {
            let (rest, number) = rest.split_last_chunk::<4>()?;
            let (end, rest) = rest.split_last()?;
            let key = task(rest).filter(|_| *end == 0)?;
            RecordKey::TaskTransition(key, u32::from_be_bytes(*number))
        }
        POLICY => end(rest, RecordKey::Policy)?,
        TOKEN => RecordKey::Token(TokenId(only_number(rest)?)),
        REVOKED_KEY => RecordKey::RevokedKey(Box::new(KeyHash(rest.try_into().ok()?))),
        KEY_BINDING => RecordKey::KeyBinding(read_binding(rest)?),
        RATE_LIMIT => RecordKey::RateLimit(Box::new(read_subject(rest)?)),
        SECRET => RecordKey::Secret(SecretName::new(std::str::from_utf8(rest).ok()?).ok()?),
        _ => return None,
    })
}

fn task(rest: &[u8]) -> Option<TaskKey> {
    let (framework, text) = number(rest)?;
    let task = TaskId::new(std::str::from_utf8(text).ok()?).ok()?;
    Some(TaskKey {
        framework: FrameworkId(framework),
        task,
    })
}

fn end(rest: &[u8], key: RecordKey) -> Option<RecordKey> {
    rest.is_empty().then_some(key)
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

fn only_number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// Splits a text at its end mark, and returns the rest.
fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut plain = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 1, rest @ ..] => return Some((String::from_utf8(plain).ok()?, rest)),
            [0, 255, after @ ..] => {
                plain.push(0);
                rest = after;
            }
            [0, ..] | [] => return None,
            [byte, after @ ..] => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = RecordKey> {
        let id = prop_oneof![0_u64..3, any::<u64>()];
        let text = "[a\\x00\\x01b]{0,4}";
        prop_oneof![
            Just(RecordKey::Time),
            Just(RecordKey::Cluster),
            (id.clone(), 0_u8..5).prop_map(|(id, kind)| of_agent(AgentId(id), kind)),
            "[a-c]{1,3}".prop_map(|role| RecordKey::Weight(Role::new(&role).unwrap())),
            id.clone()
                .prop_map(|id| RecordKey::Framework(FrameworkId(id))),
            (id.clone(), "[a-c]{1,3}", 0..9).prop_map(|(id, task, kind)| {
                let task = TaskKey {
                    framework: FrameworkId(id),
                    task: TaskId::new(&task).unwrap(),
                };
                match kind {
                    0 => RecordKey::Task(task),
                    1 => RecordKey::TaskSpec(task),
                    2 => RecordKey::TaskStatus(task),
                    3 => RecordKey::TaskLimits(task),
                    4 => RecordKey::TaskFacts(task),
                    5 => RecordKey::TaskMessage(task),
                    6 => RecordKey::TaskEndMessage(task),
                    7 => RecordKey::SecondLimits(task),
                    _ => RecordKey::LimitsChange(task),
                }
            }),
            (id.clone(), 0..3).prop_map(|(id, target)| RecordKey::Sweep(match target {
                0 => SweepTarget::Agent(AgentId(id)),
                1 => SweepTarget::Framework(FrameworkId(id)),
                _ => SweepTarget::PrunedAgent(AgentId(id)),
            })),
            Just(RecordKey::History),
            "[a-c]{1,2}/[a-c]{1,2}"
                .prop_map(|name| RecordKey::Secret(SecretName::new(&name).unwrap())),
            (
                id.clone(),
                "[a-c]{1,3}",
                prop_oneof![0_u32..3, any::<u32>()]
            )
                .prop_map(|(id, task, number)| {
                    let framework = FrameworkId(id);
                    let task = TaskId::new(&task).unwrap();
                    RecordKey::TaskTransition(TaskKey { framework, task }, number)
                }),
            (id.clone(), id.clone(), id.clone()).prop_map(|(a, b, c)| RecordKey::CallAnswer(
                FrameworkId(a),
                b,
                c
            )),
            (text, text).prop_map(|(a, b)| RecordKey::OperatorAnswer(Box::new((a, b)))),
            id.clone().prop_map(RecordKey::FinishedTask),
            id.clone().prop_map(RecordKey::FinishedFramework),
            id.prop_map(|id| RecordKey::Token(TokenId(id))),
            access_names(),
        ]
    }

    fn of_agent(id: AgentId, kind: u8) -> RecordKey {
        match kind {
            0 => RecordKey::Agent(id),
            1 => RecordKey::AgentCounters(id),
            2 => RecordKey::AgentReport(id),
            3 => RecordKey::AgentAdministration(id),
            _ => RecordKey::AgentStatus(id),
        }
    }

    fn access_names() -> impl Strategy<Value = RecordKey> {
        let name = "(master|agent|framework|operator)/[a-c]{1,3}";
        let text = prop_oneof![
            name.prop_map(|name| name),
            "(anonymous|everyone|operator/[*]|agent/[*])",
            "group:(admin|operator|viewer|[a-c]{1,3}|framework:[a-c]{1,2})",
        ];
        let subject = |text: String| RecordKey::RateLimit(Box::new(text.parse().unwrap()));
        let binding = |text: String| RecordKey::KeyBinding(text.parse().unwrap());
        let key = |byte: u8| RecordKey::RevokedKey(Box::new(KeyHash([byte; 32])));
        prop_oneof![
            Just(RecordKey::Policy),
            any::<u8>().prop_map(key),
            name.prop_map(binding),
            text.prop_map(subject),
        ]
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_keep_their_order(a in names(), b in names()) {
            prop_assert_eq!(read_key(&key(&a)), Ok(a.clone()));
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn other_bytes_are_rejected_or_a_canonical_key(bytes in prop::collection::vec(0_u8..48, 0..34)) {
            if let Ok(name) = read_key(&bytes) {
                prop_assert_eq!(key(&name), bytes);
            }
        }
    }

    /// Covers all pairs of kinds, which the random pairs above cover only by chance.
    #[test]
    fn record_kinds_are_ordered_like_their_bytes() {
        let mut names = crate::encode::tests::samples::names::records();
        names.extend(crate::encode::tests::samples::names::whole_records());
        names.sort();
        let bytes: Vec<_> = names.iter().map(key).collect();
        assert!(bytes.is_sorted(), "{names:?}");
    }
}
