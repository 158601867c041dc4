//! The environment of a run: directory, network, threads and recorder, created and removed in one
//! place.
//!
//! The calling thread moves into the namespace of the bridge and stays there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::arguments::ClusterSize;
use super::clock;
use super::cluster::{Cluster, ClusterEnvironment};
use super::folder::{self, RunDirectory};
use super::framework::FrameworkBehaviour;
use super::network::Network;
use super::progress::ProgressDisplay;
use crate::history::{Recorder, Recording};

/// The programs that a run needs.
pub(crate) struct TestPrograms {
    pub(super) argosy: PathBuf,
    pub(super) chaos: PathBuf,
}

pub(super) fn create_directory(base: &Path, screen: &ProgressDisplay) -> Result<RunDirectory> {
    fs::create_dir_all(base).with_context(|| format!("cannot create {}", base.display()))?;
    for cleared in folder::remove_stale(base) {
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

/// The behaviour of all frameworks of a measured cluster, which must always have something to
/// offer.
const MEASURED: [FrameworkBehaviour; 1] = [FrameworkBehaviour::Steady];

/// Runs `work` on a cluster for a measurement, and removes the cluster afterwards.
pub(super) fn with_cluster<T>(
    programs: &TestPrograms,
    base: &Path,
    (size, seed): (ClusterSize, u64),
    screen: &ProgressDisplay,
    work: impl AsyncFnOnce(Cluster, Recorder, CancellationToken) -> Result<T>,
) -> Result<T> {
    let folder = create_directory(base, screen)?;
    let outcome = Testbed::new(programs, &folder, (size, seed), &MEASURED).and_then(|stage| {
        let done = stage.run(work)?;
        Ok(done.0)
    });
    for what in folder.clear() {
        screen.print(&format!("cannot be removed: {what}"));
    }
    folder.remove();
    outcome
}

/// Network, threads and recorder of one run.
pub(super) struct Testbed {
    environment: ClusterEnvironment,
    network: Network,
    runtime: tokio::runtime::Runtime,
    recorder: Recorder,
    recording: Recording,
}

impl Testbed {
    pub(super) fn new(
        programs: &TestPrograms,
        folder: &RunDirectory,
        (size, seed): (ClusterSize, u64),
        habits: &'static [FrameworkBehaviour],
    ) -> Result<Self> {
        let began_ns = clock::monotonic_ns();
        let argosy = folder.path().join("argosy");
        copy_program(&programs.argosy, &argosy)?;
        let launcher = programs.argosy.with_file_name(LAUNCHER);
        if launcher.is_file() {
            copy_program(&launcher, &argosy.with_file_name(LAUNCHER))?;
        }
        let ground = ClusterEnvironment {
            argosy,
            chaos: programs.chaos.clone(),
            directory: folder.clone(),
            size,
            seed,
            behaviours: habits,
            started_ns: began_ns,
        };
        // Before the first thread is created, so that all threads are in the namespace of the
        // bridge.
        let network = Network::create(folder.prefix())?;
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let clock = move || clock::monotonic_ns().saturating_sub(began_ns);
        let main = folder.history().join("main.jsonl");
        let (recorder, recording) = Recorder::to_file(&main, clock)?;
        Ok(Self {
            environment: ground,
            network,
            runtime,
            recorder,
            recording,
        })
    }

    /// Returns the result of `work`, and whether it was cancelled.
    pub(super) fn run<T>(
        self,
        work: impl AsyncFnOnce(Cluster, Recorder, CancellationToken) -> Result<T>,
    ) -> Result<(T, bool)> {
        let recorder = self.recorder;
        let done = self.runtime.block_on(async {
            let stop = CancellationToken::new();
            watch_signals(stop.clone())?;
            let cluster = Cluster::plan(self.environment, self.network)?;
            let done = work(cluster, recorder, stop.clone()).await?;
            anyhow::Ok((done, stop.is_cancelled()))
        });
        self.runtime.shutdown_timeout(Duration::from_secs(5));
        self.recording
            .finish()
            .context("the history is incomplete")?;
        done
    }
}

/// Cancels the token on SIGINT, SIGTERM and SIGHUP.
pub(crate) fn watch_signals(stop: CancellationToken) -> Result<()> {
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
