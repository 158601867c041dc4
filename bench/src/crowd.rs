//! A crowd of agents and schedulers, spread over three masters: whether a stream breaks, and how
//! long calls take.

pub(crate) mod schedulers;

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::transport::Channel;

use crate::agents::Agents;
use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::{Cluster, channel};
use crate::report::{Cell, RatioGoal, Side, WorkloadReport, quantile};
use crate::turns::{self, Turns};
use crate::writer::{Target, Writer};

use schedulers::Schedulers;

const AGENT: &str = "cpus:2;mem:1024";
/// Streams per connection, as behind a proxy.
const PER_CONNECTION: u32 = 100;
/// Interval of calls through a master.
const CALL: Duration = Duration::from_millis(50);
/// Time from the moment when all are connected until the measurement, in which first offers are
/// made.
const SETTLING: Duration = Duration::from_secs(10);

const CONNECTED: &str = "all connected after";
const BROKEN: &str = "streams broken";
const MEDIAN: &str = "call through a master, p50";
const SLOW: &str = "call through a master, p99";
const SLOWEST: &str = "call through a master, slowest";
const RESIDENT: &str = "leader, resident";

/// Measures three masters with a crowd of peers.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let (agents, schedulers) = (bench.extent.crowd_agents, bench.extent.crowd_schedulers);
    let about = format!(
        "{agents} emulated agents and {schedulers} schedulers, a third of each connected to each of three masters, {PER_CONNECTION} streams per connection, for {:?}. A change of an attribute goes through each master every {CALL:?}.",
        bench.extent.crowd
    );
    let cells = vec![
        Cell::new(CONNECTED, "s", RatioGoal::None),
        Cell::new(BROKEN, "streams", RatioGoal::OwnAtMost(0.0)),
        Cell::new(MEDIAN, "ms", RatioGoal::None),
        Cell::new(SLOW, "ms", RatioGoal::None),
        Cell::new(SLOWEST, "ms", RatioGoal::OwnAtMost(100.0)),
        Cell::new(turns::LONG, "per 1,000", RatioGoal::None),
        Cell::new(turns::BUSY, "per 1,000", RatioGoal::OwnAtMost(0.0)),
        Cell::new(RESIDENT, "MiB", RatioGoal::None),
    ];
    let mut report = bench.report(Workload::Crowd, &[&about], cells);
    let work = async |_, findings: &mut Measurements| one_run(bench, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

async fn one_run(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(Side::Argosy, &bench.environment).await?;
    let started = Instant::now();
    let channels = connections(&cluster, bench.extent.crowd_agents)?;
    let agents = Agents::start_through(&channels, bench.extent.crowd_agents, AGENT).await?;
    let channels = connections(&cluster, bench.extent.crowd_schedulers)?;
    let schedulers = Schedulers::start(&channels, bench.extent.crowd_schedulers).await?;
    findings.record(CONNECTED, started.elapsed().as_secs_f64());
    tokio::time::sleep(SETTLING).await;
    let broken = || agents.closed() + schedulers.closed();
    let before = broken();
    let leader = cluster.wait_until_settled().await?;
    let (access, api) = (cluster.access()?, cluster.members[leader].api.clone());
    let turns = Turns::of(access.operator(), &api).await?;
    let times_ms = calls(&cluster, &agents.ids()[0], bench.extent.crowd).await?;
    findings.record(BROKEN, (broken() - before) as f64);
    findings.record(MEDIAN, quantile(&times_ms, 0.5));
    findings.record(SLOW, quantile(&times_ms, 0.99));
    findings.record(SLOWEST, quantile(&times_ms, 1.0));
    let [long, busy] = Turns::of(access.operator(), &api)
        .await?
        .per_thousand(turns);
    findings.record(turns::LONG, long);
    findings.record(turns::BUSY, busy);
    let leader = cluster.wait_until_settled().await?;
    findings.record(RESIDENT, cluster.resident_mib(leader)?);
    Ok(())
}

/// Opens connections for this number of streams, to one master after the other.
pub(crate) fn connections(cluster: &Cluster, streams: u32) -> Result<Vec<Channel>> {
    let members = cluster.members.iter().cycle();
    let channels = members.take(streams.div_ceil(PER_CONNECTION) as usize);
    channels
        .map(|member| Ok(channel(&member.api)?.connect_lazy()))
        .collect()
}

/// Calls each master in turn, and returns the durations in milliseconds.
async fn calls(cluster: &Cluster, agent: &str, time: Duration) -> Result<Vec<f64>> {
    let writers: Vec<Writer> = cluster
        .members
        .iter()
        .map(|member| Writer::unary(member.channel.clone()))
        .collect();
    let target = Target {
        client: 0,
        agents: [agent.to_owned()].into(),
    };
    let end = Instant::now() + time;
    let mut due = tokio::time::interval(CALL);
    due.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut times_ms = Vec::new();
    for serial in 0_u64.. {
        due.tick().await;
        if Instant::now() >= end {
            break;
        }
        for writer in &writers {
            let started = Instant::now();
            writer.write(&target, serial).await?;
            times_ms.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times_ms)
}
