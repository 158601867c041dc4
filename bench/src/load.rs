//! Load: closed-loop clients, and clients at a fixed pace.
//!
//! Bounded in time: whatever has not answered by the end is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use crate::cpu::CpuUsage;
use crate::report::quantile;
use crate::writer::{Target, Writer};

/// Timeout for the answers that are missing at the end of a closed loop.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Deadline of one write of a paced or failing client.
const WRITE_DEADLINE: Duration = Duration::from_secs(1);
/// Pause of a client whose write failed.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// One closed-loop client.
#[derive(Clone)]
pub(crate) struct LoopClient {
    pub(crate) writer: Writer,
    pub(crate) target: Target,
}

/// The times of a closed loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Interval between the writes of a client; zero: each write follows the answer to the last
    /// one. A late client catches up, and its writes count from when they were due, so that waiting
    /// shows as latency and not as a lower rate.
    pub(crate) pace: Duration,
}

/// The results of a closed loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoopResult {
    /// Writes answered in the window, per second.
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Microseconds of a core that the members used for each write.
    pub(crate) cpu_us: f64,
    /// Context switches of the members for each write.
    pub(crate) switches: f64,
}

/// Every client writes, awaits the answer, and writes again. `members` are the processes whose
/// usage is counted.
///
/// # Errors
/// The first error of a client: a healthy cluster refuses nothing here.
pub(crate) async fn closed_loop(
    clients: Vec<LoopClient>,
    window: Window,
    members: Vec<u32>,
) -> Result<LoopResult> {
    let begin = Instant::now() + window.warm_up;
    let end = begin + window.measured;
    let mut loops = JoinSet::new();
    for client in clients {
        loops.spawn(one_loop(client, (begin, end), window));
    }
    let used = AbortOnDropHandle::new(tokio::spawn(usage(members, begin, end)));
    let mut times_ms = Vec::new();
    let limit = tokio::time::Instant::from_std(end + ANSWER_TIMEOUT);
    while let Some(joined) = tokio::time::timeout_at(limit, loops.join_next())
        .await
        .context("clients are not answered")?
    {
        times_ms.extend(joined.context("a client panicked")??);
    }
    if times_ms.is_empty() {
        bail!("nothing was answered within {:?}", window.measured);
    }
    let used = used.await.context("the count of what was used ended")?;
    let writes = times_ms.len() as f64;
    Ok(LoopResult {
        per_second: writes / window.measured.as_secs_f64(),
        p50_ms: quantile(&times_ms, 0.5),
        p99_ms: quantile(&times_ms, 0.99),
        cpu_us: used.seconds * 1e6 / writes,
        switches: used.switches as f64 / writes,
    })
}

/// Returns the usage of the processes from `begin` to `end`.
async fn usage(pids: Vec<u32>, begin: Instant, end: Instant) -> CpuUsage {
    tokio::time::sleep_until(begin.into()).await;
    let started = CpuUsage::of(&pids);
    tokio::time::sleep_until(end.into()).await;
    CpuUsage::of(&pids).since(started)
}

/// Milliseconds of each write answered in the window.
async fn one_loop(
    client: LoopClient,
    (begin, end): (Instant, Instant),
    window: Window,
) -> Result<Vec<f64>> {
    let mut times_ms = Vec::new();
    let mut serial = 0;
    let mut due = Instant::now();
    while due < end {
        serial += 1;
        client.writer.write(&client.target, serial).await?;
        let answered = Instant::now();
        if answered >= begin && answered < end {
            times_ms.push((answered - due).as_secs_f64() * 1e3);
        }
        if answered >= end {
            break;
        }
        due = if window.pace.is_zero() {
            answered
        } else {
            due + window.pace
        };
        tokio::time::sleep_until(due.into()).await;
    }
    Ok(times_ms)
}

/// The load during a change of leader.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LoadLevel {
    /// 500 writes a second
    #[default]
    Quiet,
    /// As much as 192 clients can write
    Saturated,
}

impl LoadLevel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Saturated => "saturated",
        }
    }

    /// Returns the number of clients.
    pub(crate) fn clients(self) -> usize {
        match self {
            Self::Quiet => 6,
            Self::Saturated => 192,
        }
    }

    /// Returns the interval between the writes of a client; `None`: it writes again as soon as it
    /// is answered.
    pub(crate) fn interval(self) -> Option<Duration> {
        match self {
            Self::Quiet => Some(Duration::from_millis(12)),
            Self::Saturated => None,
        }
    }
}

/// A client that continues after errors.
pub(crate) trait PersistentClient: Send + 'static {
    /// Writes once at its present member; `serial` makes each value distinct.
    ///
    /// # Errors
    /// If it was rejected or not answered in time.
    fn write(&mut self, serial: u64) -> impl Future<Output = Result<()>> + Send;

    /// Changes to another member after an error.
    fn change_member(&mut self);
}

/// Clients that continue after errors, each at its own member first, the next one after an error.
/// They end with the value.
pub(crate) struct PersistentClients {
    _clients: JoinSet<()>,
    answered: Arc<AtomicU64>,
}

impl PersistentClients {
    /// `writers`: one a member. `interval` is the one between the writes of a client.
    pub(crate) fn start(
        writers: &[Writer],
        targets: &[Target],
        interval: Option<Duration>,
    ) -> Self {
        let client = |(number, target): (usize, &Target)| FailoverClient {
            writers: writers.to_vec(),
            index: number % writers.len(),
            target: target.clone(),
        };
        Self::of(targets.iter().enumerate().map(client), interval)
    }

    /// Starts these clients, each with this interval between its writes.
    pub(crate) fn of(
        clients: impl Iterator<Item = impl PersistentClient>,
        interval: Option<Duration>,
    ) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let clients = clients.map(|client| run(client, interval, Arc::clone(&answered)));
        Self {
            _clients: clients.collect(),
            answered,
        }
    }

    /// Writes answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

async fn run(
    mut client: impl PersistentClient,
    interval: Option<Duration>,
    answered: Arc<AtomicU64>,
) {
    let mut ticks = interval.map(tokio::time::interval);
    if let Some(ticks) = &mut ticks {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    }
    for serial in 1.. {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        if client.write(serial).await.is_ok() {
            answered.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        // Expected while a leader is lost: another member is tried.
        client.change_member();
        tokio::time::sleep(AFTER_ERROR).await;
    }
}

struct FailoverClient {
    writers: Vec<Writer>,
    index: usize,
    target: Target,
}

impl PersistentClient for FailoverClient {
    async fn write(&mut self, serial: u64) -> Result<()> {
        let writer = &self.writers[self.index];
        writer
            .write_within(&self.target, serial, WRITE_DEADLINE)
            .await
    }

    fn change_member(&mut self) {
        self.index = (self.index + 1) % self.writers.len();
    }
}
