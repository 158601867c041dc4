//! Power cuts: a cluster under load in a machine that is switched off at a moment that the seed
//! chooses.
//!
//! A series has one set of disks. Each boot reads everything back before new load begins. One disk
//! of a master, or two, may also lose power separately, and the masters on them are killed with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::acknowledged_tasks::AcknowledgedTasks;
use super::check::{AcknowledgedWrites, DurabilityViolation};
use super::cut_plan::{BootMilestone, CutKinds, CutPlan, LOADED_OPERATIONS};
use super::disk::{Disk, Flushes, UnflushedLoss};
use super::guest::DISKS;
use super::machine::{Hardware, ReportWait, SharedDisk, VirtualMachine};
use super::power_switch::PowerSwitch;
use super::report::{GuestReport, Values};
use super::summary::{BootSummary, CutSummary};
use super::task_report::TaskReport;
use crate::rng::Rng;

/// Lines of the console that are shown after a failure.
pub(super) const LAST_LINES: usize = 40;
/// Size of a disk.
const DISK_BYTES: u64 = 512 << 20;
/// Timeout of each step until everything is read back, also on a busy machine: the boot, the
/// masters' data, and the tasks.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(240);
/// Timeout from the mark that starts the clock until the chosen moment.
const CUT_TIMEOUT: Duration = Duration::from_secs(240);
/// The least time of waiting for a processor that extends a deadline.
const LEAST_EXTENSION: Duration = Duration::from_secs(1);

/// Timeout for the write at which the power is cut. Then it is cut without one.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the host looks whether that write was made.
const SWITCH_INTERVAL: Duration = Duration::from_millis(2);

/// The settings of a run.
#[derive(Debug, Clone)]
pub(crate) struct CutSettings {
    pub(crate) hardware: Hardware,
    /// Cuts of the whole machine.
    pub(crate) cuts: u64,
    pub(crate) kinds: CutKinds,
    pub(crate) seed: u64,
    /// Cuts after which the disks are recreated.
    pub(crate) series: u64,
    /// Of the masters' disks.
    pub(crate) master_flushes: Flushes,
    /// Of the agent's disk.
    pub(crate) agent_flushes: Flushes,
    /// The directory for disks and sockets.
    pub(crate) work: PathBuf,
}

/// Makes this many cuts, and reads back after each one.
///
/// # Errors
/// If the machine cannot be run. Violations are in the summary.
pub(crate) fn run(settings: &CutSettings) -> anyhow::Result<CutSummary> {
    let mut summary = CutSummary::new();
    while summary.cuts < settings.cuts && summary.violations.is_empty() {
        let cuts = settings.series.min(settings.cuts - summary.cuts);
        CutSeries::new(settings)?.run(cuts, &mut summary)?;
    }
    Ok(summary)
}

/// Creates an empty disk with a file system for each of these effects of flushes, in a machine with
/// this switch.
///
/// # Errors
/// If they cannot be created.
pub(crate) fn new_disks(
    work: &Path,
    flushes: &[Flushes],
    switch: &Arc<PowerSwitch>,
) -> anyhow::Result<Vec<SharedDisk>> {
    let mut disks = Vec::new();
    for (number, flushes) in (1..).zip(flushes) {
        let path = work.join(format!("{number}.disk"));
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.set_len(DISK_BYTES)?;
        // The journal is small, so that it wraps. Everything is written now, nothing in the
        // background.
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-F", "-J", "size=8"])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&path)
            .output()
            .context("cannot start mke2fs (install it with: scripts/setup)")?;
        if !made.status.success() {
            bail!("mke2fs: {}", String::from_utf8_lossy(&made.stderr));
        }
        let disk = Disk::open(&path, *flushes, Arc::clone(switch))?;
        disks.push(Arc::new(Mutex::new(disk)));
    }
    Ok(disks)
}

