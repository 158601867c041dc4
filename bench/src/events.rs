//! Many subscribers of the change feed at one follower, some of which read nothing: the delay of
//! events, and the cost for the leader and the follower.

mod subscribers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agents::Agents;
use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::Cluster;
use crate::cpu::{process_seconds, resident_bytes};
use crate::registry::{connections_to, masters};
use crate::report::{Cell, RatioGoal, Side, WorkloadReport, quantile};
use crate::writer::{Target, Writer};

use subscribers::{Subscribers, now_us};

/// Subscribers that read, and how many of them measure the delay.
const READING: usize = 990;
const MEASURING: usize = 50;
/// Subscribers that read nothing.
const STALLED: usize = 10;
/// Agents whose attribute is changed.
const AGENTS: u32 = 32;
/// Writers, and the interval between the writes of each: 100 a second together.
const WRITERS: usize = 10;
const INTERVAL: Duration = Duration::from_millis(100);
/// Time between the start of subscribers and the measurement.
const SETTLING: Duration = Duration::from_secs(2);

const RATE: &str = "changes";
const DELAY: &str = "change requested to event received, p50";
const DELAY_SLOW: &str = "change requested to event received, p99";
const WRITE: &str = "change requested to its answer, p50";
const EVENTS: &str = "events received";
const BROKEN: &str = "streams of reading subscribers broken";
const LEADER_ALONE: &str = "leader's cores without subscribers";
const LEADER_WATCHED: &str = "leader's cores with subscribers";
const FOLLOWER: &str = "follower's cores with subscribers";
const BEFORE: &str = "follower before, resident";
const CONNECTED: &str = "follower with all subscribers, resident";
const AFTER: &str = "follower after, resident";

/// Measures subscribers at a follower during paced changes.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let about = format!(
        "{READING} subscribers of agents at one follower read, and {STALLED} read nothing. {WRITERS} writers at the leader change an attribute of one of {AGENTS} agents every {INTERVAL:?} each, first without subscribers. The attribute has the time of the request.",
    );
    let cells = vec![
        Cell::new(RATE, "1/s", RatioGoal::None),
        Cell::new(DELAY, "ms", RatioGoal::None),
        Cell::new(DELAY_SLOW, "ms", RatioGoal::OwnAtMost(50.0)),
        Cell::new(WRITE, "ms", RatioGoal::None),
        Cell::new(EVENTS, "1/s", RatioGoal::None),
        Cell::new(BROKEN, "streams", RatioGoal::OwnAtMost(0.0)),
        Cell::new(LEADER_ALONE, "cores", RatioGoal::None),
        Cell::new(LEADER_WATCHED, "cores", RatioGoal::None),
        Cell::new(FOLLOWER, "cores", RatioGoal::None),
        Cell::new(BEFORE, "MiB", RatioGoal::None),
        Cell::new(CONNECTED, "MiB", RatioGoal::None),
        Cell::new(AFTER, "MiB", RatioGoal::None),
    ];
    let mut report = bench.report(Workload::Events, &[&about], cells);
    let work = async |_, findings: &mut Measurements| one_run(bench, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

async fn one_run(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(Side::Argosy, &bench.environment).await?;
    let all = Agents::start(&masters(&cluster)?, AGENTS, "cpus:2;mem:1024").await?;
    let leader = cluster.wait_until_settled().await?;
    let follower = (leader + 1) % cluster.members.len();
    let (leader_pid, follower_pid) = (cluster.pid(leader)?, cluster.pid(follower)?);
    let writers = connections_to(&cluster, leader, 2, Writer::unary).await?;
    let ids = all.ids();
    let target = |client: usize| Target {
        client,
        agents: Arc::new([ids[client % ids.len()].clone()]),
    };
    let clients = || (0..WRITERS).map(|number| (writers[number % 2].clone(), target(number)));
    let measured = bench.extent.measured.max(Duration::from_secs(3));
    let resident = || {
        let bytes = resident_bytes(follower_pid).context("the follower is gone")?;
        Ok::<_, anyhow::Error>(bytes as f64 / f64::from(1 << 20))
    };
    findings.record(BEFORE, resident()?);
    let alone = cores(leader_pid, write(clients(), measured)).await?;
    findings.record(LEADER_ALONE, alone.0);
    let api = &cluster.members[follower].api;
    let subscribers = Subscribers::start(api, (READING, MEASURING), STALLED).await?;
    tokio::time::sleep(SETTLING).await;
    findings.record(CONNECTED, resident()?);
    subscribers.begin();
    let began = (
        Instant::now(),
        process_seconds(follower_pid).unwrap_or_default(),
    );
    let (watched, answers_ms) = cores(leader_pid, write(clients(), measured)).await?;
    let took = began.0.elapsed().as_secs_f64();
    let used = process_seconds(follower_pid).unwrap_or_default() - began.1;
    let received = subscribers.end().await?;
    findings.record(LEADER_WATCHED, watched);
    findings.record(FOLLOWER, used / took);
    findings.record(RATE, answers_ms.len() as f64 / took);
    findings.record(WRITE, quantile(&answers_ms, 0.5));
    findings.record(DELAY, quantile(&received.delays_ms, 0.5));
    findings.record(DELAY_SLOW, quantile(&received.delays_ms, 0.99));
    findings.record(EVENTS, received.events as f64 / took);
    findings.record(BROKEN, received.broken as f64);
    findings.record(AFTER, resident()?);
    Ok(())
}

/// Returns the cores that a process uses while `work` runs, and its result.
async fn cores<T>(pid: u32, work: impl Future<Output = Result<T>>) -> Result<(f64, T)> {
    let (began, before) = (Instant::now(), process_seconds(pid).unwrap_or_default());
    let result = work.await?;
    let used = process_seconds(pid).unwrap_or_default() - before;
    Ok((used / began.elapsed().as_secs_f64(), result))
}

/// Lets writers write at their pace; returns the milliseconds until each answer.
async fn write(
    clients: impl Iterator<Item = (Writer, Target)>,
    measured: Duration,
) -> Result<Vec<f64>> {
    let end = Instant::now() + measured;
    let mut loops = JoinSet::new();
    for (number, (writer, target)) in (0..).zip(clients) {
        loops.spawn(async move {
            let mut times_ms = Vec::new();
            let mut due = Instant::now() + INTERVAL * number / u32::try_from(WRITERS)?;
            while due < end {
                tokio::time::sleep_until(due).await;
                let began = Instant::now();
                writer.write(&target, now_us()).await?;
                times_ms.push(began.elapsed().as_secs_f64() * 1e3);
                due += INTERVAL;
            }
            Ok::<_, anyhow::Error>(times_ms)
        });
    }
    let mut times_ms = Vec::new();
    while let Some(joined) = loops.join_next().await {
        times_ms.extend(joined.context("a writer panicked")??);
    }
    Ok(times_ms)
}
