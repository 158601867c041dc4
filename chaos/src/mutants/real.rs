//! A run on real processes, with or without a planted bug, in a subprocess.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use argosy_state::bugs::{self, Bug};

use crate::real::RunReport;
use crate::sim::subprocess::{EXECUTABLE, output};

/// The timeout of a run. Eight faults take a minute.
const TIMEOUT: Duration = Duration::from_mins(10);

/// Checks that bugs can be planted in this executable.
///
/// # Errors
/// If they cannot, or there is no such executable.
pub(super) fn check(argosy: &Path) -> io::Result<()> {
    let name = argosy.display();
    let mut command = Command::new(argosy);
    command.arg("version").env(bugs::VARIABLE, "no-such-bug");
    let asked = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = asked.map_err(|error| io::Error::other(format!("{name}: {error}")))?;
    if status.success() {
        let advice = "build it with --features argosy-cli/testing";
        let error = format!("{name}: no bug can be planted in this executable: {advice}");
        return Err(io::Error::other(error));
    }
    Ok(())
}

/// Runs one seed and returns all violations.
pub(super) fn run_seed(
    argosy: &Path,
    seed: u64,
    (faults, rounds): (&str, u64),
    bug: Option<Bug>,
) -> io::Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let report = directory.path().join("report.json");
    let mut command = Command::new(EXECUTABLE);
    command
        .args(["run", "--pace", "quick", "--least-leader-changes", "0"])
        .args(["--seed", &seed.to_string(), "--faults", faults])
        .args(["--rounds", &rounds.to_string()])
        .arg("--argosy")
        .arg(argosy)
        .arg("--report")
        .arg(&report)
        .arg("--findings")
        .arg(directory.path())
        .env(bugs::VARIABLE, bug.map_or("", Bug::name));
    let (_, ended) = output(&mut command, TIMEOUT)?;
    let Ok(bytes) = std::fs::read(&report) else {
        return Ok(vec![format!("its process ended without a report: {ended}")]);
    };
    let report: RunReport = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    let violations = report.violations.into_iter();
    Ok(violations
        .map(|violation| {
            format!(
                "{}: {}",
                violation.checker,
                violation.what.replace('\n', " ")
            )
        })
        .collect())
}
