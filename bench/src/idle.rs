//! The cost of an idle cluster: processor time, log entries, bytes on disk.

use std::time::Duration;

use anyhow::Result;

use crate::agents::Agents;
use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::Cluster;
use crate::cpu::{process_seconds, resident_bytes, written_bytes};
use crate::registry::masters;
use crate::report::{Cell, RatioGoal, WorkloadReport};

/// Pause after a start, before counting.
const REST: Duration = Duration::from_secs(3);

/// Measures an empty cluster, then one with idle agents.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let agents = bench.extent.idle_agents;
    let about = format!(
        "Watched for {:?} each: three members alone, then with {agents} idle agents (emulated, on the same machine).",
        bench.extent.idle
    );
    let mut cells = Vec::new();
    for with in [String::new(), with(agents)] {
        let alone = with.is_empty();
        cells.push(Cell::new(
            format!("CPU of a member{with}"),
            "% of a core",
            if alone {
                RatioGoal::AtMost(1.2)
            } else {
                RatioGoal::None
            },
        ));
        cells.push(Cell::new(
            format!("log entries{with}"),
            "entries",
            RatioGoal::OwnAtMost(0.0),
        ));
        cells.push(Cell::new(
            format!("written by a member{with}"),
            "bytes",
            RatioGoal::OwnAtMost(0.0),
        ));
        cells.push(Cell::new(
            format!("memory of the largest member{with}"),
            "MiB",
            RatioGoal::None,
        ));
    }
    let mut report = bench.report(Workload::Idle, &[&about], cells);
    let work = async |side, findings: &mut Measurements| {
        let cluster = Cluster::start(side, &bench.environment).await?;
        watch(bench, &cluster, "", findings).await?;
        if side.is_argosy() {
            let _agents = Agents::start(&masters(&cluster)?, agents, "cpus:2;mem:1024").await?;
            watch(bench, &cluster, &with(agents), findings).await?;
        }
        Ok(())
    };
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

fn with(agents: u32) -> String {
    format!(", {agents} agents")
}

async fn watch(
    bench: &Bench,
    cluster: &Cluster,
    with: &str,
    findings: &mut Measurements,
) -> Result<()> {
    tokio::time::sleep(REST).await;
    let seconds = || -> Vec<f64> {
        cluster
            .pids()
            .into_iter()
            .filter_map(process_seconds)
            .collect()
    };
    let written = || -> Vec<u64> {
        cluster
            .pids()
            .into_iter()
            .filter_map(written_bytes)
            .collect()
    };
    let (entries_before, seconds_before, written_before) =
        (cluster.applied().await?, seconds(), written());
    tokio::time::sleep(bench.extent.idle).await;
    let (seconds_after, written_after) = (seconds(), written());
    for (before, after) in seconds_before.iter().zip(seconds_after) {
        findings.record(
            format!("CPU of a member{with}"),
            (after - before) / bench.extent.idle.as_secs_f64() * 100.0,
        );
    }
    for (before, after) in written_before.iter().zip(written_after) {
        findings.record(
            format!("written by a member{with}"),
            (after - before) as f64,
        );
    }
    let resident = cluster.pids().into_iter().filter_map(resident_bytes);
    findings.record(
        format!("memory of the largest member{with}"),
        resident.max().unwrap_or(0) as f64 / f64::from(1 << 20),
    );
    findings.record(
        format!("log entries{with}"),
        (cluster.applied().await? - entries_before) as f64,
    );
    Ok(())
}
