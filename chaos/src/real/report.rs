//! What a run has shown: as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which rule, as "T1" or "linearizability".
    pub checker: String,
    /// What was found.
    pub what: String,
    /// When, in nanoseconds since the run began, if that is known.
    pub time_ns: Option<u64>,
}

/// One fault as it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultLine {
    /// Its name on the command line.
    pub fault: String,
    /// Who suffered it.
    pub target: String,
    /// Nanoseconds since the run began.
    pub begun_ns: u64,
    /// The same; absent if it was never taken back.
    pub ended_ns: Option<u64>,
    /// Why it could not be done.
    pub failure: Option<String>,
}

/// A time without a single answered write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Nanoseconds since the run began.
    pub from_ns: u64,
    /// The same.
    pub to_ns: u64,
}

impl Outage {
    /// Its length.
    #[must_use]
    pub fn ms(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns) / 1_000_000
    }
}

/// How operations ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Operations {
    /// They took place.
    pub ok: u64,
    /// They did not.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// A reign as the harness saw it begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// Its number.
    pub epoch: u64,
    /// Its leader, as "master-1".
    pub leader: String,
    /// When it was first seen, in nanoseconds since the run began.
    pub seen_ns: u64,
}

/// Tasks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskCount {
    /// Nanoseconds since the run began.
    pub time_ns: u64,
    /// Launched so far.
    pub launched: u64,
    /// Ended so far.
    pub ended: u64,
}

/// The whole run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Release under test.
    pub version: String,
    /// Fixes the faults.
    pub seed: u64,
    /// As "3x6".
    pub size: String,
    /// From the first start to the end of judging.
    pub seconds: u64,
    /// Somebody stopped it before its time.
    pub interrupted: bool,
    /// By kind of operation.
    pub operations: BTreeMap<String, Operations>,
    /// Every fault.
    pub faults: Vec<FaultLine>,
    /// Every reign.
    pub reigns: Vec<Reign>,
    /// Times without an answered write, longer than the threshold.
    pub outages: Vec<Outage>,
    /// Time of faults, in nanoseconds since the run began.
    pub faults_ns: (u64, u64),
    /// Tasks over time.
    pub tasks: Vec<TaskCount>,
    /// Starts that tasks have signed themselves.
    pub witnessed: u64,
    /// Rules by how many things their checkers have compared: 0 shows nothing.
    pub checkers: BTreeMap<String, u64>,
    /// What a checker could not decide in its time.
    pub undecided: Vec<String>,
    /// What must not be.
    pub violations: Vec<Violation>,
    /// Why the run proves too little; empty if it proves enough.
    pub too_little: Vec<String>,
    /// Where history and logs are, if they were kept.
    pub kept: Option<String>,
}

/// A gap between answered writes shorter than this is no outage.
pub(crate) const OUTAGE_MS: u64 = 150;

impl Report {
    /// 0 good, 1 violations, 3 too little shown.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.violations.is_empty(), self.too_little.is_empty()) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 0,
        }
    }

    /// Operations that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.operations.values().map(|kind| kind.ok).sum()
    }

    /// Faults that were really done, by kind.
    #[must_use]
    pub fn done(&self) -> BTreeMap<&str, u64> {
        let mut done = BTreeMap::new();
        for line in self.faults.iter().filter(|line| line.failure.is_none()) {
            *done.entry(line.fault.as_str()).or_default() += 1;
        }
        done
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "\nseed {}, {} of {}, {} s{}",
            self.seed,
            self.size,
            self.version,
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
        let judging = self.judging();
        let _ = writeln!(
            text,
            "{:<28}{:>9}   {}",
            "rules judged",
            judging.len(),
            judging.join(" ")
        );
        for what in &self.undecided {
            let _ = writeln!(text, "  undecided: {what}");
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

    /// Rules whose checkers had something to look at.
    #[must_use]
    pub fn judging(&self) -> Vec<&str> {
        let judging = self
            .checkers
            .iter()
            .filter(|(_, looked_at)| **looked_at > 0);
        judging.map(|(rule, _)| rule.as_str()).collect()
    }

    /// Reigns after the first.
    #[must_use]
    pub fn leader_changes(&self) -> u64 {
        (self.reigns.len() as u64).saturating_sub(1)
    }
}

/// The value below which so many of a hundred lie; 0 of none. `sorted` ascends.
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
    fn a_violation_outweighs_a_run_that_shows_little() {
        let mut report = Report::default();
        assert_eq!(report.exit_code(), 0);
        report.too_little.push("no faults".to_owned());
        assert_eq!(report.exit_code(), 3);
        report.violations.push(Violation {
            checker: "T1".to_owned(),
            what: "a task started twice".to_owned(),
            time_ns: None,
        });
        assert_eq!(report.exit_code(), 1);
        let table = report.table();
        assert!(
            table.contains("T1: a task started twice") && table.contains("no faults"),
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
    fn a_fault_that_could_not_be_done_does_not_count() {
        let line = |failure: Option<&str>| FaultLine {
            fault: "kill-leader".to_owned(),
            target: "master-1".to_owned(),
            begun_ns: 0,
            ended_ns: None,
            failure: failure.map(str::to_owned),
        };
        let report = Report {
            faults: vec![line(None), line(Some("no leader"))],
            ..Report::default()
        };
        assert_eq!(report.done()["kill-leader"], 1);
    }
}
