//! Very many agents with running tasks: memory and CPU of idle masters, and the time until the next
//! leader has registered all agents again.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::agents::{AgentLoad, Agents, TaskLifetime};
use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::{Cluster, MasterAccess};
use crate::cpu::process_seconds;
use crate::framework::sleepers;
use crate::registry::masters;
use crate::report::{Cell, RatioGoal, Side, WorkloadReport};
use crate::turns::Turns;

/// Rest after the last task runs, before anything is counted.
const REST: Duration = Duration::from_secs(10);
/// Timeout for the return of all agents.
const RETURN_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval at which that is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// From so many agents on, masters expect a heartbeat of each agent every 15 s, as the goals of P13
/// assume.
const MANY: u32 = 20_000;
/// Three times that interval.
const AGENT_TIMEOUT: [&str; 2] = ["--agent-timeout", "45s"];

const REGISTERED: &str = "all agents registered after";
const RUNNING: &str = "all tasks known to run after";
const EXPIRED: &str = "launches repeated, their offer had expired";
const LEADER: &str = "leader, resident";
const FOLLOWER: &str = "largest follower, resident";
const LATER: &str = "leader after the rest, resident";
const NEXT: &str = "next leader with all agents, resident";
const CPU: &str = "leader's CPU at rest";
const CPU_FOLLOWER: &str = "busiest follower's CPU at rest";
const ENTRIES: &str = "log entries at rest";
const VERIFIED: &str = "all agents verified after a kill";
const FAILOVER_ENTRIES: &str = "log entries of the new epoch until then";
const LONG_TURNS: &str = "turns above 5 ms until then, the worse survivor";
const BUSY_TURNS: &str = "the same by CPU time, the worse survivor";
const LISTED: &str = "agents requested to list their tasks";

/// Measures three masters with agents that hold tasks.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let (agents, each) = (bench.extent.scale_agents, bench.extent.tasks_per_agent);
    let about = format!(
        "{agents} emulated agents with {each} running tasks each at three masters, {} on each connection. They rest for {:?}; then the leader is killed, and the next one has verified an agent when it has accepted its registration. From {MANY} agents on the masters have {}, so that each agent sends a heartbeat every 15 s. The entries with which the new epoch begins are not counted.",
        bench.extent.agents_per_connection,
        bench.extent.idle,
        AGENT_TIMEOUT.join(" "),
    );
    let mut report = bench.report(Workload::Scale, &[&about], cells());
    let work = async |side, findings: &mut Measurements| one_run(bench, side, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

fn cells() -> Vec<Cell> {
    let gib = RatioGoal::OwnAtMost(1024.0);
    vec![
        Cell::new(REGISTERED, "s", RatioGoal::None),
        Cell::new(RUNNING, "s", RatioGoal::None),
        Cell::new(EXPIRED, "calls", RatioGoal::None),
        Cell::new(LEADER, "MiB", gib),
        Cell::new(FOLLOWER, "MiB", gib),
        Cell::new(LATER, "MiB", gib),
        Cell::new(NEXT, "MiB", gib),
        Cell::new(CPU, "% of a core", RatioGoal::OwnAtMost(10.0)),
        Cell::new(CPU_FOLLOWER, "% of a core", RatioGoal::OwnAtMost(10.0)),
        Cell::new(ENTRIES, "entries", RatioGoal::OwnAtMost(0.0)),
        Cell::new(VERIFIED, "s", RatioGoal::OwnAtMost(8.0)),
        Cell::new(FAILOVER_ENTRIES, "entries", RatioGoal::OwnAtMost(0.0)),
        Cell::new(LONG_TURNS, "per 1,000", RatioGoal::None),
        Cell::new(BUSY_TURNS, "per 1,000", RatioGoal::OwnAtMost(0.0)),
        Cell::new(LISTED, "agents", RatioGoal::OwnAtMost(0.0)),
    ]
}

async fn one_run(bench: &Bench, side: Side, findings: &mut Measurements) -> Result<()> {
    let (count, each) = (bench.extent.scale_agents, bench.extent.tasks_per_agent);
    let arguments: &[&str] = if count < MANY { &[] } else { &AGENT_TIMEOUT };
    let mut cluster = Cluster::start_with(side, &bench.environment, arguments).await?;
    let masters = masters(&cluster)?;
    let started = Instant::now();
    let resources = format!("cpus:{each};mem:{}", 32 * each);
    let load = AgentLoad {
        count,
        per_connection: bench.extent.agents_per_connection,
        life: TaskLifetime::RunsUntilKilled,
    };
    let agents = Agents::start_with(&masters, load, &resources).await?;
    findings.record(REGISTERED, started.elapsed().as_secs_f64());
    let tasks = sleepers(&masters, count * each, None).await?;
    findings.record(RUNNING, tasks.duration.as_secs_f64());
    findings.record(EXPIRED, f64::from(tasks.expired));
    let leader = cluster.wait_until_settled().await?;
    tokio::time::sleep(REST).await;
    note_memory(&cluster, leader, findings)?;
    rest(bench, &cluster, leader, findings).await?;
    findings.record(LATER, cluster.resident_mib(leader)?);
    kill(&mut cluster, (leader, &agents, &masters), findings).await
}

/// Watches a cluster in which nothing happens.
async fn rest(
    bench: &Bench,
    cluster: &Cluster,
    leader: usize,
    findings: &mut Measurements,
) -> Result<()> {
    let seconds = || -> Result<Vec<f64>> {
        let used = |pid| process_seconds(pid).context("a master is gone");
        cluster.pids().into_iter().map(used).collect()
    };
    let (entries, before) = (cluster.applied().await?, seconds()?);
    tokio::time::sleep(bench.extent.idle).await;
    let after = seconds()?;
    let used = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after - before) / bench.extent.idle.as_secs_f64() * 100.0);
    let used: Vec<f64> = used.collect();
    let followers = (0..used.len()).filter(|index| *index != leader);
    findings.record(CPU, used[leader]);
    findings.record(
        CPU_FOLLOWER,
        followers.map(|index| used[index]).fold(0.0, f64::max),
    );
    findings.record(ENTRIES, (cluster.applied().await? - entries) as f64);
    Ok(())
}

