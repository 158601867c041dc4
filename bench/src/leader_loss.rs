//! `argosy-bench leader-loss`: measures how long a change of leader takes, phase by phase, for each
//! way to lose a leader. It also measures etcd and ZooKeeper on the same machine.
//!
//! Each member runs in its own network namespace, with agents and schedulers. It has no pass
//! criteria, and other load on the machine affects the results. The workloads of `failover` are
//! others: on loopback addresses, with a verdict on the ratio to etcd.

mod clients;
mod fixture;
mod peers;
mod probes;
mod pulse;
mod samples;
mod writer;
mod zookeeper;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_testbed::arguments::{ClusterSize, duration};
use argosy_testbed::cluster::Cluster;
use argosy_testbed::programs::{TestPrograms, UsageError, find_programs, own_executable};
use argosy_testbed::progress::ProgressDisplay;
use argosy_testbed::schedulers::FrameworkBehaviour;
use argosy_testbed::testbed::{ClusterPlan, ClusterTransport, with_cluster};
use argosy_testbed::tracer;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::load::LoadLevel;
use fixture::LossCluster;
use peers::{Peer, PeerPlan, can_lose};
use samples::{MeasuredSystem, Samples};

/// Delay of the first write after the loss, so that any last action of the old leader is over.
const FIRST_WRITE_DELAY: Duration = Duration::from_millis(1);
/// Time after which a cluster counts as lost.
const LOSS_TIMEOUT: Duration = Duration::from_secs(60);
/// Default duration of `--loss none`.
const UNDISTURBED_TIME: Duration = Duration::from_hours(1);
/// Time for which the leader stays lost after the last phase was observed.
const RECOVERY_DELAY: Duration = Duration::from_millis(300);

/// The executable that has the schedulers, in the directory of this program.
const SCHEDULERS: &str = "argosy-chaos";
/// The behaviour of all schedulers: the next leader always has offers to make and tasks to launch.
const BEHAVIOURS: [FrameworkBehaviour; 1] = [FrameworkBehaviour::Steady];

/// Arguments of the measurement of leader changes.
#[derive(Debug, Clone, Args)]
pub(crate) struct LeaderLossArguments {
    /// Losses of each kind
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// The ways in which the leader is lost
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…", default_values_t = LeaderLoss::ALL)]
    loss: Vec<LeaderLoss>,
    /// The load that clients generate during the measurement
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…", default_values_t = [LoadLevel::Quiet])]
    load: Vec<LoadLevel>,
    /// Time to watch for unnecessary elections, with `--loss none` [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Peers that are also measured, by kill and freeze, with default and with tuned settings
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…")]
    peers: Vec<Peer>,
    /// Losses of each kind of a peer [default: the value of --kills]
    #[arg(long, value_name = "NUMBER", requires = "peers", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    peer_kills: Option<u32>,
    /// Masters x agents; masters are 3 or 5
    #[arg(long, value_name = "MxA", default_value = "3x3")]
    size: ClusterSize,
    /// The seed of the workload
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Write every sample as JSON to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the histogram as SVG to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Directory for the data of the members during the run, on a real disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    /// The executable under test [default: the one next to this program]
    #[arg(long, env = "ARGOSY_BIN", value_name = "PATH")]
    argosy: Option<PathBuf>,
}

/// The way in which a leader is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LeaderLoss {
    /// kill -9
    Kill,
    /// SIGSTOP
    Freeze,
    /// Its network interface goes down
    Cut,
    /// Its disk does not complete syncs
    Stall,
    /// Leadership is transferred
    Transfer,
    /// It is not lost: changes of leader are counted, and none is expected
    None,
}

impl LeaderLoss {
    const ALL: [Self; 5] = [
        Self::Kill,
        Self::Freeze,
        Self::Cut,
        Self::Stall,
        Self::Transfer,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Freeze => "SIGSTOP",
            Self::Cut => "network cut",
            Self::Stall => "stalled disk",
            Self::Transfer => "transfer",
            Self::None => "no loss",
        }
    }
}

/// Runs the measurement and returns the exit code: 0 good, 1 an error, 2 bad input. Must be called
/// while there is only one thread.
pub(crate) fn run(arguments: &LeaderLossArguments) -> u8 {
    let programs = match prepare(arguments) {
        Ok(programs) => programs,
        Err(usage) => {
            eprintln!("argosy-bench: {usage}");
            return 2;
        }
    };
    let mut samples = Samples::default();
    let measured = measure(arguments, &programs, &mut samples);
    // Samples from before an error remain valid.
    println!("{}", samples.table());
    match measured.and(write(arguments, &samples)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("argosy-bench: {error:#}");
            1
        }
    }
}

