//! Scrapes of the metrics of a large cluster, at the leader and at a follower: their size and time,
//! with and without writes, and their cost for writers.
//!
//! Writers are measured alone and with scrapes, in turn, in the same run.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::MasterAccess;
use crate::crowd::connections;
use crate::crowd::schedulers::Schedulers;
use crate::full_cluster::FullCluster;
use crate::load::{LoopClient, LoopResult, Window, closed_loop};
use crate::report::{Cell, RatioGoal, WorkloadReport, median, quantile};
use crate::turns::{self, Turns};

/// Subscribed frameworks: more than have series of their own.
const FRAMEWORKS: u32 = 250;
/// Time from the last subscription to the measurement.
const SETTLING: Duration = Duration::from_secs(5);
/// From one scrape of a master to the next.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(200);
/// Writers, and their writes a second together.
const WRITERS: usize = 32;
const PACED: u32 = 1_000;
/// The goals.
const MAX_MS: f64 = 50.0;
const MAX_KIB: f64 = 2_048.0;
const MAX_COST: f64 = 5.0;

/// The scraped masters.
const PLACES: [&str; 2] = ["leader", "follower"];
/// The conditions of scrapes.
const QUIET: &str = "no writes";
const DURING_WRITES: &str = "writes";

const LOADED: &str = "all agents and tasks known after";
const RATE_ALONE: &str = "paced writes alone";
const RATE_DURING: &str = "paced writes with scrapes";
const COST: &str = "cost of scrapes in paced writes";
const P99_ALONE: &str = "paced writes alone, p99";
const P99_DURING: &str = "paced writes with scrapes, p99";
const CPU_ALONE: &str = "leader's core time of a write alone";
const CPU_DURING: &str = "leader's core time of a write with scrapes";

fn size(place: &str) -> String {
    format!("text of the {place}'s metrics")
}

fn time(place: &str, condition: &str, part: &str) -> String {
    format!("scrape of the {place}, {condition}, {part}")
}

