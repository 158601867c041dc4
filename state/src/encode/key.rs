//! Names of stored records: our own canonical form, not protobuf's.
//!
//! The first byte is the kind; ids follow big-endian, a last text as it is. So records of one kind
//! are neighbours, and bytes are in the same order as [`RecordKey`].

use super::DecodeError;
use crate::ids::{AgentId, FrameworkId, Role, TaskId, TaskKey};
use crate::registry::RecordKey;

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

/// Ends a text that is followed by another one. A zero byte in the text is written as `0, 255`,
/// which is above it, so that order is kept.
const END: [u8; 2] = [0, 1];

/// The stored name of a record.
#[must_use]
pub fn key(name: &RecordKey) -> Vec<u8> {
    match name {
        RecordKey::Time => vec![TIME],
        RecordKey::Cluster => vec![CLUSTER],
        RecordKey::Agent(id) => numbers(AGENT, &[id.0]),
        RecordKey::Weight(role) => with_text(vec![WEIGHT], role.as_str()),
        RecordKey::Framework(id) => numbers(FRAMEWORK, &[id.0]),
        RecordKey::Task(key) => with_text(numbers(TASK, &[key.framework.0]), key.task.as_str()),
        RecordKey::Answer(framework, session, number) => {
            numbers(ANSWER, &[framework.0, *session, *number])
        }
        RecordKey::OperatorAnswer(principal, request) => {
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
    }
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

/// Reads what [`key`] wrote.
pub(super) fn read_key(bytes: &[u8]) -> Result<RecordKey, DecodeError> {
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
        TASK => {
            let (framework, text) = number(rest)?;
            let task = TaskId::new(std::str::from_utf8(text).ok()?).ok()?;
            RecordKey::Task(TaskKey {
                framework: FrameworkId(framework),
                task,
            })
        }
        ANSWER => {
            let (framework, rest) = number(rest)?;
            let (session, rest) = number(rest)?;
            RecordKey::Answer(FrameworkId(framework), session, only_number(rest)?)
        }
        OPERATOR_ANSWER => {
            let (principal, request) = text(rest)?;
            let request = std::str::from_utf8(request).ok()?.to_owned();
            RecordKey::OperatorAnswer(principal, request)
        }
        FINISHED_TASK => RecordKey::FinishedTask(only_number(rest)?),
        FINISHED_FRAMEWORK => RecordKey::FinishedFramework(only_number(rest)?),
        _ => return None,
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

/// A text up to its end mark, and what follows.
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
            id.clone().prop_map(|id| RecordKey::Agent(AgentId(id))),
            "[a-c]{1,3}".prop_map(|role| RecordKey::Weight(Role::new(&role).unwrap())),
            id.clone()
                .prop_map(|id| RecordKey::Framework(FrameworkId(id))),
            (id.clone(), "[a-c]{1,3}").prop_map(|(id, task)| RecordKey::Task(TaskKey {
                framework: FrameworkId(id),
                task: TaskId::new(&task).unwrap()
            })),
            (id.clone(), id.clone(), id.clone()).prop_map(|(a, b, c)| RecordKey::Answer(
                FrameworkId(a),
                b,
                c
            )),
            (text, text).prop_map(|(a, b)| RecordKey::OperatorAnswer(a, b)),
            id.clone().prop_map(RecordKey::FinishedTask),
            id.prop_map(RecordKey::FinishedFramework),
        ]
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_keep_the_order(a in names(), b in names()) {
            prop_assert_eq!(read_key(&key(&a)), Ok(a.clone()));
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn other_bytes_are_refused_or_canonical(bytes in prop::collection::vec(0_u8..12, 0..30)) {
            if let Ok(name) = read_key(&bytes) {
                prop_assert_eq!(key(&name), bytes);
            }
        }
    }
}
