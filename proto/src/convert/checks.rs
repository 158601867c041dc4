//! Conversion of task checks, with default times.

use std::collections::BTreeSet;

use argosy_state::task::{Check, CheckKind, HealthCheck, Scheme};

use super::InvalidMessage;
use crate::v1;
use crate::v1::check::Kind;

/// Returns a check on the wire.
pub(super) fn check(check: &Check) -> v1::Check {
    let command = |shell: &str, argv: &[String]| {
        Kind::Command(v1::CommandCheck {
            shell: shell.to_owned(),
            argv: argv.to_vec(),
        })
    };
    let kind = match &check.kind {
        CheckKind::Shell(line) => command(line, &[]),
        CheckKind::Argv(words) => command("", words),
        CheckKind::Http {
            scheme,
            port,
            path,
            statuses,
        } => Kind::Http(v1::HttpCheck {
            port: (*port).into(),
            path: path.clone(),
            statuses: statuses.iter().map(|status| (*status).into()).collect(),
            tls: *scheme == Scheme::Https,
        }),
        CheckKind::Tcp { port } => Kind::Tcp(v1::TcpCheck {
            port: (*port).into(),
        }),
    };
    v1::Check {
        kind: Some(kind),
        delay_ms: Some(check.delay_ms),
        interval_ms: Some(check.interval_ms),
        timeout_ms: Some(check.timeout_ms),
    }
}

/// Returns a health check on the wire.
pub(super) fn health_check(health: &HealthCheck) -> v1::HealthCheck {
    v1::HealthCheck {
        check: Some(check(&health.check)),
        grace_ms: Some(health.grace_ms),
        failures: Some(health.failures),
    }
}

/// Reads a check.
///
/// # Errors
/// Names the field: no kind, both or neither of shell and argv, an invalid port or status.
pub fn check_from(wire: v1::Check) -> Result<Check, InvalidMessage> {
    let kind = match wire.kind {
        Some(Kind::Command(command)) => command_from(command)?,
        Some(Kind::Http(http)) => http_from(http)?,
        Some(Kind::Tcp(tcp)) => CheckKind::Tcp {
            port: port("tcp.port", tcp.port)?,
        },
        None => {
            let text = "no kind is given: give command, http or tcp";
            return Err(InvalidMessage::new("kind", text));
        }
    };
    let usual = Check::of(kind);
    Ok(Check {
        delay_ms: wire.delay_ms.unwrap_or(usual.delay_ms),
        interval_ms: wire.interval_ms.unwrap_or(usual.interval_ms),
        timeout_ms: wire.timeout_ms.unwrap_or(usual.timeout_ms),
        ..usual
    })
}

/// Reads a health check.
///
/// # Errors
/// As [`check_from`], and if it contains no check.
pub fn health_check_from(wire: v1::HealthCheck) -> Result<HealthCheck, InvalidMessage> {
    let check = wire
        .check
        .ok_or_else(|| InvalidMessage::new("check", "it is missing: give a check"))?;
    let usual = HealthCheck::of(check_from(check).map_err(|why| why.inside("check"))?);
    Ok(HealthCheck {
        grace_ms: wire.grace_ms.unwrap_or(usual.grace_ms),
        failures: wire.failures.unwrap_or(usual.failures),
        ..usual
    })
}

fn command_from(wire: v1::CommandCheck) -> Result<CheckKind, InvalidMessage> {
    match (wire.shell.is_empty(), wire.argv.is_empty()) {
        (false, true) => Ok(CheckKind::Shell(wire.shell)),
        (true, false) => Ok(CheckKind::Argv(wire.argv)),
        (true, true) => Err(InvalidMessage::new(
            "command",
            "it is empty: give shell a line or argv a program",
        )),
        (false, false) => Err(InvalidMessage::new(
            "command",
            "give shell or argv, not both",
        )),
    }
}

