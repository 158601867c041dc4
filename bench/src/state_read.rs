//! Full lists of a large cluster during writes: the cost of readers for writers.
//!
//! Writers are measured alone and with readers, in turn, at the same masters in the same run.

mod pollers;

use std::time::Duration;

use anyhow::Result;

use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cpu::cores_during;
use crate::full_cluster::FullCluster;
use crate::load::{LoopClient, LoopResult, Window, closed_loop};
use crate::report::{Cell, RatioGoal, WorkloadReport, median, quantile};
use crate::turns::{self, Turns};

use pollers::{ListResults, Pollers};

/// Pollers, spread over the masters.
const POLLERS: usize = 20;
/// From the beginning of one full list of a poller to the next, at the least.
const LIST_INTERVAL: Duration = Duration::from_secs(10);
/// Writers, on shared connections to the leader.
const WRITERS: usize = 32;
/// Writes a second of all paced writers together.
const PACED: u32 = 1_000;

const LOADED: &str = "all agents and tasks known after";
const ALONE: &str = "writes/s alone";
const DURING_READS: &str = "writes/s with pollers";
const COST: &str = "cost of pollers in writes/s";
const PACED_ALONE: &str = "paced writes alone, p99";
const PACED_DURING_READS: &str = "paced writes with pollers, p99";
const PACED_COST: &str = "cost of pollers in paced writes/s";
const LISTS: &str = "full lists";
const MEAN: &str = "a full list, mean";
const PAGE: &str = "a page of 1,000 tasks, p50";
const PAGE_SLOW: &str = "a page of 1,000 tasks, p99";
const RECORDS: &str = "records read";
const CPU_ALONE: &str = "leader's cores alone, paced";
const CPU_DURING_READS: &str = "leader's cores with pollers, paced";
const BEFORE: &str = "leader before, resident";
const AFTER: &str = "leader after, resident";

