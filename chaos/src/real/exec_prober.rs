//! An operator that runs commands in services by `argosy exec`, one after the other. A command that
//! succeeds must have run in the named task. When the cluster is healthy again, each must succeed.

use std::time::Duration;

use anyhow::{Context, Result};
use argosy_testbed::cluster::Cluster;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::cli_operator::CliOperator;
use super::report::{OperationCounts, ReportedViolation};
use crate::invariants::Rule;
use crate::rng::Rng;

/// Pause between two commands.
const PAUSE: Duration = Duration::from_millis(400);
/// Timeout of a command. While its agent is paused, it may take this long.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Prints the task in whose environment it runs, and a word of the caller.
const COMMAND: &str = "echo \"$ARGOSY_TASK_ID $1\"";

/// The results of all commands.
#[derive(Debug, Default)]
pub(crate) struct ExecFindings {
    pub(crate) counts: OperationCounts,
    pub(crate) violations: Vec<ReportedViolation>,
}

/// Runs commands until it is finished.
pub(crate) struct ExecProber {
    stop: CancellationToken,
    task: JoinHandle<(CliOperator, ExecFindings)>,
}

impl ExecProber {
    pub(crate) fn start(cluster: &Cluster, rng: Rng) -> Self {
        let mut operator = CliOperator::new(cluster, rng);
        let stop = CancellationToken::new();
        let is_over = stop.clone();
        let task = tokio::spawn(async move {
            let mut findings = ExecFindings::default();
            while is_over
                .run_until_cancelled(time::sleep(PAUSE))
                .await
                .is_some()
            {
                if let Some(service) = operator.any_service() {
                    let result = run(&mut operator, &service).await;
                    findings.note(&service, &result);
                }
            }
            (operator, findings)
        });
        Self { stop, task }
    }

    /// Ends it. If the cluster is healthy, runs a command in one service of each framework, all of
    /// which must succeed.
    ///
    /// # Errors
    /// If its task has failed.
    pub(crate) async fn finish(self, is_healthy: bool) -> Result<ExecFindings> {
        self.stop.cancel();
        let ended = self.task.await;
        let (mut operator, mut findings) = ended.context("the operator of exec has failed")?;
        let services = operator.one_of_each().into_iter();
        for service in services.filter(|_| is_healthy) {
            let result = run(&mut operator, &service).await;
            findings.note(&service, &result);
            // No service is killed until the audit is over.
            if let ExecResult::Failed(why) = result {
                findings.violation(format!("no command can be run in {service}: {why}"));
            }
        }
        Ok(findings)
    }
}

impl ExecFindings {
    fn note(&mut self, service: &str, result: &ExecResult) {
        match result {
            ExecResult::Succeeded => self.counts.ok += 1,
            ExecResult::Failed(_) => self.counts.unknown += 1,
            ExecResult::Wrong { expected, printed } => self.violation(format!(
                "a command in {service} printed {printed:?} instead of {expected:?}"
            )),
        }
    }

    fn violation(&mut self, what: String) {
        self.violations.push(ReportedViolation {
            checker: Rule::ExecSession.to_string(),
            what,
            time_ns: None,
        });
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ExecResult {
    Succeeded,
    /// It may have run or not, with the reason.
    Failed(String),
    /// It reported success with another output.
    Wrong {
        expected: String,
        printed: String,
    },
}

/// Runs a command in a service.
async fn run(operator: &mut CliOperator, service: &str) -> ExecResult {
    let word = operator.rng.below(u64::MAX).to_string();
    let task = service.split_once('/').map_or(service, |(_, task)| task);
    let expected = format!("{task} {word}\n");
    let output = operator
        .command(&["exec", service])
        .args(["--", "/bin/sh", "-c", COMMAND, "sh", &word])
        .output();
    match time::timeout(TIMEOUT, output).await {
        Ok(Ok(output)) if output.status.success() => {
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            match printed == expected {
                true => ExecResult::Succeeded,
                false => ExecResult::Wrong { expected, printed },
            }
        }
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stderr);
            ExecResult::Failed(format!("{}: {}", output.status, text.trim()))
        }
        Ok(Err(error)) => ExecResult::Failed(error.to_string()),
        Err(_) => ExecResult::Failed(format!("it did not end within {TIMEOUT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Returns the result of an `argosy` that is this shell script. Its last argument is the word.
    async fn result_of(script: &str) -> ExecResult {
        let directory = tempfile::tempdir().unwrap();
        let argosy = directory.path().join("argosy");
        std::fs::write(&argosy, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&argosy, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut operator = CliOperator::of(argosy, Rng::new(1));
        run(&mut operator, "framework-1/f-service-1").await
    }

    #[tokio::test]
    async fn a_successful_command_with_another_output_is_a_violation() {
        let word = "for word; do :; done; ";
        let right = result_of(&format!("{word} echo f-service-1 $word")).await;
        assert_eq!(right, ExecResult::Succeeded);
        let failed = result_of("echo no such task >&2; exit 4").await;
        assert!(matches!(&failed, ExecResult::Failed(why) if why.ends_with("no such task")));
        let mut findings = ExecFindings::default();
        for result in [right, failed] {
            findings.note("f/t", &result);
        }
        assert_eq!((findings.counts.ok, findings.counts.unknown), (1, 1));
        assert_eq!(findings.violations, []);
        for script in [
            &format!("{word} echo f-service-2 $word"),
            "echo f-service-1 7",
            "true",
        ] {
            findings.note("f/t", &result_of(script).await);
        }
        assert_eq!(findings.violations.len(), 3, "{findings:?}");
    }
}
