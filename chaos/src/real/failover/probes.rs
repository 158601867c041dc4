//! Fresh writes at the survivors, and what the next leader tells of its first moments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient as Stub;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::Loss;
use super::samples::Sample;

/// How often each survivor gets a fresh write.
const EVERY: Duration = Duration::from_millis(10);
/// The first one comes so long after the loss.
const DYING: Duration = Duration::from_millis(1);
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// After this a cluster counts as lost.
const LOST: Duration = Duration::from_secs(60);
/// How long offers, launches and agents are waited for after the first write.
const PHASES: Duration = Duration::from_secs(10);

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    wall_ms: i64,
}

impl Moment {
    pub(super) fn now() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            at: Instant::now(),
            wall_ms: i64::try_from(wall.as_millis()).unwrap_or_default(),
        }
    }
}

/// Connections that nothing else uses.
pub(super) struct Probes {
    survivors: Vec<Channel>,
    register: String,
}

impl Probes {
    pub(super) async fn connect(addresses: Vec<String>, register: &str) -> Result<Self> {
        let mut survivors = Vec::new();
        for address in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
            let channel = endpoint.connect().await;
            survivors.push(channel.with_context(|| format!("{address} is not reached"))?);
        }
        Ok(Self {
            survivors,
            register: register.to_owned(),
        })
    }

    /// Waits for each phase. `agents` is how many must be connected again.
    pub(super) async fn watch(&self, loss: Loss, from: Moment, agents: usize) -> Result<Sample> {
        tokio::time::sleep_until(from.at + DYING).await;
        let committed = self.first_write(from).await?;
        let since = |at: Instant| (at - from.at).as_secs_f64() * 1e3;
        let deadline = Instant::now() + PHASES;
        let mut sample = Sample {
            loss,
            commit_ms: since(committed),
            offer_ms: None,
            launch_ms: None,
            agents_ms: None,
        };
        while Instant::now() < deadline {
            let is_whole = sample.offer_ms.is_some() && sample.launch_ms.is_some();
            if is_whole && sample.agents_ms.is_some() {
                break;
            }
            for survivor in &self.survivors {
                note(&mut sample, survivor, from, agents).await;
            }
            tokio::time::sleep(EVERY).await;
        }
        Ok(sample)
    }

    async fn first_write(&self, from: Moment) -> Result<Instant> {
        let mut writes = JoinSet::new();
        let mut next = Instant::now();
        let mut number = 0_u64;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    for (place, channel) in self.survivors.iter().enumerate() {
                        let value = format!("{}-{place}-{number}", from.wall_ms);
                        writes.spawn(write(channel.clone(), self.register.clone(), value));
                    }
                    number += 1;
                    next += EVERY;
                }
                Some(answered) = writes.join_next() => {
                    if let Ok(Some(at)) = answered {
                        return Ok(at);
                    }
                }
            }
            if from.at.elapsed() > LOST {
                bail!("no write was answered for {LOST:?}");
            }
        }
    }
}

async fn write(channel: Channel, agent_id: String, value: String) -> Option<Instant> {
    let set = v1::SetAttribute {
        agent_id,
        name: "probe".to_owned(),
        value,
    };
    let mut request = tonic::Request::new(v1::WriteBatch {
        operations: vec![v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetAttribute(set)),
        }],
        ..Default::default()
    });
    request.set_timeout(DEADLINE);
    let reply = Stub::new(channel)
        .write_one(request)
        .await
        .ok()?
        .into_inner();
    reply.outcomes.first()?.done.then(Instant::now)
}

/// Adds what this master can tell, if it is the one that leads now.
async fn note(sample: &mut Sample, master: &Channel, from: Moment, agents: usize) {
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