fn prepare(arguments: &LeaderLossArguments) -> Result<TestPrograms, UsageError> {
    if arguments.size.masters == 1 {
        let text = "a single master has no failover: write --size 3x3 or 5x3";
        return Err(UsageError(text.to_owned()));
    }
    if arguments.loss.contains(&LeaderLoss::Stall) && !tracer::is_possible() {
        return Err(UsageError(
            "stall needs strace, which is not installed".to_owned(),
        ));
    }
    if arguments.duration.is_some() && !arguments.loss.contains(&LeaderLoss::None) {
        let text = "--duration is for a leader that is left alone: write --loss none with it";
        return Err(UsageError(text.to_owned()));
    }
    if !arguments.peers.is_empty() && !arguments.loss.iter().any(|loss| can_lose(*loss)) {
        let text = "peers are killed and frozen only: add kill or freeze to --loss";
        return Err(UsageError(text.to_owned()));
    }
    if let Some(missing) = arguments.peers.iter().find_map(|peer| peer.missing()) {
        return Err(UsageError(missing));
    }
    let chaos = own_executable()?.with_file_name(SCHEDULERS);
    if !chaos.is_file() {
        return Err(UsageError(format!(
            "there is no executable {}, which has the schedulers: build the package {SCHEDULERS}",
            chaos.display()
        )));
    }
    find_programs(arguments.argosy.as_ref(), chaos)
}

fn measure(
    arguments: &LeaderLossArguments,
    programs: &TestPrograms,
    samples: &mut Samples,
) -> Result<()> {
    let screen = ProgressDisplay::start();
    let plan = ClusterPlan {
        size: arguments.size,
        other_release: None,
        seed: arguments.seed,
        behaviours: &BEHAVIOURS,
        transport: ClusterTransport::Plaintext,
    };
    with_cluster(
        programs,
        &arguments.directory,
        plan,
        &screen,
        async |mut cluster, stop| {
            // Peers run before Argosy starts: neither runs while the other is measured.
            measure_peers(arguments, &mut cluster, (&screen, &stop), samples).await?;
            measure_argosy(arguments, cluster, (&screen, &stop), samples).await
        },
    )
}

async fn measure_peers(
    arguments: &LeaderLossArguments,
    cluster: &mut Cluster,
    (screen, stop): (&ProgressDisplay, &CancellationToken),
    samples: &mut Samples,
) -> Result<()> {
    let plan = PeerPlan {
        losses: &arguments.loss,
        loads: &arguments.load,
        kills: arguments.peer_kills.unwrap_or(arguments.kills),
    };
    let dir = cluster.environment.directory.clone();
    for peer in &arguments.peers {
        let place = (&mut cluster.network, &dir);
        peers::measure(*peer, &plan, place, (screen, stop), samples).await?;
    }
    Ok(())
}

async fn measure_argosy(
    arguments: &LeaderLossArguments,
    cluster: Cluster,
    (screen, stop): (&ProgressDisplay, &CancellationToken),
    samples: &mut Samples,
) -> Result<()> {
    if stop.is_cancelled() {
        return Ok(());
    }
    let mut cluster = LossCluster::start(cluster).await?;
    for (loss, load) in cases(arguments) {
        if loss == LeaderLoss::None {
            let duration = arguments.duration.unwrap_or(UNDISTURBED_TIME);
            let period = cluster.run_undisturbed(load, duration, stop).await?;
            screen.print(&period.line());
            samples.add_period(period);
            continue;
        }
        let what = format!("{}, {}", loss.name(), load.name());
        for number in 1..=arguments.kills {
            if stop.is_cancelled() {
                return Ok(());
            }
            screen.show(&format!("{what}: {number} of {}", arguments.kills));
            samples.add(cluster.lose_leader(loss, load).await?);
        }
        screen.print(&samples.line((MeasuredSystem::Argosy, loss, load)));
    }
    Ok(())
}

fn cases(arguments: &LeaderLossArguments) -> impl Iterator<Item = (LeaderLoss, LoadLevel)> + '_ {
    let loads = |loss: &LeaderLoss| {
        let loss = *loss;
        arguments.load.iter().map(move |load| (loss, *load))
    };
    arguments.loss.iter().flat_map(loads)
}

fn write(arguments: &LeaderLossArguments, samples: &Samples) -> Result<()> {
    let write = |path: &PathBuf, text: Vec<u8>| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &arguments.report {
        write(path, serde_json::to_vec_pretty(samples)?)?;
    }
    if let Some(path) = &arguments.svg {
        write(path, samples.histogram().into_bytes())?;
    }
    Ok(())
}
