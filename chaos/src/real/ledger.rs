//! One line for each run, appended to a file: so that "cumulative" can be added up and audited.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::host_tools;
use super::report::Report;

/// What a run adds to the sums.
#[derive(Debug, Serialize)]
struct Line<'a> {
    tier: &'static str,
    commit: String,
    version: &'a str,
    seed: u64,
    size: &'a str,
    seconds: u64,
    faults: u64,
    fault_kinds: u64,
    leader_kills: u64,
    leader_changes: u64,
    operations: u64,
    starts_witnessed: u64,
    rules_judged: u64,
    violations: u64,
    proves_too_little: bool,
}

/// Appends the line of a run.
pub(crate) fn append(path: &Path, report: &Report) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    // In one write: lines of runs that end together stay whole.
    file.write_all(format!("{}\n", line(report)).as_bytes())
}

fn line(report: &Report) -> String {
    // Outside a checkout there is none to name.
    let commit = host_tools::run("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let done = report.done();
    let kills = [
        "kill-leader",
        "kill-minority",
        "kill-all-masters",
        "reconnect-storm",
    ];
    let line = Line {
        tier: "real",
        commit: commit.trim().to_owned(),
        version: &report.version,
        seed: report.seed,
        size: &report.size,
        seconds: report.seconds,
        faults: done.values().sum(),
        fault_kinds: done.len() as u64,
        leader_kills: kills.iter().filter_map(|kind| done.get(kind)).sum(),
        leader_changes: report.leader_changes(),
        operations: report.answered(),
        starts_witnessed: report.witnessed,
        rules_judged: report.judging().len() as u64,
        violations: report.violations.len() as u64,
        proves_too_little: !report.too_little.is_empty(),
    };
    serde_json::to_string(&line).expect("a line has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_adds_one_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        for seed in [4, 5] {
            let report = Report {
                seed,
                ..Report::default()
            };
            append(&path, &report).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let seeds: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seed"].clone())
            .collect();
        assert_eq!(seeds, [4, 5]);
    }
}
