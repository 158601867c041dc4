//! The leader is killed or frozen under load. The gap ends with the first write at a survivor.

mod kills;

use anyhow::Result;

use crate::arguments::Workload;
use crate::bench::{Bench, Findings};
use crate::cluster::Cluster;
use crate::report::{Cell, Goal, Kill, Report, Side};

use kills::{Fault, Scene};

/// Kills of one load in one run, before the turn of the other side.
const A_RUN: u32 = 5;

/// The load during the failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// 500 writes per second.
    Quiet,
    /// As much as 192 clients can write.
    Saturated,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Saturated => "saturated",
        }
    }

    fn gap(self) -> String {
        format!("{} gap", self.name())
    }

    fn longest(self) -> String {
        format!("{} gap, longest of a run", self.name())
    }
}

const PHASES: [&str; 5] = [
    "dead seen",
    "elected",
    "first commit",
    "first offer",
    "first launch",
];

/// Measures failovers after SIGKILL.
pub(crate) async fn crash(bench: &Bench) -> Result<Report> {
    let goals = [Goal::AtMost(0.04), Goal::AtMost(0.5), Goal::AtMost(0.12)];
    measure(bench, Workload::FailoverCrash, Fault::Kill, goals).await
}

/// Measures failovers after SIGSTOP.
pub(crate) async fn freeze(bench: &Bench) -> Result<Report> {
    let goals = [Goal::AtMost(0.5), Goal::None, Goal::None];
    measure(bench, Workload::FailoverFreeze, Fault::Freeze, goals).await
}

async fn measure(
    bench: &Bench,
    workload: Workload,
    fault: Fault,
    goals: [Goal; 3],
) -> Result<Report> {
    let about = [
        "From the signal to the first successful write at a survivor: a fresh write to each every 10 ms, 1 s deadline each.",
        "quiet: 500 writes a second over all members; saturated: 192 closed-loop clients over all members. etcd: default settings.",
        "argosy also runs a framework and an agent: phases are milliseconds after the signal, as reported by the next leader.",
    ];
    let mut cells = vec![
        Cell::new(Load::Quiet.gap(), "ms", goals[0]),
        Cell::new(Load::Quiet.longest(), "ms", goals[1]),
        Cell::new(Load::Saturated.gap(), "ms", goals[2]),
        Cell::new(Load::Saturated.longest(), "ms", Goal::None),
    ];
    for load in [Load::Quiet, Load::Saturated] {
        cells.extend(
            PHASES.map(|phase| Cell::new(format!("{} {phase}", load.name()), "ms", Goal::None)),
        );
    }
    let mut report = bench.report(workload, &about, cells);
    let kills = if fault == Fault::Freeze {
        bench.extent.kills.div_ceil(2)
    } else {
        bench.extent.kills
    };
    let work = async |side, findings: &mut Findings| one_run(bench, side, fault, findings).await;
    bench
        .alternate(&mut report, kills.div_ceil(A_RUN), work)
        .await?;
    Ok(report)
}

async fn one_run(bench: &Bench, side: Side, fault: Fault, findings: &mut Findings) -> Result<()> {
    let cluster = Cluster::start(side, &bench.ground).await?;
    let mut scene = Scene::set(cluster).await?;
    for load in [Load::Quiet, Load::Saturated] {
        let mut longest: f64 = 0.0;
        for _ in 0..A_RUN {
            let kill = scene.kill(fault, load).await?;
            findings.note(load.gap(), kill.gap_ms);
            longest = longest.max(kill.gap_ms);
            note_phases(findings, load, &kill);
            findings.kills.push(kill);
        }
        findings.note(load.longest(), longest);
    }
    Ok(())
}

fn note_phases(findings: &mut Findings, load: Load, kill: &Kill) {
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
            findings.note(format!("{} {phase}", load.name()), ms as f64);
        }
    }
}
