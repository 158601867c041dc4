//! Checks of tasks, and what they have found, as stored.

use std::collections::BTreeSet;

use prost::{Message, Oneof};

use super::{Read, Wrong};
use crate::task::{Check, CheckKind, HealthCheck, Scheme, Standing};

#[derive(Clone, PartialEq, Message)]
pub(super) struct CheckMessage {
    #[prost(oneof = "KindMessage", tags = "1, 2, 3, 4")]
    kind: Option<KindMessage>,
    #[prost(uint64, tag = "5")]
    delay_ms: u64,
    #[prost(uint64, tag = "6")]
    interval_ms: u64,
    #[prost(uint64, tag = "7")]
    timeout_ms: u64,
}

#[derive(Clone, PartialEq, Oneof)]
enum KindMessage {
    #[prost(string, tag = "1")]
    Shell(String),
    #[prost(message, tag = "2")]
    Argv(ProgramMessage),
    #[prost(message, tag = "3")]
    Http(HttpMessage),
    #[prost(uint32, tag = "4")]
    Tcp(u32),
}

#[derive(Clone, PartialEq, Message)]
struct ProgramMessage {
    #[prost(string, repeated, tag = "1")]
    words: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpMessage {
    #[prost(uint32, tag = "1")]
    port: u32,
    #[prost(string, tag = "2")]
    path: String,
    /// Ascending, each once.
    #[prost(uint32, repeated, tag = "3")]
    statuses: Vec<u32>,
    #[prost(bool, tag = "4")]
    tls: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckMessage {
    #[prost(message, optional, tag = "1")]
    check: Option<CheckMessage>,
    #[prost(uint64, tag = "2")]
    grace_ms: u64,
    #[prost(uint32, tag = "3")]
    failures: u32,
}

/// Absent means that nothing is known.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StandingMessage {
    #[prost(bool, optional, tag = "1")]
    healthy: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    ready: Option<bool>,
}

impl From<&Check> for CheckMessage {
    fn from(check: &Check) -> Self {
        let kind = match &check.kind {
            CheckKind::Shell(line) => KindMessage::Shell(line.clone()),
            CheckKind::Argv(words) => KindMessage::Argv(ProgramMessage {
                words: words.clone(),
            }),
            CheckKind::Http {
                scheme,
                port,
                path,
                statuses,
            } => KindMessage::Http(HttpMessage {
                port: (*port).into(),
                path: path.clone(),
                statuses: statuses.iter().map(|status| (*status).into()).collect(),
                tls: *scheme == Scheme::Https,
            }),
            CheckKind::Tcp { port } => KindMessage::Tcp((*port).into()),
        };
        Self {
            kind: Some(kind),
            delay_ms: check.delay_ms,
            interval_ms: check.interval_ms,
            timeout_ms: check.timeout_ms,
        }
    }
}

impl TryFrom<CheckMessage> for Check {
    type Error = Wrong;

    fn try_from(message: CheckMessage) -> Read<Self> {
        let port = |number: u32| u16::try_from(number).map_err(|_| Wrong("port of a check"));
        let kind = match message.kind.ok_or(Wrong("kind of a check"))? {
            KindMessage::Shell(line) => CheckKind::Shell(line),
            KindMessage::Argv(program) => CheckKind::Argv(program.words),
            KindMessage::Http(http) => {
                let statuses = http.statuses.into_iter().map(u16::try_from);
                let statuses: Result<BTreeSet<u16>, _> = statuses.collect();
                CheckKind::Http {
                    scheme: match http.tls {
                        false => Scheme::Http,
                        true => Scheme::Https,
                    },
                    port: port(http.port)?,
                    path: http.path,
                    statuses: statuses.map_err(|_| Wrong("status of a check"))?,
                }
            }
            KindMessage::Tcp(number) => CheckKind::Tcp {
                port: port(number)?,
            },
        };
        Ok(Self {
            kind,
            delay_ms: message.delay_ms,
            interval_ms: message.interval_ms,
            timeout_ms: message.timeout_ms,
        })
    }
}

impl From<&HealthCheck> for HealthCheckMessage {
    fn from(health: &HealthCheck) -> Self {
        Self {
            check: Some((&health.check).into()),
            grace_ms: health.grace_ms,
            failures: health.failures,
        }
    }
}

impl TryFrom<HealthCheckMessage> for HealthCheck {
    type Error = Wrong;

    fn try_from(message: HealthCheckMessage) -> Read<Self> {
        Ok(Self {
            check: message.check.ok_or(Wrong("health check"))?.try_into()?,
            grace_ms: message.grace_ms,
            failures: message.failures,
        })
    }
}

/// What is stored of it: nothing, as long as nothing is known.
pub(super) fn standing(standing: Standing) -> Option<StandingMessage> {
    (standing != Standing::default()).then_some(StandingMessage {
        healthy: standing.healthy,
        ready: standing.ready,
    })
}

/// The same, read back.
pub(super) fn standing_from(message: Option<StandingMessage>) -> Standing {
    message.map_or_else(Standing::default, |message| Standing {
        healthy: message.healthy,
        ready: message.ready,
    })
}
