//! A run of the program: its workloads, their environment, and the report.
//!
//! An interruption ends everything that was started, because all that a run holds is dropped.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{Arguments, Extent, Peer, Workload};
use crate::cluster::{BenchEnvironment, check_build, etcd_version};
use crate::cpu::CpuBaseline;
use crate::machine::{MachineInfo, Probes};
use crate::report::{Cell, Kill, Sample, Side, SideRun, VOID_LOAD, WorkloadReport};
use crate::tasks::hyperqueue_version;
use crate::{
    allocator, containers, crowd, failover, flood, idle, latency, registry, scale, slow_disk,
    stall, start, state_read, tasks,
};

/// In the order of `all`.
const WORKLOADS: &[Workload] = &[
    Workload::Registry,
    Workload::RegistryBatch,
    Workload::FailoverCrash,
    Workload::FailoverFreeze,
    Workload::Stall,
    Workload::Tasks,
    Workload::Start,
    Workload::Containers,
    Workload::Latency,
    Workload::Allocator,
    Workload::Idle,
    Workload::Flood,
    Workload::Crowd,
    Workload::StateRead,
    Workload::Scale,
];

/// The environment of the workloads.
pub(crate) struct Bench {
    pub(crate) ground: BenchEnvironment,
    pub(crate) extent: Extent,
    sides: Vec<Side>,
    machine: MachineInfo,
    versions: Vec<String>,
}

/// The results of a run.
#[derive(Debug, Default)]
pub(crate) struct Measurements {
    samples: Vec<Sample>,
    pub(crate) kills: Vec<Kill>,
}

impl Measurements {
    pub(crate) fn note(&mut self, cell: impl Into<String>, value: f64) {
        self.samples.push(Sample {
            cell: cell.into(),
            value,
        });
    }
}

/// Measures what the command line requests and prints it.
///
/// # Errors
/// Any failure of a workload, or an interruption.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let mut hung_up = signal(SignalKind::hangup())?;
        tokio::select! {
            result = measure_all(arguments) => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted; everything that was started has been stopped"),
            _ = terminated.recv() => bail!("terminated; everything that was started has been stopped"),
            _ = hung_up.recv() => bail!("hung up; everything that was started has been stopped"),
        }
    });
    // An interrupted computation is not awaited.
    runtime.shutdown_background();
    result
}

async fn measure_all(arguments: &Arguments) -> Result<ExitCode> {
    let wanted = match arguments.workload {
        Workload::All => {
            let mut all = WORKLOADS.to_vec();
            if !nix::unistd::geteuid().is_root() {
                eprintln!("start, containers: SKIPPED, they need root");
                all.retain(|one| !matches!(one, Workload::Start | Workload::Containers));
            }
            if !slow_disk::is_possible() {
                eprintln!("stall: SKIPPED, it needs strace");
                all.retain(|one| *one != Workload::Stall);
            }
            all
        }
        one => vec![one],
    };
    let mut reports = Vec::new();
    let mut shortfalls = Vec::new();
    for workload in wanted {
        let found = if workload == Workload::Allocator {
            let form = if arguments.short {
                allocator::GridExtent::Short
            } else {
                allocator::GridExtent::Long
            };
            // It computes for minutes, so it runs on a separate thread from the loop that waits for
            // an interruption.
            WorkloadResult::Allocator(
                tokio::task::spawn_blocking(move || allocator::run(form))
                    .await
                    .context("the allocator panicked")?,
            )
        } else {
            WorkloadResult::Cluster(Bench::new(arguments, workload)?.measure(workload).await?)
        };
        println!("{found}");
        shortfalls.extend(found.shortfalls());
        reports.push(found);
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&reports).context("a report is JSON")?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if arguments.gate && !shortfalls.is_empty() {
        println!(
            "short of the goal by more than a fifth:\n  {}",
            shortfalls.join("\n  ")
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The results of a workload.
#[derive(Serialize)]
#[serde(untagged)]
enum WorkloadResult {
    Cluster(WorkloadReport),
    Allocator(allocator::AllocatorReport),
}

impl WorkloadResult {
    fn shortfalls(&self) -> Vec<String> {
        match self {
            Self::Cluster(report) => report.shortfalls(),
            Self::Allocator(report) => report.shortfalls(),
        }
    }
}

impl fmt::Display for WorkloadResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(report) => report.fmt(f),
            Self::Allocator(report) => report.fmt(f),
        }
    }
}

