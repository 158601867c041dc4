//! Many empty tasks on one agent: the cost of the path through the whole cluster, and HyperQueue's.

mod hyperqueue;

use anyhow::{Context, Result};
use argosy_isolation::{Cgroup, cgroup};

use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::{AgentKind, Cluster, RealAgent};
use crate::cpu::{process_seconds, tree_seconds};
use crate::framework::flood;
use crate::registry::masters;
use crate::report::{Cell, RatioGoal, Side, WorkloadReport};

pub(crate) use hyperqueue::version as hyperqueue_version;

/// Slots, kind of agent, goal, and reference.
const CASES: [(u32, AgentKind, RatioGoal, Option<&str>); 5] = [
    (
        64,
        AgentKind::FullHostNetwork,
        RatioGoal::AtLeast(0.65),
        Some("HyperQueue 0.26.2: 1,540 (another run)"),
    ),
    (
        64,
        AgentKind::Full,
        RatioGoal::AtLeast(0.65),
        Some("HyperQueue 0.26.2: 1,540 (another run)"),
    ),
    (
        2,
        AgentKind::FullHostNetwork,
        RatioGoal::AtLeast(0.5),
        Some("HyperQueue 0.26.2: 924 (another run)"),
    ),
    (
        64,
        AgentKind::Plain,
        RatioGoal::AtLeast(1.2),
        Some("HyperQueue 0.26.2: 1,540 (another run)"),
    ),
    (
        2,
        AgentKind::Plain,
        RatioGoal::None,
        Some("HyperQueue 0.26.2: 924 (another run)"),
    ),
];
/// Counted by cgroups, since supervisors are not children of the agent. The launcher is in the
/// agent's share, too.
const CONTAINERS: &str = "launcher, supervisors and tasks";
const SIDES: [&str; 4] = [
    "the leader",
    "both followers",
    "the agent and its containers",
    "the framework",
];

/// Measures tasks from submission to the last end seen.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let tasks = bench.extent.tasks;
    let about = [
        format!("{tasks} tasks of /bin/true on one agent, three masters: from before the framework's first call until its last FINISHED."),
        "full profile: the default of tasks, with a network for each; full profile, host network: the same in the host's network; plain: a separate process in the host's network.".to_owned(),
        "HyperQueue isolates, replicates and syncs nothing.".to_owned(),
    ];
    let about: Vec<&str> = about.iter().map(String::as_str).collect();
    let cases = cases();
    let mut cells = Vec::new();
    for (slots, kind, goal, quoted) in cases.clone() {
        let cell = Cell::new(name(slots, kind), "tasks/s", goal);
        cells.push(quoted.map_or(cell.clone(), |quoted| cell.quoting(quoted)));
    }
    for (slots, kind, _, _) in cases.clone() {
        cells.push(Cell::new(refused(slots, kind), "tasks", RatioGoal::None));
        cells.push(Cell::new(
            entries(slots, kind),
            "entries/task",
            RatioGoal::None,
        ));
        cells.extend(
            SIDES.map(|who| Cell::new(share(slots, kind, who), "core-ms/task", RatioGoal::None)),
        );
        let containers = share(slots, kind, CONTAINERS);
        cells.push(Cell::new(containers, "core-ms/task", RatioGoal::None));
        cells.push(Cell::new(
            whole(slots, kind),
            "core-ms/task",
            RatioGoal::None,
        ));
    }
    let mut report = bench.report(Workload::Tasks, &about, cells);
    let work = async |side, findings: &mut Measurements| match side {
        Side::Hyperqueue => measure_hyperqueue(bench, &cases, findings).await,
        Side::Argosy | Side::Plaintext | Side::Etcd => {
            for (slots, kind, _, _) in cases.clone() {
                one_case(bench, slots, kind, findings).await?;
            }
            Ok(())
        }
    };
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

/// Returns the cases that are possible: only root can give a task the full profile.
fn cases() -> Vec<(u32, AgentKind, RatioGoal, Option<&'static str>)> {
    let mut cases = CASES.to_vec();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("tasks: SKIPPED with the full profile, it needs root");
        cases.retain(|(_, kind, _, _)| *kind == AgentKind::Plain);
    }
    cases
}

