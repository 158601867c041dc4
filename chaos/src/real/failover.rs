//! `argosy-chaos failover`: how long a change of leader takes, phase by phase, for each way a leader
//! can be lost.
//!
//! Judges no bars: it measures. The machine's other load is part of what is measured.

mod probes;
mod samples;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::arguments::Size;
use super::audit;
use super::cluster::{Cluster, REGISTER_HOST};
use super::cuts::Place;
use super::framework::Wanted;
use super::host_tools;
use super::network::inside;
use super::registers::Registers;
use super::run::{Usage, usable};
use super::screen::Screen;
use super::stage::{Means, with_cluster};
use super::tampering::{Syncs, Tracer};
use crate::chance::Chance;
use crate::history::{Fault, FaultKind, Recorder};
use samples::Samples;

/// How long the cluster may take to be in health between two losses.
const HEALTH: Duration = Duration::from_secs(60);
/// How long the leader stays lost after the last phase was seen.
const AFTERMATH: Duration = Duration::from_millis(300);
/// How long a sync of a stalled disk takes.
const STALL: Duration = Duration::from_secs(5);

/// How long a change of leader takes.
#[derive(Debug, Clone, Args)]
pub struct FailoverArguments {
    /// Losses of each kind
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// Ways in which the leader is lost
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…", default_values_t = Loss::ALL)]
    loss: Vec<Loss>,
    /// Masters x agents; masters are 3 or 5
    #[arg(long, value_name = "MxA", default_value = "3x3")]
    size: Size,
    /// Fixes the workload
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Write every sample as JSON to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the histogram as SVG to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Where the members keep their data while it runs: a real disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    /// The executable under test [default: the one beside this program]
    #[arg(long, env = "ARGOSY_BIN", value_name = "PATH")]
    argosy: Option<PathBuf>,
}

/// A way in which a leader is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Loss {
    /// kill -9
    Kill,
    /// SIGSTOP
    Freeze,
    /// Its network is gone
    Cut,
    /// Its disk answers no sync
    Stall,
    /// Leadership is handed over
    Transfer,
}

impl Loss {
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
        }
    }

    fn kind(self) -> FaultKind {
        match self {
            Self::Kill => FaultKind::Crash,
            Self::Freeze => FaultKind::Pause,
            Self::Cut => FaultKind::PartitionBoth,
            Self::Stall => FaultKind::StalledDisk,
            Self::Transfer => FaultKind::LeaderTransfer,
        }
    }
}

/// Measures; returns the exit code.
#[must_use]
pub fn failover(arguments: &FailoverArguments) -> u8 {
    let prepared = prepare(arguments);
    let means = match prepared {
        Ok(means) => means,
        Err(usage) => {
            eprintln!("argosy-chaos: {usage}");
            return 2;
        }
    };
    match measure(arguments, &means) {
        Ok(samples) => {
            println!("{}", samples.table());
            0
        }
        Err(error) => {
            eprintln!("argosy-chaos: {error:#}");
            1
        }
    }
}

fn prepare(arguments: &FailoverArguments) -> Result<Means, Usage> {
    if arguments.size.masters == 1 {
        let text = "one master has nobody to fail over to: write --size 3x3 or 5x3";
        return Err(Usage(text.to_owned()));
    }
    if arguments.loss.contains(&Loss::Stall) && host_tools::find("strace").is_none() {
        return Err(Usage(
            "stall needs strace, which is not installed".to_owned(),
        ));
    }
    usable(arguments.argosy.as_ref())
}

fn measure(arguments: &FailoverArguments, means: &Means) -> Result<Samples> {
    let screen = Screen::new();
    let samples = with_cluster(
        means,
        &arguments.directory,
        (arguments.size, arguments.seed),
        &screen,
        async |cluster, recorder, stop| {
            let mut scene = Scene::set(cluster, &recorder, arguments.seed).await?;
            let mut samples = Samples::default();
            for loss in &arguments.loss {
                for number in 1..=arguments.kills {
                    if stop.is_cancelled() {
                        return Ok(samples);
                    }
                    screen.show(&format!("{} {number} of {}", loss.name(), arguments.kills));
                    let sample = scene.lose(*loss).await?;
                    samples.add(sample);
                }
                screen.say(&format!("{}: {}", loss.name(), samples.line(*loss)));
            }
            scene.registers.stop().await;
            Ok(samples)
        },
    )?;
    let write = |path: &PathBuf, text: Vec<u8>| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &arguments.report {
        write(path, serde_json::to_vec_pretty(&samples)?)?;
    }
    if let Some(path) = &arguments.svg {
        write(path, samples.histogram().into_bytes())?;
    }
    Ok(samples)
}

