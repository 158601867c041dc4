//! One principal that calls as often as it can, next to others.
//!
//! With TLS each has a certificate. A caller without an identity counts by the address of its host,
//! so without TLS each has its own loopback address.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use argosy_testbed::transport::ClientTransport;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::agents::Agents;
use crate::bench::{Bench, Measurements};
use crate::cluster::{CONNECT_TIMEOUT, Cluster, channel};
use crate::load::{LoopClient, LoopResult, Window, closed_loop};
use crate::low_priority::LowPriorityThreads;
use crate::registry::masters;
use crate::report::{Cell, RatioGoal, Side};
use crate::writer::{Target, Writer};

/// Principals with an ordinary load.
const PRINCIPALS: u8 = 8;
/// Clients of each of them, on one connection.
const CLIENTS: usize = 4;
/// Interval between the writes of a client with a pace: 800 writes a second in all.
const PACE: Duration = Duration::from_millis(40);
/// Connections of the principal that floods, and calls in flight on each.
const CONNECTIONS: usize = 8;
const CALLS: usize = 500;
/// Agents whose attributes are changed.
const AGENTS: u32 = 64;
/// Conditions are measured in turn this many times.
const ROUNDS: usize = 2;
/// Loss of throughput that a flood may cost others, in per cent.
const MAX_COST: f64 = 20.0;

const COST: &str = "cost of a flood by one principal, others as fast as they are answered";
const PACED_COST: &str = "the same, others at a pace";
const ALONE: &str = "writes of 8 principals alone";
const DURING: &str = "the same during the flood";
const PACED_P99: &str = "p99 of paced writes alone";
const DURING_P99: &str = "the same during the flood, p99";
const FLOOD: &str = "writes of the flood";
const REFUSED: &str = "calls of the flood refused";
const TERMS: &str = "elections during the flood";

pub(super) fn about() -> String {
    format!(
        "A second cluster: {PRINCIPALS} principals with {CLIENTS} clients each change attributes at the leader, as fast as they are answered and then each client every {PACE:?}; alone, and while another principal has {CALLS} changes in flight on each of {CONNECTIONS} connections, from threads of the lowest priority. A principal has a certificate of its own, or without TLS an address of this host."
    )
}

pub(super) fn cells() -> Vec<Cell> {
    vec![
        Cell::new(COST, "%", RatioGoal::OwnAtMost(MAX_COST)),
        Cell::new(PACED_COST, "%", RatioGoal::OwnAtMost(MAX_COST)),
        Cell::new(ALONE, "op/s", RatioGoal::None),
        Cell::new(DURING, "op/s", RatioGoal::None),
        Cell::new(PACED_P99, "ms", RatioGoal::None),
        Cell::new(DURING_P99, "ms", RatioGoal::None),
        Cell::new(FLOOD, "op/s", RatioGoal::None),
        Cell::new(REFUSED, "calls/s", RatioGoal::None),
        Cell::new(TERMS, "elections", RatioGoal::OwnAtMost(0.0)),
    ]
}

/// The rates and the latency of the ordinary principals in one condition, by round.
#[derive(Default)]
struct OrdinaryResults {
    fast: Vec<f64>,
    paced: Vec<f64>,
    p99_ms: Vec<f64>,
}

