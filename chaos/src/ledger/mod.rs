//! The ledger of all batches: the lines that harnesses append, and the page that sums them up, so
//! that every sum can be audited. It uses no sum that a line states, and computes all of them.
//!
//! The file only grows. A wrong line is corrected by another line (`Correction`), never by an edit.
//! Reading order: this file (the lines), `batch` (their writer), `sums`, `targets`, `goals`,
//! `page`, `git`, `age`, `release`, `command`.

mod age;
mod batch;
mod command;
mod git;
mod goals;
mod page;
mod release;
mod renamed_tests;
mod sums;
mod targets;

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use age::{CommitDistance, stale_harnesses};
pub(crate) use batch::{Batch, BatchPlan, Details};
pub use command::{LedgerArguments, ledger};
pub use git::{FileVersion, GitError, GitRepository, is_kept};
pub use goals::shortfalls;
pub use page::render;
pub use release::early_releases;
pub use sums::{NewestLine, newest};

/// The harness whose seeds run connectivity graphs. The number of a seed determines its graphs.
pub(crate) const GRAPHS: &str = "sim-graphs";
/// The simulation of the whole system.
pub(crate) const SYSTEM: &str = "sim-system";
/// The simulation of Raft alone.
pub(crate) const RAFT: &str = "sim-raft";
/// Real processes.
pub(crate) const REAL: &str = "real";
/// Real processes under every kind of fault once. It is not a tier: a line of real processes with
/// many kinds counts for both.
pub(crate) const EVERY_FAULT: &str = "real, every fault once";
/// Power cuts in a virtual machine.
pub(crate) const POWER: &str = "power";
/// Fuzz targets. `scripts/fuzz` writes their lines.
const FUZZ: &str = "fuzz";

/// The code that a batch tested, and the time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// The id that joins the first and the last line of a batch; empty in lines of the old form.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub batch: String,
    /// The time at which this line was written, as "2026-11-22T12:00:00Z".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub time: String,
    /// Whether the working tree equalled the commit when the batch began: "clean", "dirty" or
    /// "unknown".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tree: String,
    /// SHA-256 of the file under test: `argosy-chaos` for simulations, `argosy` for real processes,
    /// the VM image for power cuts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub executable: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchOutcome {
    /// The batch did what was planned. Lines of the old form have no other outcome.
    #[default]
    Complete,
    /// A signal ended the batch.
    Interrupted,
    /// The harness itself failed.
    Failed,
}

/// The last line of a batch, or a line of the old form. A harness leaves out fields that it does
/// not know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BatchRecord {
    /// The harness: "sim-raft", "sim-system", "sim-graphs", "real", "power", "fuzz".
    pub tier: String,
    /// The commit of the executables.
    #[serde(default)]
    pub commit: String,
    /// The first seed.
    #[serde(default)]
    pub seed: u64,
    /// The number of seeds, from the first one on. A line without it is one run.
    #[serde(default = "one")]
    pub seeds: u64,
    /// Seconds that passed in the cluster, simulated or real.
    #[serde(default)]
    pub seconds: u64,
    /// Faults of all kinds. In lines of the old form of simulations it includes repairs.
    #[serde(default)]
    pub faults: u64,
    /// Leaders of real processes that were killed.
    #[serde(default)]
    pub leader_kills: u64,
    #[serde(default)]
    pub power_cuts: u64,
    /// Cuts of a whole machine after at least 1,000 acknowledged operations since its boot; zero in
    /// lines that do not record it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub loaded_cuts: u64,
    /// Cuts of a whole machine with an agent, after it was given tasks since the boot; zero in
    /// lines that do not record it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub task_cuts: u64,
    #[serde(default)]
    pub leader_changes: u64,
    /// Operations of known outcome.
    #[serde(default)]
    pub operations: u64,
    /// Violated rules, and seeds whose process ended without a report.
    #[serde(default)]
    pub violations: u64,
    /// Seeds whose process ended without a report.
    #[serde(default)]
    pub aborted_seeds: u64,
    /// Seeds with a violation, aborted ones included. Older lines lack it.
    #[serde(default)]
    pub violating_seeds: u64,
    /// The number of kinds of faults under real processes; zero in lines that do not record it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fault_kinds: u64,
    /// Cuts of a whole machine, by the moment from which each was counted. The last boot of a
    /// series, without a cut, is `Settled`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moments: BTreeMap<String, u64>,
    /// The name of a fuzz target; empty for other harnesses.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// The number of inputs that a fuzz target decoded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub executions: u64,
    /// Whether the run missed its own minimum. Such a run adds nothing to the sums.
    #[serde(default)]
    pub proves_too_little: bool,
    /// CPU time of the harness and of all processes that it started, in milliseconds.
    #[serde(default)]
    pub cpu_ms: u64,
    /// The outcome. Only complete batches add to the sums.
    #[serde(default)]
    pub outcome: BatchOutcome,
    /// The reason why the harness failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The tested code, and the time.
    #[serde(flatten)]
    pub stamp: Stamp,
}