/// A cluster under load.
struct Scene<'a> {
    cluster: Cluster,
    recorder: &'a Recorder,
    registers: Registers,
    register: String,
}

/// How a loss is taken back.
enum Lost {
    Killed,
    Frozen,
    Cut,
    Stalled(Tracer),
    Nothing,
}

impl<'a> Scene<'a> {
    async fn set(mut cluster: Cluster, recorder: &'a Recorder, seed: u64) -> Result<Self> {
        cluster.want(Wanted::Work)?;
        cluster.start().await?;
        cluster.note_trees()?;
        let ids = audit::agent_ids(&cluster.operator()).await?;
        let register = ids
            .get(REGISTER_HOST)
            .context("the agent of registers is not known")?;
        let register = register.to_string();
        let chance = Chance::new(seed);
        let registers = Registers::start(&cluster.masters(), &register, recorder, &chance);
        Ok(Self {
            cluster,
            recorder,
            registers,
            register,
        })
    }

    async fn lose(&mut self, loss: Loss) -> Result<samples::Sample> {
        self.cluster.await_health(HEALTH).await?;
        let leader = self.cluster.leader(HEALTH).await?;
        let survivors: Vec<Place> = self.cluster.followers(leader);
        let addresses = survivors
            .iter()
            .map(|place| self.cluster.api(*place))
            .collect();
        let probes = probes::Probes::connect(addresses, &self.register).await?;
        self.recorder
            .fault(Fault::new(loss.kind(), self.cluster.members[leader].name()));
        let (lost, at) = self.inflict(loss, leader).await?;
        let sample = probes
            .watch(loss, at, self.cluster.members_of_agents())
            .await;
        tokio::time::sleep(AFTERMATH).await;
        self.take_back(lost, leader).await?;
        sample
    }

    async fn inflict(&mut self, loss: Loss, leader: Place) -> Result<(Lost, probes::Moment)> {
        let member = &mut self.cluster.members[leader];
        let lost = match loss {
            Loss::Kill => {
                let at = probes::Moment::now();
                member.send(Signal::SIGKILL)?;
                self.cluster.watch.forget(leader);
                return Ok((Lost::Killed, at));
            }
            Loss::Freeze => {
                let at = probes::Moment::now();
                member.freeze()?;
                self.cluster.watch.forget(leader);
                return Ok((Lost::Frozen, at));
            }
            Loss::Cut => {
                self.link(leader, "down")?;
                Lost::Cut
            }
            Loss::Stall => {
                let pid = member.pid().context("the leader runs")?;
                member.excuse();
                Lost::Stalled(Tracer::attach(pid, Syncs::Take(STALL)).await?)
            }
            Loss::Transfer => {
                let at = probes::Moment::now();
                let operator = self.cluster.operator();
                tokio::spawn(async move {
                    // Whether it was done is seen by the reign that follows.
                    let _ = operator.transfer_leader(Default::default()).await;
                });
                return Ok((Lost::Nothing, at));
            }
        };
        self.cluster.watch.forget(leader);
        Ok((lost, probes::Moment::now()))
    }

    fn link(&self, place: Place, state: &str) -> Result<()> {
        let namespace = &self.cluster.network.host(place).namespace;
        let inside = inside(namespace);
        host_tools::run("nsenter", &[&inside, "ip", "link", "set", "eth0", state])?;
        Ok(())
    }

    async fn take_back(&mut self, lost: Lost, leader: Place) -> Result<()> {
        match lost {
            Lost::Killed => {
                self.cluster.members[leader].kill();
            }
            Lost::Frozen => self.cluster.members[leader].thaw(),
            Lost::Cut => self.link(leader, "up")?,
            Lost::Stalled(tracer) => {
                tokio::task::spawn_blocking(move || drop(tracer)).await?;
                // It may have given up its disk, and itself.
                let deadline = Instant::now() + Duration::from_millis(500);
                let left = deadline.saturating_duration_since(Instant::now());
                self.cluster.members[leader].ended_within(left).await;
                self.cluster.members[leader].expect_again();
            }
            Lost::Nothing => {}
        }
        Ok(self.cluster.members[leader].start()?)
    }
}
