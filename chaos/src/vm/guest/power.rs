//! The guest's part in power cuts: it reads everything back, then generates load until the machine
//! is gone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::super::report::GuestReport;
use super::cluster::{self, ALL, GuestCluster, POLL_INTERVAL};
use super::kernel_args::KernelArgs;
use super::load::{self, LoadWriters};
use super::{ReportPort, disks, reading};

/// Timeout of each step. The host's timeout is longer.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Reads back, reports everything, and generates load. Ends only in the last boot of a series.
///
/// # Errors
/// The violation.
pub(super) async fn run(args: &KernelArgs, port: &ReportPort) -> anyhow::Result<()> {
    for disk in ALL {
        disks::attach(&disks::device(disk), disk, TIMEOUT).await?;
    }
    port.send(&GuestReport::Mounted)?;
    let mut cluster = GuestCluster::start()?;
    let outcome = run_boot(&mut cluster, args, port).await;
    if let Err(error) = &outcome {
        // The host shows the console after a failure.
        for number in ALL {
            eprintln!("master-{number}: {}", cluster::log_tail(number));
        }
        port.send(&GuestReport::Failed {
            why: format!("{error:#}"),
        })?;
    }
    outcome
}

async fn run_boot(
    cluster: &mut GuestCluster,
    args: &KernelArgs,
    port: &ReportPort,
) -> anyhow::Result<()> {
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
    port.send(&GuestReport::Settled { applied })?;
    if args.number("last")? == 1 {
        return Ok(());
    }
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
        ended = cut_partially(cluster, args, port) => ended,
    }
}

/// Cuts the disk power of some masters, kills them and starts them again. Then it watches all
/// masters until the cut.
async fn cut_partially(
    cluster: &mut GuestCluster,
    args: &KernelArgs,
    port: &ReportPort,
) -> anyhow::Result<()> {
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
