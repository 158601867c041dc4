//! The environment of a run: directory, network and threads, created and removed in one place.
//!
//! The calling thread moves into the namespace of the bridge and stays there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::arguments::ClusterSize;
use crate::certificates::ClusterCertificates;
use crate::clock;
use crate::cluster::Cluster;
use crate::members::ClusterEnvironment;
use crate::network::Network;
use crate::programs::TestPrograms;
use crate::progress::ProgressDisplay;
use crate::run_directory::{self, RunDirectory};
use crate::schedulers::FrameworkBehaviour;

/// Creates the directory of a run in `base`, after removing what ended runs have left there.
///
/// # Errors
/// If it cannot be created.
pub fn create_directory(base: &Path, screen: &ProgressDisplay) -> Result<RunDirectory> {
    fs::create_dir_all(base).with_context(|| format!("cannot create {}", base.display()))?;
    for cleared in run_directory::remove_stale(base) {
        screen.print(&format!("removed what {cleared} had left"));
    }
    Ok(RunDirectory::create(base)?)
}

/// The program with which an agent creates containers, in addition to its own.
const LAUNCHER: &str = "argosy-launcher";

/// Copies a program under test, so that a concurrent build cannot replace it.
fn copy_program(program: &Path, copy: &Path) -> Result<()> {
    fs::hard_link(program, copy)
        .or_else(|_| fs::copy(program, copy).map(drop))
        .with_context(|| format!("cannot copy {}", program.display()))
}

/// Copies the executable of a release, with its launcher if it has one, and returns its path.
fn copy_release(argosy: &Path, place: &Path) -> Result<PathBuf> {
    let copy = place.join("argosy");
    copy_program(argosy, &copy)?;
    let launcher = argosy.with_file_name(LAUNCHER);
    if launcher.is_file() {
        copy_program(&launcher, &place.join(LAUNCHER))?;
    }
    Ok(copy)
}

/// Runs `work` on a cluster, and removes the cluster afterwards.
///
/// # Errors
/// If the environment cannot be created, and errors of `work`.
pub fn with_cluster<T>(
    programs: &TestPrograms,
    base: &Path,
    plan: ClusterPlan,
    screen: &ProgressDisplay,
    work: impl AsyncFnOnce(Cluster, CancellationToken) -> Result<T>,
) -> Result<T> {
    let directory = create_directory(base, screen)?;
    let outcome = Testbed::new(programs, &directory, plan).and_then(|testbed| {
        let (done, _) = testbed.run(work)?;
        Ok(done)
    });
    for what in directory.clear() {
        screen.print(&format!("cannot be removed: {what}"));
    }
    directory.remove();
    outcome
}

/// The transport of all connections of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterTransport {
    /// TLS, with certificates of a new CA.
    Tls,
    /// Without TLS.
    Plaintext,
}

/// The size of a cluster, its transport, and the choices of its schedulers.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    pub size: ClusterSize,
    /// The executable of another release, if members may change to it.
    pub other_release: Option<PathBuf>,
    pub seed: u64,
    /// The behaviours of the schedulers, assigned in turn. Not empty.
    pub behaviours: &'static [FrameworkBehaviour],
    pub transport: ClusterTransport,
}

/// Network and threads of one run.
pub struct Testbed {
    environment: ClusterEnvironment,
    network: Network,
    runtime: tokio::runtime::Runtime,
}

impl Testbed {
    /// Creates the network and the threads, and starts nothing. Must be called while there is only
    /// one thread.
    ///
    /// # Errors
    /// If the network or the threads cannot be created.
    pub fn new(programs: &TestPrograms, dir: &RunDirectory, plan: ClusterPlan) -> Result<Self> {
        let started_ns = clock::monotonic_ns();
        let argosy = copy_release(&programs.argosy, dir.path())?;
        let other_release = match &plan.other_release {
            Some(other) => {
                let place = dir.path().join("other");
                fs::create_dir(&place).context("cannot create a directory")?;
                Some(copy_release(other, &place)?)
            }
            None => None,
        };
        let certificates = match plan.transport {
            ClusterTransport::Plaintext => None,
            ClusterTransport::Tls => {
                let created = ClusterCertificates::create(&dir.path().join("tls"))?;
                Some(Arc::new(created))
            }
        };
        let environment = ClusterEnvironment {
            argosy,
            other_release,
            chaos: programs.chaos.clone(),
            directory: dir.clone(),
            size: plan.size,
            seed: plan.seed,
            behaviours: plan.behaviours,
            started_ns,
            certificates,
        };
        // Before the first thread is created, so that all threads are in the namespace of the
        // bridge.
        let network = Network::create(dir.prefix())?;
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        Ok(Self {
            environment,
            network,
            runtime,
        })
    }

    /// Returns the monotonic clock at the beginning of the run, in nanoseconds.
    pub fn started_ns(&self) -> u64 {
        self.environment.started_ns
    }

    /// Returns the result of `work`, and whether it was cancelled.
    ///
    /// # Errors
    /// If the cluster cannot be planned, and errors of `work`.
    pub fn run<T>(
        self,
        work: impl AsyncFnOnce(Cluster, CancellationToken) -> Result<T>,
    ) -> Result<(T, bool)> {
        let done = self.runtime.block_on(async {
            let stop = CancellationToken::new();
            watch_signals(stop.clone())?;
            let cluster = Cluster::plan(self.environment, self.network)?;
            let done = work(cluster, stop.clone()).await?;
            anyhow::Ok((done, stop.is_cancelled()))
        });
        self.runtime.shutdown_timeout(Duration::from_secs(5));
        done
    }
}

/// Cancels the token on SIGINT, SIGTERM and SIGHUP.
///
/// # Errors
/// If the signals cannot be watched.
pub fn watch_signals(stop: CancellationToken) -> Result<()> {
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let mut signals = signal(kind).context("cannot watch for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                eprintln!("\nstopping: ending all faults, then checking the history");
                stop.cancel();
            }
        });
    }
    Ok(())
}
