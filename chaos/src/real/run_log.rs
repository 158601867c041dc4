//! The line that a run on real processes adds to the ledger.

use super::report::RunReport;
use crate::ledger::{BatchOutcome, BatchRecord, Details};

/// Faults that kill the leader.
const KILLS: [&str; 4] = [
    "kill-leader",
    "kill-minority",
    "kill-all-masters",
    "reconnect-storm",
];

/// Returns the sums of a run.
pub(super) fn run(report: &RunReport) -> BatchRecord {
    let done = report.done();
    BatchRecord {
        seeds: 1,
        seconds: report.seconds,
        faults: done.values().sum(),
        leader_kills: KILLS.iter().filter_map(|kind| done.get(kind)).sum(),
        fault_kinds: done.len() as u64,
        leader_changes: report.leader_changes(),
        operations: report.answered(),
        violations: report.violations.len() as u64,
        proves_too_little: !report.too_little.is_empty(),
        outcome: match report.interrupted {
            true => BatchOutcome::Interrupted,
            false => BatchOutcome::Complete,
        },
        ..BatchRecord::default()
    }
}

/// Returns the fields that the sums do not use.
pub(super) fn details(report: &RunReport) -> Details {
    Details::from_iter([
        ("version".to_owned(), report.version.as_str().into()),
        ("size".to_owned(), report.size.as_str().into()),
        ("transport".to_owned(), report.transport().into()),
        ("starts_witnessed".to_owned(), report.witnessed.into()),
        (
            "rules_judged".to_owned(),
            report.decisive_checks().len().into(),
        ),
        ("too_little".to_owned(), report.too_little.clone().into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::report::{FaultLine, ReportedViolation};

    #[test]
    fn the_log_of_a_run_contains_the_sums_of_its_report() {
        let line = |fault: &str, failure: Option<&str>| FaultLine {
            fault: fault.to_owned(),
            target: "master-1".to_owned(),
            begun_ns: 0,
            ended_ns: None,
            failure: failure.map(str::to_owned),
        };
        let mut report = RunReport {
            version: "argosy 0.1.0".to_owned(),
            faults: vec![
                line("kill-leader", None),
                line("kill-leader", Some("no leader")),
                line("pause-agent", None),
            ],
            ..RunReport::default()
        };
        let sums = run(&report);
        assert_eq!((sums.faults, sums.leader_kills, sums.violations), (2, 1, 0));
        assert_eq!(sums.outcome, BatchOutcome::Complete);
        assert!(!sums.proves_too_little);
        assert_eq!(sums.fault_kinds, 2);
        report.interrupted = true;
        report.too_little.push("no task".to_owned());
        report.violations.push(ReportedViolation {
            checker: "SingleStart".to_owned(),
            what: "twice".to_owned(),
            time_ns: None,
        });
        let sums = run(&report);
        assert_eq!(
            (sums.outcome, sums.violations),
            (BatchOutcome::Interrupted, 1)
        );
        assert!(sums.proves_too_little);
    }
}
