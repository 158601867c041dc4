//! Floods: clients page through all tasks at the leader while agents and a framework work; and one
//! principal changes as much as it can while others do the same at their own pace.
//!
//! The number of connections and the time are limited. The workload measures how a flood affects
//! the other peers.

mod principals;
mod readers;

use std::time::Duration;

use anyhow::{Context, Result};
use argosy_proto::v1;
use tokio::time::Instant;

use crate::agents::Agents;
use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::{CONNECT_TIMEOUT, Cluster, MasterClient};
use crate::cpu::resident_bytes;
use crate::framework::{LongestGap, Trickle, flood};
use crate::registry::masters;
use crate::report::{Cell, RatioGoal, Side, WorkloadReport};
use crate::turns::{self, Turns};

use readers::Readers;

/// Emulated agents. They drop a silent link after the same time as real ones.
const AGENTS: u32 = 20;
const AGENT: &str = "cpus:32;mem:4096";
/// Tasks in the list.
const TASKS: u32 = 1_283;
/// Interval of calls to the leader.
const PROBE: Duration = Duration::from_millis(20);
/// Time between the end of the flood and the next measurement of memory.
const AFTER: Duration = Duration::from_secs(15);

const LEADER_GAP: &str = "longest gap between answers of the leader";
const FRAMEWORK_GAP: &str = "longest gap between updates of a framework";
const LOST: &str = "agents without a link, at the worst";
const EPOCHS: &str = "changes of leader";
const ANSWERS: &str = "pages read";
const REFUSED: &str = "reads refused";
const BEFORE: &str = "leader before, resident";
const DURING: &str = "leader during, resident at most";
const LATER: &str = "leader 15 s after, resident";

/// Measures a leader under a flood of reads.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let (connections, length) = (bench.extent.flood_connections, bench.extent.flood);
    let about = format!(
        "{connections} connections to the leader for {length:?}, half of them gRPC with 20 calls in flight and half HTTP with one: pages of up to 10,000 of {TASKS} ended tasks and the new ones. {AGENTS} emulated agents are connected, and a framework launches 50 tasks a second.",
    );
    let mut cells = vec![
        Cell::new(LEADER_GAP, "ms", RatioGoal::OwnAtMost(1_000.0)),
        Cell::new(FRAMEWORK_GAP, "ms", RatioGoal::OwnAtMost(2_000.0)),
        Cell::new(LOST, "agents", RatioGoal::OwnAtMost(0.0)),
        Cell::new(EPOCHS, "", RatioGoal::OwnAtMost(0.0)),
        Cell::new(turns::LONG, "per 1,000", RatioGoal::None),
        Cell::new(turns::BUSY, "per 1,000", RatioGoal::OwnAtMost(0.0)),
        Cell::new(ANSWERS, "pages/s", RatioGoal::None),
        Cell::new(REFUSED, "calls/s", RatioGoal::None),
        Cell::new(BEFORE, "MiB", RatioGoal::None),
        Cell::new(DURING, "MiB", RatioGoal::OwnAtMost(512.0)),
        Cell::new(LATER, "MiB", RatioGoal::OwnAtMost(384.0)),
    ];
    cells.extend(principals::cells());
    let about = [about, principals::about()];
    let about: Vec<&str> = about.iter().map(String::as_str).collect();
    let mut report = bench.report(Workload::Flood, &about, cells);
    let work = async |side, findings: &mut Measurements| {
        one_run(bench, side, findings).await?;
        principals::one_run(bench, side, findings).await
    };
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

async fn one_run(bench: &Bench, side: Side, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(side, &bench.environment).await?;
    let masters = masters(&cluster)?;
    let _agents = Agents::start(&masters, AGENTS, AGENT).await?;
    flood(&masters, TASKS, None).await?;
    let trickle = Trickle::start(&masters).await?;
    let leader = cluster.wait_until_settled().await?;
    let (pid, api) = (cluster.pid(leader)?, cluster.members[leader].api.clone());
    let wire = || MasterClient::new(masters.operator().channel(&api, CONNECT_TIMEOUT));
    let epoch = probe(&mut wire()).await?.epoch;
    let resident = || {
        let bytes = resident_bytes(pid).context("the leader is gone")?;
        Ok::<_, anyhow::Error>(bytes as f64 / f64::from(1 << 20))
    };
    findings.record(BEFORE, resident()?);
    trickle.gaps().restart();
    let turns = Turns::of(masters.operator(), &api).await?;
    let readers = Readers::start(masters.operator(), &api, bench.extent.flood_connections);
    let mut seen = WorstValues::default();
    let mut client = wire();
    let answers = LongestGap::default();
    let end = Instant::now() + bench.extent.flood;
    while Instant::now() < end {
        // Also while no answer arrives.
        seen.resident_mib = seen.resident_mib.max(resident()?);
        if let Ok(Ok(cluster)) = tokio::time::timeout_at(end, probe(&mut client)).await {
            answers.note();
            seen.lost = seen.lost.max(lost(&cluster));
        }
        tokio::time::sleep(PROBE).await;
    }
    let (read, refused) = readers.end();
    let [long, busy] = Turns::of(masters.operator(), &api)
        .await?
        .per_thousand(turns);
    findings.record(turns::LONG, long);
    findings.record(turns::BUSY, busy);
    findings.record(LEADER_GAP, answers.longest().as_secs_f64() * 1e3);
    findings.record(FRAMEWORK_GAP, trickle.gaps().longest().as_secs_f64() * 1e3);
    let seconds = bench.extent.flood.as_secs_f64();
    findings.record(ANSWERS, read as f64 / seconds);
    findings.record(REFUSED, refused as f64 / seconds);
    findings.record(DURING, seen.resident_mib);
    tokio::time::sleep(AFTER).await;
    findings.record(LATER, resident()?);
    let later = probe(&mut client).await?;
    findings.record(LOST, f64::from(seen.lost.max(lost(&later))));
    findings.record(EPOCHS, if later.epoch == epoch { 0.0 } else { 1.0 });
    Ok(())
}

/// The worst measured values.
#[derive(Default)]
struct WorstValues {
    lost: u32,
    resident_mib: f64,
}

fn lost(cluster: &v1::Cluster) -> u32 {
    cluster
        .agents_unreachable
        .max(AGENTS.saturating_sub(cluster.agents))
}

/// Requests the cluster's summary from the leader: a read that waits in the same queue as the
/// flood.
async fn probe(client: &mut MasterClient) -> Result<v1::Cluster> {
    let request = v1::GetClusterRequest {
        consistency: v1::Consistency::Local.into(),
    };
    Ok(client.get_cluster(request).await?.into_inner())
}
