//! The disk of one master fails to write, or loses writes, under load. The others continue, no
//! acknowledged write is lost, and the master stops with a clear message or catches up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::Instant;

use super::cluster::{self, ALL, GuestCluster, POLL_INTERVAL, Stalls};
use super::load::{self, LoadWriters};
use super::{DISKS, disks, power, reading};
use crate::vm::check::AcknowledgedWrites;

/// Timeout of a step.
const TIMEOUT: Duration = Duration::from_secs(80);
/// Batches that must be acknowledged before and after each step.
const MIN_BATCHES: u64 = 40;
/// Operations of a batch.
const BATCH_SIZE: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskFault {
    /// Each write and flush fails.
    Errors,
    /// Each write reports success without being done.
    Drops,
}

impl DiskFault {
    fn target(self) -> &'static str {
        match self {
            Self::Errors => "error_writes",
            Self::Drops => "drop_writes",
        }
    }
}

/// Runs the case: the leader's disk fails to write, or a follower's disk loses writes.
///
/// # Errors
/// The reason of the result.
pub(super) async fn run(fault: DiskFault) -> anyhow::Result<()> {
    for disk in ALL {
        let device = disks::device(disk);
        let table = linear(&device)?;
        dmsetup(&["create", &name(disk), "--table", &table])?;
        disks::attach(&mapped(disk), disk, TIMEOUT).await?;
    }
    let mut cluster = GuestCluster::start(Stalls::Fail)?;
    let outcome = run_case(&mut cluster, fault).await;
    if outcome.is_err() {
        for number in ALL {
            eprintln!("master-{number}: {}", cluster::log_tail(number));
        }
    }
    outcome
}

async fn run_case(cluster: &mut GuestCluster, fault: DiskFault) -> anyhow::Result<()> {
    cluster::wait_for_quorum(cluster, TIMEOUT).await?;
    let agent = load::register().await?;
    let writes = Arc::new(Mutex::new(AcknowledgedWrites::default()));
    lock(&writes).start_load(&agent, BATCH_SIZE);
    let noted = writes.clone();
    let load = LoadWriters::start(
        &agent,
        BATCH_SIZE,
        Arc::new(move |writer, batch, revision| {
            Ok(lock(&noted).acknowledge(writer, batch, revision)?)
        }),
    )?;
    progress(&writes, "before the fault").await?;
    let leader = leader().await?;
    let victim = match fault {
        DiskFault::Errors => leader,
        DiskFault::Drops => leader % DISKS as u64 + 1,
    };
    println!("{fault:?} on the disk of master-{victim}; master-{leader} leads");
    inject(victim, fault)?;
    match fault {
        DiskFault::Errors => wait_for_stop(cluster, victim).await?,
        DiskFault::Drops => {
            progress(&writes, "while writes are dropped").await?;
            cluster.kill(victim);
        }
    }
    progress(&writes, "with two masters").await?;
    // Waits for its end, so that the disk is no longer in use.
    cluster.kill(victim);
    disks::detach(victim, TIMEOUT).await?;
    heal(victim)?;
    disks::attach(&mapped(victim), victim, TIMEOUT).await?;
    cluster.start_one(victim)?;
    let refused = wait_for_return(cluster, victim).await?;
    progress(&writes, "after the return").await?;
    drop(load);
    let mut others = ALL.to_vec();
    if refused {
        others.retain(|number| *number != victim);
    }
    check_after_fault(cluster, &others, &writes).await
}

