//! Many subscribers of the change feed at one follower, some of which read nothing: the delay of
//! events, the cost for leader and writers, and the memory of the follower.
//!
//! Writers are measured without subscribers, with them, and without them again, in the same run.

mod stalled;
pub(crate) mod subscribers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::agents::Agents;
use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::Cluster;
use crate::cpu::{cores_during, process_seconds, resident_bytes};
use crate::registry::{connections_to, masters};
use crate::report::{Cell, RatioGoal, Side, WorkloadReport, quantile};
use crate::writer::{Target, Writer};

use stalled::StalledSubscribers;
use subscribers::{Feed, SubscriberCounts, Subscribers, now_us};

/// Subscribers that read nothing.
const STALLED: usize = 10;
/// Subscribers that measure the delay.
const MEASURING: usize = 50;
/// Kinds of objects to which all subscribe.
const KINDS: &[&str] = &["agent"];
/// Interval between the writes of a writer, each of which has an agent of its own.
const INTERVAL: Duration = Duration::from_millis(100);
/// Writes a second of one writer.
const WRITES_PER_SECOND: u32 = 10;
/// Time between the start of subscribers and the measurement.
const SETTLING: Duration = Duration::from_secs(2);
/// Interval at which memory is read.
const MEMORY_INTERVAL: Duration = Duration::from_millis(500);
/// Time after which a master disconnects a subscriber that reads nothing: a minute and one check.
/// In a shorter measurement, none is disconnected.
const STALL_TIMEOUT: Duration = Duration::from_secs(62);
/// The goals: delay, cost for the leader, cores of the follower, and growth of the follower.
const MAX_DELAY_MS: f64 = 50.0;
const MAX_COST: f64 = 5.0;
const MAX_CORES: f64 = 1.0;
/// The ring and the window of changes grow until they reach their bounds.
const MAX_GROWTH_MIB: f64 = 16.0;

const RATE: &str = "changes";
const DELAY: &str = "change due to event received, p50";
const DELAY_SLOW: &str = "change due to event received, p99";
const EVENTS: &str = "events received";
const BROKEN: &str = "streams of reading subscribers broken";
const BEHIND: &str = "reading subscribers without the newest change";
const CONNECTED_STALLED: &str = "stalled subscribers not disconnected";
const INCOMPLETE: &str = "stalled subscribers not resumed";
const WRITE: &str = "change due to its answer, alone, p50";
const WRITE_SLOW: &str = "change due to its answer, alone, p99";
const WRITE_WATCHED: &str = "change due to its answer, subscribers, p50";
const WRITE_WATCHED_SLOW: &str = "change due to its answer, subscribers, p99";
const LEADER_ALONE: &str = "leader's cores without subscribers";
const LEADER_WATCHED: &str = "leader's cores with subscribers";
const LEADER_COST: &str = "cost of subscribers for the leader";
const LEADER_SCATTER: &str = "difference of the leader's cores without subscribers";
const FOLLOWER: &str = "follower's cores with subscribers";
const BEFORE: &str = "follower before subscribers, resident";
const GROWTH_ALONE: &str = "growth of the follower without subscribers";
const CONNECTED: &str = "follower with all subscribers, resident";
const GROWTH: &str = "growth of the follower with subscribers";
const AFTER: &str = "follower after, resident";

