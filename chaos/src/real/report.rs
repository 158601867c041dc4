//! The report of a run: as a table for a terminal and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::growth::Growth;

/// A violation that a run found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedViolation {
    /// The rule, as "SingleStart" or "linearizability".
    pub checker: String,
    /// A description.
    pub what: String,
    /// The time in nanoseconds since the run began, if it is known.
    pub time_ns: Option<u64>,
}

/// A fault that was injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultLine {
    /// Its name on the command line.
    pub fault: String,
    pub target: String,
    /// Nanoseconds since the run began.
    pub begun_ns: u64,
    /// Nanoseconds since the run began; absent if it was not ended.
    pub ended_ns: Option<u64>,
    /// The reason why it was not possible.
    pub failure: Option<String>,
}

/// A time without any answered write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Nanoseconds since the run began.
    pub from_ns: u64,
    /// Nanoseconds since the run began.
    pub to_ns: u64,
}

impl Outage {
    /// Returns its length in milliseconds.
    #[must_use]
    pub fn ms(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns) / 1_000_000
    }
}

/// The outcomes of operations of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OperationCounts {
    /// Operations that took place.
    pub ok: u64,
    /// Operations that did not.
    pub failed: u64,
    /// Operations of unknown outcome.
    pub unknown: u64,
}

/// An epoch, as the harness observed its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The number of the epoch.
    pub epoch: u64,
    /// Its leader, as "master-1".
    pub leader: String,
    /// The time of its first observation, in nanoseconds since the run began.
    pub seen_ns: u64,
}

/// The number of tasks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskCount {
    /// Nanoseconds since the run began.
    pub time_ns: u64,
    /// Launched so far.
    pub launched: u64,
    /// Ended so far.
    pub ended: u64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RunReport {
    /// The release under test.
    pub version: String,
    /// The seed of the faults.
    pub seed: u64,
    /// As "3x6".
    pub size: String,
    /// Whether all processes used TLS. Before there was TLS, reports lacked this.
    #[serde(default)]
    pub uses_tls: bool,
    /// Seconds from the first start to the end of checking.
    pub seconds: u64,
    /// Whether it was stopped early.
    pub interrupted: bool,
    /// Outcomes by kind of operation.
    pub operations: BTreeMap<String, OperationCounts>,
    /// Every fault.
    pub faults: Vec<FaultLine>,
    /// Every epoch.
    #[serde(rename = "reigns")]
    pub epoch_records: Vec<EpochRecord>,
    /// Times without an answered write that exceed the threshold.
    pub outages: Vec<Outage>,
    /// The time of faults, in nanoseconds since the run began.
    pub faults_ns: (u64, u64),
    /// Tasks over time.
    pub tasks: Vec<TaskCount>,
    /// How much the members grew. Earlier reports lack this.
    #[serde(default)]
    pub growth: Vec<Growth>,
    /// Starts in the witness files of tasks.
    pub witnessed: u64,
    /// The number of comparisons by the checker of each rule. Zero proves nothing.
    pub checkers: BTreeMap<String, u64>,
    /// Checks that were not decided in time.
    pub undecided: Vec<String>,
    pub violations: Vec<ReportedViolation>,
    /// The reasons why the run proves too little; empty if it proves enough.
    pub too_little: Vec<String>,
    /// The directory of history and logs, if they were kept.
    pub kept: Option<String>,
}

/// A gap between answered writes that is shorter is not an outage.
pub(crate) const OUTAGE_MS: u64 = 150;

