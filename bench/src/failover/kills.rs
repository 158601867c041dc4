//! One kill: load, the signal, fresh probes at the survivors, and the restoration of the cluster.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use argosy_proto::v1;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::agents::Agents;
use crate::cluster::{Cluster, ClusterMember, MasterClient};
use crate::framework::Trickle;
use crate::load::{LoadLevel, PersistentClients};
use crate::registry::masters;
use crate::report::{Kill, Phases, Side};
use crate::writer::{Target, Writer};

/// Interval of fresh writes at each survivor.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// Delay of the first one after the signal.
const FIRST_PROBE_DELAY: Duration = Duration::from_millis(1);
/// Timeout of one write.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// Time after which a cluster counts as lost.
const LOSS_TIMEOUT: Duration = Duration::from_secs(60);
/// Load before the signal.
const WARM_UP: Duration = Duration::from_secs(1);
/// Load after the gap, so that offers and launches follow under it too.
const AFTERMATH: Duration = Duration::from_millis(500);
/// Agents that the load writes to.
const AGENTS: u32 = 64;
/// Maximum lag of the next leader's wall clock behind that of this program: the same clock, rounded
/// down.
const ROUNDING_MS: i64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaderFault {
    Kill,
    Freeze,
}

impl LeaderFault {
    fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::SIGKILL,
            Self::Freeze => Signal::SIGSTOP,
        }
    }
}

/// A cluster and its load.
pub(super) struct LoadedCluster {
    agent_ids: Vec<String>,
    // Declared before the cluster, so that they end first.
    _work: Option<(Trickle, Agents)>,
    cluster: Cluster,
}

impl LoadedCluster {
    /// Adds agents and a framework if the cluster is Argosy.
    pub(super) async fn set(cluster: Cluster) -> Result<Self> {
        if !cluster.side.is_argosy() {
            return Ok(Self {
                agent_ids: Vec::new(),
                _work: None,
                cluster,
            });
        }
        let masters = masters(&cluster)?;
        let agents = Agents::start(&masters, AGENTS, "cpus:2;mem:1024").await?;
        let trickle = Trickle::start(&masters).await?;
        Ok(Self {
            agent_ids: agents.ids().to_vec(),
            _work: Some((trickle, agents)),
            cluster,
        })
    }

    fn target(&self, client: usize) -> Target {
        let agent = self.agent_ids.get(client % self.agent_ids.len().max(1));
        Target {
            client,
            agents: agent.into_iter().cloned().collect(),
        }
    }

    fn writer(&self, channel: Channel) -> Writer {
        match self.cluster.side {
            Side::Argosy | Side::Plaintext => Writer::unary(channel),
            Side::Etcd | Side::Hyperqueue => Writer::put(channel),
        }
    }

    fn load(&self, load: LoadLevel) -> PersistentClients {
        let writer = |member: &ClusterMember| self.writer(member.channel.clone());
        let writers: Vec<Writer> = self.cluster.members.iter().map(writer).collect();
        let targets = (0..load.clients()).map(|client| self.target(client));
        let targets: Vec<Target> = targets.collect();
        PersistentClients::start(&writers, &targets, load.interval())
    }

    /// Injects the fault into the leader once, and waits until three members are as before.
    pub(super) async fn kill(&mut self, fault: LeaderFault, load: LoadLevel) -> Result<Kill> {
        let leader = self.cluster.wait_until_settled().await?;
        let leader_pid = self.cluster.pid(leader)?;
        let clients = self.load(load);
        tokio::time::sleep(WARM_UP).await;
        if clients.answered() == 0 {
            bail!("the load was not answered before the signal");
        }
        let survivors = self.survivors(leader).await?;
        let wall_ms = wall_ms()?;
        let before_ns = monotonic_ns()?;
        let before = Instant::now();
        self.cluster.signal(leader, fault.signal())?;
        let answered = first_write(survivors).await?;
        let gap_ms = (answered - before).as_secs_f64() * 1e3;
        tokio::time::sleep(AFTERMATH).await;
        drop(clients);
        match fault {
            LeaderFault::Kill => self.cluster.restart(leader)?,
            LeaderFault::Freeze => self.cluster.signal(leader, Signal::SIGCONT)?,
        }
        let next = self.cluster.wait_until_settled().await?;
        let phases = match self.cluster.side {
            Side::Argosy | Side::Plaintext => self.phases(next, wall_ms).await?,
            Side::Etcd | Side::Hyperqueue => None,
        };
        Ok(Kill {
            signal: fault.signal().as_str(),
            load: load.name(),
            before_ns,
            leader_pid,
            gap_ms,
            phases,
        })
    }

