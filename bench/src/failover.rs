//! The leader is killed or frozen under load. The gap ends with the first write at a survivor.
//!
//! `leader_loss` measures more ways to lose a leader, between hosts and without a verdict.

mod kills;

use anyhow::Result;

use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::Cluster;
use crate::load::LoadLevel;
use crate::report::{Cell, Kill, RatioGoal, Side, WorkloadReport};

use kills::{LeaderFault, LoadedCluster};

/// Kills of one load in one run, before the turn of the other side.
const KILLS_PER_RUN: u32 = 5;

fn gap(load: LoadLevel) -> String {
    format!("{} gap", load.name())
}

fn longest(load: LoadLevel) -> String {
    format!("{} gap, longest of a run", load.name())
}

const PHASES: [&str; 5] = [
    "dead seen",
    "elected",
    "first commit",
    "first offer",
    "first launch",
];

/// Measures failovers after SIGKILL.
pub(crate) async fn crash(bench: &Bench) -> Result<WorkloadReport> {
    let goals = [
        RatioGoal::AtMost(0.04),
        RatioGoal::AtMost(0.5),
        RatioGoal::AtMost(0.12),
    ];
    measure(bench, Workload::FailoverCrash, LeaderFault::Kill, goals).await
}

/// Measures failovers after SIGSTOP.
pub(crate) async fn freeze(bench: &Bench) -> Result<WorkloadReport> {
    let goals = [
        RatioGoal::OwnAtMost(350.0),
        RatioGoal::None,
        RatioGoal::None,
    ];
    measure(bench, Workload::FailoverFreeze, LeaderFault::Freeze, goals).await
}

async fn measure(
    bench: &Bench,
    workload: Workload,
    fault: LeaderFault,
    goals: [RatioGoal; 3],
) -> Result<WorkloadReport> {
    let about = [
        "From the signal to the first successful write at a survivor: a fresh write to each every 10 ms, 1 s deadline each.",
        "quiet: 500 writes a second over all members; saturated: 192 closed-loop clients over all members. etcd: default settings.",
        "argosy also runs a framework and an agent: phases are milliseconds after the signal, as reported by the next leader.",
    ];
    let mut cells = vec![
        Cell::new(gap(LoadLevel::Quiet), "ms", goals[0]),
        Cell::new(longest(LoadLevel::Quiet), "ms", goals[1]),
        Cell::new(gap(LoadLevel::Saturated), "ms", goals[2]),
        Cell::new(longest(LoadLevel::Saturated), "ms", RatioGoal::None),
    ];
    for load in [LoadLevel::Quiet, LoadLevel::Saturated] {
        cells.extend(
            PHASES
                .map(|phase| Cell::new(format!("{} {phase}", load.name()), "ms", RatioGoal::None)),
        );
    }
    let mut report = bench.report(workload, &about, cells);
    let kills = if fault == LeaderFault::Freeze {
        bench.extent.kills.div_ceil(2)
    } else {
        bench.extent.kills
    };
    let work =
        async |side, findings: &mut Measurements| one_run(bench, side, fault, findings).await;
    bench
        .run_alternately(&mut report, kills.div_ceil(KILLS_PER_RUN), work)
        .await?;
    Ok(report)
}

async fn one_run(
    bench: &Bench,
    side: Side,
    fault: LeaderFault,
    findings: &mut Measurements,
) -> Result<()> {
    let cluster = Cluster::start(side, &bench.environment).await?;
    let mut loaded = LoadedCluster::set(cluster).await?;
    for load in [LoadLevel::Quiet, LoadLevel::Saturated] {
        let mut longest_ms: f64 = 0.0;
        for _ in 0..KILLS_PER_RUN {
            let kill = loaded.kill(fault, load).await?;
            findings.record(gap(load), kill.gap_ms);
            longest_ms = longest_ms.max(kill.gap_ms);
            note_phases(findings, load, &kill);
            findings.kills.push(kill);
        }
        findings.record(longest(load), longest_ms);
    }
    Ok(())
}

fn note_phases(findings: &mut Measurements, load: LoadLevel, kill: &Kill) {
    let Some(phases) = kill.phases else { return };
    let times = [
        phases.dead_seen_ms,
        phases.elected_ms,
        phases.first_commit_ms,
        phases.first_offer_ms,
        phases.first_launch_ms,
    ];
    for (phase, time) in PHASES.iter().zip(times) {
        if let Some(ms) = time {
            findings.record(format!("{} {phase}", load.name()), ms as f64);
        }
    }
}