/// Waits until the master has ended by itself, with the path in its last log lines.
async fn wait_for_stop(cluster: &mut GuestCluster, victim: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !cluster.has_ended(victim) {
        ensure!(
            Instant::now() < deadline,
            "master-{victim} still runs although its disk fails: {}",
            cluster::log_tail(victim)
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    names_its_path(victim)
}

fn names_its_path(victim: u64) -> anyhow::Result<()> {
    let path = cluster::directory(victim).display().to_string();
    let words = cluster::log_tail(victim);
    ensure!(
        words.contains(&path),
        "the last log lines of master-{victim} do not name {path}: {words}"
    );
    println!("master-{victim} has ended: {words}");
    Ok(())
}

/// Waits until the master has caught up, has stopped with a message, or is rejected by the leader
/// with a message. Returns true if it does not return.
async fn wait_for_return(cluster: &mut GuestCluster, victim: u64) -> anyhow::Result<bool> {
    let refusal = format!("master-{victim} no longer has entries that it had acknowledged");
    let refused = async {
        loop {
            let others = ALL.into_iter().filter(|number| *number != victim);
            if let Some(leader) = others
                .into_iter()
                .find(|at| cluster::log_text(*at).contains(&refusal))
            {
                return leader;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let outcome = tokio::select! {
        caught_up = power::wait_until_caught_up(cluster, victim) => caught_up,
        leader = refused => {
            println!("master-{leader} rejects master-{victim}, which lost entries that it had acknowledged");
            return Ok(true);
        }
    };
    match outcome {
        Ok(()) => {
            println!("master-{victim} has caught up");
            Ok(false)
        }
        Err(_) if cluster.has_ended(victim) => names_its_path(victim).map(|()| true),
        Err(error) => Err(error),
    }
}

/// Waits until some more batches are acknowledged.
async fn progress(writes: &Mutex<AcknowledgedWrites>, when: &str) -> anyhow::Result<()> {
    let goal = lock(writes).acknowledged + MIN_BATCHES;
    let deadline = Instant::now() + TIMEOUT;
    while lock(writes).acknowledged < goal {
        ensure!(Instant::now() < deadline, "the load stalls {when}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

async fn check_after_fault(
    cluster: &mut GuestCluster,
    masters: &[u64],
    writes: &Mutex<AcknowledgedWrites>,
) -> anyhow::Result<()> {
    let found = reading::values().await?;
    let mut applied = 0;
    for copy in reading::copies(cluster, masters, TIMEOUT).await? {
        applied = copy.applied;
        lock(writes).digest(copy.master, copy.applied, &copy.digest)?;
    }
    let violations = lock(writes).read_back(&found, applied);
    match violations.into_iter().next() {
        Some(violation) => Err(violation.into()),
        None => Ok(()),
    }
}

fn lock(writes: &Mutex<AcknowledgedWrites>) -> std::sync::MutexGuard<'_, AcknowledgedWrites> {
    writes.lock().expect("no holder of the lock panics")
}

async fn leader() -> anyhow::Result<u64> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let leader = cluster::copy_of(1).await?.leader;
        let number = leader.strip_prefix("master-").map(str::parse);
        match number {
            Some(Ok(number)) => return Ok(number),
            Some(Err(_)) | None if Instant::now() > deadline => {
                bail!("master-1 reports {leader:?} as leader")
            }
            Some(Err(_)) | None => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

fn name(disk: u64) -> String {
    format!("disk-{disk}")
}

/// Returns the kernel's name of the device. Names follow the order of creation, because no udev
/// renames them here.
fn mapped(disk: u64) -> PathBuf {
    format!("/dev/dm-{}", disk - 1).into()
}

fn linear(device: &Path) -> anyhow::Result<String> {
    let sectors = disks::sectors(device)?;
    Ok(format!("0 {sectors} linear {} 0", device.display()))
}

/// Makes the disk fail from now on.
fn inject(disk: u64, fault: DiskFault) -> anyhow::Result<()> {
    let device = disks::device(disk);
    let sectors = disks::sectors(&device)?;
    // Never up, always down, one option.
    let table = format!(
        "0 {sectors} flakey {} 0 0 1 1 {}",
        device.display(),
        fault.target()
    );
    swap(disk, &table)
}

fn heal(disk: u64) -> anyhow::Result<()> {
    swap(disk, &linear(&disks::device(disk))?)
}

/// Replaces the table of a disk. The file system is not frozen, which would write it out first.
fn swap(disk: u64, table: &str) -> anyhow::Result<()> {
    let name = name(disk);
    dmsetup(&["suspend", "--nolockfs", &name])?;
    dmsetup(&["load", &name, "--table", table])?;
    dmsetup(&["resume", &name])
}

fn dmsetup(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("dmsetup").args(arguments).output();
    let output = output.context("cannot start dmsetup")?;
    if !output.status.success() {
        let reported = String::from_utf8_lossy(&output.stderr);
        bail!("dmsetup {}: {reported}", arguments.join(" "));
    }
    Ok(())
}
