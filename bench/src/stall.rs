//! Slow disks of both followers under load: what that closes and delays.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use argosy_testbed::tracer::{SyncFault, Tracer};

use crate::agents::Agents;
use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::{Cluster, ClusterMember};
use crate::load::{LoadLevel, PersistentClients};
use crate::registry::masters;
use crate::report::{Cell, RatioGoal, Side, WorkloadReport};
use crate::writer::{Target, Writer};

/// Additional time of each sync of a follower.
const SYNC: Duration = Duration::from_millis(400);
/// Agents whose links are counted, and that the load writes to.
const AGENTS: u32 = 64;
/// Closed-loop clients.
const CLIENTS: usize = 32;
/// Load before the disks are slowed down.
const WARM_UP: Duration = Duration::from_secs(1);
/// Interval at which the answers are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

const LINKS: &str = "links closed";
const ELECTIONS: &str = "elections";
const GAP: &str = "longest gap of commits";
const WRITES: &str = "writes";

/// Measures with both followers at 400 ms per sync.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let about = [
        format!(
            "Each sync of both followers takes {SYNC:?} longer (strace delays it), for {:?}, with {CLIENTS} closed-loop clients.",
            bench.extent.stall
        ),
        format!(
            "argosy: {AGENTS} emulated agents, whose links are counted; elections: terms that began. etcd: default settings, no links."
        ),
    ];
    let about: Vec<&str> = about.iter().map(String::as_str).collect();
    let cells = vec![
        Cell::new(LINKS, "links", RatioGoal::OwnAtMost(0.0)),
        Cell::new(ELECTIONS, "elections", RatioGoal::OwnAtMost(0.0)),
        Cell::new(GAP, "ms", RatioGoal::None),
        Cell::new(WRITES, "op/s", RatioGoal::None),
    ];
    let mut report = bench.report(Workload::Stall, &about, cells);
    let work = async |side, findings: &mut Measurements| one_run(bench, side, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

async fn one_run(bench: &Bench, side: Side, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(side, &bench.environment).await?;
    let agents = match side {
        Side::Argosy | Side::Plaintext => {
            let agents = Agents::start(&masters(&cluster)?, AGENTS, "cpus:2;mem:1024").await?;
            Some(agents)
        }
        Side::Etcd => None,
        Side::Hyperqueue => bail!("HyperQueue is not a cluster of members"),
    };
    let leader = cluster.wait_until_settled().await?;
    let load = load(&cluster, agents.as_ref());
    tokio::time::sleep(WARM_UP).await;
    if load.answered() == 0 {
        bail!("the load was not answered before the disks were slowed down");
    }
    let mut disks = Vec::new();
    for index in (0..cluster.members.len()).filter(|place| *place != leader) {
        disks.push(Tracer::attach(cluster.pid(index)?, SyncFault::Take(SYNC)).await?);
    }
    let term = cluster.term().await?;
    let closed = agents.as_ref().map_or(0, Agents::closed);
    let answered = load.answered();
    let gap = longest_gap(&load, bench.extent.stall).await;
    let written = load.answered() - answered;
    let closed = agents.as_ref().map_or(0, Agents::closed) - closed;
    let elections = cluster.term().await?.saturating_sub(term);
    drop((load, disks));
    cluster
        .wait_until_settled()
        .await
        .context("after the disks were as fast as before")?;
    if side == Side::Argosy {
        findings.record(LINKS, closed as f64);
    }
    findings.record(ELECTIONS, elections as f64);
    findings.record(GAP, gap.as_secs_f64() * 1e3);
    let per_second = written as f64 / bench.extent.stall.as_secs_f64();
    findings.record(WRITES, per_second);
    Ok(())
}

fn load(cluster: &Cluster, agents: Option<&Agents>) -> PersistentClients {
    let writer = |member: &ClusterMember| match cluster.side {
        Side::Argosy | Side::Plaintext => Writer::unary(member.channel.clone()),
        Side::Etcd | Side::Hyperqueue => Writer::put(member.channel.clone()),
    };
    let writers: Vec<Writer> = cluster.members.iter().map(writer).collect();
    let ids = agents.map_or(&[][..], Agents::ids);
    let target = |client: usize| Target {
        client,
        agents: ids
            .get(client % ids.len().max(1))
            .into_iter()
            .cloned()
            .collect(),
    };
    let targets: Vec<Target> = (0..CLIENTS).map(target).collect();
    PersistentClients::start(&writers, &targets, LoadLevel::Saturated.interval())
}

/// Returns the longest time in which no write was answered, including the one at the end.
async fn longest_gap(load: &PersistentClients, time: Duration) -> Duration {
    let started = Instant::now();
    let (mut last, mut answered) = (started, load.answered());
    let mut longest = Duration::ZERO;
    while started.elapsed() < time {
        tokio::time::sleep(POLL_INTERVAL).await;
        longest = longest.max(last.elapsed());
        let now_answered = load.answered();
        if now_answered != answered {
            (last, answered) = (Instant::now(), now_answered);
        }
    }
    longest
}
