//! Frameworks: schedulers written by users, their sessions and numbered calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::capability::{CapabilityNames, FrameworkCapability};
use crate::codec::error::{CodecError, DecodeResult};
use crate::codec::message::{Codec, StoredMessage};
use crate::codec::parts::Part;
use crate::codec::scalars::{AsNumber, AsPair, MaybeNumber, Number};
use crate::codec::stored::stored;
use crate::codec::wire::FieldSlot;
use crate::ids::{FrameworkId, Revision, Role, Timestamp};
use crate::rejection::{Position, StoredRejection};

/// The description of a framework, as its scheduler reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrameworkInfo {
    /// The name, for display.
    pub name: String,
    /// The default user of its tasks.
    pub user: String,
    /// The roles in which it is offered resources; never empty once registered.
    pub roles: BTreeSet<Role>,
    /// The milliseconds of cluster time for which it may be disconnected.
    pub failover_timeout_ms: u64,
    /// The principal; it never changes.
    pub principal: String,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Whether the framework is detached: its updates need no acknowledgement, and it is removed
    /// with its last task.
    pub detached: bool,
    /// The milliseconds of cluster time for which an offer is valid.
    pub offer_timeout_ms: u64,
    /// The address of a web page for users.
    pub web_url: String,
    /// The capabilities; empty for frameworks of release 0.1.
    pub capabilities: CapabilityNames,
}

impl FrameworkInfo {
    /// Returns whether the framework has this capability, by its name or by the label of release
    /// 0.1.0.
    #[must_use]
    pub fn can(&self, capability: FrameworkCapability) -> bool {
        let label = capability.former_label();
        let label = label.and_then(|label| self.labels.get(label));
        self.capabilities.contains(capability.name()) || label.is_some_and(|value| value == "true")
    }
}

/// Whether the scheduler of a framework is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerConnection {
    /// The framework is recorded as connected.
    Connected,
    /// The framework is recorded as disconnected.
    Disconnected {
        /// The cluster time of the disconnection.
        since: Timestamp,
    },
}

/// A framework in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framework {
    /// The id, assigned by the registry.
    pub id: FrameworkId,
    /// The description, shared with all copies of the framework.
    pub info: Arc<FrameworkInfo>,
    /// The nonce of the current session.
    pub session: u64,
    /// The nonces of earlier sessions, newest last; at most [`crate::limits::PAST_SESSIONS`].
    pub past_sessions: VecDeque<u64>,
    /// Whether the scheduler is connected.
    pub connection: SchedulerConnection,
    /// The low water: calls of the session below this number are refused as late.
    pub low_water: u64,
    /// The roles in which it requests no offers.
    pub suppressed: BTreeSet<Role>,
    /// Whether it is marked for removal. Its tasks are being killed, and it never returns.
    pub removing: bool,
    /// The revision at which its info, session, connection or suppression last changed; calls do
    /// not count.
    pub revision: Revision,
}

impl Framework {
    /// Returns the cluster time at which it is removed unless it reconnects; `None` while it is
    /// connected, detached or already being removed.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.connection {
            SchedulerConnection::Disconnected { since }
                if !self.removing && !self.info.detached =>
            {
                Some(since.plus_ms(self.info.failover_timeout_ms))
            }
            SchedulerConnection::Connected | SchedulerConnection::Disconnected { .. } => None,
        }
    }
}

/// A removed framework, kept for display. There are no tombstones: its id is absent from the live
/// frameworks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedFramework {
    /// The id.
    pub id: FrameworkId,
    /// The description at the time of removal.
    pub info: FrameworkInfo,
    /// The revision at which it was removed.
    pub revision: Revision,
    /// The reason of the removal, as text.
    pub reason: String,
}

/// The remembered answer to a numbered call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallAnswer {
    /// The hash of the request. A repeat of the number with another hash is an error.
    pub hash: u64,
    /// The revision at which the call was applied.
    pub revision: Revision,
    /// The outcome.
    pub outcome: AnswerOutcome,
}

/// The outcome of a numbered call, in a form small enough to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerOutcome {
    /// The call was applied, except for these positions. Only the first 64 are kept.
    Done {
        /// The refused positions, ascending, each with the code of the refusal. If the call was
        /// applied from format 2, the tasks of all operations count as those of the first:
        /// [`crate::rejection::CallShape::place`] resolves them.
        refused: Vec<(Position, u8)>,
    },
    /// The whole call was refused.
    Refused(StoredRejection),
}

stored!(message FrameworkInfo {
    1 name: Text,
    2 user: Text,
    3 roles: TextList or "role",
    4 failover_timeout_ms: Number,
    5 principal: Text,
    6 labels: TextMap,
    7 detached: Number,
    8 offer_timeout_ms: Number,
    9 web_url: Text,
    50 capabilities: TextList,
});

stored!(message Framework {
    1 id: Number,
    2 info: Part,
    3 session: Fixed,
    4 past_sessions: FixedList,
    5 connection: DisconnectedSince,
    6 low_water: Number,
    7 suppressed: TextList or "role",
    8 removing: Number,
    9 revision: Part,
});

/// The cluster time of the disconnection; absent while connected.
enum DisconnectedSince {}

impl Codec<SchedulerConnection> for DisconnectedSince {
    fn is_absent(connection: &SchedulerConnection) -> bool {
        *connection == SchedulerConnection::Connected
    }

