//! Many containers together on one agent: creation, idling, adoption, removal, and their cost.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use argosy_proto::v1;

use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::cluster::{AgentKind, Cluster, RealAgent};
use crate::cpu::{descendants, process_seconds};
use crate::framework::sleepers;
use crate::registry::masters;
use crate::report::{Cell, RatioGoal, Side, WorkloadReport, median};

/// Pause before processor time is counted.
const REST: Duration = Duration::from_secs(3);
/// Name of a supervisor in a list of processes; the kernel keeps 15 letters.
const SUPERVISOR: &str = "argosy-supervis";
/// Name of the launcher there.
const LAUNCHER: &str = "argosy-launcher";

const LAUNCHED: &str = "from the framework's first word until all run";
const DESTROYED: &str = "from the order to end all until all have ended";
const LAUNCHED_ALONE: &str = "the same with network none, until all run";
const DESTROYED_ALONE: &str = "the same with network none, until all have ended";
const IDLE: &str = "agent while they sleep";
const PRIVATE: &str = "private memory of a supervisor";
const ADOPTED: &str = "killed agent, from its start until it is back with its containers";
const MASTER_RSS: &str = "empty master, resident";
const AGENT_RSS: &str = "empty agent, resident";
const LAUNCHER_RSS: &str = "launcher, resident";

/// Measures sleeping tasks with the full default profile.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    if !nix::unistd::geteuid().is_root() {
        bail!("containers needs root: tasks with the full default profile do");
    }
    let count = bench.extent.containers;
    let about = [
        format!("{count} tasks of /bin/sleep on one agent with --isolation full, three masters; the same number at all times, but half of it when the agent is killed and started again."),
        "Private memory: what smaps_rollup calls Private_Clean and Private_Dirty. Mesos 1.x is quoted: 1,000 containers started in 30.5 s and destroyed in 22 s, on 16 cores and more.".to_owned(),
    ];
    let about: Vec<&str> = about.iter().map(String::as_str).collect();
    let cells = vec![
        Cell::new(LAUNCHED, "s", RatioGoal::OwnAtMost(3.0)),
        Cell::new(DESTROYED, "s", RatioGoal::OwnAtMost(1.0)),
        Cell::new(LAUNCHED_ALONE, "s", RatioGoal::OwnAtMost(3.0)),
        Cell::new(DESTROYED_ALONE, "s", RatioGoal::OwnAtMost(1.0)),
        Cell::new(IDLE, "% of a core", RatioGoal::OwnAtMost(2.0)),
        Cell::new(PRIVATE, "MiB", RatioGoal::OwnAtMost(1.5)),
        Cell::new(ADOPTED, "s", RatioGoal::OwnAtMost(2.0)),
        Cell::new(MASTER_RSS, "MiB", RatioGoal::OwnAtMost(60.0)),
        Cell::new(AGENT_RSS, "MiB", RatioGoal::OwnAtMost(25.0)),
        Cell::new(LAUNCHER_RSS, "MiB", RatioGoal::OwnAtMost(4.0)),
    ];
    let mut report = bench.report(Workload::Containers, &about, cells);
    let work = async |_, findings: &mut Measurements| {
        measure_all(bench, count, findings).await?;
        measure_without_network(bench, count, findings).await?;
        adopted(bench, count / 2, findings).await
    };
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

fn capacity(count: u32) -> String {
    format!("cpus:{count};mem:{};disk:1024", count * 32)
}

async fn measure_all(bench: &Bench, count: u32, findings: &mut Measurements) -> Result<()> {
    let mut cluster = Cluster::start(Side::Argosy, &bench.environment).await?;
    let agent = RealAgent::start(
        &cluster,
        &bench.environment,
        &capacity(count),
        AgentKind::Full,
    )
    .await?;
    cluster.wait_until_settled().await?;
    for pid in cluster.pids() {
        findings.record(MASTER_RSS, memory(pid, &["Rss:"])?);
    }
    findings.record(AGENT_RSS, memory(agent.pid(), &["Rss:"])?);
    for pid in descendants(agent.pid(), LAUNCHER) {
        findings.record(LAUNCHER_RSS, memory(pid, &["Rss:"])?);
    }
    let tasks = sleepers(&masters(&cluster)?, count, None).await?;
    findings.record(LAUNCHED, tasks.duration.as_secs_f64());
    tokio::time::sleep(REST).await;
    let seconds = || process_seconds(agent.pid()).context("the agent is gone");
    let before = seconds()?;
    tokio::time::sleep(bench.extent.idle).await;
    let share = (seconds()? - before) / bench.extent.idle.as_secs_f64();
    findings.record(IDLE, share * 100.0);
    let private = ["Private_Clean:", "Private_Dirty:"];
    let supervisors = descendants(agent.pid(), SUPERVISOR);
    if supervisors.len() != count as usize {
        bail!("{} supervisors for {count} containers", supervisors.len());
    }
    let sizes: Result<Vec<f64>> = supervisors
        .iter()
        .map(|pid| memory(*pid, &private))
        .collect();
    findings.record(PRIVATE, median(&sizes?));
    findings.record(DESTROYED, tasks.end().await?.as_secs_f64());
    Ok(())
}

/// Measures the time without the network's share.
async fn measure_without_network(
    bench: &Bench,
    count: u32,
    findings: &mut Measurements,
) -> Result<()> {
    let mut cluster = Cluster::start(Side::Argosy, &bench.environment).await?;
    let _agent = RealAgent::start(
        &cluster,
        &bench.environment,
        &capacity(count),
        AgentKind::Full,
    )
    .await?;
    cluster.wait_until_settled().await?;
    let network = v1::Network {
        mode: Some(v1::network::Mode::None(v1::NoNetwork {})),
    };
    let tasks = sleepers(&masters(&cluster)?, count, Some(network)).await?;
    findings.record(LAUNCHED_ALONE, tasks.duration.as_secs_f64());
    findings.record(DESTROYED_ALONE, tasks.end().await?.as_secs_f64());
    Ok(())
}

async fn adopted(bench: &Bench, count: u32, findings: &mut Measurements) -> Result<()> {
    let cluster = Cluster::start(Side::Argosy, &bench.environment).await?;
    let mut agent = RealAgent::start(
        &cluster,
        &bench.environment,
        &capacity(count),
        AgentKind::Full,
    )
    .await?;
    let tasks = sleepers(&masters(&cluster)?, count, None).await?;
    agent.kill(&cluster).await?;
    let started = Instant::now();
    agent.start_again(&cluster).await?;
    findings.record(ADOPTED, started.elapsed().as_secs_f64());
    // If one had not been adopted, it would have ended otherwise.
    tasks.end().await?;
    Ok(())
}

/// Returns the sum of these lines of a process' `smaps_rollup`, in MiB.
fn memory(pid: u32, lines: &[&str]) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(kilobytes(&text, lines) as f64 / 1024.0)
}

fn kilobytes(text: &str, lines: &[&str]) -> u64 {
    let found = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let wanted = words.next().is_some_and(|name| lines.contains(&name));
        words.next().filter(|_| wanted)?.parse::<u64>().ok()
    });
    found.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_the_sum_of_two_lines() {
        let text = "5600-7fff ---p 00000000 00:00 0 [rollup]\nRss:  3000 kB\nPss: 900 kB\n\
                    Private_Clean:  12 kB\nPrivate_Dirty:  300 kB\nPrivate_Hugetlb: 7 kB\n";
        assert_eq!(kilobytes(text, &["Private_Clean:", "Private_Dirty:"]), 312);
        assert_eq!(kilobytes(text, &["Rss:"]), 3_000);
    }
}
