//! The sums over the lines of the ledger.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BatchOutcome, BatchRecord, BatchStart, Correction, EVERY_FAULT, FUZZ, FoundBug, GRAPHS,
    LedgerLine, REAL, Stamp,
};
use crate::faults::graphs;

/// The sum of the lines of one harness.
#[derive(Debug, Clone, Default)]
pub(super) struct HarnessSum {
    pub(super) seeds: u64,
    pub(super) seconds: u64,
    pub(super) faults: u64,
    /// Faults and repairs of simulations, from lines of the old form, which do not separate them.
    pub(super) mixed_faults: u64,
    pub(super) leader_kills: u64,
    /// Of these, the ones in batches without another fault.
    pub(super) kills_at_rest: u64,
    pub(super) power_cuts: u64,
    /// Of these, the ones before the load began.
    pub(super) cuts_before_load: u64,
    /// Cuts of a whole machine after at least 1,000 acknowledged operations since its boot.
    pub(super) loaded_cuts: u64,
    /// Cuts of a whole machine with an agent that had tasks.
    pub(super) task_cuts: u64,
    /// Seconds of real processes under faults of several kinds.
    pub(super) mixed_seconds: u64,
    pub(super) leader_changes: u64,
    pub(super) operations: u64,
    pub(super) violations: u64,
}

#[derive(Debug, Default)]
pub(super) struct HarnessSums {
    pub(super) by_tier: BTreeMap<String, HarnessSum>,
    pub(super) too_little: u64,
    /// The numbers of the connectivity graphs that were run.
    pub(super) graphs: BTreeSet<u64>,
    /// The executions of each fuzz target.
    pub(super) executions: BTreeMap<String, u64>,
}

impl HarnessSums {
    pub(super) fn of(&self, tier: &str) -> HarnessSum {
        self.by_tier.get(tier).cloned().unwrap_or_default()
    }

    pub(super) fn kills(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.leader_kills).sum()
    }

    pub(super) fn cuts(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.power_cuts).sum()
    }

    pub(super) fn kills_at_rest(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.kills_at_rest).sum()
    }

    pub(super) fn cuts_before_load(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.cuts_before_load).sum()
    }

    pub(super) fn loaded_cuts(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.loaded_cuts).sum()
    }

    pub(super) fn task_cuts(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.task_cuts).sum()
    }

    pub(super) fn violations(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.violations).sum()
    }

    /// Adds a run. Violations count in every run; all else only in one that is complete, not
    /// broken, and proves enough.
    pub(super) fn add(&mut self, run: &BatchRecord) {
        let sum = self.by_tier.entry(run.tier.clone()).or_default();
        sum.violations += run.violations;
        self.too_little += u64::from(run.proves_too_little);
        if !is_sufficient(run) {
            return;
        }
        if run.tier == GRAPHS {
            // Further seeds run the same graphs again.
            let seeds = run.seed..run.seed.saturating_add(run.seeds.min(graphs::CASES));
            self.graphs.extend(seeds.flat_map(graphs::numbers));
        }
        if run.tier == FUZZ {
            *self.executions.entry(run.target.clone()).or_default() += run.executions;
        }
        let has_repairs = run.is_old() && run.tier.starts_with("sim-");
        match has_repairs {
            true => sum.mixed_faults += run.faults,
            false => sum.faults += run.faults,
        }
        sum.seeds += run.seeds;
        sum.seconds += run.seconds;
        sum.leader_kills += run.leader_kills;
        sum.power_cuts += run.power_cuts;
        sum.cuts_before_load += run.cuts_before_load();
        sum.loaded_cuts += run.loaded_cuts;
        sum.task_cuts += run.task_cuts;
        if run.kills_alone() {
            sum.kills_at_rest += run.leader_kills;
        }
        if run.tier == REAL && run.fault_kinds > 1 {
            sum.mixed_seconds += run.seconds;
        }
        sum.leader_changes += run.leader_changes;
        sum.operations += run.operations;
    }
}

fn is_sufficient(run: &BatchRecord) -> bool {
    run.outcome == BatchOutcome::Complete && !run.proves_too_little && !run.is_broken()
}

/// Lines that a correction removed from the sums.
#[derive(Debug, Default)]
pub(super) struct ExcludedLines {
    pub(super) lines: u64,
    pub(super) seeds: u64,
    pub(super) seconds: u64,
    pub(super) violations: u64,
}

/// A batch that adds nothing.
#[derive(Debug)]
pub(super) struct UnfinishedBatch {
    pub(super) tier: String,
    pub(super) commit: String,
    pub(super) seed: u64,
    pub(super) time: String,
    pub(super) reason: String,
}

/// The newest line of a harness that proves something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestLine {
    /// The commit of the executables.
    pub commit: String,
    /// The time at which it was written; empty in lines of the old form.
    pub time: String,
    /// Whether the working tree equalled that commit; empty in lines of the old form.
    pub tree: String,
}

/// Sums over all lines, and over those after the newest bug that was fixed.
#[derive(Debug, Default)]
pub(super) struct LedgerTotals {
    pub(super) all: HarnessSums,
    pub(super) since_fix: HarnessSums,
    /// Batches of `since_fix`. Each begins with its start time. Lines of the old form have none.
    batches_since_fix: BTreeSet<String>,
    /// By commit, the newest last.
    pub(super) commits: Vec<(String, HarnessSums)>,
    pub(super) newest: BTreeMap<String, NewestLine>,
    pub(super) unfinished: Vec<UnfinishedBatch>,
    pub(super) excluded: Vec<(Correction, ExcludedLines)>,
}

