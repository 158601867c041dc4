//! The checks that `run` requests for a task, in wire form. Pure.

use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::check::Kind;

use crate::args::Checks;

/// Returns the health check, if any.
pub(super) fn health(arguments: &Checks) -> Option<v1::HealthCheck> {
    let Checks {
        health_cmd,
        health_http,
        health_https,
        health_tcp,
        health_status,
        ..
    } = arguments;
    let http = with_statuses(
        health_http.as_ref().or(health_https.as_ref()),
        health_status,
    );
    let kind = kind(health_cmd.as_ref(), http, *health_tcp)?;
    Some(v1::HealthCheck {
        check: Some(v1::Check {
            kind: Some(kind),
            delay_ms: Some(ms(arguments.health_delay)),
            interval_ms: Some(ms(arguments.health_interval)),
            timeout_ms: Some(ms(arguments.health_timeout)),
        }),
        grace_ms: Some(ms(arguments.health_grace)),
        failures: Some(arguments.health_failures),
    })
}

/// Returns the readiness check, if any.
pub(super) fn readiness(arguments: &Checks) -> Option<v1::Check> {
    let Checks {
        ready_cmd,
        ready_http,
        ready_https,
        ready_tcp,
        ready_status,
        ..
    } = arguments;
    let http = with_statuses(ready_http.as_ref().or(ready_https.as_ref()), ready_status);
    let kind = kind(ready_cmd.as_ref(), http, *ready_tcp)?;
    Some(v1::Check {
        kind: Some(kind),
        delay_ms: Some(ms(arguments.ready_delay)),
        interval_ms: Some(ms(arguments.ready_interval)),
        timeout_ms: Some(ms(arguments.ready_timeout)),
    })
}

fn with_statuses(http: Option<&v1::HttpCheck>, statuses: &[u32]) -> Option<v1::HttpCheck> {
    http.map(|http| v1::HttpCheck {
        statuses: statuses.to_vec(),
        ..http.clone()
    })
}

/// The argument parser accepts at most one kind.
fn kind(line: Option<&String>, http: Option<v1::HttpCheck>, tcp: Option<u16>) -> Option<Kind> {
    let line = line.map(|line| {
        Kind::Command(v1::CommandCheck {
            shell: line.clone(),
            argv: Vec::new(),
        })
    });
    let http = http.map(Kind::Http);
    let tcp = tcp.map(|port| Kind::Tcp(v1::TcpCheck { port: port.into() }));
    line.or(http).or(tcp)
}

/// The registry rejects values that are too long.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::run::job::tests::job;
    use crate::verbs::Arguments;

    #[test]
    fn a_task_without_flags_has_no_checks() {
        let job = job(&["--", "true"]).unwrap();
        let spec = job.spec();
        assert_eq!((&spec.health_check, &spec.readiness_check), (&None, &None));
    }

    #[test]
    fn flags_and_their_docker_names_become_checks() {
        let job = job(&[
            "--health-http",
            "8080/health",
            "--health-status",
            "200,204",
            "--health-interval",
            "2s",
            "--health-retries",
            "5",
            "--health-start-period",
            "1m",
            "--ready-cmd",
            "test -e up",
            "--ready-delay",
            "0",
            "--",
            "true",
        ]);
        let spec = job.unwrap().spec().clone();
        let health = spec.health_check.unwrap();
        assert_eq!((health.grace_ms, health.failures), (Some(60_000), Some(5)));
        let check = health.check.unwrap();
        let times = (check.delay_ms, check.interval_ms, check.timeout_ms);
        assert_eq!(times, (Some(15_000), Some(2_000), Some(20_000)));
        let Some(Kind::Http(http)) = check.kind else {
            panic!("it is asked by HTTP")
        };
        assert_eq!((http.port, http.path.as_str()), (8080, "/health"));
        assert_eq!(
            (http.statuses.as_slice(), http.tls),
            (&[200, 204][..], false)
        );
        let ready = spec.readiness_check.unwrap();
        assert_eq!(ready.delay_ms, Some(0));
        let Some(Kind::Command(command)) = ready.kind else {
            panic!("it is asked by a command")
        };
        assert_eq!(command.shell, "test -e up");
    }

    #[test]
    fn https_checks_are_parsed_like_http() {
        let args = ["--ready-https", "8443/up", "--ready-status", "204"];
        let all = args.iter().chain(&["--", "true"]).copied();
        let job = job(&all.collect::<Vec<_>>()).unwrap();
        let ready = job.spec().readiness_check.clone().unwrap();
        let Some(Kind::Http(http)) = ready.kind else {
            panic!("it is asked by HTTP")
        };
        assert_eq!((http.port, http.path.as_str()), (8443, "/up"));
        assert_eq!((http.statuses, http.tls), (vec![204], true));
    }

    #[test]
    fn one_kind_of_check_is_allowed_and_times_require_one() {
        for args in [
            &["--health-cmd", "true", "--health-tcp", "80"][..],
            &["--health-interval", "1s"],
            &["--ready-tcp", "80", "--health-failures", "2"],
            &["--health-cmd", "true", "--health-failures", "0"],
            &["--ready-tcp", "0"],
            &["--ready-http", "80", "--ready-https", "443"],
            &["--health-cmd", "true", "--health-status", "200"],
            &["--ready-http", "80", "--ready-status", "99"],
        ] {
            let all = ["argosy", "run"].iter().chain(args).chain(&["--", "true"]);
            assert!(Arguments::try_parse_from(all).is_err(), "{args:?}");
        }
    }
}