/// Kills the leader and waits until the next one has accepted every agent.
async fn kill(
    cluster: &mut Cluster,
    (leader, agents, masters): (usize, &Agents, &MasterAccess),
    findings: &mut Measurements,
) -> Result<()> {
    let count = agents.ids().len() as u64;
    let (registered, listed) = (agents.registrations(), agents.lists());
    let survivors = (0..cluster.members.len()).filter(|index| *index != leader);
    let survivors: Vec<usize> = survivors.collect();
    let mut turns = Vec::new();
    for index in &survivors {
        turns.push(turns_of(cluster, masters, *index).await?);
    }
    let killed = Instant::now();
    cluster.signal(leader, Signal::SIGKILL)?;
    while agents.registrations() - registered < count {
        let known = agents.registrations() - registered;
        anyhow::ensure!(
            killed.elapsed() < RETURN_TIMEOUT,
            "after {RETURN_TIMEOUT:?} {known} of {count} agents are known again"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    findings.record(VERIFIED, killed.elapsed().as_secs_f64());
    let entries = cluster.entries_of_epoch(leader).await?;
    findings.record(FAILOVER_ENTRIES, entries as f64);
    findings.record(LISTED, (agents.lists() - listed) as f64);
    let mut worst = [0.0_f64; 2];
    for (index, before) in survivors.into_iter().zip(turns) {
        let found = turns_of(cluster, masters, index)
            .await?
            .per_thousand(before);
        worst = [worst[0].max(found[0]), worst[1].max(found[1])];
    }
    findings.record(LONG_TURNS, worst[0]);
    findings.record(BUSY_TURNS, worst[1]);
    cluster.restart(leader)?;
    let next = cluster.wait_until_settled().await?;
    findings.record(NEXT, cluster.resident_mib(next)?);
    Ok(())
}

async fn turns_of(cluster: &Cluster, masters: &MasterAccess, index: usize) -> Result<Turns> {
    Turns::of(masters.operator(), &cluster.members[index].api).await
}

fn note_memory(cluster: &Cluster, leader: usize, findings: &mut Measurements) -> Result<()> {
    findings.record(LEADER, cluster.resident_mib(leader)?);
    let mut largest: f64 = 0.0;
    for index in (0..cluster.members.len()).filter(|place| *place != leader) {
        largest = largest.max(cluster.resident_mib(index)?);
    }
    findings.record(FOLLOWER, largest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_rest_nor_a_failover_may_write_entries() {
        for name in [ENTRIES, FAILOVER_ENTRIES] {
            let cells = cells();
            let cell = cells.iter().find(|cell| cell.name == name);
            let goal = cell.map(|cell| cell.goal);
            assert_eq!(goal, Some(RatioGoal::OwnAtMost(0.0)), "{name}");
        }
    }
}