pub(super) async fn one_run(bench: &Bench, side: Side, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(side, &bench.environment).await?;
    let agents = Agents::start(&masters(&cluster)?, AGENTS, "cpus:1;mem:64").await?;
    let leader = cluster.wait_until_settled().await?;
    let pid = cluster.pid(leader)?;
    let principals = Principals::new(&cluster, leader)?;
    let clients = ordinary(&principals, agents.ids()).await?;
    let term = cluster.term().await?;
    let (mut alone, mut during) = (OrdinaryResults::default(), OrdinaryResults::default());
    let (mut answered, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        write(bench, &clients, pid, &mut alone).await?;
        let flood = Flood::start(&principals, agents.ids())?;
        write(bench, &clients, pid, &mut during).await?;
        let [written, rejected] = flood.end();
        answered.push(written);
        refused.push(rejected);
    }
    findings.record(COST, missing(&during.fast, &alone.fast));
    findings.record(PACED_COST, missing(&during.paced, &alone.paced));
    findings.record(ALONE, mean(&alone.fast));
    findings.record(DURING, mean(&during.fast));
    findings.record(PACED_P99, mean(&alone.p99_ms));
    findings.record(DURING_P99, mean(&during.p99_ms));
    findings.record(FLOOD, mean(&answered));
    findings.record(REFUSED, mean(&refused));
    let elections = cluster.term().await?.saturating_sub(term);
    findings.record(TERMS, elections as f64);
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Returns the part of a rate that is missing compared with `alone`, in per cent.
fn missing(during: &[f64], alone: &[f64]) -> f64 {
    100.0 * (1.0 - mean(during) / mean(alone))
}

/// The principals of a run, by number from 1 on: the last one floods.
struct Principals {
    /// The API of the leader.
    api: String,
    /// Their transports; `None` without TLS.
    transports: Vec<Option<ClientTransport>>,
}

impl Principals {
    fn new(cluster: &Cluster, leader: usize) -> Result<Self> {
        let named = |number| cluster.operator(&format!("principal-{number}"));
        let transports: Result<_> = (1..=PRINCIPALS + 1).map(named).collect();
        Ok(Self {
            api: cluster.members[leader].api.clone(),
            transports: transports?,
        })
    }

    /// Returns a new connection of one of them.
    fn connection(&self, number: u8) -> Result<Channel> {
        match &self.transports[usize::from(number) - 1] {
            Some(transport) => Ok(transport.channel(&self.api, CONNECT_TIMEOUT)),
            None => {
                let address = IpAddr::V4(Ipv4Addr::new(127, 99, 0, number));
                let endpoint = channel(&self.api)?.local_address(Some(address));
                Ok(endpoint.connect_lazy())
            }
        }
    }
}

fn target(ids: &[String], client: usize) -> Target {
    Target {
        client,
        agents: Arc::new([ids[client % ids.len()].clone()]),
    }
}

async fn ordinary(principals: &Principals, ids: &[String]) -> Result<Vec<LoopClient>> {
    let mut clients = Vec::new();
    for principal in 1..=PRINCIPALS {
        let writer = Writer::unary(principals.connection(principal)?);
        for _ in 0..CLIENTS {
            let target = target(ids, clients.len());
            // The connection is open before anything is measured.
            writer.write(&target, 0).await?;
            let writer = writer.clone();
            clients.push(LoopClient { writer, target });
        }
    }
    Ok(clients)
}

/// Lets the clients write as fast as they are answered, then at their pace.
async fn write(
    bench: &Bench,
    clients: &[LoopClient],
    pid: u32,
    results: &mut OrdinaryResults,
) -> Result<()> {
    let window = Window {
        warm_up: bench.extent.warm_up,
        measured: bench.extent.measured,
        pace: Duration::ZERO,
    };
    let LoopResult { per_second, .. } = closed_loop(clients.to_vec(), window, vec![pid]).await?;
    results.fast.push(per_second);
    let window = Window {
        pace: PACE,
        ..window
    };
    let paced = closed_loop(clients.to_vec(), window, vec![pid]).await?;
    results.paced.push(paced.per_second);
    results.p99_ms.push(paced.p99_ms);
    Ok(())
}

/// The principal that floods. It ends with the value.
struct Flood {
    // In this order: the calls end before their threads.
    _calls: JoinSet<()>,
    _threads: LowPriorityThreads,
    counts: Arc<FloodCounts>,
    started: Instant,
}

#[derive(Default)]
struct FloodCounts {
    answered: AtomicU64,
    refused: AtomicU64,
}

impl Flood {
    fn start(principals: &Principals, ids: &[String]) -> Result<Self> {
        let (threads, handle) = LowPriorityThreads::start("flood")?;
        let counts = Arc::new(FloodCounts::default());
        let mut calls = JoinSet::new();
        let entered = handle.enter();
        for number in 0..CONNECTIONS {
            let writer = Writer::unary(principals.connection(PRINCIPALS + 1)?);
            for call in 0..CALLS {
                let target = target(ids, number * CALLS + call);
                calls.spawn(flood(writer.clone(), target, Arc::clone(&counts)));
            }
        }
        drop(entered);
        Ok(Self {
            _calls: calls,
            _threads: threads,
            counts,
            started: Instant::now(),
        })
    }

    /// Ends it, and returns the answered and the refused calls per second.
    fn end(self) -> [f64; 2] {
        let seconds = self.started.elapsed().as_secs_f64();
        [&self.counts.answered, &self.counts.refused]
            .map(|count| count.load(Ordering::Relaxed) as f64 / seconds)
    }
}

async fn flood(writer: Writer, target: Target, counts: Arc<FloodCounts>) {
    for serial in 1.. {
        let count = match writer.write(&target, serial).await {
            Ok(()) => &counts.answered,
            Err(_) => &counts.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_the_missing_part_of_the_rate_alone() {
        assert!((missing(&[80.0, 70.0], &[100.0, 100.0]) - 25.0).abs() < 1e-9);
        assert!(missing(&[100.0], &[100.0]).abs() < 1e-9);
    }
}
