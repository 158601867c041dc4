//! The scheduler that works on a cluster under test. It is a separate process on the public SDK,
//! which may be killed at any moment and returns as the same framework.
//!
//! It records its requests and their responses, and checks nothing.

mod facts;
mod journal;
mod limits;
mod open_task;
pub(crate) mod port;
mod queue;
mod scheduler;
pub(crate) mod tasks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_client::scheduler::SchedulerRunner;
use argosy_client::{Masters, SchedulerConfig};
use argosy_testbed::certificates::IdentityFiles;
use argosy_testbed::clock;
use argosy_testbed::schedulers::FrameworkBehaviour;
use argosy_testbed::transport::ClientTransport;
use argosy_tls::store::follow_files;
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::history::Recorder;
use crate::rng::Rng;
use journal::FrameworkJournal;
use scheduler::ChaosScheduler;

/// File in which each task records its start.
pub(crate) const WITNESS: &str = "witness";
/// Interval between two rounds of work.
const TICK: Duration = Duration::from_millis(100);

/// Arguments of the hidden command.
#[derive(Debug, Clone, Args)]
pub struct FrameworkArguments {
    /// Masters, in any order
    #[arg(long)]
    masters: Masters,
    /// Name of the framework and prefix of its task ids
    #[arg(long)]
    name: String,
    /// Directory of the run
    #[arg(long = "dir")]
    directory: PathBuf,
    /// Seed of all choices
    #[arg(long)]
    seed: u64,
    /// Monotonic clock at the beginning of the run, in nanoseconds
    #[arg(long)]
    began_ns: u64,
    /// The behaviour towards offers
    #[arg(long, value_enum)]
    habit: FrameworkBehaviour,
    /// The files of TLS; without them, it uses plaintext
    #[command(flatten)]
    tls: Option<IdentityFiles>,
}

/// The progress of a framework, written next to its journal for the harness.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct FrameworkProgress {
    /// As "framework-7"; empty before the first subscription.
    pub(crate) framework_id: String,
    pub(crate) wanted: String,
    pub(crate) launched: u64,
    pub(crate) ended: u64,
    /// Tasks that are not known to have ended.
    pub(crate) open: Vec<String>,
    /// Running services whose end was not requested.
    pub(crate) services: Vec<String>,
    /// Open tasks whose end was requested.
    #[serde(default)]
    pub(crate) killed: Vec<String>,
    pub(crate) offers_held: u64,
    /// Groups of which some tasks have ended and others have not.
    pub(crate) broken_groups: Vec<String>,
    /// Services with a committed change of limits that no update has reported.
    pub(crate) unreported_limits: Vec<String>,
    /// The number of reports of changed limits.
    pub(crate) limit_reports: u64,
}

impl FrameworkProgress {
    /// Returns the newest progress in this file; nothing if there is none.
    pub(crate) fn read(file: &Path) -> Self {
        let text = std::fs::read(file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

/// Writes log lines to the output of this process, from which the harness learns that changed
/// certificates are in use.
fn log_to_output() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_ansi(false)
        .init();
}

/// Runs until it is killed.
///
/// # Errors
/// If the run's directory cannot be used or the masters end the session.
pub async fn run(arguments: &FrameworkArguments) -> Result<()> {
    let data = arguments.directory.join("data").join(&arguments.name);
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
    let journal = FrameworkJournal::open(&data.join("journal"))?;
    let incarnation = journal.incarnation();
    let file = arguments
        .directory
        .join("history")
        .join(format!("{}.{incarnation}.jsonl", arguments.name));
    let began_ns = arguments.began_ns;
    let clock = move || clock::monotonic_ns().saturating_sub(began_ns);
    let (recorder, recording) = Recorder::to_file(&file, clock)?;
    let mut config = SchedulerConfig::new(arguments.masters.clone(), &arguments.name);
    if let Some(files) = &arguments.tls {
        log_to_output();
        let credentials = files.load()?;
        config.connector = ClientTransport::tls(&credentials).connector();
        // Ends with the process.
        tokio::spawn(follow_files(credentials));
    }
    config.tick = TICK;
    config.first_subscription = None;
    config.framework_id = journal.framework_id().map(str::to_owned);
    config.info.principal.clone_from(&arguments.name);
    let purpose = incarnation ^ arguments.name.bytes().map(u64::from).sum::<u64>() << 16;
    let mut worker = ChaosScheduler::new(
        arguments,
        &config,
        journal,
        recorder,
        Rng::new(arguments.seed).fork(purpose),
        data.join("progress"),
        std::env::current_exe().context("cannot find this executable")?,
    );
    let stop = CancellationToken::new();
    let ended = SchedulerRunner::new(config).run(&mut worker, stop).await;
    drop(worker);
    recording.finish().context("the history is incomplete")?;
    ended.context("the session ended")
}