impl RunReport {
    /// Returns 0 for a good run, 1 for violations, 3 for too little evidence.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.violations.is_empty(), self.too_little.is_empty()) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 0,
        }
    }

    /// Returns the name of the transport.
    pub(crate) fn transport(&self) -> &'static str {
        if self.uses_tls { "TLS" } else { "plaintext" }
    }

    /// Returns a sentence for each kind of operation that failed too often: a workload that is
    /// refused shows nothing, although each refusal is an answer. Calls with a right that is taken
    /// away fail on purpose; of writes, hardly any may.
    pub(crate) fn mostly_failed(&self) -> Vec<String> {
        let failed = self.operations.iter().filter(|(kind, counts)| {
            let at_most = match kind.as_str() {
                "write" => counts.ok / 100,
                _ => counts.ok,
            };
            counts.failed > at_most
        });
        failed
            .map(|(kind, counts)| {
                let all = counts.ok + counts.failed;
                format!("{} of {all} {kind} operations failed", counts.failed)
            })
            .collect()
    }

    /// Returns the number of answered operations.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.operations.values().map(|kind| kind.ok).sum()
    }

    /// Returns the faults that were injected, by kind.
    #[must_use]
    pub fn done(&self) -> BTreeMap<&str, u64> {
        let mut done = BTreeMap::new();
        for line in self.faults.iter().filter(|line| line.failure.is_none()) {
            *done.entry(line.fault.as_str()).or_default() += 1;
        }
        done
    }

    /// Returns the table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "\nseed {}, {} of {}, {}, {} s{}",
            self.seed,
            self.size,
            self.version,
            self.transport(),
            self.seconds,
            if self.interrupted {
                ", interrupted"
            } else {
                ""
            }
        );
        let _ = writeln!(
            text,
            "\n{:<28}{:>9}{:>9}{:>9}",
            "operations", "ok", "failed", "unknown"
        );
        for (kind, count) in &self.operations {
            let _ = writeln!(
                text,
                "  {kind:<26}{:>9}{:>9}{:>9}",
                count.ok, count.failed, count.unknown
            );
        }
        let _ = writeln!(text, "\n{:<28}{:>9}", "faults", self.faults.len());
        for (fault, count) in self.done() {
            let _ = writeln!(text, "  {fault:<26}{count:>9}");
        }
        let failures = self.faults.iter().filter_map(|line| line.failure.as_ref());
        for failure in failures {
            let _ = writeln!(text, "  not done: {failure}");
        }
        self.outcome(&mut text);
        text
    }

    fn outcome(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n{:<28}{:>9}",
            "changes of leader",
            self.leader_changes()
        );
        let _ = writeln!(
            text,
            "{:<28}{:>9}",
            "starts signed by tasks", self.witnessed
        );
        let mut gaps: Vec<u64> = self.outages.iter().map(Outage::ms).collect();
        gaps.sort_unstable();
        let _ = writeln!(
            text,
            "{:<28}{:>9}   p50 {} ms, p99 {} ms, max {} ms (no write answered for over {OUTAGE_MS} ms)",
            "outages",
            gaps.len(),
            quantile(&gaps, 50),
            quantile(&gaps, 99),
            gaps.last().copied().unwrap_or_default()
        );
        let judging = self.decisive_checks();
        let _ = writeln!(
            text,
            "{:<28}{:>9}   {}",
            "rules checked",
            judging.len(),
            judging.join(" ")
        );
        for what in &self.undecided {
            let _ = writeln!(text, "  undecided: {what}");
        }
        let judged: Vec<_> = self.growth.iter().filter(|one| one.is_judged()).collect();
        if !judged.is_empty() {
            let _ = writeln!(text, "{:<28}{:>9}", "measures of growth", judged.len());
        }
        for growth in judged {
            let _ = writeln!(text, "  {growth}");
        }
        let _ = writeln!(text, "{:<28}{:>9}", "violations", self.violations.len());
        for violation in &self.violations {
            let _ = writeln!(text, "  {}: {}", violation.checker, violation.what);
        }
        for reason in &self.too_little {
            let _ = writeln!(text, "proves too little: {reason}");
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "kept in {kept}");
        }
    }

    /// Returns the rules whose checkers compared anything.
    #[must_use]
    pub fn decisive_checks(&self) -> Vec<&str> {
        let judging = self
            .checkers
            .iter()
            .filter(|(_, looked_at)| **looked_at > 0);
        judging.map(|(rule, _)| rule.as_str()).collect()
    }

    /// Returns the number of epochs after the first.
    #[must_use]
    pub fn leader_changes(&self) -> u64 {
        (self.epoch_records.len() as u64).saturating_sub(1)
    }
}

/// Returns the value below which `percent` of the values lie; 0 for an empty list. `sorted`
/// ascends.
#[must_use]
pub(crate) fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    let place = (sorted.len() * percent)
        .div_ceil(100)
        .saturating_sub(1)
        .min(last);
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_that_mostly_fail_are_too_little_evidence() {
        let counts = |ok, failed| OperationCounts {
            ok,
            failed,
            unknown: 0,
        };
        let operations = [("read", counts(5, 5)), ("write", counts(500, 5))];
        let operations = operations.map(|(kind, counts)| (kind.to_owned(), counts));
        let mut report = RunReport {
            operations: operations.into(),
            ..RunReport::default()
        };
        assert_eq!(report.mostly_failed(), [""; 0]);
        report.operations.insert("write".to_owned(), counts(500, 6));
        report.operations.insert("read".to_owned(), counts(5, 6));
        let shortfalls = [
            "6 of 11 read operations failed",
            "6 of 506 write operations failed",
        ];
        assert_eq!(report.mostly_failed(), shortfalls);
    }

    #[test]
    fn a_violation_takes_precedence_over_too_little_evidence() {
        let mut report = RunReport::default();
        assert_eq!(report.exit_code(), 0);
        report.too_little.push("no faults".to_owned());
        assert_eq!(report.exit_code(), 3);
        report.violations.push(ReportedViolation {
            checker: "SingleStart".to_owned(),
            what: "a task started twice".to_owned(),
            time_ns: None,
        });
        assert_eq!(report.exit_code(), 1);
        let table = report.table();
        assert!(
            table.contains("SingleStart: a task started twice") && table.contains("no faults"),
            "{table}"
        );
    }

    #[test]
    fn quantiles_of_few_values_are_values() {
        assert_eq!(quantile(&[], 99), 0);
        assert_eq!(quantile(&[5], 50), 5);
        assert_eq!(quantile(&[1, 2, 3, 4], 50), 2);
        assert_eq!(quantile(&[1, 2, 3, 4], 99), 4);
    }

    #[test]
    fn a_failed_injection_does_not_count() {
        let line = |failure: Option<&str>| FaultLine {
            fault: "kill-leader".to_owned(),
            target: "master-1".to_owned(),
            begun_ns: 0,
            ended_ns: None,
            failure: failure.map(str::to_owned),
        };
        let report = RunReport {
            faults: vec![line(None), line(Some("no leader"))],
            ..RunReport::default()
        };
        assert_eq!(report.done()["kill-leader"], 1);
    }
}