impl Bench {
    fn new(arguments: &Arguments, workload: Workload) -> Result<Self> {
        let argosy = match &arguments.argosy {
            Some(path) => path.clone(),
            None => find_executable()?,
        };
        let mut sides = Vec::new();
        let mut versions = Vec::new();
        if !arguments.peer_only {
            sides.push(Side::Argosy);
            versions.push(check_build(&argosy)?);
        }
        if arguments.peer == Peer::Etcd && compares_with_etcd(workload) {
            sides.push(Side::Etcd);
            versions.push(etcd_version()?);
        }
        if arguments.peer == Peer::Hyperqueue && workload == Workload::Tasks {
            sides.push(Side::Hyperqueue);
            versions.push(hyperqueue_version()?);
        }
        if sides.is_empty() {
            bail!(
                "{} has no such peer: leave out --peer-only, or name another --peer",
                workload.name()
            );
        }
        let machine = MachineInfo::of_this_host(&arguments.directory);
        if machine.file_system == "tmpfs" {
            bail!(
                "{} is in memory: name a directory on a disk with --directory",
                arguments.directory.display()
            );
        }
        Ok(Self {
            ground: BenchEnvironment::new(argosy, &arguments.directory, arguments.keep)?,
            extent: arguments.extent(),
            sides,
            machine,
            versions,
        })
    }

    async fn measure(&self, workload: Workload) -> Result<WorkloadReport> {
        match workload {
            Workload::Registry => registry::single(self).await,
            Workload::RegistryBatch => registry::batched(self).await,
            Workload::FailoverCrash => failover::crash(self).await,
            Workload::FailoverFreeze => failover::freeze(self).await,
            Workload::Tasks => tasks::measure(self).await,
            Workload::Start => start::measure(self).await,
            Workload::Containers => containers::measure(self).await,
            Workload::Latency => latency::measure(self).await,
            Workload::Stall => stall::measure(self).await,
            Workload::Idle => idle::measure(self).await,
            Workload::Flood => flood::measure(self).await,
            Workload::Crowd => crowd::measure(self).await,
            Workload::StateRead => state_read::measure(self).await,
            Workload::Scale => scale::measure(self).await,
            Workload::Allocator | Workload::All => {
                bail!("{} needs no cluster of its own", workload.name())
            }
        }
    }

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
                let probes = Probes::take(self.ground.directory.path())?;
                let begun = CpuBaseline::now();
                let mut findings = Measurements::default();
                work(side, &mut findings)
                    .await
                    .with_context(|| format!("{} with {side}, run {number}", report.workload))?;
                let other_load = begun.other_load();
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

fn compares_with_etcd(workload: Workload) -> bool {
    match workload {
        Workload::Registry
        | Workload::RegistryBatch
        | Workload::FailoverCrash
        | Workload::FailoverFreeze
        | Workload::Stall
        | Workload::Idle => true,
        Workload::Tasks
        | Workload::Start
        | Workload::Containers
        | Workload::Latency
        | Workload::Allocator
        | Workload::Flood
        | Workload::Crowd
        | Workload::StateRead
        | Workload::Scale
        | Workload::All => false,
    }
}

/// Returns the `argosy` in the directory of this program.
fn find_executable() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    Ok(own
        .parent()
        .unwrap_or_else(|| Path::new("."))
        .join("argosy"))
}