/// Measures scrapes and writers.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let (agents, each) = (bench.extent.state_agents, bench.extent.tasks_per_agent);
    let about = format!(
        "{agents} emulated agents with {each} running tasks each, and {FRAMEWORKS} more frameworks without tasks. The metrics of the leader and of one follower are read every {SCRAPE_INTERVAL:?} each, over a new connection. {WRITERS} writers at the leader change an attribute each, {PACED} a second together. For {:?} each: scrapes, writers, both; {} times in turn.",
        bench.extent.scrape, bench.extent.state_rounds
    );
    let mut report = bench.report(Workload::Scrape, &[&about], cells());
    let work = async |_, findings: &mut Measurements| one_run(bench, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

fn cells() -> Vec<Cell> {
    let mut cells = vec![Cell::new(LOADED, "s", RatioGoal::None)];
    for place in PLACES {
        cells.push(Cell::new(size(place), "KiB", RatioGoal::OwnAtMost(MAX_KIB)));
        for condition in [QUIET, DURING_WRITES] {
            let [p50, p99] = ["p50", "p99"].map(|part| time(place, condition, part));
            cells.push(Cell::new(p50, "ms", RatioGoal::None));
            cells.push(Cell::new(p99, "ms", RatioGoal::OwnAtMost(MAX_MS)));
        }
    }
    cells.extend([
        Cell::new(RATE_ALONE, "op/s", RatioGoal::None),
        Cell::new(RATE_DURING, "op/s", RatioGoal::None),
        Cell::new(COST, "%", RatioGoal::OwnAtMost(MAX_COST)),
        Cell::new(P99_ALONE, "ms", RatioGoal::None),
        Cell::new(P99_DURING, "ms", RatioGoal::None),
        Cell::new(CPU_ALONE, "us/op", RatioGoal::None),
        Cell::new(CPU_DURING, "us/op", RatioGoal::None),
        Cell::new(turns::LONG, "per 1,000", RatioGoal::None),
        Cell::new(turns::BUSY, "per 1,000", RatioGoal::OwnAtMost(0.0)),
    ]);
    cells
}

/// The scrapes of one master in one condition.
#[derive(Debug, Default)]
struct Scrapes {
    times_ms: Vec<f64>,
    largest_bytes: usize,
}

/// Running scrapes of the leader and a follower; they end with the value.
struct Scrapers([AbortOnDropHandle<Result<Scrapes>>; 2]);

impl Scrapers {
    /// Starts scrapes that end by themselves after `duration`.
    fn start(full: &FullCluster, duration: Duration) -> Self {
        let end = Instant::now() + duration;
        Self([full.leader, full.follower()].map(|index| {
            let (masters, api) = (full.masters.clone(), full.api(index).to_owned());
            AbortOnDropHandle::new(tokio::spawn(scrape_until(masters, api, end)))
        }))
    }

    /// Waits for the last scrapes and adds their results.
    async fn finish(self, condition: &str, findings: &mut Measurements) -> Result<()> {
        for (place, scraper) in PLACES.into_iter().zip(self.0) {
            let scrapes = scraper.await.context("a scraper panicked")??;
            let quantile = |part| quantile(&scrapes.times_ms, part);
            findings.record(time(place, condition, "p50"), quantile(0.5));
            findings.record(time(place, condition, "p99"), quantile(0.99));
            findings.record(size(place), scrapes.largest_bytes as f64 / 1_024.0);
        }
        Ok(())
    }
}

async fn scrape_until(masters: MasterAccess, api: String, end: Instant) -> Result<Scrapes> {
    let mut scrapes = Scrapes::default();
    let mut due = interval(SCRAPE_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while due.tick().await < end {
        let began = Instant::now();
        let text = turns::scrape(masters.operator(), &api).await?;
        scrapes.times_ms.push(began.elapsed().as_secs_f64() * 1e3);
        scrapes.largest_bytes = scrapes.largest_bytes.max(text.len());
    }
    Ok(scrapes)
}

async fn one_run(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let (agents, each) = (bench.extent.state_agents, bench.extent.tasks_per_agent);
    let full = FullCluster::start(&bench.environment, agents, each).await?;
    findings.record(LOADED, full.loaded.as_secs_f64());
    let channels = connections(&full.cluster, FRAMEWORKS)?;
    let _frameworks = Schedulers::start(&channels, FRAMEWORKS).await?;
    tokio::time::sleep(SETTLING).await;
    let pid = full.cluster.pid(full.leader)?;
    let writers = full.writers(WRITERS).await?;
    let duration = bench.extent.scrape;
    let turns = Turns::of(full.masters.operator(), full.api(full.leader)).await?;
    let (mut alone, mut during) = (Vec::new(), Vec::new());
    for _ in 0..bench.extent.state_rounds {
        let quiet = Scrapers::start(&full, duration);
        quiet.finish(QUIET, findings).await?;
        alone.push(write(&writers, duration, pid).await?);
        let together = Scrapers::start(&full, duration);
        during.push(write(&writers, duration, pid).await?);
        together.finish(DURING_WRITES, findings).await?;
    }
    let [long, busy] = Turns::of(full.masters.operator(), full.api(full.leader))
        .await?
        .per_thousand(turns);
    findings.record(turns::LONG, long);
    findings.record(turns::BUSY, busy);
    note(findings, &alone, &during);
    Ok(())
}

/// Lets writers write at their pace.
async fn write(writers: &[LoopClient], duration: Duration, pid: u32) -> Result<LoopResult> {
    let window = Window {
        warm_up: Duration::ZERO,
        measured: duration,
        pace: Duration::from_secs(1) * u32::try_from(WRITERS)? / PACED,
    };
    closed_loop(writers.to_vec(), window, vec![pid]).await
}

fn note(findings: &mut Measurements, alone: &[LoopResult], during: &[LoopResult]) {
    let middle = |rounds: &[LoopResult], value: fn(&LoopResult) -> f64| {
        let values: Vec<f64> = rounds.iter().map(value).collect();
        median(&values)
    };
    let [alone_rate, during_rate] = [alone, during].map(|rounds| middle(rounds, |r| r.per_second));
    findings.record(RATE_ALONE, alone_rate);
    findings.record(RATE_DURING, during_rate);
    findings.record(COST, 100.0 * (1.0 - during_rate / alone_rate));
    findings.record(P99_ALONE, middle(alone, |round| round.p99_ms));
    findings.record(P99_DURING, middle(during, |round| round.p99_ms));
    findings.record(CPU_ALONE, middle(alone, |round| round.cpu_us));
    findings.record(CPU_DURING, middle(during, |round| round.cpu_us));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_value_has_a_cell() {
        let result = |per_second| LoopResult {
            per_second,
            p50_ms: 1.0,
            p99_ms: 2.0,
            cpu_us: 3.0,
            switches: 4.0,
        };
        let mut findings = Measurements::default();
        note(&mut findings, &[result(1_000.0)], &[result(990.0)]);
        let cells = cells();
        let known = |name: &str| cells.iter().any(|cell| cell.name == name);
        assert!(findings.samples().iter().all(|sample| known(&sample.cell)));
        let cost = findings.samples().iter().find(|sample| sample.cell == COST);
        assert!((cost.unwrap().value - 1.0).abs() < 1e-9);
        for (place, condition) in PLACES.into_iter().zip([QUIET, DURING_WRITES]) {
            assert!(known(&time(place, condition, "p99")) && known(&size(place)));
        }
    }
}