fn http_from(wire: v1::HttpCheck) -> Result<CheckKind, InvalidMessage> {
    let statuses: Result<BTreeSet<u16>, InvalidMessage> = wire
        .statuses
        .into_iter()
        .map(|status| {
            let text = || format!("{status} is not an HTTP status: 100 to 599");
            u16::try_from(status).map_err(|_| InvalidMessage::new("http.statuses", text()))
        })
        .collect();
    Ok(CheckKind::Http {
        scheme: match wire.tls {
            false => Scheme::Http,
            true => Scheme::Https,
        },
        port: port("http.port", wire.port)?,
        path: match wire.path.is_empty() {
            true => "/".to_owned(),
            false => wire.path,
        },
        statuses: statuses?,
    })
}

fn port(field: &str, number: u32) -> Result<u16, InvalidMessage> {
    let fits = u16::try_from(number).ok().filter(|port| *port > 0);
    fits.ok_or_else(|| InvalidMessage::new(field, format!("{number} is not a port: 1 to 65535")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u32) -> v1::Check {
        v1::Check {
            kind: Some(Kind::Tcp(v1::TcpCheck { port })),
            ..v1::Check::default()
        }
    }

    #[test]
    fn checks_round_trip() {
        let http = |scheme| CheckKind::Http {
            scheme,
            port: 80,
            path: "/health".into(),
            statuses: [200, 204].into(),
        };
        let kinds = [
            CheckKind::Shell("true".into()),
            CheckKind::Argv(vec!["true".into(), String::new()]),
            CheckKind::Tcp { port: 65_535 },
            http(Scheme::Http),
            http(Scheme::Https),
        ];
        for kind in kinds {
            let ours = HealthCheck {
                check: Check {
                    kind,
                    delay_ms: 0,
                    interval_ms: 1,
                    timeout_ms: 2,
                },
                grace_ms: 0,
                failures: 4,
            };
            assert_eq!(health_check_from(health_check(&ours)), Ok(ours));
        }
    }

    #[test]
    fn omitted_wire_fields_of_checks_have_the_mesos_defaults() {
        let wire = v1::HealthCheck {
            check: Some(tcp(80)),
            ..v1::HealthCheck::default()
        };
        let health = health_check_from(wire).unwrap();
        let check = &health.check;
        let times = (check.delay_ms, check.interval_ms, check.timeout_ms);
        assert_eq!(times, (15_000, 10_000, 20_000));
        assert_eq!((health.grace_ms, health.failures), (10_000, 3));
        let http = v1::HttpCheck {
            port: 80,
            ..v1::HttpCheck::default()
        };
        let wire = v1::Check {
            kind: Some(Kind::Http(http)),
            ..v1::Check::default()
        };
        let CheckKind::Http { scheme, path, .. } = check_from(wire).unwrap().kind else {
            panic!("it is asked by HTTP")
        };
        assert_eq!((scheme, path.as_str()), (Scheme::Http, "/"));
    }

    #[test]
    fn an_invalid_check_names_its_field() {
        let of = |kind| v1::Check {
            kind: Some(kind),
            ..v1::Check::default()
        };
        let command = |shell: &str, argv: &[&str]| {
            of(Kind::Command(v1::CommandCheck {
                shell: shell.to_owned(),
                argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            }))
        };
        let http = |port, status| {
            of(Kind::Http(v1::HttpCheck {
                port,
                path: String::new(),
                statuses: vec![status],
                tls: false,
            }))
        };
        let table = [
            (v1::Check::default(), "kind"),
            (command("", &[]), "command"),
            (command("true", &["true"]), "command"),
            (tcp(0), "tcp.port"),
            (tcp(65_536), "tcp.port"),
            (http(0, 200), "http.port"),
            (http(80, 65_536), "http.statuses"),
        ];
        for (wire, field) in table {
            assert_eq!(check_from(wire).unwrap_err().field, field);
        }
        let nothing = health_check_from(v1::HealthCheck::default());
        assert_eq!(nothing.unwrap_err().field, "check");
    }
}
