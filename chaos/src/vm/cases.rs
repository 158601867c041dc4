//! Test cases inside a machine: names go in, results come out. A missing result is a failure.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::Flushes;
use super::guest::DISKS;
use super::machine::{Hardware, MachineError, ReportWait, SharedDisk, VirtualMachine};
use super::power_cuts::{self, LAST_LINES};
use super::report::GuestReport;

/// Timeout from power on to the first case.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaseResult {
    pub(crate) case: String,
    /// Milliseconds that it took inside the machine.
    pub(crate) ms: u64,
    /// The reason of the failure; empty if it passed.
    pub(crate) why: String,
}

/// Runs the cases of one group, separated by commas, in one machine, each within `limit`.
///
/// # Errors
/// If the machine cannot be started.
pub(crate) fn run(
    hardware: &Hardware,
    group: &str,
    limit: Duration,
    work: &Path,
) -> anyhow::Result<Vec<CaseResult>> {
    let wanted: Vec<&str> = group.split(',').collect();
    let disks = power_cuts::new_disks(work, &[Flushes::Honoured; DISKS], &Arc::default())?;
    let message = format!("argosy.cases={group} argosy.limit={}", limit.as_secs());
    let results = in_machine(hardware, &disks, &message, &wanted, limit, work)?;
    Ok(results)
}

fn in_machine(
    hardware: &Hardware,
    disks: &[SharedDisk],
    args: &str,
    wanted: &[&str],
    limit: Duration,
    work: &Path,
) -> Result<Vec<CaseResult>, MachineError> {
    let machine = VirtualMachine::start(hardware, disks, args, work)?;
    let mut results = Vec::new();
    for case in wanted {
        // The guest applies the limit, too. This deadline is for a guest that hangs.
        let deadline = Instant::now() + limit + BOOT_TIMEOUT;
        let result = wait(&machine, case, deadline);
        let over = result.why.starts_with("no result");
        if !result.why.is_empty() {
            let lines = machine.console(LAST_LINES);
            eprintln!("  the last lines of {case}:\n    {}", lines.join("\n    "));
        }
        results.push(result);
        if over {
            break;
        }
    }
    for case in &wanted[results.len()..] {
        results.push(failed(case, "no result: the case before it had none"));
    }
    Ok(results)
}

fn failed(case: &str, why: &str) -> CaseResult {
    CaseResult {
        case: case.to_owned(),
        ms: 0,
        why: why.to_owned(),
    }
}

fn wait(machine: &VirtualMachine, case: &str, deadline: Instant) -> CaseResult {
    loop {
        match machine.wait_for_report(deadline) {
            ReportWait::Report(report) => {
                if let Some(result) = result_of(case, report) {
                    return result;
                }
            }
            ReportWait::Silence => return failed(case, "no result in time"),
            ReportWait::Ended => return failed(case, "no result: the machine has ended"),
        }
    }
}

/// Returns the result of `case`, if the report is one.
fn result_of(case: &str, report: GuestReport) -> Option<CaseResult> {
    match report {
        GuestReport::CaseResult { case: of, ms, why } if of == case => {
            Some(CaseResult { case: of, ms, why })
        }
        GuestReport::CaseResult { case: of, .. } => {
            Some(failed(case, &format!("no result, but one of {of}")))
        }
        // The guest continues to its result. Earlier reports are informational.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(case: &str, why: &str) -> GuestReport {
        GuestReport::CaseResult {
            case: case.into(),
            ms: 3,
            why: why.into(),
        }
    }

    #[test]
    fn only_a_result_of_the_case_itself_counts() {
        assert_eq!(result_of("limits", GuestReport::Mounted), None);
        assert_eq!(result_of("limits", result("limits", "")).unwrap().why, "");
        assert_eq!(
            result_of("limits", result("limits", "no")).unwrap().why,
            "no"
        );
        let other = result_of("limits", result("netem", "")).unwrap();
        assert!(other.why.starts_with("no result"), "{other:?}");
    }
}
