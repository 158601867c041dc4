//! The start latency of one task on an idle cluster, until its framework sees it running.

use anyhow::Result;

use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::{AgentKind, Cluster, RealAgent};
use crate::framework::{StartScheduler, fresh_start};
use crate::registry::masters;
use crate::report::{Cell, RatioGoal, Side, WorkloadReport, quantile};

const RESIDENT: &str = "held offer accepted to RUNNING";
const RESIDENT_P99: &str = "held offer accepted to RUNNING, p99";
const FRESH: &str = "new framework to RUNNING";
/// Number of tasks of the resident framework per fresh framework.
const VISITS: u32 = 10;

/// Measures starts, one at a time.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let about = [
        "Three masters, one agent, tasks with the full profile in the network of their host, one at a time.",
        "held offer: a framework that stays accepts an offer it holds. new framework: connects, waits for an offer, launches.",
    ];
    let cells = vec![
        Cell::new(RESIDENT, "ms", RatioGoal::OwnAtMost(7.0))
            .quoting("HyperQueue 6, Slurm's srun 1,180 (another run)"),
        Cell::new(RESIDENT_P99, "ms", RatioGoal::OwnAtMost(15.0)),
        Cell::new(FRESH, "ms", RatioGoal::None)
            .quoting("HyperQueue 6, Slurm's srun 1,180 (another run)"),
    ];
    let mut report = bench.report(Workload::Latency, &about, cells);
    let work = async |_, findings: &mut Measurements| one_run(bench, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

async fn one_run(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let cluster = Cluster::start(Side::Argosy, &bench.environment).await?;
    let kind = AgentKind::FullHostNetwork;
    let _agent = RealAgent::start(
        &cluster,
        &bench.environment,
        "cpus:4;mem:1024;disk:1024",
        kind,
    )
    .await?;
    let masters = masters(&cluster)?;
    let starts = StartScheduler::resident(&masters, bench.extent.starts, kind.network()).await?;
    for time_ms in &starts.times_ms {
        findings.record(RESIDENT, *time_ms);
    }
    findings.record(RESIDENT_P99, quantile(&starts.times_ms, 0.99));
    for _ in 0..bench.extent.starts.div_ceil(VISITS) {
        findings.record(FRESH, fresh_start(&masters, kind.network()).await?);
    }
    Ok(())
}
