//! Frameworks and their answers as stored.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

use super::names::{self, RevisionMessage};
use super::{Read, Wrong};
use crate::framework::{
    Answer, AnswerOutcome, Connection, FinishedFramework, Framework, FrameworkInfo,
};
use crate::ids::{FrameworkId, Role, Timestamp};

#[derive(Clone, PartialEq, Message)]
pub(super) struct FrameworkInfoMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    user: String,
    #[prost(string, repeated, tag = "3")]
    roles: Vec<String>,
    #[prost(uint64, tag = "4")]
    failover_timeout_ms: u64,
    #[prost(string, tag = "5")]
    principal: String,
    #[prost(btree_map = "string, string", tag = "6")]
    labels: BTreeMap<String, String>,
    #[prost(bool, tag = "7")]
    detached: bool,
    #[prost(uint64, tag = "8")]
    offer_timeout_ms: u64,
    #[prost(string, tag = "9")]
    web_url: String,
}

impl From<&FrameworkInfo> for FrameworkInfoMessage {
    fn from(info: &FrameworkInfo) -> Self {
        Self {
            name: info.name.clone(),
            user: info.user.clone(),
            roles: texts(&info.roles),
            failover_timeout_ms: info.failover_timeout_ms,
            principal: info.principal.clone(),
            labels: info.labels.clone(),
            detached: info.detached,
            offer_timeout_ms: info.offer_timeout_ms,
            web_url: info.web_url.clone(),
        }
    }
}

impl TryFrom<FrameworkInfoMessage> for FrameworkInfo {
    type Error = Wrong;

    fn try_from(message: FrameworkInfoMessage) -> Read<Self> {
        Ok(Self {
            name: message.name,
            user: message.user,
            roles: roles(&message.roles)?,
            failover_timeout_ms: message.failover_timeout_ms,
            principal: message.principal,
            labels: message.labels,
            detached: message.detached,
            offer_timeout_ms: message.offer_timeout_ms,
            web_url: message.web_url,
        })
    }
}

pub(super) fn texts<'a>(roles: impl IntoIterator<Item = &'a Role>) -> Vec<String> {
    roles
        .into_iter()
        .map(|role| role.as_str().to_owned())
        .collect()
}

pub(super) fn roles<C: FromIterator<Role>>(texts: &[String]) -> Read<C> {
    texts.iter().map(|text| names::role(text)).collect()
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FrameworkRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    info: Option<FrameworkInfoMessage>,
    #[prost(fixed64, tag = "3")]
    session: u64,
    #[prost(fixed64, repeated, tag = "4")]
    past_sessions: Vec<u64>,
    /// Cluster time of the disconnection; absent while connected.
    #[prost(uint64, optional, tag = "5")]
    disconnected_since: Option<u64>,
    #[prost(uint64, tag = "6")]
    low_water: u64,
    #[prost(string, repeated, tag = "7")]
    suppressed: Vec<String>,
    #[prost(bool, tag = "8")]
    removing: bool,
    #[prost(message, optional, tag = "9")]
    revision: Option<RevisionMessage>,
}

impl From<&Framework> for FrameworkRecord {
    fn from(framework: &Framework) -> Self {
        Self {
            id: framework.id.0,
            info: Some((&framework.info).into()),
            session: framework.session,
            past_sessions: framework.past_sessions.iter().copied().collect(),
            disconnected_since: match framework.connection {
                Connection::Connected => None,
                Connection::Disconnected { since } => Some(since.0),
            },
            low_water: framework.low_water,
            suppressed: texts(&framework.suppressed),
            removing: framework.removing,
            revision: Some(framework.revision.into()),
        }
    }
}

impl TryFrom<FrameworkRecord> for Framework {
    type Error = Wrong;