fn one() -> u64 {
    1
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl BatchRecord {
    /// Whether this is a line of the old form: it has no time, no first line and no batch.
    fn is_old(&self) -> bool {
        self.stamp.batch.is_empty()
    }

    /// Whether leaders were killed and nothing else was done, so that each was lost in a cluster at
    /// rest.
    fn kills_alone(&self) -> bool {
        self.fault_kinds == 1 && self.leader_kills > 0 && self.faults == self.leader_kills
    }

    /// Whether real processes met nearly every kind of fault. A host may lack the tools for a few.
    fn has_every_fault(&self) -> bool {
        self.tier == REAL && self.fault_kinds >= 20
    }

    /// Returns the power cuts that were counted from a moment before the load began.
    fn cuts_before_load(&self) -> u64 {
        let cuts = ["PowerOn", "Mounted"].map(|moment| self.moments.get(moment));
        cuts.into_iter().flatten().sum()
    }

    /// Whether more than a tenth of the seeds, and at least two, violate a rule or abort. Then the
    /// history itself is broken, and its comparisons prove nothing.
    fn is_broken(&self) -> bool {
        let violating = match self.violating_seeds {
            0 => self.violations.min(self.seeds),
            seeds => seeds,
        };
        violating >= 2 && violating.saturating_mul(10) > self.seeds
    }
}

/// The first line of a batch. One without a last line was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BatchStart {
    /// The harness.
    pub tier: String,
    /// The commit of the executables.
    pub commit: String,
    /// The first seed.
    pub seed: u64,
    /// The planned number of seeds.
    pub seeds: u64,
    /// The tested code, and the time.
    #[serde(flatten)]
    pub stamp: Stamp,
}

/// A declaration that earlier lines do not count, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// The harness.
    pub tier: String,
    /// The commit of the lines.
    pub commit: String,
    /// The first seed of the range. Lines whose seeds all lie in the range are meant.
    pub seed: u64,
    /// The number of seeds in the range.
    pub seeds: u64,
    /// The reason why they do not count.
    pub why: String,
}

impl Correction {
    fn covers(&self, run: &BatchRecord) -> bool {
        let end = |seed: u64, seeds: u64| seed.saturating_add(seeds);
        run.tier == self.tier
            && run.commit == self.commit
            && run.seed >= self.seed
            && end(run.seed, run.seeds) <= end(self.seed, self.seeds)
    }
}

/// A bug that was found. A later line with the same `bug` and `seed` replaces it on the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundBug {
    /// A description of the bug in one line.
    pub bug: String,
    /// The seed or script that reproduces it.
    pub seed: String,
    pub cause: String,
    /// The commit that fixed it; empty while it is open.
    #[serde(default)]
    pub fix: String,
    /// The time of the fix, if its line was added later, as "2026-11-22T12:00:00Z"; otherwise
    /// empty.
    #[serde(default)]
    pub fixed_at: String,
    /// The regression test.
    #[serde(default)]
    pub test: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerLine {
    Bug(FoundBug),
    /// The first line of a batch.
    Start(BatchStart),
    /// The last line of a batch, or a line of the old form.
    Run(BatchRecord),
    /// Earlier lines that do not count.
    Correction(Correction),
}

