//! The guest's part in power cuts: it reads everything back, then generates load until the machine
//! is gone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::super::report::GuestReport;
use super::super::task_report::{ObservedState, TaskReport};
use super::agent::GuestAgent;
use super::cluster::{self, ALL, GuestCluster, POLL_INTERVAL, Stalls};
use super::images::TaskImages;
use super::kernel_args::KernelArgs;
use super::load::{self, LoadWriters};
use super::tasks::{LoadStart, TaskFramework, TaskLoad};
use super::{AGENT_DISK, ReportPort, agent, disks, reading, show};

/// Timeout of each step. The host's timeout is longer.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Timeout for the end of all tasks of earlier boots. Then the host reports those that remain.
const QUIET_TIMEOUT: Duration = Duration::from_secs(90);

/// Reads back, reports everything, and generates load. Ends only in the last boot of a series.
///
/// # Errors
/// The violation.
pub(super) async fn run(args: &KernelArgs, port: &ReportPort) -> anyhow::Result<()> {
    for disk in ALL.into_iter().chain([AGENT_DISK]) {
        disks::attach(&disks::device(disk), disk, TIMEOUT).await?;
    }
    port.send(&GuestReport::Mounted)?;
    // The agent and the framework wait for the masters themselves.
    let mut processes = Processes {
        cluster: GuestCluster::start(Stalls::Restart(port.clone()))?,
        agent: GuestAgent::start()?,
    };
    let (framework, load_start) = TaskFramework::start(args, port)?;
    let outcome = run_boot(&mut processes, framework, load_start, args, port).await;
    if let Err(error) = &outcome {
        // The host shows the console after a failure.
        for number in ALL {
            show(&format!("master-{number}: {}", cluster::log_tail(number)));
        }
        show(&format!("agent: {}", agent::log_tail()));
        port.send(&GuestReport::Failed {
            why: format!("{error:#}"),
        })?;
    }
    outcome
}

/// The masters and the agent.
struct Processes {
    cluster: GuestCluster,
    agent: GuestAgent,
}

async fn run_boot(
    processes: &mut Processes,
    mut framework: TaskFramework,
    load_start: LoadStart,
    args: &KernelArgs,
    port: &ReportPort,
) -> anyhow::Result<()> {
    // First: masters that have lost something may reject the framework, too.
    read_back_masters(&mut processes.cluster, port).await?;
    tokio::select! {
        ended = work_on_tasks(processes, load_start, args, port) => ended,
        error = framework.failure() => Err(error),
    }
}

/// Reads back the tasks, and generates load on masters and agent.
async fn work_on_tasks(
    processes: &mut Processes,
    load_start: LoadStart,
    args: &KernelArgs,
    port: &ReportPort,
) -> anyhow::Result<()> {
    let agent_id = read_back_tasks(&mut processes.agent, port).await?;
    if args.number("last")? == 1 {
        return Ok(());
    }
    let boot = args.number("boot")?;
    let images = tokio::task::spawn_blocking(move || TaskImages::prepare(boot)).await??;
    let agent = agent_id;
    load_start.send_replace(Some(TaskLoad { agent, images }));
    let agent = load::register().await?;
    port.send(&GuestReport::Loading {
        agent: agent.clone(),
    })?;
    let output = port.clone();
    let on_ack = move |writer, batch, revision| {
        output.send(&GuestReport::Acknowledged {
            writer,
            batch,
            revision,
        })
    };
    let mut load = LoadWriters::start(&agent, args.number("batch")?, Arc::new(on_ack))?;
    tokio::select! {
        error = load.failure() => Err(error),
        ended = cut_partially(processes, args, port) => ended,
    }
}

async fn read_back_masters(cluster: &mut GuestCluster, port: &ReportPort) -> anyhow::Result<()> {
    let ms = cluster::wait_for_quorum(cluster, TIMEOUT).await?;
    port.send(&GuestReport::Serving { ms })?;
    for (agent, values) in reading::values().await? {
        port.send(&GuestReport::State { agent, values })?;
    }
    let mut applied = 0;
    for copy in reading::copies(cluster, &ALL, TIMEOUT).await? {
        applied = copy.applied;
        port.send(&GuestReport::Digest {
            master: copy.master,
            applied: copy.applied,
            digest: copy.digest,
        })?;
    }
    port.send(&GuestReport::Settled { applied })
}

/// Waits for the agent and for the end of all tasks, and reports them. Returns the agent's id.
async fn read_back_tasks(agent: &mut GuestAgent, port: &ReportPort) -> anyhow::Result<String> {
    let send = |report| port.send(&GuestReport::Tasks(report));
    let id = agent.wait_until_connected(TIMEOUT).await?;
    send(TaskReport::Agent { id: id.clone() })?;
    let (tasks, left) = agent.wait_until_quiet(&id, QUIET_TIMEOUT).await?;
    for task in tasks {
        let latest = task.latest.clone().unwrap_or_default();
        send(TaskReport::Found {
            at: ObservedState {
                state: task.state(),
                reason: latest.reason(),
            },
            task: task.task_id,
            why: latest.message,
        })?;
    }
    let tasks = agent::starts()?;
    send(TaskReport::Starts { tasks })?;
    for what in left {
        send(TaskReport::Left { what })?;
    }
    send(TaskReport::Settled)?;
    Ok(id)
}

/// Cuts the disk power of some masters, kills them and starts them again. Then it watches all
/// masters until the cut.
async fn cut_partially(
    processes: &mut Processes,
    args: &KernelArgs,
    port: &ReportPort,
) -> anyhow::Result<()> {
    let cluster = &mut processes.cluster;
    let chosen = args.numbers("alone")?;
    if !chosen.is_empty() {
        tokio::time::sleep(Duration::from_millis(args.number("alone_ms")?)).await;
        let began = Instant::now();
        for disk in &chosen {
            port.send(&GuestReport::PowerOff { disk: *disk })?;
            cluster.kill(*disk);
        }
        for disk in &chosen {
            disks::detach(*disk, TIMEOUT).await?;
            port.send(&GuestReport::Released { disk: *disk })?;
        }
        for disk in &chosen {
            disks::attach(&disks::device(*disk), *disk, TIMEOUT).await?;
            cluster.start_one(*disk)?;
        }
        for disk in &chosen {
            wait_until_caught_up(cluster, *disk).await?;
            let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            port.send(&GuestReport::CaughtUp { disk: *disk, ms })?;
        }
    }
    loop {
        cluster.check_running(&ALL)?;
        processes.agent.check_running()?;
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until this master has applied the entries that another one had when the wait began.
pub(super) async fn wait_until_caught_up(
    cluster: &mut GuestCluster,
    number: u64,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let mut goal = None;
    loop {
        cluster.check_running(&ALL)?;
        for other in ALL.into_iter().filter(|other| *other != number) {
            // A master that is down, too, does not count.
            if let Ok(copy) = cluster::copy_of(other).await {
                goal = goal.or(Some(copy.committed_index));
            }
        }
        if let (Some(goal), Ok(own)) = (goal, cluster::copy_of(number).await)
            && own.applied_index >= goal
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            let own = cluster::copy_of(number).await;
            let own = own.map(|copy| (copy.applied_index, copy.committed_index));
            let words = cluster::log_tail(number);
            bail!("master-{number} has not caught up: {own:?} of {goal:?}; {words}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
