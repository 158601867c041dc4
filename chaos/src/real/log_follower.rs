//! An operator that follows the output of services by `argosy logs --follow`, one after the other.
//! Each service counts, one line each second. What the operator sees begins with 0 and leaves no
//! number out, whatever happens to masters and agents, except where the output itself reports
//! missing bytes. At the end, the whole output has every number that was seen.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_testbed::cluster::Cluster;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::cli_operator::CliOperator;
use super::report::{OperationCounts, ReportedViolation};
use crate::invariants::Rule;
use crate::rng::Rng;

/// Pause between two services.
const PAUSE: Duration = Duration::from_millis(500);
/// Timeout for the output that exists, from a healthy cluster.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The beginning of the line that takes the place of missing output.
const MISSING: &str = "[argosy: ";

/// The results of all followed services.
#[derive(Debug, Default)]
pub(crate) struct LogFindings {
    pub(crate) counts: OperationCounts,
    /// The number of lines that were compared.
    pub(crate) lines: u64,
    /// The highest number that was seen of each service.
    highest: BTreeMap<String, u64>,
    pub(crate) violations: Vec<ReportedViolation>,
}

/// Follows services until it is finished.
pub(crate) struct LogFollower {
    stop: CancellationToken,
    task: JoinHandle<(CliOperator, LogFindings)>,
}

impl LogFollower {
    pub(crate) fn start(cluster: &Cluster, rng: Rng) -> Self {
        let mut operator = CliOperator::new(cluster, rng);
        let stop = CancellationToken::new();
        let is_over = stop.clone();
        let task = tokio::spawn(async move {
            let mut findings = LogFindings::default();
            while is_over
                .run_until_cancelled(time::sleep(PAUSE))
                .await
                .is_some()
            {
                if let Some(service) = operator.any_service() {
                    let longest = Duration::from_millis(operator.rng.between(2_000, 45_000));
                    let followed = follow(&operator, &service, longest, &is_over).await;
                    findings.note(&service, &followed);
                }
            }
            (operator, findings)
        });
        Self { stop, task }
    }

    /// Ends it. If the cluster is healthy, reads the whole output of each running service, which
    /// must succeed.
    ///
    /// # Errors
    /// If its task has failed.
    pub(crate) async fn finish(self, is_healthy: bool) -> Result<LogFindings> {
        self.stop.cancel();
        let ended = self.task.await;
        let (operator, mut findings) = ended.context("the operator of logs has failed")?;
        let services = operator.all_services().into_iter();
        for service in services.filter(|_| is_healthy) {
            let read = operator
                .command(&["logs", "--stdout", &service])
                .stderr(Stdio::piped())
                .output();
            match time::timeout(TIMEOUT, read).await {
                Ok(Ok(output)) if output.status.success() => {
                    findings.note_all(&service, &String::from_utf8_lossy(&output.stdout));
                }
                Ok(Ok(output)) => {
                    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    findings.violation(format!("the output of {service} cannot be read: {why}"));
                }
                Ok(Err(error)) => return Err(error).context("cannot execute argosy logs"),
                Err(_) => findings.violation(format!(
                    "the output of {service} cannot be read within {TIMEOUT:?}"
                )),
            }
        }
        Ok(findings)
    }
}

/// Returns what the operator sees of a service until it stops following it.
async fn follow(
    operator: &CliOperator,
    service: &str,
    longest: Duration,
    is_over: &CancellationToken,
) -> String {
    let child = operator
        .command(&["logs", "--follow", "--stdout", service])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return String::new();
    };
    let mut seen = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        let reading = time::timeout(longest, output.read_to_end(&mut seen));
        // Its time may be over, or that of all faults: what was read until then counts.
        let _ = is_over.run_until_cancelled(reading).await;
    }
    let _ = child.kill().await;
    String::from_utf8_lossy(&seen).into_owned()
}

impl LogFindings {
    /// Compares what was seen of the output of a service, from its beginning.
    fn note(&mut self, service: &str, output: &str) {
        match compare(output) {
            // It was not reached, or had not started yet.
            Ok(Compared { lines: 0, .. }) => self.counts.unknown += 1,
            Ok(compared) => {
                self.counts.ok += 1;
                self.lines += compared.lines;
                let highest = self.highest.entry(service.to_owned()).or_default();
                *highest = compared.last.max(*highest);
            }
            Err(what) => self.violation(format!("the output of {service}: {what}")),
        }
    }

