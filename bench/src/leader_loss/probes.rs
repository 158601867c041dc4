//! Fresh writes at the survivors, and the state of the next leader in its first moments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient as Stub;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::pulse::AnsweredWrites;
use super::samples::{LossCase, LossSample};
use super::writer::{DEADLINE, StoreKind, Writer, channel};
use super::{FIRST_WRITE_DELAY, LOSS_TIMEOUT};

/// Interval at which the next leader is queried.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Timeout for offers, launches and agents after the first write.
const PHASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockReading {
    at: Instant,
    wall_ms: i64,
}

impl ClockReading {
    pub(super) fn now() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            at: Instant::now(),
            wall_ms: i64::try_from(wall.as_millis()).unwrap_or_default(),
        }
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Returns the milliseconds from this moment to another one.
    pub(super) fn until(&self, then: Instant) -> f64 {
        (then - self.at).as_secs_f64() * 1e3
    }
}

/// Connections that nothing else uses.
pub(super) struct Probes {
    survivors: Vec<Channel>,
    writers: Vec<Writer>,
}

impl Probes {
    pub(super) async fn connect(addresses: Vec<String>, store: &StoreKind) -> Result<Self> {
        let mut survivors = Vec::new();
        let mut writers = Vec::new();
        for address in addresses {
            let connected = channel(&address)?.connect().await;
            survivors.push(connected.with_context(|| format!("cannot connect to {address}"))?);
            let mut writer = Writer::at(&address, store)?;
            writer.connect().await?;
            writers.push(writer);
        }
        Ok(Self { survivors, writers })
    }

    /// Waits for each phase. `agents` is the number of agents that must reconnect.
    pub(super) async fn watch(
        self,
        case: LossCase,
        from: ClockReading,
        agents: usize,
    ) -> Result<LossSample> {
        tokio::time::sleep_until(from.at + FIRST_WRITE_DELAY).await;
        let pulse = AnsweredWrites::from(from.at);
        tokio::select! {
            biased;
            sample = self.phases(&pulse, case, from, agents) => sample,
            () = pulse.write_until_dropped(&self.writers) => bail!("the writes ended"),
        }
    }

    async fn phases(
        &self,
        pulse: &AnsweredWrites,
        case: LossCase,
        from: ClockReading,
        agents: usize,
    ) -> Result<LossSample> {
        let committed = loop {
            if let Some(committed) = pulse.first() {
                break committed;
            }
            if from.at.elapsed() > LOSS_TIMEOUT {
                bail!("no write was answered for {LOSS_TIMEOUT:?}");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let deadline = Instant::now() + PHASE_TIMEOUT;
        let mut sample = LossSample::new(case, from.until(committed));
        while Instant::now() < deadline {
            let is_whole = sample.offer_ms.is_some() && sample.launch_ms.is_some();
            if is_whole && sample.agents_ms.is_some() {
                break;
            }
            for survivor in &self.survivors {
                note(&mut sample, survivor, from, agents).await;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        sample.gap_ms = Some(pulse.longest_gap().as_secs_f64() * 1e3);
        Ok(sample)
    }
}

/// Adds the data of this master, if it is the current leader.
async fn note(sample: &mut LossSample, master: &Channel, from: ClockReading, agents: usize) {
    let mut request = tonic::Request::new(v1::GetClusterRequest {
        consistency: v1::Consistency::Local.into(),
    });
    request.set_timeout(DEADLINE);
    let Ok(cluster) = Stub::new(master.clone()).get_cluster(request).await else {
        return;
    };
    let cluster = cluster.into_inner();
    if cluster.leader != cluster.answered_by {
        return;
    }
    let newest = cluster.failovers.last();
    let after = |ms: i64| (ms >= from.wall_ms).then(|| (ms - from.wall_ms) as f64);
    if let Some(failover) = newest.filter(|failover| failover.epoch == cluster.epoch) {
        sample.offer_ms = sample.offer_ms.or(after(failover.first_offer_ms));
        sample.launch_ms = sample.launch_ms.or(after(failover.first_launch_ms));
    }
    if sample.agents_ms.is_none() {
        let mut request = tonic::Request::new(v1::ListRequest {
            consistency: v1::Consistency::Local.into(),
            ..Default::default()
        });
        request.set_timeout(DEADLINE);
        if let Ok(page) = Stub::new(master.clone()).list_agents(request).await {
            let connected = page
                .into_inner()
                .agents
                .into_iter()
                .filter(|agent| agent.connected);
            if connected.count() >= agents {
                sample.agents_ms = Some(from.at.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
}