    fn try_from(record: FrameworkRecord) -> Read<Self> {
        Ok(Self {
            id: FrameworkId(record.id),
            info: record.info.ok_or(Wrong("info"))?.try_into()?,
            session: record.session,
            past_sessions: record.past_sessions.into(),
            connection: match record.disconnected_since {
                None => Connection::Connected,
                Some(since) => Connection::Disconnected {
                    since: Timestamp(since),
                },
            },
            low_water: record.low_water,
            suppressed: roles(&record.suppressed)?,
            removing: record.removing,
            revision: names::revision(record.revision)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FinishedFrameworkRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    info: Option<FrameworkInfoMessage>,
    #[prost(message, optional, tag = "3")]
    revision: Option<RevisionMessage>,
    #[prost(string, tag = "4")]
    reason: String,
}

impl From<&FinishedFramework> for FinishedFrameworkRecord {
    fn from(finished: &FinishedFramework) -> Self {
        Self {
            id: finished.id.0,
            info: Some((&finished.info).into()),
            revision: Some(finished.revision.into()),
            reason: finished.reason.clone(),
        }
    }
}

impl TryFrom<FinishedFrameworkRecord> for FinishedFramework {
    type Error = Wrong;

    fn try_from(record: FinishedFrameworkRecord) -> Read<Self> {
        Ok(Self {
            id: FrameworkId(record.id),
            info: record.info.ok_or(Wrong("info"))?.try_into()?,
            revision: names::revision(record.revision)?,
            reason: record.reason,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnswerRecord {
    #[prost(fixed64, tag = "1")]
    hash: u64,
    #[prost(message, optional, tag = "2")]
    revision: Option<RevisionMessage>,
    #[prost(oneof = "OutcomeMessage", tags = "3, 4")]
    outcome: Option<OutcomeMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
enum OutcomeMessage {
    #[prost(message, tag = "3")]
    Done(DoneMessage),
    #[prost(message, tag = "4")]
    Refused(RefusalMessage),
}

#[derive(Clone, PartialEq, Message)]
struct DoneMessage {
    /// Position, code, position, code …
    #[prost(uint32, repeated, tag = "1")]
    refused: Vec<u32>,
}

/// A refusal as it is remembered.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RefusalMessage {
    #[prost(uint32, tag = "1")]
    pub(super) code: u32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

pub(super) fn code(number: u32) -> Read<u8> {
    u8::try_from(number).map_err(|_| Wrong("code of a refusal"))
}

impl From<&Answer> for AnswerRecord {
    fn from(answer: &Answer) -> Self {
        let outcome = match &answer.outcome {
            AnswerOutcome::Done { refused } => OutcomeMessage::Done(DoneMessage {
                refused: refused
                    .iter()
                    .flat_map(|(position, code)| [*position, u32::from(*code)])
                    .collect(),
            }),
            AnswerOutcome::Refused { code, message } => OutcomeMessage::Refused(RefusalMessage {
                code: u32::from(*code),
                message: message.clone(),
            }),
        };
        Self {
            hash: answer.hash,
            revision: Some(answer.revision.into()),
            outcome: Some(outcome),
        }
    }
}

impl TryFrom<AnswerRecord> for Answer {
    type Error = Wrong;

    fn try_from(record: AnswerRecord) -> Read<Self> {
        let outcome = match record.outcome.ok_or(Wrong("outcome"))? {
            OutcomeMessage::Done(DoneMessage { refused }) => {
                let (pairs, rest) = refused.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err(Wrong("refused positions"));
                }
                let refused: Read<Vec<(u32, u8)>> = pairs
                    .iter()
                    .map(|[position, number]| Ok((*position, code(*number)?)))
                    .collect();
                AnswerOutcome::Done { refused: refused? }
            }
            OutcomeMessage::Refused(refusal) => AnswerOutcome::Refused {
                code: code(refusal.code)?,
                message: refusal.message,
            },
        };
        Ok(Self {
            hash: record.hash,
            revision: names::revision(record.revision)?,
            outcome,
        })
    }
}
