//! The environment of a workload, and the runs of its sides.

use anyhow::{Context, Result};

use crate::arguments::{Extent, Workload};
use crate::cluster::BenchEnvironment;
use crate::cpu::CpuBaseline;
use crate::machine::{MachineInfo, Probes};
use crate::report::{Cell, Kill, Sample, Side, SideRun, VOID_LOAD, WorkloadReport};

/// The environment of the workloads.
pub(crate) struct Bench {
    pub(crate) environment: BenchEnvironment,
    pub(crate) extent: Extent,
    pub(crate) sides: Vec<Side>,
    pub(crate) machine: MachineInfo,
    /// The versions of the sides.
    pub(crate) versions: Vec<String>,
}

/// The results of a run.
#[derive(Debug, Default)]
pub(crate) struct Measurements {
    samples: Vec<Sample>,
    pub(crate) kills: Vec<Kill>,
}

impl Measurements {
    pub(crate) fn record(&mut self, cell: impl Into<String>, value: f64) {
        self.samples.push(Sample {
            cell: cell.into(),
            value,
        });
    }

    #[cfg(test)]
    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

impl Bench {
    /// Returns a report of this workload, without runs.
    pub(crate) fn report(
        &self,
        workload: Workload,
        about: &[&str],
        cells: Vec<Cell>,
    ) -> WorkloadReport {
        WorkloadReport {
            workload: workload.name(),
            about: about.iter().map(|line| (*line).to_owned()).collect(),
            machine: self.machine.clone(),
            versions: self.versions.clone(),
            cells,
            runs: Vec::new(),
        }
    }

    /// Runs each side this number of times, alternating, with the machine's probes before each run.
    ///
    /// # Errors
    /// The first error of a run.
    pub(crate) async fn run_alternately(
        &self,
        report: &mut WorkloadReport,
        runs: u32,
        work: impl AsyncFn(Side, &mut Measurements) -> Result<()>,
    ) -> Result<()> {
        for number in 1..=runs {
            for side in self.sides.iter().copied() {
                eprintln!("{}: {side}, run {number} of {runs}", report.workload);
                let probes = Probes::take(self.environment.directory.path())?;
                let started = CpuBaseline::now();
                let mut findings = Measurements::default();
                work(side, &mut findings)
                    .await
                    .with_context(|| format!("{} with {side}, run {number}", report.workload))?;
                let other_load = started.other_load();
                report.runs.push(SideRun {
                    side,
                    number,
                    probes,
                    other_load,
                    void: other_load > VOID_LOAD,
                    samples: findings.samples,
                    kills: findings.kills,
                });
            }
        }
        Ok(())
    }
}
