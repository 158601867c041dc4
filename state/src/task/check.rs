//! What is asked of running tasks.

use std::collections::BTreeSet;

use crate::encode::stored::stored;
use crate::fingerprint::Writer;

/// What is asked of a running task, again and again, from inside its namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From the task's start to the first time, in milliseconds.
    pub delay_ms: u64,
    /// From one answer to the next time, in milliseconds; at least [`crate::limits::CHECK_INTERVAL_MS`].
    pub interval_ms: u64,
    /// How long an answer may take before it counts as a failure, in milliseconds; at least 1.
    pub timeout_ms: u64,
}

impl Check {
    /// With the times that Mesos gives to one that names none.
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

/// What is asked of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// That `/bin/sh -c` with this line exits with 0, beside the task's own command and as that runs.
    Shell(String),
    /// The same for a program and its arguments; never empty.
    Argv(Vec<String>),
    /// That a port of the task's loopback address answers a GET by HTTP.
    Http {
        /// Plainly, or over TLS.
        scheme: Scheme,
        /// Which port.
        port: u16,
        /// For what; begins with `/`.
        path: String,
        /// Which statuses mean that all is well; empty means 200 to 399.
        statuses: BTreeSet<u16>,
    },
    /// That a port of the task's loopback address takes a connection.
    Tcp {
        /// Which port.
        port: u16,
    },
}

/// How HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// As it is.
    Http,
    /// Over TLS, whoever the other side says that it is.
    Https,
}

/// A check that ends its task when it fails too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked, and when.
    pub check: Check,
    /// For so long after the task's start failures count for nothing, until one answer was good; in milliseconds.
    pub grace_ms: u64,
    /// How many failures in a row end the task; at least 1.
    pub failures: u32,
}

impl HealthCheck {
    /// With Mesos' patience.
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
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
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
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
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