    fn write(number: u32, connection: &SchedulerConnection, out: &mut Vec<u8>) {
        match connection {
            SchedulerConnection::Connected => {}
            SchedulerConnection::Disconnected { since } => Number::write(number, since, out),
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<SchedulerConnection> {
        let since = MaybeNumber::read(slot, wrong)?;
        Ok(match since {
            None => SchedulerConnection::Connected,
            Some(since) => SchedulerConnection::Disconnected { since },
        })
    }
}

stored!(message FinishedFramework {
    1 id: Number,
    2 info: Part,
    3 revision: Part,
    4 reason: Text,
});

stored!(message CallAnswer {
    1 hash: Fixed,
    2 revision: Part,
    3 | 4 outcome: OneOf,
});

stored!(oneof AnswerOutcome {
    3 Done { refused } as RefusedPositions or "refused positions",
    4 Refused(Part),
});

/// The refused positions with their codes.
enum RefusedPositions {}

/// The refused parts of an acceptance in stored form.
struct RefusedFields {
    /// The task and code of each refused part of the first operation. Format 2 has no other
    /// operation.
    first: Vec<(u32, u8)>,
    /// The refused parts of the later operations: operation, task, code, operation, task, code, and
    /// so on. The operation is stored as the distance to the previous one; the task too, if that
    /// distance is 0. Nearly all of them take one byte.
    later: Vec<u32>,
}

stored!(message RefusedFields {
    1 first: PairList or "refused positions",
    2 later: NumberList or "refused positions",
});

impl Codec<Vec<(Position, u8)>> for RefusedPositions {
    fn is_absent(_: &Vec<(Position, u8)>) -> bool {
        false
    }

    fn write(number: u32, refused: &Vec<(Position, u8)>, out: &mut Vec<u8>) {
        Part::write(number, &RefusedFields::of(refused), out);
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Vec<(Position, u8)>> {
        let bytes = slot.message()?.unwrap_or_default();
        RefusedFields::read(&bytes)?.positions(wrong)
    }
}

impl RefusedFields {
    fn of(refused: &[(Position, u8)]) -> Self {
        let first = refused.partition_point(|(at, _)| at.operation == 0);
        let (first, later) = refused.split_at(first);
        let mut former = Position::default();
        let triples = later.iter().flat_map(|(at, code)| {
            let operation = at.operation - former.operation;
            let task = match operation {
                0 => at.task - former.task,
                _ => at.task,
            };
            former = *at;
            [operation, task, u32::from(*code)]
        });
        Self {
            first: first.iter().map(|(at, code)| (at.task, *code)).collect(),
            later: triples.collect(),
        }
    }

    fn positions(self, wrong: &'static str) -> DecodeResult<Vec<(Position, u8)>> {
        let wrong = CodecError::Invalid(wrong);
        let (triples, rest) = self.later.as_chunks::<3>();
        if !rest.is_empty() {
            return Err(wrong);
        }
        let operation = 0;
        let first = self.first.into_iter();
        let mut all: Vec<_> = first
            .map(|(task, code)| (Position { operation, task }, code))
            .collect();
        let mut former = Position::default();
        for [distance, task, code] in triples {
            let operation = former.operation.checked_add(*distance).ok_or(wrong)?;
            let task = match distance {
                0 => former.task.checked_add(*task).ok_or(wrong)?,
                _ => *task,
            };
            former = Position { operation, task };
            let code = u8::try_from(*code).map_err(|_| CodecError::Invalid("code of a refusal"))?;
            all.push((former, code));
        }
        // A list that does not ascend would be written differently.
        match all.is_sorted_by(|(one, _), (next, _)| one < next) {
            true => Ok(all),
            false => Err(wrong),
        }
    }
}

/// A refused task of the first operation: its index, and the code.
impl AsPair for (u32, u8) {
    fn pair(&self) -> [u64; 2] {
        [self.0.into(), self.1.into()]
    }

    fn of([task, code]: [u64; 2]) -> DecodeResult<Self> {
        let code = AsNumber::of(code).ok_or(CodecError::Invalid("code of a refusal"))?;
        // The low bits of a longer number count, as everywhere.
        Ok((task as u32, code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(refused: Vec<(Position, u8)>) -> CallAnswer {
        CallAnswer {
            hash: u64::MAX,
            revision: Revision {
                index: 1 << 48,
                position: 1 << 20,
            },
            outcome: AnswerOutcome::Done { refused },
        }
    }

    /// The bound holds for every division of a call of 256 tasks.
    #[test]
    fn an_answer_with_64_refused_positions_takes_at_most_256_bytes() {
        let mut longest = 0;
        for tasks_each in [1, 2, 3, 4, 16, 100, 255, 256] {
            for first in 0..=(256 - 64) {
                let positions = (first..first + 64).map(|at| Position {
                    operation: at / tasks_each,
                    task: at % tasks_each,
                });
                let all = answer(positions.map(|at| (at, 127)).collect());
                let mut bytes = Vec::new();
                all.write(&mut bytes);
                longest = longest.max(bytes.len());
                assert_eq!(CallAnswer::read(&bytes), Ok(all));
            }
        }
        assert!(longest <= 256, "{longest}");
    }

    #[test]
    fn unordered_and_oversized_positions_are_rejected() {
        let read = |first: &[(u32, u8)], later: &[u32]| {
            let fields = RefusedFields {
                first: first.to_vec(),
                later: later.to_vec(),
            };
            fields.positions("positions")
        };
        assert!(read(&[(3, 22), (4, 22)], &[1, 0, 22, 0, 2, 22]).is_ok());
        let wrong: [(&[_], &[_]); 7] = [
            (&[(3, 22), (3, 22)], &[]),
            (&[], &[1, 0]),
            (&[], &[1, 0, 256]),
            (&[(3, 22)], &[0, 3, 22]),
            (&[], &[1, 0, 22, 0, 0, 22]),
            (&[], &[1, 0, 22, u32::MAX, 0, 22]),
            (&[], &[1, 9, 22, 0, u32::MAX, 22]),
        ];
        for (first, later) in wrong {
            assert!(read(first, later).is_err(), "{first:?} {later:?}");
        }
    }
}