/// Returns the newest line of each harness that proves something: not corrected, not unfinished,
/// with enough evidence, and of a known commit that was tested without other changes. Abandoned
/// work leaves lines of unknown commits.
#[must_use]
pub fn newest(
    lines: &[LedgerLine],
    is_known: impl Fn(&str) -> bool,
) -> BTreeMap<String, NewestLine> {
    let counts = |line: &&LedgerLine| match line {
        LedgerLine::Run(run) => is_known(&run.commit) && run.stamp.tree != "dirty",
        LedgerLine::Start(_) | LedgerLine::Correction(_) | LedgerLine::Bug(_) => true,
    };
    let lines: Vec<LedgerLine> = lines.iter().filter(counts).cloned().collect();
    totals(&lines).newest
}

pub(super) fn totals(lines: &[LedgerLine]) -> LedgerTotals {
    let corrections = lines.iter().filter_map(|line| match line {
        LedgerLine::Correction(correction) => Some((correction.clone(), ExcludedLines::default())),
        LedgerLine::Bug(_) | LedgerLine::Start(_) | LedgerLine::Run(_) => None,
    });
    let mut totals = LedgerTotals {
        excluded: corrections.collect(),
        ..LedgerTotals::default()
    };
    let mut open: Vec<&BatchStart> = Vec::new();
    // Corrections apply to the lines above them. This counts those that were read so far.
    let mut met = 0;
    for line in lines {
        match line {
            LedgerLine::Start(start) => open.push(start),
            LedgerLine::Run(run) => {
                open.retain(|start| run.is_old() || start.stamp.batch != run.stamp.batch);
                totals.add(run, met);
            }
            LedgerLine::Correction(_) => met += 1,
            LedgerLine::Bug(found) => totals.add_fix(found),
        }
    }
    totals.unfinished.extend(open.into_iter().map(interrupted));
    totals
        .unfinished
        .sort_by(|one, other| one.time.cmp(&other.time));
    totals
}

fn interrupted(start: &BatchStart) -> UnfinishedBatch {
    UnfinishedBatch {
        tier: start.tier.clone(),
        commit: start.commit.clone(),
        seed: start.seed,
        time: start.stamp.time.clone(),
        reason: "interrupted: it has no last line".to_owned(),
    }
}

impl LedgerTotals {
    /// Restarts the count, unless everything that is counted began after the fix.
    fn add_fix(&mut self, found: &FoundBug) {
        let is_older = |batch: &String| *batch < found.fixed_at;
        let is_late = !found.fixed_at.is_empty() && !self.batches_since_fix.iter().any(is_older);
        if !found.fix.is_empty() && !is_late {
            self.since_fix = HarnessSums::default();
            self.batches_since_fix.clear();
        }
    }

    fn add(&mut self, run: &BatchRecord, met: usize) {
        let correction = self.excluded.iter_mut().skip(met);
        let mut correction = correction.filter(|(correction, _)| correction.covers(run));
        if let Some((_, excluded)) = correction.next() {
            excluded.lines += 1;
            excluded.seeds += run.seeds;
            excluded.seconds += run.seconds;
            excluded.violations += run.violations;
            return;
        }
        self.all.add(run);
        self.since_fix.add(run);
        self.batches_since_fix.insert(run.stamp.batch.clone());
        let place = self
            .commits
            .iter()
            .position(|(commit, _)| *commit == run.commit);
        let (commit, mut sums) = match place {
            Some(place) => self.commits.remove(place),
            None => (run.commit.clone(), HarnessSums::default()),
        };
        sums.add(run);
        self.commits.push((commit, sums));
        let Stamp { time, tree, .. } = run.stamp.clone();
        if is_sufficient(run) {
            let commit = run.commit.clone();
            let newest = NewestLine { commit, time, tree };
            if run.has_every_fault() {
                self.newest.insert(EVERY_FAULT.to_owned(), newest.clone());
            }
            self.newest.insert(run.tier.clone(), newest);
        }
        let why = match run.outcome {
            BatchOutcome::Complete => return,
            BatchOutcome::Interrupted => "interrupted".to_owned(),
            BatchOutcome::Failed => format!("failed: {}", run.error),
        };
        self.unfinished.push(UnfinishedBatch {
            tier: run.tier.clone(),
            commit: run.commit.clone(),
            seed: run.seed,
            time: run.stamp.time.clone(),
            reason: why,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{REAL, read};
    use super::totals;

    #[test]
    fn a_fix_recorded_late_does_not_reset_the_counts_of_later_batches() {
        let batch = |batch: &str| {
            format!(
                "{{\"event\":\"end\",\"batch\":\"{batch}\",\"tier\":\"real\",\"leader_kills\":3}}\n"
            )
        };
        let fix = |fixed_at: &str| {
            format!(
                "{{\"bug\":\"b\",\"seed\":\"s\",\"cause\":\"c\",\"fix\":\"f\",\"fixed_at\":\"{fixed_at}\"}}\n"
            )
        };
        let kills = |lines: &[String]| {
            let totals = totals(&read(&lines.concat()).unwrap());
            totals.since_fix.of(REAL).leader_kills
        };
        let (first, second) = (
            batch("2026-11-24T10:00:00Z-1"),
            batch("2026-11-25T10:00:00Z-1"),
        );
        let both = [first, second];
        assert_eq!(kills(&both), 6);
        for (fixed_at, left) in [
            ("2026-11-23T10:00:00Z", 6),
            // One of them began before the fix.
            ("2026-11-24T12:00:00Z", 0),
            ("", 0),
        ] {
            assert_eq!(
                kills(&[&both[..], &[fix(fixed_at)]].concat()),
                left,
                "{fixed_at}"
            );
        }
        let old = "{\"tier\":\"real\",\"leader_kills\":3}\n".to_owned();
        assert_eq!(kills(&[old, fix("2026-11-23T10:00:00Z")]), 0);
    }
}
