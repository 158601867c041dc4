//! Validation of health and readiness checks that no agent could run.

use crate::limits;
use crate::task::{Check, CheckKind, TaskSpec};

/// The name of an invalid field, and a message that names the remedy.
type FieldError = (String, String);

/// Validates the checks of a description.
pub(super) fn check(spec: &TaskSpec) -> Result<(), FieldError> {
    if let Some(health) = &spec.health_check {
        check_one("health_check.check", &health.check)?;
        check_time("health_check.grace_ms", health.grace_ms, 0)?;
        if health.failures == 0 {
            let text = "it is 0: give at least 1, or a readiness check if it is only to tell";
            return Err(("health_check.failures".to_owned(), text.to_owned()));
        }
    }
    match &spec.readiness_check {
        Some(readiness) => check_one("readiness_check", readiness),
        None => Ok(()),
    }
}

fn check_one(field: &str, check: &Check) -> Result<(), FieldError> {
    check_time(&format!("{field}.delay_ms"), check.delay_ms, 0)?;
    let least_ms = limits::CHECK_INTERVAL_MS;
    check_time(&format!("{field}.interval_ms"), check.interval_ms, least_ms)?;
    check_time(&format!("{field}.timeout_ms"), check.timeout_ms, 1)?;
    let wrong = |part: &str, text: String| Err((format!("{field}.{part}"), text));
    let (kind, port) = match &check.kind {
        CheckKind::Shell(line) => return check_command(field, std::slice::from_ref(line)),
        CheckKind::Argv(words) => return check_command(field, words),
        CheckKind::Tcp { port } => ("tcp", *port),
        CheckKind::Http { port, .. } => ("http", *port),
    };
    if port == 0 {
        let text = "it is 0: name the port of the task, 1 to 65535";
        return wrong(&format!("{kind}.port"), text.to_owned());
    }
    let CheckKind::Http { path, statuses, .. } = &check.kind else {
        return Ok(());
    };
    let most = limits::CHECK_PATH_BYTES;
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !is_plain || path.len() > most {
        let text = format!(
            "it is no path: give at most {most} printable ASCII characters without spaces, the first a /"
        );
        return wrong("http.path", text);
    }
    let is_status = |status: &u16| (100..=599).contains(status);
    if statuses.len() > limits::CHECK_STATUSES || !statuses.iter().all(is_status) {
        let most = limits::CHECK_STATUSES;
        let text = format!("name at most {most} statuses from 100 to 599, or none for 200 to 399");
        return wrong("http.statuses", text);
    }
    Ok(())
}

fn check_time(field: &str, ms: u64, least_ms: u64) -> Result<(), FieldError> {
    let most_ms = limits::CHECK_TIME_MS;
    if (least_ms..=most_ms).contains(&ms) {
        return Ok(());
    }
    let text = format!("{ms} ms: give {least_ms} to {most_ms} ms, which is a day");
    Err((field.to_owned(), text))
}

