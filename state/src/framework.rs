//! Frameworks: schedulers written by users, their sessions and numbered calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::command::Refusal;
use crate::encode::codec::{Codec, Fault, Read};
use crate::encode::scalars::{AsNumber, AsPair, MaybeNumber, Number};
use crate::encode::stored::stored;
use crate::encode::wire::Slot;
use crate::ids::{FrameworkId, Revision, Role, Timestamp};

/// What a framework says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrameworkInfo {
    /// For people.
    pub name: String,
    /// Default user of its tasks.
    pub user: String,
    /// In which it is offered resources; never empty once registered.
    pub roles: BTreeSet<Role>,
    /// Milliseconds of cluster time that it may be away.
    pub failover_timeout_ms: u64,
    /// On whose behalf; never changes.
    pub principal: String,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Nobody reads its updates: they acknowledge themselves, and it goes with its last task.
    pub detached: bool,
    /// Milliseconds of cluster time that an offer stays good.
    pub offer_timeout_ms: u64,
    /// Where a person finds out more.
    pub web_url: String,
}

/// Whether somebody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Recorded as connected.
    Connected,
    /// Recorded as gone at this cluster time.
    Disconnected {
        /// When.
        since: Timestamp,
    },
}

/// A framework in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framework {
    /// Made by the registry.
    pub id: FrameworkId,
    /// What it says of itself.
    pub info: FrameworkInfo,
    /// The nonce of the present session.
    pub session: u64,
    /// Those before, newest last; at most [`crate::limits::PAST_SESSIONS`].
    pub past_sessions: VecDeque<u64>,
    /// Whether somebody listens.
    pub connection: Connection,
    /// Calls of the session below this number are refused as late.
    pub low_water: u64,
    /// Roles in which it wants no offers.
    pub suppressed: BTreeSet<Role>,
    /// Marked for removal: its tasks are being ended; it never comes back.
    pub removing: bool,
    /// When its info, session, connection or suppression last changed; calls do not count.
    pub revision: Revision,
}

impl Framework {
    /// Cluster time at which it is removed unless it returns; `None` while connected, detached or
    /// already being removed.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.connection {
            Connection::Disconnected { since } if !self.removing && !self.info.detached => {
                Some(since.plus_ms(self.info.failover_timeout_ms))
            }
            Connection::Connected | Connection::Disconnected { .. } => None,
        }
    }
}

/// A framework that was removed: kept for display. That its id is absent from the live ones is the tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedFramework {
    /// Its id.
    pub id: FrameworkId,
    /// What it said of itself.
    pub info: FrameworkInfo,
    /// When it was removed.
    pub revision: Revision,
    /// Why, in words.
    pub reason: String,
}

/// The remembered answer to a numbered call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Hash of the request: the same number with another hash is an error.
    pub hash: u64,
    /// When it was applied.
    pub revision: Revision,
    /// What was said.
    pub outcome: AnswerOutcome,
}

/// What a numbered call was answered, small enough to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerOutcome {
    /// Done, but for these positions, with a code each; only the first 64 are kept by position.
    Done {
        /// Position among the tasks of the call, and the code of the refusal.
        refused: Vec<(u32, u8)>,
    },
    /// Refused as a whole.
    Refused(Refusal),
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

/// Cluster time of the disconnection; absent while connected.
enum DisconnectedSince {}

impl Codec<Connection> for DisconnectedSince {
    fn is_absent(connection: &Connection) -> bool {
        *connection == Connection::Connected
    }

    fn write(number: u32, connection: &Connection, out: &mut Vec<u8>) {
        match connection {
            Connection::Connected => {}
            Connection::Disconnected { since } => Number::write(number, since, out),
        }
    }

    fn read(slot: Slot<'_>, wrong: &'static str) -> Read<Connection> {
        let since = MaybeNumber::read(slot, wrong)?;
        Ok(match since {
            None => Connection::Connected,
            Some(since) => Connection::Disconnected { since },
        })
    }
}

stored!(message FinishedFramework {
    1 id: Number,
    2 info: Part,
    3 revision: Part,
    4 reason: Text,
});

stored!(message Answer {
    1 hash: Fixed,
    2 revision: Part,
    3 | 4 outcome: OneOf,
});

stored!(oneof AnswerOutcome {
    3 Done { 1 refused: PairList or "refused positions" },
    4 Refused(Part),
});

stored!(message Refusal {
    1 code: Number or "code of a refusal",
    2 message: Text,
    3 arguments: TextList,
});

/// A refused launch: its position, and the code.
impl AsPair for (u32, u8) {
    fn pair(&self) -> [u64; 2] {
        [self.0.into(), self.1.into()]
    }

    fn of([position, code]: [u64; 2]) -> Read<Self> {
        let code = AsNumber::of(code).ok_or(Fault::Wrong("code of a refusal"))?;
        // Of a longer number the low bits count, as everywhere.
        Ok((position as u32, code))
    }
}
