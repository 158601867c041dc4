//! Small changes by closed-loop clients, one by one and in batches.

mod rules;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::agents::Agents;
use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::{Cluster, MasterAccess};
use crate::load::{LoopClient, LoopResult, Window, closed_loop};
use crate::report::{Cell, RatioGoal, Side, WorkloadReport};
use crate::writer::{BatchStream, Target, Writer};

/// Clients, connections, and the goals: messages on streams, and unary calls.
const CLIENTS: [(usize, usize, f64, f64); 4] = [
    (1, 1, 1.2, 1.0),
    (32, 4, 2.5, 1.8),
    (256, 8, 3.0, 2.0),
    (1_000, 16, 3.0, 2.0),
];
/// Context switches of all members per commit, with one client.
const SWITCHES: f64 = 22.0;
/// Streams of the batched workload, and batches in flight on each.
const STREAMS: usize = 8;
const AHEAD: usize = 4;
/// Operations per message.
const BATCH: usize = 256;
/// The default limit of operations in an etcd transaction.
const TRANSACTION: usize = 128;
/// Resources of emulated agents.
const RESOURCES: &str = "cpus:1;mem:64";

/// Measures one change per message.
pub(crate) async fn single(bench: &Bench) -> Result<WorkloadReport> {
    let about = [
        "Closed-loop clients, each changes a value of 128 bytes: an attribute of a separate agent, or a separate key.",
        "argosy: messages on streams (Operator.Write), one stream per connection, shared by clients. etcd: unary Put.",
        "unary: Operator.WriteOne instead. Connections to the leader, both sides: 1, 4, 8, 16.",
        "CPU and switches: core time and context switches of the three members for each write.",
    ];
    let mut cells = Vec::new();
    for (clients, _, goal, unary_goal) in wanted(bench) {
        for (name, goal) in [(rate(clients), goal), (unary(&rate(clients)), unary_goal)] {
            cells.extend(cells_of(&name, clients, goal));
        }
    }
    let mut report = bench.report(Workload::Registry, &about, cells);
    let work = async |side, findings: &mut Measurements| match side {
        Side::Argosy | Side::Plaintext => single_argosy(bench, side, findings).await,
        Side::Etcd => single_etcd(bench, findings).await,
        Side::Hyperqueue => bail!("HyperQueue keeps no registry"),
    };
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

fn rate(clients: usize) -> String {
    format!("{clients} client{}", if clients == 1 { "" } else { "s" })
}

fn unary(name: &str) -> String {
    format!("{name}, unary")
}

fn cells_of(name: &str, clients: usize, goal: f64) -> [Cell; 5] {
    let switches = match clients {
        1 => RatioGoal::OwnAtMost(SWITCHES),
        _ => RatioGoal::None,
    };
    [
        Cell::new(name, "op/s", RatioGoal::AtLeast(goal)),
        Cell::new(format!("{name}, p50"), "ms", RatioGoal::None),
        Cell::new(format!("{name}, p99"), "ms", RatioGoal::AtMost(0.5)),
        Cell::new(format!("{name}, CPU"), "us/op", RatioGoal::None),
        Cell::new(format!("{name}, switches"), "1/op", switches),
    ]
}

fn note(findings: &mut Measurements, name: &str, found: LoopResult) {
    findings.record(name, found.per_second);
    findings.record(format!("{name}, p50"), found.p50_ms);
    findings.record(format!("{name}, p99"), found.p99_ms);
    findings.record(format!("{name}, CPU"), found.cpu_us);
    findings.record(format!("{name}, switches"), found.switches);
}

/// Returns the rows that the command line requests.
fn wanted(bench: &Bench) -> impl Iterator<Item = (usize, usize, f64, f64)> {
    let most = bench.extent.clients;
    CLIENTS.into_iter().filter(move |row| row.0 <= most)
}

fn window(bench: &Bench) -> Window {
    Window {
        warm_up: bench.extent.warm_up,
        measured: bench.extent.measured,
        pace: Duration::ZERO,
    }
}

/// Returns the API addresses of the masters.
pub(crate) fn masters(cluster: &Cluster) -> Result<MasterAccess> {
    cluster.access()
}

async fn single_argosy(bench: &Bench, side: Side, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(side, &bench.environment).await?;
    let masters = masters(&cluster)?;
    if side == Side::Argosy && bench.extent.rules > 0 {
        let leader = cluster.wait_until_settled().await?;
        rules::set(&cluster, leader, bench.extent.rules).await?;
    }
    // Agents are added and never removed: no agent must become unreachable during other
    // measurements.
    let mut groups = Vec::new();
    let mut ids: Vec<String> = Vec::new();
    for (clients, connections, ..) in wanted(bench) {
        let missing = u32::try_from(clients - ids.len())?;
        let group = Agents::start(&masters, missing, RESOURCES).await?;
        ids.extend_from_slice(group.ids());
        groups.push(group);
        let target = |client: usize| Target {
            client,
            agents: Arc::new([ids[client].clone()]),
        };
        let mut writers = Vec::new();
        for _ in 0..connections {
            writers.push(Writer::Stream(Arc::new(
                BatchStream::open(&masters, &target(0)).await?,
            )));
        }
        let load = clients_of(&writers, clients, target);
        let streamed = closed_loop(load, window(bench), cluster.pids()).await?;
        note(findings, &rate(clients), streamed);
        let leader = cluster.wait_until_settled().await?;
        let writers = connections_to(&cluster, leader, connections, Writer::unary).await?;
        let load = clients_of(&writers, clients, target);
        let one = closed_loop(load, window(bench), cluster.pids()).await?;
        note(findings, &unary(&rate(clients)), one);
        cluster.wait_until_settled().await?;
    }
    Ok(())
}

async fn single_etcd(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(Side::Etcd, &bench.environment).await?;
    for (clients, connections, ..) in wanted(bench) {
        let found = puts(bench, &mut cluster, clients, connections).await?;
        for name in [rate(clients), unary(&rate(clients))] {
            note(findings, &name, found);
        }
    }
    Ok(())
}

async fn puts(
    bench: &Bench,
    cluster: &mut Cluster,
    clients: usize,
    connections: usize,
) -> Result<LoopResult> {
    let leader = cluster.wait_until_settled().await?;
    let writers = connections_to(cluster, leader, connections, Writer::put).await?;
    let load = clients_of(&writers, clients, keys);
    closed_loop(load, window(bench), cluster.pids()).await
}

fn keys(client: usize) -> Target {
    Target {
        client,
        agents: Arc::new([]),
    }
}

pub(crate) async fn connections_to(
    cluster: &Cluster,
    leader: usize,
    count: usize,
    writer: impl Fn(tonic::transport::Channel) -> Writer,
) -> Result<Vec<Writer>> {
    let mut writers = Vec::with_capacity(count);
    for _ in 0..count {
        writers.push(writer(cluster.connect(leader).await?));
    }
    Ok(writers)
}

pub(crate) fn clients_of(
    writers: &[Writer],
    count: usize,
    target: impl Fn(usize) -> Target,
) -> Vec<LoopClient> {
    let client = |number: usize| LoopClient {
        writer: writers[number % writers.len()].clone(),
        target: target(number),
    };
    (0..count).map(client).collect()
}

const AGAINST_SINGLE: &str = "next to single puts, 256 clients";
const AGAINST_BATCHED: &str = "next to transactions of 128 puts";
const BATCH_P50: &str = "a batch, p50";

/// Measures many changes per message.
pub(crate) async fn batched(bench: &Bench) -> Result<WorkloadReport> {
    let about = [
        "argosy: 8 streams, messages of 256 operations, 4 messages in flight on each.",
        "etcd: single puts of 256 clients on 8 connections; and transactions of 128 puts (its default limit), 32 clients on 8 connections.",
    ];
    let cells = vec![
        Cell::new(AGAINST_SINGLE, "op/s", RatioGoal::AtLeast(12.0)),
        Cell::new(AGAINST_BATCHED, "op/s", RatioGoal::None),
        Cell::new(BATCH_P50, "ms", RatioGoal::None),
    ];
    let mut report = bench.report(Workload::RegistryBatch, &about, cells);
    let work = async |side, findings: &mut Measurements| match side {
        Side::Argosy | Side::Plaintext => batched_argosy(bench, side, findings).await,
        Side::Etcd => batched_etcd(bench, findings).await,
        Side::Hyperqueue => bail!("HyperQueue keeps no registry"),
    };
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

async fn batched_argosy(bench: &Bench, side: Side, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(side, &bench.environment).await?;
    let masters = masters(&cluster)?;
    let agents = Agents::start(&masters, u32::try_from(BATCH)?, RESOURCES).await?;
    let all: Arc<[String]> = agents.ids().into();
    let target = |client| Target {
        client,
        agents: all.clone(),
    };
    let mut writers = Vec::new();
    for _ in 0..STREAMS {
        writers.push(Writer::Stream(Arc::new(
            BatchStream::open(&masters, &target(0)).await?,
        )));
    }
    let load = clients_of(&writers, STREAMS * AHEAD, target);
    let found = closed_loop(load, window(bench), cluster.pids()).await?;
    for cell in [AGAINST_SINGLE, AGAINST_BATCHED] {
        findings.record(cell, found.per_second * BATCH as f64);
    }
    findings.record(BATCH_P50, found.p50_ms);
    cluster.wait_until_settled().await?;
    Ok(())
}

async fn batched_etcd(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(Side::Etcd, &bench.environment).await?;
    let single = puts(bench, &mut cluster, 256, STREAMS).await?;
    findings.record(AGAINST_SINGLE, single.per_second);
    let leader = cluster.wait_until_settled().await?;
    let transaction = |channel| match Writer::put(channel) {
        Writer::Put(client) => Writer::Transaction(client, TRANSACTION),
        other => other,
    };
    let writers = connections_to(&cluster, leader, STREAMS, transaction).await?;
    let load = clients_of(&writers, STREAMS * AHEAD, keys);
    let found = closed_loop(load, window(bench), cluster.pids()).await?;
    findings.record(AGAINST_BATCHED, found.per_second * TRANSACTION as f64);
    findings.record(BATCH_P50, found.p50_ms);
    Ok(())
}