    /// Returns a connection to each survivor, separate from the load.
    async fn survivors(&self, dead: usize) -> Result<Vec<(Writer, Target)>> {
        let mut survivors = Vec::new();
        for place in 0..self.cluster.members.len() {
            if place != dead {
                let channel = self.cluster.connect(place).await?;
                survivors.push((
                    self.writer(channel),
                    self.target(LoadLevel::Saturated.clients() + place),
                ));
            }
        }
        Ok(survivors)
    }

    /// Returns the phases of the election as the next leader reports them.
    async fn phases(&self, leader: usize, wall_ms: i64) -> Result<Option<Phases>> {
        let request = v1::GetClusterRequest {
            consistency: v1::Consistency::Local.into(),
        };
        let channel = self.cluster.members[leader].channel.clone();
        let cluster = MasterClient::new(channel)
            .get_cluster(request)
            .await?
            .into_inner();
        let since = |ms: i64| (ms > 0).then(|| ms - wall_ms);
        // The first epoch after the signal; later ones are not part of this failover.
        let first = cluster
            .failovers
            .iter()
            .find(|failover| failover.elected_ms >= wall_ms - ROUNDING_MS);
        Ok(first.map(|failover| Phases {
            dead_seen_ms: since(failover.dead_seen_ms),
            elected_ms: since(failover.elected_ms),
            first_commit_ms: since(failover.first_commit_ms),
            first_offer_ms: since(failover.first_offer_ms),
            first_launch_ms: since(failover.first_launch_ms),
        }))
    }
}

/// Returns when the first of many fresh writes at the survivors was answered.
async fn first_write(survivors: Vec<(Writer, Target)>) -> Result<Instant> {
    // One answer is enough: when full, later ones are dropped.
    let (sender, mut answers) = mpsc::channel(1);
    let mut probes = JoinSet::new();
    for (writer, target) in survivors {
        probes.spawn(probe(writer, target, sender.clone()));
    }
    let first = tokio::time::timeout(LOSS_TIMEOUT, answers.recv()).await;
    first
        .with_context(|| format!("no survivor wrote anything for {LOSS_TIMEOUT:?}"))?
        .context("the probes have ended")
}

/// Sends a new write on every tick until one is answered. At most a hundred are in flight.
async fn probe(writer: Writer, target: Target, sender: mpsc::Sender<Instant>) {
    // The killed leader is certainly inactive at the first tick.
    let mut ticks =
        tokio::time::interval_at(tokio::time::Instant::now() + FIRST_PROBE_DELAY, PROBE_EVERY);
    let mut writes = JoinSet::new();
    let target = Arc::new(target);
    for serial in 1.. {
        ticks.tick().await;
        let (writer, target, sender) = (writer.clone(), target.clone(), sender.clone());
        writes.spawn(async move {
            if writer
                .write_within(&target, serial, PROBE_DEADLINE)
                .await
                .is_ok()
            {
                // Another write was faster.
                let _ = sender.try_send(Instant::now());
            }
        });
        while writes.try_join_next().is_some() {}
    }
}

fn wall_ms() -> Result<i64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(i64::try_from(since.as_millis())?)
}

fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("no monotonic clock")?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}
