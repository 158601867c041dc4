//! Checks of running tasks.

use std::collections::BTreeSet;

use crate::codec::canonical::CanonicalWriter;
use crate::codec::scalars::AsNumber;
use crate::codec::stored::stored;

/// A check that is repeated while a task runs, from inside its namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The kind of probe.
    pub kind: CheckKind,
    /// The time from the task's start to the first probe, in milliseconds.
    pub delay_ms: u64,
    /// The time from one result to the next probe, in milliseconds; at least
    /// [`crate::limits::CHECK_INTERVAL_MS`].
    pub interval_ms: u64,
    /// The time after which a probe without a result counts as failed, in milliseconds; at least 1.
    pub timeout_ms: u64,
}

impl Check {
    /// Returns a check with the default times of Mesos.
    #[must_use]
    pub fn of(kind: CheckKind) -> Self {
        Self {
            kind,
            delay_ms: 15_000,
            interval_ms: 10_000,
            timeout_ms: 20_000,
        }
    }
}

/// The kind of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// `/bin/sh -c` with this line exits with 0. It runs next to the task's command, under the same
    /// conditions.
    Shell(String),
    /// A program with these arguments exits with 0; never empty.
    Argv(Vec<String>),
    /// A port of the task's loopback address answers an HTTP GET request.
    Http {
        /// Plain HTTP, or HTTP over TLS.
        scheme: Scheme,
        /// The port.
        port: u16,
        /// The requested path; begins with `/`.
        path: String,
        /// The statuses that count as success; empty means 200 to 399.
        statuses: BTreeSet<u16>,
    },
    /// A port of the task's loopback address accepts a connection.
    Tcp {
        /// The port.
        port: u16,
    },
}

/// The scheme of an HTTP check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS, without verification of the certificate.
    Https,
}

/// A check that kills its task after too many consecutive failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The check and its times.
    pub check: Check,
    /// The time after the task's start during which failures do not count, until one probe has
    /// succeeded; in milliseconds.
    pub grace_ms: u64,
    /// The number of consecutive failures after which the task is killed; at least 1.
    pub failures: u32,
}

impl HealthCheck {
    /// Returns a health check with the default grace period and failure count of Mesos.
    #[must_use]
    pub fn of(check: Check) -> Self {
        Self {
            check,
            grace_ms: 10_000,
            failures: 3,
        }
    }
}

stored!(message Check {
    1 | 2 | 3 | 4 kind: OneOf or "kind of a check",
    5 delay_ms: Number,
    6 interval_ms: Number,
    7 timeout_ms: Number,
});

impl Check {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let Check {
            kind,
            delay_ms,
            interval_ms,
            timeout_ms,
        } = self;
        out.number(1, *delay_ms);
        out.number(2, *interval_ms);
        out.number(3, *timeout_ms);
        match kind {
            CheckKind::Shell(line) => out.chosen(4, |out| out.text(1, line)),
            CheckKind::Argv(words) => out.chosen(5, |out| out.words(1, words)),
            CheckKind::Http {
                scheme,
                port,
                path,
                statuses,
            } => out.chosen(6, |out| {
                match scheme {
                    Scheme::Http => (),
                    Scheme::Https => out.flag(1, true),
                }
                out.number(2, (*port).into());
                out.text(3, path);
                out.list(4, statuses, |out, status| {
                    out.optional(1, Some((*status).into()));
                });
            }),
            CheckKind::Tcp { port } => out.chosen(7, |out| out.number(1, (*port).into())),
        }
    }
}

stored!(oneof CheckKind {
    1 Shell(Text),
    2 Argv(Inner<TextList>),
    3 Http {
        1 port: Number or "port of a check",
        2 path: Text,
        3 statuses: NumberList or "status of a check",
        4 scheme: Number,
    },
    4 Tcp { port } as Number or "port of a check",
});

stored!(message HealthCheck {
    1 check: Part or "health check",
    2 grace_ms: Number,
    3 failures: Number,
});

impl HealthCheck {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let HealthCheck {
            check,
            grace_ms,
            failures,
        } = self;
        out.part(1, |out| check.fingerprint(out));
        out.number(2, *grace_ms);
        out.number(3, (*failures).into());
    }
}

/// Stored as a flag: whether the scheme uses TLS.
impl AsNumber for Scheme {
    fn number(&self) -> u64 {
        match self {
            Self::Http => 0,
            Self::Https => 1,
        }
    }

    fn of(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Http,
            _ => Self::Https,
        })
    }
}