/// Measures subscribers at a follower during paced changes.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let (reading, measured) = (bench.extent.subscribers, bench.extent.events);
    let writers = writers(bench);
    let about = format!(
        "{reading} subscribers of agents at one follower read; {MEASURING} of them measure, and the others have the lowest priority, as programs on other machines. {STALLED} more read nothing. {writers} writers at the leader change an attribute of an agent every {INTERVAL:?} each: for {:?} without subscribers, {measured:?} with them, and {:?} without them again. The attribute has the time at which the change was due.",
        measured / 2,
        measured / 2,
    );
    let mut report = bench.report(Workload::Events, &[&about], cells());
    let work = async |_, findings: &mut Measurements| one_run(bench, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

fn writers(bench: &Bench) -> u32 {
    bench.extent.changes.div_ceil(WRITES_PER_SECOND)
}

fn cells() -> Vec<Cell> {
    let none = RatioGoal::OwnAtMost(0.0);
    vec![
        Cell::new(RATE, "1/s", RatioGoal::None),
        Cell::new(DELAY, "ms", RatioGoal::None),
        Cell::new(DELAY_SLOW, "ms", RatioGoal::OwnAtMost(MAX_DELAY_MS)),
        Cell::new(EVENTS, "1/s", RatioGoal::None),
        Cell::new(BROKEN, "streams", none),
        Cell::new(BEHIND, "subscribers", none),
        Cell::new(CONNECTED_STALLED, "subscribers", none),
        Cell::new(INCOMPLETE, "subscribers", none),
        Cell::new(WRITE, "ms", RatioGoal::None),
        Cell::new(WRITE_WATCHED, "ms", RatioGoal::None),
        Cell::new(WRITE_SLOW, "ms", RatioGoal::None),
        Cell::new(WRITE_WATCHED_SLOW, "ms", RatioGoal::None),
        Cell::new(LEADER_ALONE, "cores", RatioGoal::None),
        Cell::new(LEADER_WATCHED, "cores", RatioGoal::None),
        Cell::new(LEADER_COST, "%", RatioGoal::OwnAtMost(MAX_COST)),
        Cell::new(LEADER_SCATTER, "%", RatioGoal::None),
        Cell::new(FOLLOWER, "cores", RatioGoal::OwnAtMost(MAX_CORES)),
        Cell::new(BEFORE, "MiB", RatioGoal::None),
        Cell::new(GROWTH_ALONE, "MiB", RatioGoal::None),
        Cell::new(CONNECTED, "MiB", RatioGoal::None),
        Cell::new(GROWTH, "MiB", RatioGoal::OwnAtMost(MAX_GROWTH_MIB)),
        Cell::new(AFTER, "MiB", RatioGoal::None),
    ]
}

/// The cluster of a run, and the clients of its leader.
struct WatchedCluster {
    _agents: Agents,
    cluster: Cluster,
    leader: usize,
    follower: usize,
    writers: Vec<(Writer, Target)>,
}

impl WatchedCluster {
    async fn start(bench: &Bench) -> Result<Self> {
        let mut cluster = Cluster::start(Side::Argosy, &bench.environment).await?;
        let count = writers(bench);
        let all = Agents::start(&masters(&cluster)?, count, "cpus:2;mem:1024").await?;
        let leader = cluster.wait_until_settled().await?;
        let connections = connections_to(&cluster, leader, 2, Writer::unary).await?;
        let client = |(number, id): (usize, &String)| {
            let target = Target {
                client: number,
                agents: Arc::new([id.clone()]),
            };
            (connections[number % connections.len()].clone(), target)
        };
        let writers = all.ids().iter().enumerate().map(client).collect();
        Ok(Self {
            _agents: all,
            follower: (leader + 1) % cluster.members.len(),
            cluster,
            leader,
            writers,
        })
    }

    fn resident_mib(&self) -> Result<f64> {
        self.cluster.resident_mib(self.follower)
    }

    /// Writes for this time, and returns the leader's cores and the results.
    async fn write(&self, duration: Duration) -> Result<(f64, Written)> {
        let leader = self.cluster.pid(self.leader)?;
        cores_during(leader, write(&self.writers, duration)).await
    }
}

async fn one_run(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let watched = WatchedCluster::start(bench).await?;
    let alone = bench.extent.events / 2;
    findings.record(BEFORE, watched.resident_mib()?);
    let growth = MemoryGrowth::watch(watched.cluster.pid(watched.follower)?)?;
    let first = watched.write(alone).await?;
    findings.record(GROWTH_ALONE, growth.finish().await?);
    let with = subscribed(bench, &watched, findings).await?;
    let second = watched.write(alone).await?;
    note_cost(findings, [first.0, with.0, second.0]);
    let before = [first.1.times_ms, second.1.times_ms].concat();
    let during = with.1.times_ms;
    findings.record(WRITE, quantile(&before, 0.5));
    findings.record(WRITE_SLOW, quantile(&before, 0.99));
    findings.record(WRITE_WATCHED, quantile(&during, 0.5));
    findings.record(WRITE_WATCHED_SLOW, quantile(&during, 0.99));
    Ok(())
}

/// Records the leader's cores without subscribers, with them, and without them.
fn note_cost(findings: &mut Measurements, [first, with, second]: [f64; 3]) {
    let alone = (first + second) / 2.0;
    findings.record(LEADER_ALONE, alone);
    findings.record(LEADER_WATCHED, with);
    findings.record(LEADER_COST, 100.0 * (with / alone - 1.0));
    findings.record(LEADER_SCATTER, 100.0 * (first - second).abs() / alone);
}

/// Measures writes with subscribers, which have ended at the end.
async fn subscribed(
    bench: &Bench,
    watched: &WatchedCluster,
    findings: &mut Measurements,
) -> Result<(f64, Written)> {
    let follower = watched.cluster.pid(watched.follower)?;
    let feed = Feed {
        api: &watched.cluster.members[watched.follower].api,
        kinds: KINDS,
    };
    let reading = bench.extent.subscribers;
    let measuring = MEASURING.min(reading);
    let counts = SubscriberCounts {
        reading: reading - measuring,
        measuring,
    };
    let subscribers = Subscribers::start(feed, counts).await?;
    let stalled = StalledSubscribers::start(feed.api, KINDS, STALLED).await?;
    tokio::time::sleep(SETTLING).await;
    findings.record(CONNECTED, watched.resident_mib()?);
    let growth = MemoryGrowth::watch(follower)?;
    subscribers.begin();
    let began = Instant::now();
    let before = process_seconds(follower).context("the follower is gone")?;
    let written = watched.write(bench.extent.events).await?;
    let took = began.elapsed();
    let used = process_seconds(follower).context("the follower is gone")? - before;
    findings.record(GROWTH, growth.finish().await?);
    findings.record(FOLLOWER, used / took.as_secs_f64());
    let received = subscribers.end().await?;
    let newest = written.1.newest_us;
    let is_behind = |seen: &&u64| **seen < newest;
    let behind = received.newest_us.iter().filter(is_behind).count();
    findings.record(BEHIND, behind as f64);
    findings.record(BROKEN, received.broken as f64);
    findings.record(EVENTS, received.events as f64 / took.as_secs_f64());
    findings.record(DELAY, quantile(&received.delays_ms, 0.5));
    findings.record(DELAY_SLOW, quantile(&received.delays_ms, 0.99));
    let changes = written.1.times_ms.len() as f64;
    findings.record(RATE, changes / took.as_secs_f64());
    if took >= STALL_TIMEOUT {
        let results = stalled.read_on(newest).await;
        findings.record(CONNECTED_STALLED, results.connected as f64);
        findings.record(INCOMPLETE, results.incomplete as f64);
    } else {
        drop(stalled);
    }
    tokio::time::sleep(SETTLING).await;
    findings.record(AFTER, watched.resident_mib()?);
    Ok(written)
}

/// The largest resident memory of a process, from a moment on.
struct MemoryGrowth {
    began_bytes: u64,
    largest: AbortOnDropHandle<()>,
    seen: tokio::sync::watch::Receiver<u64>,
}

impl MemoryGrowth {
    fn watch(pid: u32) -> Result<Self> {
        let began_bytes = resident_bytes(pid).context("the measured process is gone")?;
        let (largest, seen) = tokio::sync::watch::channel(began_bytes);
        let watching = async move {
            while let Some(bytes) = resident_bytes(pid) {
                largest.send_if_modified(|largest| {
                    let is_larger = bytes > *largest;
                    *largest = bytes.max(*largest);
                    is_larger
                });
                tokio::time::sleep(MEMORY_INTERVAL).await;
            }
        };
        Ok(Self {
            began_bytes,
            largest: AbortOnDropHandle::new(tokio::spawn(watching)),
            seen,
        })
    }

    /// Returns by how many MiB it has grown at most.
    async fn finish(self) -> Result<f64> {
        tokio::time::sleep(MEMORY_INTERVAL).await;
        if self.largest.is_finished() {
            anyhow::bail!("the measured process has ended");
        }
        let grown = *self.seen.borrow() - self.began_bytes;
        Ok(grown as f64 / f64::from(1 << 20))
    }
}

/// The results of writers.
struct Written {
    /// Milliseconds from the time when a write was due to its answer.
    times_ms: Vec<f64>,
    /// The time of the last write, in microseconds.
    newest_us: u64,
}

/// Lets writers write at their pace.
async fn write(clients: &[(Writer, Target)], duration: Duration) -> Result<Written> {
    let end = Instant::now() + duration;
    let mut loops = JoinSet::new();
    let count = u32::try_from(clients.len())?;
    for (number, (writer, target)) in (0..).zip(clients.iter().cloned()) {
        let first = Instant::now() + INTERVAL * number / count;
        loops.spawn(async move {
            let (mut times_ms, mut newest_us) = (Vec::new(), 0);
            let mut due = first;
            while due < end {
                tokio::time::sleep_until(due).await;
                // A late write counts from when it was due.
                let late_us = u64::try_from(due.elapsed().as_micros())?;
                newest_us = now_us() - late_us;
                writer.write(&target, newest_us).await?;
                times_ms.push(due.elapsed().as_secs_f64() * 1e3);
                due += INTERVAL;
            }
            Ok::<_, anyhow::Error>((times_ms, newest_us))
        });
    }
    let mut written = Written {
        times_ms: Vec::new(),
        newest_us: 0,
    };
    while let Some(joined) = loops.join_next().await {
        let (times_ms, newest_us) = joined.context("a writer panicked")??;
        written.times_ms.extend(times_ms);
        written.newest_us = written.newest_us.max(newest_us);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_for_the_leader_is_relative_to_both_measurements_alone() {
        let mut findings = Measurements::default();
        note_cost(&mut findings, [0.09, 0.11, 0.11]);
        let value = |name: &str| {
            let mut samples = findings.samples().iter();
            samples.find(|sample| sample.cell == name).unwrap().value
        };
        assert!((value(LEADER_COST) - 10.0).abs() < 1e-6);
        assert!((value(LEADER_SCATTER) - 20.0).abs() < 1e-6);
        let cells = cells();
        for sample in findings.samples() {
            let known = cells.iter().any(|cell| cell.name == sample.cell);
            assert!(known, "{}", sample.cell);
        }
    }

    #[tokio::test]
    async fn the_growth_of_a_process_is_its_largest_size() {
        let growth = MemoryGrowth::watch(std::process::id()).unwrap();
        let bytes = vec![7_u8; 64 << 20];
        let grown = growth.finish().await.unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
        assert!(grown > 48.0, "{grown} MiB");
        assert!(MemoryGrowth::watch(u32::MAX).is_err());
    }
}