    /// Compares the whole output of a service.
    fn note_all(&mut self, service: &str, output: &str) {
        let seen = self.highest.get(service).copied();
        self.note(service, output);
        let last = compare(output).ok().map(|compared| compared.last);
        if let (Some(seen), Some(last)) = (seen, last)
            && last < seen
        {
            let what = format!("the output of {service} ends with {last}, and {seen} was seen");
            self.violation(what);
        }
    }

    fn violation(&mut self, what: String) {
        self.violations.push(ReportedViolation {
            checker: Rule::OutputContinuity.to_string(),
            what,
            time_ns: None,
        });
    }
}

/// Lines, each of which is one more than the line before it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Compared {
    lines: u64,
    /// The number of the last line; 0 if there is none.
    last: u64,
}

/// Compares the lines of an output.
///
/// # Errors
/// The first line that is not one more than the line before it, in words.
fn compare(output: &str) -> Result<Compared, String> {
    // The last line may be incomplete.
    let complete = output.rfind('\n').map_or("", |end| &output[..end]);
    let mut lines = complete.lines().peekable();
    let mut compared = Compared::default();
    let mut expected = Some(0_u64);
    while let Some(line) = lines.next() {
        if line.starts_with(MISSING) {
            // Bytes are missing: the next number is not known, and its line may be incomplete.
            expected = None;
            lines.next();
            continue;
        }
        // The line before missing bytes may be incomplete, or empty.
        if lines.peek().is_some_and(|next| next.starts_with(MISSING)) {
            continue;
        }
        let number = line.parse::<u64>().ok();
        let Some(number) = number.filter(|number| expected.is_none_or(|next| next == *number))
        else {
            return Err(match expected {
                Some(next) => format!("{line:?} instead of {next}"),
                None => format!("{line:?} instead of a number"),
            });
        };
        compared.lines += 1;
        compared.last = number;
        expected = Some(number + 1);
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(output: &str) -> u64 {
        compare(output).unwrap().lines
    }

    #[test]
    fn output_without_a_gap_is_compared_line_by_line() {
        assert_eq!(lines_of(""), 0);
        assert_eq!(lines_of("0\n1\n2\n"), 3);
        assert_eq!(lines_of("0\n1\n12"), 2, "the last line is incomplete");
    }

    #[test]
    fn lines_that_are_missing_repeated_or_damaged_are_found() {
        for (output, what) in [
            ("1\n2\n", "\"1\" instead of 0"),
            ("0\n2\n", "\"2\" instead of 1"),
            ("0\n1\n1\n", "\"1\" instead of 2"),
            ("0\n1\n\n3\n", "\"\" instead of 2"),
            ("0\nx\n", "\"x\" instead of 1"),
        ] {
            assert_eq!(compare(output), Err(what.to_owned()));
        }
    }

    #[test]
    fn missing_bytes_are_excused_where_the_output_names_them() {
        let note = "[argosy: 7 bytes of output are missing here: they could not be written]";
        // In the middle of 12 and of 15, and between two lines.
        let cut = format!("10\n11\n1\n{note}\n5\n16\n17\n");
        let begun = (0..10)
            .map(|number| format!("{number}\n"))
            .collect::<String>();
        assert_eq!(lines_of(&format!("{begun}{cut}")), 14);
        assert_eq!(lines_of(&format!("0\n1\n\n{note}\n8\n9\n")), 3);
        let repeated = format!("0\n1\n\n{note}\n8\n9\n9\n");
        assert_eq!(compare(&repeated), Err("\"9\" instead of 10".to_owned()));
    }

    #[test]
    fn a_whole_output_has_every_number_that_was_seen() {
        let mut findings = LogFindings::default();
        findings.note("f/a", "0\n1\n2\n");
        findings.note("f/a", "0\n1\n");
        findings.note_all("f/a", "0\n1\n2\n3\n");
        findings.note_all("f/b", "0\n");
        assert!(findings.violations.is_empty(), "{findings:?}");
        for short in ["0\n1\n2\n", ""] {
            findings.note_all("f/a", short);
            let last = findings.violations.pop().unwrap();
            assert!(last.what.ends_with("and 3 was seen"), "{last:?}");
        }
    }

    #[test]
    fn findings_count_services_and_lines() {
        let mut findings = LogFindings::default();
        findings.note("f/a", "0\n1\n");
        findings.note("f/b", "");
        assert_eq!(
            (findings.counts.ok, findings.counts.unknown, findings.lines),
            (1, 1, 2)
        );
        findings.note("f/c", "0\n2\n");
        assert!(findings.violations[0].what.contains("f/c"), "{findings:?}");
        assert_eq!(
            findings.violations[0].checker,
            Rule::OutputContinuity.to_string()
        );
    }
}
