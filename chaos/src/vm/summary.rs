//! The summary of a number of cuts: for the terminal, and for the ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use super::acknowledged_tasks::AcknowledgedTasks;
use super::check::DurabilityViolation;
use super::cut_plan::LOADED_OPERATIONS;
use super::disk::DiskCounts;
use crate::ledger::{BatchRecord, Details};

/// Sums over all series of one run.
#[derive(Debug)]
pub(crate) struct CutSummary {
    /// Cuts of the whole machine.
    pub(crate) cuts: u64,
    /// Cuts of one disk while the other masters continued.
    pub(crate) partial_cuts: u64,
    /// Cuts of the whole machine after [`LOADED_OPERATIONS`] of its boot or more.
    loaded_cuts: u64,
    /// Acknowledged batches.
    pub(crate) acknowledged: u64,
    /// Acknowledged operations: a batch has one for each value that it sets.
    operations: u64,
    /// Values that were read back and compared.
    pub(crate) compared: u64,
    pub(crate) tasks: TaskCounts,
    /// Masters that their watchdog ended, because the host was busy.
    pub(crate) stalls: u64,
    /// Cuts of the whole machine after the first accepted launch of its boot.
    task_cuts: u64,
    /// Cuts of the whole machine that met unflushed data.
    cuts_at_risk: u64,
    /// Time from the start of the masters to the first answer, one for each boot.
    pub(crate) serving_ms: Vec<u64>,
    /// Time from a disk's loss of power until its master has caught up.
    pub(crate) caught_up_ms: Vec<u64>,
    pub(crate) violations: Vec<DurabilityViolation>,
    /// Cuts by the mark from which they were counted.
    cuts_by_mark: BTreeMap<String, u64>,
    /// Boots in which everything was read back.
    settled: u64,
    disks: DiskCounts,
    duration: Duration,
}

/// Counts of the check of tasks.
#[derive(Debug, Default)]
pub(crate) struct TaskCounts {
    launches: u64,
    updates: u64,
    compared: u64,
}

impl TaskCounts {
    pub(crate) fn add(&mut self, series: &AcknowledgedTasks) {
        self.launches += series.launches;
        self.updates += series.updates;
        self.compared += series.compared;
    }
}

/// One boot, up to its cut.
#[derive(Debug)]
pub(crate) struct BootSummary {
    /// The mark from which the cut was counted.
    pub(crate) moment: String,
    /// Whether the power was cut. After the last boot of a series the machine shuts down.
    pub(crate) is_cut: bool,
    /// Whether all values were read back before the cut.
    pub(crate) settled: bool,
    /// Acknowledged operations.
    pub(crate) operations: u64,
    /// Accepted launches of tasks.
    pub(crate) launches: u64,
    /// Sectors that were unflushed at the cut.
    pub(crate) sectors_at_risk: u64,
    pub(crate) spent: Duration,
}

impl CutSummary {
    pub(crate) fn new() -> Self {
        Self {
            cuts: 0,
            partial_cuts: 0,
            loaded_cuts: 0,
            acknowledged: 0,
            operations: 0,
            compared: 0,
            tasks: TaskCounts::default(),
            stalls: 0,
            task_cuts: 0,
            cuts_at_risk: 0,
            serving_ms: Vec::new(),
            caught_up_ms: Vec::new(),
            violations: Vec::new(),
            cuts_by_mark: BTreeMap::new(),
            settled: 0,
            disks: DiskCounts::default(),
            duration: Duration::ZERO,
        }
    }

    pub(crate) fn note_boot(&mut self, boot: &BootSummary) {
        *self.cuts_by_mark.entry(boot.moment.clone()).or_default() += 1;
        self.settled += u64::from(boot.settled);
        self.operations += boot.operations;
        self.loaded_cuts += u64::from(boot.is_cut && boot.operations >= LOADED_OPERATIONS);
        self.task_cuts += u64::from(boot.is_cut && boot.launches > 0);
        self.cuts_at_risk += u64::from(boot.is_cut && boot.sectors_at_risk > 0);
        self.duration += boot.spent;
        println!(
            "  boot {:3}  {:8}  {}  {:5} operations  {:3} tasks  {:4} sectors at risk  {:4.1} s  {} single cuts so far",
            self.cuts_by_mark.values().sum::<u64>(),
            boot.moment,
            if boot.settled {
                "all read back"
            } else {
                "cut before   "
            },
            boot.operations,
            boot.launches,
            boot.sectors_at_risk,
            boot.spent.as_secs_f64(),
            self.partial_cuts,
        );
    }

    pub(crate) fn count(&mut self, counts: &DiskCounts) {
        self.disks.flushes += counts.flushes;
        self.disks.at_risk += counts.at_risk;
        self.disks.lost += counts.lost;
    }

    /// Returns what this run leaves unproved, if it proves too little.
    pub(crate) fn too_little(&self) -> Option<String> {
        let least = self.cuts * 16;
        if self.operations < least {
            let count = self.operations;
            return Some(format!(
                "{count} acknowledged operations, fewer than {least}"
            ));
        }
        if self.tasks.launches < self.cuts {
            let count = self.tasks.launches;
            return Some(format!(
                "{count} accepted launches, fewer than {}",
                self.cuts
            ));
        }
        if self.disks.lost == 0 {
            return Some("no unflushed sector was lost".into());
        }
        if self.settled == 0 {
            return Some("nothing was read back".into());
        }
        None
    }