fn check_command(field: &str, words: &[String]) -> Result<(), FieldError> {
    let wrong = |text| Err((format!("{field}.command"), text));
    let is_empty = words.first().is_none_or(|first| first.trim().is_empty());
    if is_empty || words.iter().any(|word| word.contains('\0')) {
        let text = "it is empty or contains NUL: give shell a line or argv a program";
        return wrong(text.to_owned());
    }
    let (size, most) = (
        words.iter().map(|word| word.len() + 1).sum::<usize>(),
        limits::CHECK_COMMAND_BYTES,
    );
    if size > most {
        return wrong(format!(
            "it takes {size} bytes; at most {most}: bring a program with uris"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{HealthCheck, Scheme};
    use crate::testing;

    fn http(port: u16, path: &str, statuses: &[u16]) -> CheckKind {
        CheckKind::Http {
            scheme: Scheme::Http,
            port,
            path: path.to_owned(),
            statuses: statuses.iter().copied().collect(),
        }
    }

    fn plain() -> TaskSpec {
        testing::spec("t", "cpus:1")
    }

    fn healthy(check: Check) -> TaskSpec {
        TaskSpec {
            health_check: Some(Box::new(HealthCheck::of(check))),
            ..plain()
        }
    }

    fn field(spec: &TaskSpec) -> Option<String> {
        check(spec).err().map(|(field, _)| field)
    }

    #[test]
    fn valid_checks_are_accepted() {
        let path = "/".repeat(limits::CHECK_PATH_BYTES);
        let kinds = [
            CheckKind::Shell("true".into()),
            CheckKind::Argv(vec!["true".into(), String::new()]),
            CheckKind::Tcp { port: 65_535 },
            http(1, "/health?deep=1", &[100, 599]),
            http(80, &path, &[]),
        ];
        for kind in kinds {
            let check = Check::of(kind);
            let both = TaskSpec {
                readiness_check: Some(Box::new(check.clone())),
                ..healthy(check)
            };
            assert_eq!(field(&both), None, "{both:?}");
            assert!(both.size_without_limits() > plain().size_without_limits());
        }
        assert_eq!(field(&plain()), None);
    }

    #[test]
    fn an_invalid_check_names_its_field() {
        let long = format!("/{}", "a".repeat(limits::CHECK_PATH_BYTES));
        let many: Vec<u16> = (200..=264).collect();
        let table = [
            (CheckKind::Shell(" ".into()), "command"),
            (CheckKind::Shell("a\0b".into()), "command"),
            (CheckKind::Argv(vec![]), "command"),
            (CheckKind::Argv(vec!["a".into(), "\0".into()]), "command"),
            (CheckKind::Shell("x".repeat(20_000)), "command"),
            (CheckKind::Argv(vec!["x".into(); 10_000]), "command"),
            (CheckKind::Tcp { port: 0 }, "tcp.port"),
            (http(0, "/", &[]), "http.port"),
            (http(80, "health", &[]), "http.path"),
            (http(80, "/a b", &[]), "http.path"),
            (http(80, "/a\r\nX: y", &[]), "http.path"),
            (http(80, &long, &[]), "http.path"),
            (http(80, "/", &[99]), "http.statuses"),
            (http(80, "/", &many), "http.statuses"),
        ];
        for (kind, part) in table {
            let check = Check::of(kind);
            let ready = TaskSpec {
                readiness_check: Some(Box::new(check.clone())),
                ..plain()
            };
            assert_eq!(field(&ready), Some(format!("readiness_check.{part}")));
            let health = format!("health_check.check.{part}");
            assert_eq!(field(&healthy(check)), Some(health));
        }
    }

    #[test]
    fn check_times_and_failure_counts_have_bounds() {
        let port = || Check::of(CheckKind::Tcp { port: 80 });
        let with = |change: &dyn Fn(&mut HealthCheck)| {
            let mut health = HealthCheck::of(port());
            change(&mut health);
            field(&TaskSpec {
                health_check: Some(Box::new(health)),
                ..plain()
            })
        };
        let named = |field: &str| Some(format!("health_check.{field}"));
        let day_ms = limits::CHECK_TIME_MS;
        assert_eq!(with(&|health| health.check.delay_ms = 0), None);
        assert_eq!(with(&|health| health.grace_ms = day_ms), None);
        let found = with(&|health| health.grace_ms = day_ms + 1);
        assert_eq!(found, named("grace_ms"));
        assert_eq!(with(&|health| health.failures = 0), named("failures"));
        let found = with(&|health| health.check.delay_ms = day_ms + 1);
        assert_eq!(found, named("check.delay_ms"));
        let found = with(&|health| health.check.interval_ms = 99);
        assert_eq!(found, named("check.interval_ms"));
        let found = with(&|health| health.check.timeout_ms = 0);
        assert_eq!(found, named("check.timeout_ms"));
    }
}