fn name(slots: u32, kind: AgentKind) -> String {
    format!("{slots} slots, {kind}")
}

fn refused(slots: u32, kind: AgentKind) -> String {
    format!("{}: launches refused and repeated", name(slots, kind))
}

fn share(slots: u32, kind: AgentKind, who: &str) -> String {
    format!("{}: {who}", name(slots, kind))
}

/// Returns the name of a sum: of HyperQueue's server, worker and tasks, or of Argosy's masters and
/// agent. Supervisors are not children of the agent, so their time and that of their tasks is
/// missing.
fn whole(slots: u32, kind: AgentKind) -> String {
    format!("{}: accounted core time", name(slots, kind))
}

fn entries(slots: u32, kind: AgentKind) -> String {
    format!("{}: log entries", name(slots, kind))
}

/// Measures once for each number of slots, and records the result for every kind of agent.
async fn measure_hyperqueue(
    bench: &Bench,
    cases: &[(u32, AgentKind, RatioGoal, Option<&str>)],
    findings: &mut Measurements,
) -> Result<()> {
    for wanted in [64, 2] {
        let directory = bench.environment.directory.path().to_owned();
        let tasks = bench.extent.tasks;
        let run = move || hyperqueue::run(&directory, wanted, tasks);
        let found = tokio::task::spawn_blocking(run)
            .await
            .context("timing HyperQueue panicked")??;
        for (_, kind, _, _) in cases.iter().filter(|(slots, ..)| *slots == wanted) {
            let rate = f64::from(tasks) / found.duration.as_secs_f64();
            findings.record(name(wanted, *kind), rate);
            findings.record(
                whole(wanted, *kind),
                found.core_seconds * 1e3 / f64::from(tasks),
            );
        }
    }
    Ok(())
}

async fn one_case(
    bench: &Bench,
    slots: u32,
    kind: AgentKind,
    findings: &mut Measurements,
) -> Result<()> {
    let mut cluster = Cluster::start(Side::Argosy, &bench.environment).await?;
    let resources = format!("cpus:{slots};mem:{};disk:1024", slots * 64);
    let agent = RealAgent::start(&cluster, &bench.environment, &resources, kind).await?;
    let leader = cluster.wait_until_settled().await?;
    let seconds = || -> Result<[f64; 4]> {
        let leading = process_seconds(cluster.pid(leader)?).unwrap_or_default();
        let masters: f64 = cluster.pids().into_iter().filter_map(process_seconds).sum();
        let own = process_seconds(std::process::id()).unwrap_or_default();
        Ok([leading, masters - leading, tree_seconds(agent.pid()), own])
    };
    let (before, applied) = (seconds()?, cluster.applied().await?);
    let used = containers_us();
    let flooded = flood(&masters(&cluster)?, bench.extent.tasks, kind.network()).await?;
    let (after, tasks) = (seconds()?, f64::from(bench.extent.tasks));
    if let (Some(before), Some(after)) = (used, containers_us()) {
        let each_ms = (after - before) as f64 / 1e3 / tasks;
        findings.record(share(slots, kind, CONTAINERS), each_ms);
    }
    findings.record(name(slots, kind), tasks / flooded.duration.as_secs_f64());
    findings.record(refused(slots, kind), f64::from(flooded.refused));
    findings.record(
        entries(slots, kind),
        (cluster.applied().await? - applied) as f64 / tasks,
    );
    let spent: f64 = (0..3).map(|at| after[at] - before[at]).sum();
    findings.record(whole(slots, kind), spent * 1e3 / tasks);
    for ((who, before), after) in SIDES.iter().zip(before).zip(after) {
        findings.record(share(slots, kind, who), (after - before) * 1e3 / tasks);
    }
    Ok(())
}

/// Returns the time that the cgroups of all agents of this host have used so far, in microseconds;
/// `None` where there are none.
fn containers_us() -> Option<u64> {
    let parent = cgroup::default_parent().ok()?;
    Cgroup::at(&parent.join("argosy")).stats().cpu_us
}
