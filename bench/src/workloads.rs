//! All workloads: which are measured, and how each is started.
//!
//! An interruption ends everything that was started, because all that a run holds is dropped.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use argosy_testbed::tracer;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{Arguments, Measurement, Peer, Workload};
use crate::bench::Bench;
use crate::cluster::{BenchEnvironment, check_build, etcd_version};
use crate::machine::MachineInfo;
use crate::report::{Side, WorkloadReport};
use crate::tasks::hyperqueue_version;
use crate::{
    allocator, commands, containers, crowd, events, failover, flood, idle, latency, leader_loss,
    registry, scale, scrape, stall, start, state_read, tasks,
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
    Workload::Scrape,
    Workload::Events,
    Workload::Commands,
    Workload::Scale,
];

/// Measures what the command line requests and prints it.
///
/// # Errors
/// Any failure of a workload, or an interruption.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // Before the first thread is created, which must be in the network of the measurement.
    if let Some(Measurement::LeaderLoss(own)) = &arguments.measurement {
        return Ok(ExitCode::from(leader_loss::run(own)));
    }
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
    let wanted = match arguments.workload.context("name a workload")? {
        Workload::All => {
            let mut all = WORKLOADS.to_vec();
            if !nix::unistd::geteuid().is_root() {
                eprintln!("start, containers: SKIPPED, they need root");
                all.retain(|one| !matches!(one, Workload::Start | Workload::Containers));
            }
            if !tracer::is_possible() {
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
            WorkloadResult::Cluster(measure(&prepare(arguments, workload)?, workload).await?)
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

/// Returns the environment of a workload.
fn prepare(arguments: &Arguments, workload: Workload) -> Result<Bench> {
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
    let with_tls = arguments.peer == Peer::Plaintext && compares_with_plaintext(workload);
    if arguments.rules > 0 && !with_tls {
        bail!("--rules needs --peer plaintext: without TLS no rule is enforced");
    }
    if with_tls {
        sides.push(Side::Plaintext);
        versions.push("plaintext: the same, with --insecure-plaintext".to_owned());
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
    Ok(Bench {
        environment: BenchEnvironment::new(argosy, &arguments.directory, arguments.keep, with_tls)?,
        extent: arguments.extent(),
        sides,
        machine,
        versions,
    })
}

async fn measure(bench: &Bench, workload: Workload) -> Result<WorkloadReport> {
    match workload {
        Workload::Registry => registry::single(bench).await,
        Workload::RegistryBatch => registry::batched(bench).await,
        Workload::FailoverCrash => failover::crash(bench).await,
        Workload::FailoverFreeze => failover::freeze(bench).await,
        Workload::Tasks => tasks::measure(bench).await,
        Workload::Start => start::measure(bench).await,
        Workload::Containers => containers::measure(bench).await,
        Workload::Latency => latency::measure(bench).await,
        Workload::Stall => stall::measure(bench).await,
        Workload::Idle => idle::measure(bench).await,
        Workload::Flood => flood::measure(bench).await,
        Workload::Crowd => crowd::measure(bench).await,
        Workload::StateRead => state_read::measure(bench).await,
        Workload::Scrape => scrape::measure(bench).await,
        Workload::Events => events::measure(bench).await,
        Workload::Commands => commands::measure(bench).await,
        Workload::Scale => scale::measure(bench).await,
        Workload::Allocator | Workload::All => {
            bail!("{} needs no cluster of its own", workload.name())
        }
    }
}

/// Returns whether all clients of a workload can use TLS.
fn compares_with_plaintext(workload: Workload) -> bool {
    match workload {
        Workload::Registry
        | Workload::RegistryBatch
        | Workload::FailoverCrash
        | Workload::FailoverFreeze
        | Workload::Flood
        | Workload::Scale => true,
        Workload::Stall
        | Workload::Idle
        | Workload::Tasks
        | Workload::Start
        | Workload::Containers
        | Workload::Latency
        | Workload::Allocator
        | Workload::Crowd
        | Workload::StateRead
        | Workload::Scrape
        | Workload::Events
        | Workload::Commands
        | Workload::All => false,
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
        | Workload::Scrape
        | Workload::Events
        | Workload::Commands
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