fn lock(disk: &SharedDisk) -> std::sync::MutexGuard<'_, Disk> {
    disk.lock().expect("no holder of the lock panics")
}

/// Cuts on one set of disks.
struct CutSeries<'a> {
    settings: &'a CutSettings,
    disks: Vec<SharedDisk>,
    switch: Arc<PowerSwitch>,
    writes: AcknowledgedWrites,
    tasks: AcknowledgedTasks,
    boots: u64,
}

struct BootState {
    plan: CutPlan,
    rng: Rng,
    /// The time of the cut, once it is known.
    cut_at: Option<Instant>,
    /// When the power is cut also without the write that the plan names.
    cut_by: Option<Instant>,
    /// If no mark is reached until then, the boot has failed.
    deadline: Instant,
    /// The time of waiting for a processor by which the deadline was extended.
    waited: Duration,
    found: BTreeMap<String, Values>,
    /// Acknowledged operations.
    operations: u64,
    violations: Vec<DurabilityViolation>,
    settled: bool,
    finished: bool,
}

impl<'a> CutSeries<'a> {
    fn new(settings: &'a CutSettings) -> anyhow::Result<Self> {
        let mut flushes = vec![settings.master_flushes; DISKS];
        flushes.push(settings.agent_flushes);
        let switch = Arc::default();
        Ok(Self {
            settings,
            disks: new_disks(&settings.work, &flushes, &switch)?,
            switch,
            writes: AcknowledgedWrites::default(),
            tasks: AcknowledgedTasks::default(),
            boots: 0,
        })
    }

    fn run(&mut self, cuts: u64, summary: &mut CutSummary) -> anyhow::Result<()> {
        for _ in 0..cuts {
            // Each cut has its own seed, which repeats its plan.
            let mut rng = Rng::new(self.settings.seed.wrapping_add(summary.cuts));
            let mut plan = CutPlan::choose(&mut rng, self.settings.kinds);
            let flushes = [self.settings.master_flushes, self.settings.agent_flushes];
            if flushes.contains(&Flushes::Ignored) {
                // This reverts to a consistent older state, so that a violation is found in the
                // registry.
                plan.loss = UnflushedLoss::Everything;
            }
            self.boot(plan, rng, summary)?;
            summary.cuts += 1;
            if !summary.violations.is_empty() {
                break;
            }
        }
        if summary.violations.is_empty() {
            self.boot(CutPlan::last(), Rng::new(0), summary)?;
        }
        summary.acknowledged += self.writes.acknowledged;
        summary.compared += self.writes.compared;
        summary.tasks.add(&self.tasks);
        for disk in &self.disks {
            summary.count(&lock(disk).counts);
        }
        Ok(())
    }

    /// Switches the machine on, reads everything back, generates load, and cuts the power.
    fn boot(&mut self, plan: CutPlan, rng: Rng, summary: &mut CutSummary) -> anyhow::Result<()> {
        let started = Instant::now();
        self.switch.turn_on();
        self.disks.iter().for_each(|disk| lock(disk).power_on());
        let settings = self.settings;
        self.boots += 1;
        self.tasks.start_boot();
        let mut words = format!("{} argosy.boot={}", plan.kernel_args(), self.boots);
        if let Some(framework) = self.tasks.framework() {
            words.push_str(&format!(" argosy.framework={framework}"));
        }
        let mut machine =
            VirtualMachine::start(&settings.hardware, &self.disks, &words, &settings.work)?;
        let mut boot = BootState::new(plan, rng, Instant::now());
        let launches_before = self.tasks.launches;
        while !boot.finished {
            match machine.wait_for_report(boot.next_deadline()) {
                ReportWait::Report(report) => self.take(&mut boot, report, summary),
                ReportWait::Silence if boot.cut_at.is_some() => boot.approach_cut(&self.switch),
                ReportWait::Silence if boot.extend(machine.waited_for_processor()) => {}
                ReportWait::Silence => boot.fail("nothing more was heard of the guest in time"),
                ReportWait::Ended => boot.fail("the machine has ended by itself"),
            }
        }
        let late = machine.cut();
        let mut at_risk = 0;
        for disk in &self.disks {
            let mut disk = lock(disk);
            let before = disk.counts.at_risk;
            disk.cut(boot.plan.loss, &mut boot.rng)?;
            at_risk += disk.counts.at_risk - before;
        }
        // An acknowledgement that was sent before the cut counts, even if it is read later.
        late.into_iter()
            .for_each(|report| self.take(&mut boot, report, summary));
        if !boot.violations.is_empty() {
            eprintln!("  {:?} {}", boot.plan, boot.plan.kernel_args());
            let lines = machine.console(LAST_LINES);
            eprintln!("  the last lines:\n    {}", lines.join("\n    "));
        }
        summary.note_boot(&BootSummary {
            moment: format!("{:?}", boot.plan.time.after),
            is_cut: boot.plan.time.after != BootMilestone::Settled,
            settled: boot.settled,
            operations: boot.operations,
            launches: self.tasks.launches - launches_before,
            sectors_at_risk: at_risk,
            spent: started.elapsed(),
        });
        summary.violations.append(&mut boot.violations);
        Ok(())
    }

