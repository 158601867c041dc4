//! The Argosy cluster under load, and the loss and return of its leader.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_testbed::cluster::Cluster;
use argosy_testbed::members::REGISTER_HOST;
use argosy_testbed::network::execute_inside;
use argosy_testbed::partitions::HostIndex;
use argosy_testbed::schedulers::WorkPhase;
use argosy_testbed::tracer::{SyncFault, Tracer};
use nix::sys::signal::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clients;
use super::probes::{ClockReading, Probes};
use super::samples::{FaultFreePeriod, LossSample, MeasuredSystem};
use super::writer::{StoreKind, Writer};
use super::{LeaderLoss, RECOVERY_DELAY};
use crate::load::{LoadLevel, PersistentClients};

/// Time in which the cluster must be healthy between two losses.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);
/// Load before a loss.
const WARM_UP: Duration = Duration::from_secs(1);
/// Duration of a sync on a stalled disk.
const STALL: Duration = Duration::from_secs(5);
/// Interval at which an undisturbed measurement checks for cancellation.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A running cluster whose leader can be lost.
pub(super) struct LossCluster {
    cluster: Cluster,
    store: StoreKind,
}

/// The action that undoes a loss.
enum LossRecovery {
    Killed,
    Frozen,
    Cut,
    Stalled(Tracer),
    Nothing,
}

impl LossCluster {
    /// Starts the cluster and its workload.
    ///
    /// # Errors
    /// If the cluster does not become healthy.
    pub(super) async fn start(mut cluster: Cluster) -> Result<Self> {
        cluster.set_phase(WorkPhase::Work)?;
        cluster.start().await?;
        cluster.record_cgroups()?;
        let ids = cluster.agent_ids().await?;
        let register = ids
            .get(REGISTER_HOST)
            .context("the agent with the registers is not registered")?;
        let store = StoreKind::Argosy {
            agent: register.to_string(),
        };
        Ok(Self { cluster, store })
    }

    fn load(&self, load: LoadLevel) -> Result<PersistentClients> {
        let masters = self.cluster.voters.iter();
        let writers: Result<Vec<Writer>> = masters
            .map(|place| Writer::at(&self.cluster.api(*place), &self.store))
            .collect();
        Ok(clients::start(&writers?, load))
    }

    /// Loses the leader once, under load.
    pub(super) async fn lose_leader(
        &mut self,
        loss: LeaderLoss,
        load: LoadLevel,
    ) -> Result<LossSample> {
        self.cluster.await_health(HEALTH_TIMEOUT).await?;
        let clients = self.load(load)?;
        tokio::time::sleep(WARM_UP).await;
        if clients.answered() == 0 {
            bail!("the load was not answered before the loss");
        }
        let leader = self.cluster.leader(HEALTH_TIMEOUT).await?;
        let survivors: Vec<HostIndex> = self.cluster.followers(leader);
        let addresses = survivors
            .iter()
            .map(|place| self.cluster.api(*place))
            .collect();
        let probes = Probes::connect(addresses, &self.store).await?;
        let (lost, at) = self.inject(loss, leader).await?;
        let case = (MeasuredSystem::Argosy, loss, load);
        let agents = self.cluster.agent_count();
        let sample = probes.watch(case, at, agents).await;
        tokio::time::sleep(RECOVERY_DELAY).await;
        drop(clients);
        self.recover(lost, leader).await?;
        sample
    }

    /// Injects no fault for this time, under load, and counts elections.
    pub(super) async fn run_undisturbed(
        &mut self,
        load: LoadLevel,
        duration: Duration,
        stop: &CancellationToken,
    ) -> Result<FaultFreePeriod> {
        self.cluster.await_health(HEALTH_TIMEOUT).await?;
        let before = self
            .cluster
            .operator()
            .get_cluster(Default::default())
            .await?;
        let clients = self.load(load)?;
        let began = Instant::now();
        while began.elapsed() < duration && !stop.is_cancelled() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let (seconds, answered) = (began.elapsed().as_secs_f64(), clients.answered());
        drop(clients);
        let after = self
            .cluster
            .operator()
            .get_cluster(Default::default())
            .await?;
        Ok(FaultFreePeriod {
            load,
            seconds,
            answered,
            elections: after.term.saturating_sub(before.term),
        })
    }

    async fn inject(
        &mut self,
        loss: LeaderLoss,
        leader: HostIndex,
    ) -> Result<(LossRecovery, ClockReading)> {
        let member = &mut self.cluster.members[leader];
        let lost = match loss {
            LeaderLoss::Kill => {
                let at = ClockReading::now();
                member.send(Signal::SIGKILL)?;
                self.cluster.watch.forget(leader);
                return Ok((LossRecovery::Killed, at));
            }
            LeaderLoss::Freeze => {
                let at = ClockReading::now();
                member.freeze()?;
                self.cluster.watch.forget(leader);
                return Ok((LossRecovery::Frozen, at));
            }
            LeaderLoss::Cut => {
                self.link(leader, "down")?;
                LossRecovery::Cut
            }
            LeaderLoss::Stall => {
                let pid = member.pid().context("the leader runs")?;
                member.allow_exit();
                LossRecovery::Stalled(Tracer::attach(pid, SyncFault::Take(STALL)).await?)
            }
            LeaderLoss::Transfer => {
                let at = ClockReading::now();
                let operator = self.cluster.operator();
                tokio::spawn(async move {
                    // The next epoch shows whether leadership was transferred.
                    let _ = operator.transfer_leader(Default::default()).await;
                });
                return Ok((LossRecovery::Nothing, at));
            }
            LeaderLoss::None => return Ok((LossRecovery::Nothing, ClockReading::now())),
        };
        self.cluster.watch.forget(leader);
        Ok((lost, ClockReading::now()))
    }

    fn link(&self, place: HostIndex, state: &str) -> Result<()> {
        let namespace = &self.cluster.network.host(place).namespace;
        let words = ["link", "set", "eth0", state];
        Ok(execute_inside(namespace, "ip", &words, "")?)
    }

    async fn recover(&mut self, lost: LossRecovery, leader: HostIndex) -> Result<()> {
        match lost {
            LossRecovery::Killed => {
                self.cluster.members[leader].kill();
            }
            LossRecovery::Frozen => self.cluster.members[leader].resume(),
            LossRecovery::Cut => self.link(leader, "up")?,
            LossRecovery::Stalled(tracer) => {
                tokio::task::spawn_blocking(move || drop(tracer)).await?;
                // It may have stopped because of its disk.
                let deadline = Instant::now() + Duration::from_millis(500);
                let left = deadline.saturating_duration_since(Instant::now());
                self.cluster.members[leader].ended_within(left).await;
                self.cluster.members[leader].forbid_exit();
            }
            LossRecovery::Nothing => {}
        }
        Ok(self.cluster.members[leader].start()?)
    }
}