/// Measures writers without and with pollers.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let (agents, each) = (bench.extent.state_agents, bench.extent.tasks_per_agent);
    let about = format!(
        "{agents} emulated agents with {each} running tasks each. {POLLERS} pollers, spread over three masters, read all agents and all tasks in pages of 1,000, and begin again {LIST_INTERVAL:?} after they began, on threads that get a processor when nothing else wants it, as programs on other machines. {WRITERS} writers at the leader change an attribute each, first as fast as they are answered, then {PACED} a second together. Alone and with pollers, {} times in turn.",
        bench.extent.state_rounds
    );
    let cells = vec![
        Cell::new(LOADED, "s", RatioGoal::None),
        Cell::new(ALONE, "op/s", RatioGoal::None),
        Cell::new(DURING_READS, "op/s", RatioGoal::None),
        Cell::new(COST, "%", RatioGoal::None),
        Cell::new(PACED_COST, "%", RatioGoal::OwnAtMost(5.0)),
        Cell::new(PACED_ALONE, "ms", RatioGoal::None),
        Cell::new(PACED_DURING_READS, "ms", RatioGoal::None),
        Cell::new(CPU_ALONE, "cores", RatioGoal::None),
        Cell::new(CPU_DURING_READS, "cores", RatioGoal::None),
        Cell::new(LISTS, "1/s", RatioGoal::None),
        Cell::new(MEAN, "ms", RatioGoal::OwnAtMost(100.0)),
        Cell::new(PAGE, "ms", RatioGoal::OwnAtMost(10.0)),
        Cell::new(PAGE_SLOW, "ms", RatioGoal::None),
        Cell::new(RECORDS, "1/s", RatioGoal::None),
        Cell::new(turns::LONG, "per 1,000", RatioGoal::None),
        Cell::new(turns::BUSY, "per 1,000", RatioGoal::OwnAtMost(0.0)),
        Cell::new(BEFORE, "MiB", RatioGoal::None),
        Cell::new(AFTER, "MiB", RatioGoal::None),
    ];
    let mut report = bench.report(Workload::StateRead, &[&about], cells);
    let work = async |_, findings: &mut Measurements| one_run(bench, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

/// The results of writers in one condition, by round.
#[derive(Default)]
struct WriterResults {
    fast: Vec<f64>,
    paced: Vec<f64>,
    p99_ms: Vec<f64>,
    cores: Vec<f64>,
}

impl WriterResults {
    /// The part of a rate that is missing compared with `alone`, in per cent; of what was written
    /// in all rounds.
    fn missing(during_reads: &[f64], alone: &[f64]) -> f64 {
        let all = |rates: &[f64]| rates.iter().sum::<f64>();
        100.0 * (1.0 - all(during_reads) / all(alone))
    }
}

async fn one_run(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let (agents, each) = (bench.extent.state_agents, bench.extent.tasks_per_agent);
    let full = FullCluster::start(&bench.environment, agents, each).await?;
    findings.record(LOADED, full.loaded.as_secs_f64());
    let (cluster, leader) = (&full.cluster, full.leader);
    let pid = cluster.pid(leader)?;
    findings.record(BEFORE, cluster.resident_mib(leader)?);
    let writers = full.writers(WRITERS).await?;
    let (mut alone, mut during_reads) = (WriterResults::default(), WriterResults::default());
    let mut lists = ListResults::default();
    let turns = Turns::of(full.masters.operator(), full.api(leader)).await?;
    for _ in 0..bench.extent.state_rounds {
        write(bench, &writers, pid, &mut alone).await?;
        let apis = cluster.members.iter().map(|member| member.api.as_str());
        let expected = (agents as usize, (agents * each) as usize);
        let pollers = Pollers::start(apis, POLLERS, LIST_INTERVAL, expected)?;
        write(bench, &writers, pid, &mut during_reads).await?;
        lists.extend(pollers.end().await?);
    }
    let [long, busy] = Turns::of(full.masters.operator(), full.api(leader))
        .await?
        .per_thousand(turns);
    findings.record(turns::LONG, long);
    findings.record(turns::BUSY, busy);
    findings.record(AFTER, cluster.resident_mib(leader)?);
    note(findings, &alone, &during_reads, &lists);
    Ok(())
}

/// Lets writers write as fast as they can, then at a pace.
async fn write(
    bench: &Bench,
    writers: &[LoopClient],
    pid: u32,
    written: &mut WriterResults,
) -> Result<()> {
    let window = Window {
        warm_up: bench.extent.warm_up,
        // Long enough for each poller to begin a list.
        measured: bench.extent.measured.max(LIST_INTERVAL),
        pace: Duration::ZERO,
    };
    let LoopResult { per_second, .. } = closed_loop(writers.to_vec(), window, vec![pid]).await?;
    written.fast.push(per_second);
    let pace = Duration::from_secs(1) * u32::try_from(WRITERS)? / PACED;
    let paced = closed_loop(writers.to_vec(), Window { pace, ..window }, vec![pid]);
    let (cores, rate) = cores_during(pid, paced).await?;
    written.cores.push(cores);
    written.paced.push(rate.per_second);
    written.p99_ms.push(rate.p99_ms);
    Ok(())
}

fn note(
    findings: &mut Measurements,
    alone: &WriterResults,
    during_reads: &WriterResults,
    lists: &ListResults,
) {
    findings.record(ALONE, median(&alone.fast));
    findings.record(DURING_READS, median(&during_reads.fast));
    findings.record(
        COST,
        WriterResults::missing(&during_reads.fast, &alone.fast),
    );
    findings.record(
        PACED_COST,
        WriterResults::missing(&during_reads.paced, &alone.paced),
    );
    findings.record(PACED_ALONE, median(&alone.p99_ms));
    findings.record(PACED_DURING_READS, median(&during_reads.p99_ms));
    findings.record(CPU_ALONE, median(&alone.cores));
    findings.record(CPU_DURING_READS, median(&during_reads.cores));
    let seconds = lists.seconds.max(1e-9);
    findings.record(LISTS, lists.list_ms.len() as f64 / seconds);
    findings.record(RECORDS, lists.records as f64 / seconds);
    let mean = lists.list_ms.iter().sum::<f64>() / lists.list_ms.len() as f64;
    findings.record(MEAN, mean);
    findings.record(PAGE, quantile(&lists.page_ms, 0.5));
    findings.record(PAGE_SLOW, quantile(&lists.page_ms, 0.99));
}