    fn take(&mut self, boot: &mut BootState, report: GuestReport, summary: &mut CutSummary) {
        if let Err(violation) = self.handle(boot, report, summary) {
            boot.violations.push(violation);
        }
        boot.finished |= !boot.violations.is_empty();
    }

    fn handle(
        &mut self,
        boot: &mut BootState,
        report: GuestReport,
        summary: &mut CutSummary,
    ) -> Result<(), DurabilityViolation> {
        match report {
            GuestReport::Mounted => boot.reached(BootMilestone::Mounted),
            GuestReport::Serving { ms } => summary.serving_ms.push(ms),
            GuestReport::State { agent, values } => drop(boot.found.insert(agent, values)),
            GuestReport::Digest {
                master,
                applied,
                digest,
            } => self.writes.digest(master, applied, &digest)?,
            GuestReport::Settled { applied } => {
                let mut found = self.writes.read_back(&boot.found, applied);
                boot.violations.append(&mut found);
                boot.deadline = Instant::now() + RECOVERY_TIMEOUT;
            }
            GuestReport::Tasks(report) => self.take_tasks(boot, report),
            GuestReport::Loading { agent } => {
                self.writes.start_load(&agent, boot.plan.batch_size);
                boot.reached(BootMilestone::Loading);
            }
            GuestReport::Acknowledged {
                writer,
                batch,
                revision,
            } => {
                boot.acknowledged();
                self.writes.acknowledge(writer, batch, revision)?;
            }
            GuestReport::PowerOff { disk } => self.cut_disk(boot, disk, summary)?,
            GuestReport::Released { disk } => lock(self.disk(disk)?).power_on(),
            GuestReport::CaughtUp { ms, .. } => {
                summary.caught_up_ms.push(ms);
                boot.reached(BootMilestone::DiskBack);
            }
            GuestReport::Stalled { .. } => summary.stalls += 1,
            GuestReport::CaseResult { why, .. } if why.is_empty() => {}
            GuestReport::CaseResult { why, .. } | GuestReport::Failed { why } => {
                return Err(DurabilityViolation::Failed { why });
            }
        }
        Ok(())
    }

    fn take_tasks(&mut self, boot: &mut BootState, report: TaskReport) {
        let is_last = report == TaskReport::Settled;
        boot.violations.append(&mut self.tasks.take(report));
        if is_last {
            boot.settled = true;
            boot.reached(BootMilestone::Settled);
        }
    }