/// A line of an unknown form.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of the ledger has no known form")]
pub struct LedgerError {
    /// The number of the line, from 1.
    pub number: usize,
    source: serde_json::Error,
}

/// Reads the lines. Empty ones are skipped.
///
/// # Errors
/// The first line of an unknown form.
pub fn read(text: &str) -> Result<Vec<LedgerLine>, LedgerError> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(place, line)| {
            parse(line).map_err(|source| LedgerError {
                number: place + 1,
                source,
            })
        })
        .collect()
}

/// Parses a line. Lines of the old form have no `event`: those with a `bug` are bugs, all others
/// are runs.
fn parse(line: &str) -> serde_json::Result<LedgerLine> {
    let value: Value = serde_json::from_str(line)?;
    let event = value
        .get("event")
        .map(|event| event.as_str().unwrap_or("?"));
    match event {
        None if value.get("bug").is_some() => serde_json::from_value(value).map(LedgerLine::Bug),
        None | Some("end") => serde_json::from_value(value).map(LedgerLine::Run),
        Some("start") => serde_json::from_value(value).map(LedgerLine::Start),
        Some("correction") => serde_json::from_value(value).map(LedgerLine::Correction),
        Some(other) => Err(serde_json::Error::custom(format!(
            "unknown event {other:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_old_format_are_read_unchanged() {
        let text = r#"{"tier":"real","commit":"bbb","version":"0.1.0","seed":7,"leader_kills":25}

{"bug":"b","seed":"seed 4","cause":"c"}"#;
        let [LedgerLine::Run(run), LedgerLine::Bug(found)] = &read(text).unwrap()[..] else {
            panic!("a run and a bug");
        };
        assert_eq!((run.seed, run.seeds, run.leader_kills), (7, 1, 25));
        assert!(run.is_old() && run.outcome == BatchOutcome::Complete);
        assert_eq!(found.fix, "");
    }

    #[test]
    fn a_line_of_an_unknown_format_is_reported() {
        let error = read("{\"tier\":\"real\"}\n\n{\"tier\":4}\n").unwrap_err();
        assert_eq!(error.number, 3);
        assert_eq!(read("").unwrap(), []);
        for bad in [r#"{"event":"stop","tier":"real"}"#, r#"{"event":4}"#, "4"] {
            assert_eq!(read(bad).unwrap_err().number, 1, "{bad}");
        }
    }

    #[test]
    fn a_history_is_broken_when_more_than_a_tenth_of_at_least_two_seeds_violate() {
        for (seeds, violating_seeds, violations, is_broken) in [
            (1, 1, 4, false),
            (2, 2, 2, true),
            (20, 2, 9, false),
            (19, 2, 2, true),
            (100, 10, 10, false),
            (100, 11, 11, true),
            // Lines of the older form: at most one violation for each seed.
            (1, 0, 4, false),
            (100, 0, 10, false),
            (100, 0, 11, true),
        ] {
            let run = BatchRecord {
                seeds,
                violating_seeds,
                violations,
                ..BatchRecord::default()
            };
            assert_eq!(run.is_broken(), is_broken, "{run:?}");
        }
    }

    #[test]
    fn a_correction_covers_lines_of_its_tier_commit_and_seeds_only() {
        let correction = Correction {
            tier: SYSTEM.to_owned(),
            commit: "aaa".to_owned(),
            seed: 100,
            seeds: 200,
            why: "w".to_owned(),
        };
        let run = |tier: &str, commit: &str, seed, seeds| BatchRecord {
            tier: tier.to_owned(),
            commit: commit.to_owned(),
            seed,
            seeds,
            ..BatchRecord::default()
        };
        assert!(correction.covers(&run(SYSTEM, "aaa", 100, 200)));
        assert!(correction.covers(&run(SYSTEM, "aaa", 200, 100)));
        for other in [
            run(SYSTEM, "aaa", 99, 10),
            run(SYSTEM, "aaa", 200, 101),
            run(SYSTEM, "bbb", 100, 100),
            run(REAL, "aaa", 100, 100),
        ] {
            assert!(!correction.covers(&other), "{other:?}");
        }
    }
}