    /// Returns the sums of the run.
    pub(crate) fn run(&self) -> BatchRecord {
        BatchRecord {
            seeds: self.cuts,
            seconds: self.duration.as_secs(),
            power_cuts: self.cuts + self.partial_cuts,
            loaded_cuts: self.loaded_cuts,
            task_cuts: self.task_cuts,
            moments: self.cuts_by_mark.clone(),
            operations: self.acknowledged,
            violations: self.violations.len() as u64,
            proves_too_little: self.too_little().is_some(),
            ..BatchRecord::default()
        }
    }

    /// Returns the fields that the sums do not use.
    pub(crate) fn details(&self) -> Details {
        Details::from_iter([
            ("machine_cuts".to_owned(), self.cuts.into()),
            ("read_back".to_owned(), self.settled.into()),
            ("write_operations".to_owned(), self.operations.into()),
            ("values_compared".to_owned(), self.compared.into()),
            ("cuts_at_risk".to_owned(), self.cuts_at_risk.into()),
            ("stalls".to_owned(), self.stalls.into()),
            ("launches".to_owned(), self.tasks.launches.into()),
            ("task_updates".to_owned(), self.tasks.updates.into()),
            ("tasks_compared".to_owned(), self.tasks.compared.into()),
            ("flushes".to_owned(), self.disks.flushes.into()),
            ("sectors_at_risk".to_owned(), self.disks.at_risk.into()),
            ("sectors_lost".to_owned(), self.disks.lost.into()),
        ])
    }

    /// Returns a few lines for the terminal.
    pub(crate) fn table(&self) -> String {
        let middle = |numbers: &[u64]| {
            let mut sorted = numbers.to_vec();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).copied().unwrap_or(0)
        };
        let most = |numbers: &[u64]| numbers.iter().copied().max().unwrap_or(0);
        format!(
            "power cuts {}, after at least {LOADED_OPERATIONS} operations {}, of single disks {}\n\
             batches acknowledged {}, their operations {}, values compared {}\n\
             tasks launched {}, their updates {}, tasks compared {}\n\
             cuts that met unflushed data {}; sectors unflushed at a cut {}, lost {}; flushes {}\n\
             masters ended by their watchdog {}; serving after a boot: median {} ms, longest {} ms; a single master back: median {} ms, longest {} ms",
            self.cuts,
            self.loaded_cuts,
            self.partial_cuts,
            self.acknowledged,
            self.operations,
            self.compared,
            self.tasks.launches,
            self.tasks.updates,
            self.tasks.compared,
            self.cuts_at_risk,
            self.disks.at_risk,
            self.disks.lost,
            self.disks.flushes,
            self.stalls,
            middle(&self.serving_ms),
            most(&self.serving_ms),
            middle(&self.caught_up_ms),
            most(&self.caught_up_ms),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(moment: &str, operations: u64) -> BootSummary {
        BootSummary {
            moment: moment.to_owned(),
            is_cut: moment != "Settled",
            settled: true,
            operations,
            launches: u64::from(operations >= 1_000),
            sectors_at_risk: operations,
            spent: Duration::from_secs(4),
        }
    }

    #[test]
    fn only_a_cut_after_enough_operations_of_its_boot_counts_as_one() {
        let mut summary = CutSummary::new();
        for (moment, operations) in [
            ("Loading", 999),
            ("Loaded", 1_000),
            ("DiskBack", 1_004),
            ("Settled", 1_004),
        ] {
            summary.note_boot(&boot(moment, operations));
        }
        assert_eq!(summary.run().loaded_cuts, 2);
        assert_eq!(summary.run().task_cuts, 2);
        assert_eq!(summary.details()["cuts_at_risk"], 3);
        assert_eq!(summary.details()["write_operations"], 4_007);
    }

    #[test]
    fn a_run_without_load_or_loss_proves_too_little() {
        let mut summary = CutSummary::new();
        summary.cuts = 3;
        summary.note_boot(&boot("Loading", 47));
        assert!(summary.too_little().unwrap().contains("fewer than 48"));
        assert!(summary.run().proves_too_little);
        summary.note_boot(&boot("Loading", 1));
        assert!(summary.too_little().unwrap().contains("fewer than 3"));
        summary.tasks.launches = 3;
        assert!(
            summary
                .too_little()
                .unwrap()
                .contains("no unflushed sector")
        );
        summary.count(&DiskCounts {
            flushes: 1,
            at_risk: 9,
            lost: 2,
        });
        assert_eq!(summary.too_little(), None);
        summary.partial_cuts = 2;
        let run = summary.run();
        assert_eq!((run.seeds, run.power_cuts), (3, 5));
        assert!(!run.proves_too_little);
        assert_eq!(run.moments["Loading"], 2);
        assert_eq!(summary.details()["sectors_lost"], 2);
    }
}
