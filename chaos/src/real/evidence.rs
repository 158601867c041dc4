//! The shortfalls of a run: why it proves too little.

use std::time::Duration;

use super::arguments::RunArguments;
use super::faults::FaultName;
use super::growth;
use super::report::RunReport;
use crate::invariants::Rule;

/// Records the shortfalls. A run without violations that did nothing proves nothing.
pub(super) fn add_shortfalls(
    arguments: &RunArguments,
    wanted: &[FaultName],
    report: &mut RunReport,
) {
    let seconds = (report.faults_ns.1.saturating_sub(report.faults_ns.0)) / 1_000_000_000;
    let least = arguments.least_operations.unwrap_or(seconds * 5).max(1);
    let answered = report.answered();
    if answered < least {
        let text = format!("{answered} operations were answered, of at least {least}");
        report.too_little.push(text);
    }
    report.too_little.extend(report.mostly_failed());
    let faults = Duration::from_secs(seconds);
    report
        .too_little
        .extend(growth::shortfalls(&report.growth, faults));
    let least = arguments.least_leader_changes.unwrap_or(seconds / 60);
    if report.leader_changes() < least {
        let changes = report.leader_changes();
        let text = format!("the leader changed {changes} times, of at least {least}");
        report.too_little.push(text);
    }
    let done = report.done();
    let missing = wanted
        .iter()
        .filter(|fault| !done.contains_key(fault.name()));
    let missing: Vec<String> = missing
        .map(|fault| format!("{fault} was never done"))
        .collect();
    if done.is_empty() {
        report.too_little.push("no fault was done".to_owned());
    }
    if report.witnessed == 0 {
        report
            .too_little
            .push("no task has signed its start".to_owned());
    }
    report.too_little.extend(missing);
    let undecided = report
        .undecided
        .iter()
        .map(|what| format!("undecided: {what}"));
    report.too_little.extend(undecided.collect::<Vec<_>>());
    for rule in [
        Rule::ElectionSafety,
        Rule::Linearizability,
        Rule::OfferSingleUse,
        Rule::SingleStart,
        Rule::Agreement,
        Rule::GroupAtomicity,
        Rule::LimitEnforcement,
        Rule::ExecSession,
        Rule::OutputContinuity,
        Rule::NoLeftovers,
    ] {
        let compared = report.checkers.get(&rule.to_string()).copied();
        if compared.unwrap_or_default() == 0 {
            let text = format!("the checker of {rule} had nothing to look at");
            report.too_little.push(text);
        }
    }
}