    fn disk(&self, number: u64) -> Result<&SharedDisk, DurabilityViolation> {
        let index = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_sub(1));
        index
            .and_then(|index| self.disks.get(index))
            .ok_or_else(|| DurabilityViolation::Failed {
                why: format!("the guest speaks of disk {number}"),
            })
    }

    fn cut_disk(
        &self,
        boot: &mut BootState,
        number: u64,
        summary: &mut CutSummary,
    ) -> Result<(), DurabilityViolation> {
        let disk = self.disk(number)?;
        let loss = UnflushedLoss::choose(&mut boot.rng);
        let cut = lock(disk).cut(loss, &mut boot.rng);
        cut.map_err(|error| DurabilityViolation::Failed {
            why: format!("disk {number} cannot be cut: {error}"),
        })?;
        summary.partial_cuts += 1;
        boot.reached(BootMilestone::DiskOff);
        Ok(())
    }
}

impl BootState {
    fn new(plan: CutPlan, rng: Rng, now: Instant) -> Self {
        let mut boot = Self {
            plan,
            rng,
            cut_at: None,
            cut_by: None,
            deadline: now + RECOVERY_TIMEOUT,
            waited: Duration::ZERO,
            found: BTreeMap::new(),
            operations: 0,
            violations: Vec::new(),
            settled: false,
            finished: false,
        };
        boot.reached(BootMilestone::PowerOn);
        boot
    }

    fn reached(&mut self, mark: BootMilestone) {
        if mark == self.plan.time.after {
            self.cut_at = Some(Instant::now() + Duration::from_millis(self.plan.time.ms));
            return;
        }
        let timeout = match mark {
            BootMilestone::Mounted => RECOVERY_TIMEOUT,
            BootMilestone::Settled => CUT_TIMEOUT,
            BootMilestone::PowerOn
            | BootMilestone::Loading
            | BootMilestone::Loaded
            | BootMilestone::DiskOff
            | BootMilestone::DiskBack => return,
        };
        self.deadline = Instant::now() + timeout;
    }

    /// Counts an acknowledged batch.
    fn acknowledged(&mut self) {
        let before = self.operations;
        self.operations += self.plan.batch_size;
        if before < LOADED_OPERATIONS && self.operations >= LOADED_OPERATIONS {
            self.reached(BootMilestone::Loaded);
        }
    }

    /// Finishes the boot at the write that the plan names, or now if it names none.
    fn approach_cut(&mut self, switch: &PowerSwitch) {
        let now = Instant::now();
        self.finished = match (self.plan.at_write, self.cut_by) {
            (None, _) => true,
            (Some(number), None) => {
                switch.cut_at_write(number);
                self.cut_by = Some(now + WRITE_TIMEOUT);
                false
            }
            (Some(_), Some(cut_by)) => switch.is_off() || now >= cut_by,
        };
        self.cut_at = Some(now + SWITCH_INTERVAL);
    }

    /// Extends the deadline by the time that the machine has waited for a processor since the last
    /// extension: a busy host is no violation. Returns false if that is hardly any.
    fn extend(&mut self, waited: Duration) -> bool {
        let more = waited.saturating_sub(self.waited);
        self.waited = waited;
        self.deadline += more;
        more >= LEAST_EXTENSION
    }

    fn next_deadline(&self) -> Instant {
        self.cut_at.unwrap_or(self.deadline)
    }

    fn fail(&mut self, why: &str) {
        self.violations
            .push(DurabilityViolation::Failed { why: why.into() });
        self.finished = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_extended_by_the_time_without_a_processor() {
        let now = Instant::now();
        let mut boot = BootState::new(CutPlan::last(), Rng::new(1), now);
        let first = boot.next_deadline();
        assert!(!boot.extend(Duration::from_millis(900)));
        assert!(boot.extend(Duration::from_secs(100)));
        assert_eq!(boot.next_deadline(), first + Duration::from_secs(100));
        assert!(
            !boot.extend(Duration::from_secs(100)),
            "it has not waited again"
        );
        assert_eq!(boot.next_deadline(), first + Duration::from_secs(100));
    }
}
