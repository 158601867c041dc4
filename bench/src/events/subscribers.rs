//! Subscribers of one master that read everything.
//!
//! Those that do not measure represent programs on other machines, so their threads have the lowest
//! priority. Otherwise the cost of decoding their events would appear as delay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::cluster::{MasterClient, channel};
use crate::low_priority::LowPriorityThreads;

/// Subscribers of one connection.
const PER_CONNECTION: usize = 50;
/// Time in which the last events arrive.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Returns the microseconds of the Unix epoch.
pub(super) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

/// The changes that subscribers request, and the master that sends them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feed<'a> {
    pub(crate) api: &'a str,
    /// Kinds of objects; none: all.
    pub(crate) kinds: &'a [&'a str],
}

/// The number of subscribers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubscriberCounts {
    /// Those that only read, on threads of the lowest priority.
    pub(crate) reading: usize,
    /// Those that measure the delay, too.
    pub(crate) measuring: usize,
}

/// The results of all subscribers.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) delays_ms: Vec<f64>,
    /// Changes received since the measurement began.
    pub(crate) events: u64,
    /// Subscribers whose streams broke.
    pub(crate) broken: usize,
    /// The newest change of each subscriber, by the time of its request.
    pub(crate) newest_us: Vec<u64>,
}

/// The state that all subscribers share.
#[derive(Default)]
struct Counts {
    is_measured: AtomicBool,
    events: AtomicU64,
}

/// The results of one subscriber.
#[derive(Debug, Default)]
struct ReaderResults {
    delays_ms: Vec<f64>,
    newest_us: u64,
    is_broken: bool,
}

/// Running subscribers; they end with the value.
pub(crate) struct Subscribers {
    readers: JoinSet<ReaderResults>,
    /// Open as long as their streams.
    connections: Vec<Channel>,
    counts: Arc<Counts>,
    stop: watch::Sender<bool>,
    _threads: LowPriorityThreads,
}

impl Subscribers {
    /// # Errors
    /// If the master rejects one.
    pub(crate) async fn start(feed: Feed<'_>, counts: SubscriberCounts) -> Result<Self> {
        let (threads, low) = LowPriorityThreads::start("subscribers")?;
        let mut subscribers = Self {
            readers: JoinSet::new(),
            connections: Vec::new(),
            counts: Arc::default(),
            stop: watch::Sender::new(false),
            _threads: threads,
        };
        let reading = (counts.reading, low, false);
        let measuring = (counts.measuring, Handle::current(), true);
        for group in [reading, measuring] {
            subscribers.add(feed, group).await?;
        }
        Ok(subscribers)
    }

    /// Starts subscribers whose connections and streams run on these threads.
    async fn add(
        &mut self,
        feed: Feed<'_>,
        (count, threads, is_measuring): (usize, Handle, bool),
    ) -> Result<()> {
        for first in (0..count).step_by(PER_CONNECTION) {
            let connection = {
                let _inside = threads.enter();
                channel(feed.api)?.connect_lazy()
            };
            for _ in first..count.min(first + PER_CONNECTION) {
                let stream = open(&connection, feed.kinds, None).await?;
                let counts = Arc::clone(&self.counts);
                let stopped = self.stop.subscribe();
                let reading = run(stream, counts, is_measuring, stopped);
                self.readers.spawn_on(reading, &threads);
            }
            self.connections.push(connection);
        }
        Ok(())
    }

    /// Begins the measurement.
    pub(crate) fn begin(&self) {
        self.counts.events.store(0, Ordering::Relaxed);
        self.counts.is_measured.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// If a subscriber panicked.
    pub(crate) async fn end(mut self) -> Result<Received> {
        tokio::time::sleep(LAST_EVENTS).await;
        self.stop.send_replace(true);
        let mut received = Received {
            events: self.counts.events.load(Ordering::Relaxed),
            ..Received::default()
        };
        while let Some(ended) = self.readers.join_next().await {
            let reader = ended.context("a subscriber panicked")?;
            received.delays_ms.extend(reader.delays_ms);
            received.newest_us.push(reader.newest_us);
            received.broken += usize::from(reader.is_broken);
        }
        Ok(received)
    }
}

/// Subscribes without a snapshot: after this revision, or to the next change.
pub(super) async fn open(
    connection: &Channel,
    kinds: &[&str],
    from_revision: Option<u64>,
) -> Result<Streaming<v1::WatchEvent>> {
    let request = v1::WatchRequest {
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        from_revision,
        no_snapshot: true,
        ..Default::default()
    };
    let opened = MasterClient::new(connection.clone()).watch(request).await;
    Ok(opened.context("a subscriber was rejected")?.into_inner())
}

/// Reads until the stream breaks or all subscribers are stopped.
async fn run(
    mut stream: Streaming<v1::WatchEvent>,
    counts: Arc<Counts>,
    is_measuring: bool,
    mut stopped: watch::Receiver<bool>,
) -> ReaderResults {
    let mut results = ReaderResults::default();
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = stopped.wait_for(|stop| *stop) => return results,
        };
        let Ok(Some(event)) = message else {
            results.is_broken = true;
            return results;
        };
        let Some(Event::Change(change)) = &event.event else {
            continue;
        };
        if !counts.is_measured.load(Ordering::Relaxed) {
            continue;
        }
        counts.events.fetch_add(1, Ordering::Relaxed);
        if let Some(sent) = sent_us(change) {
            results.newest_us = results.newest_us.max(sent);
            if is_measuring {
                let delay_us = now_us().saturating_sub(sent);
                results.delays_ms.push(delay_us as f64 / 1e3);
            }
        }
    }
}

/// Returns the time at which a change was requested, if it is one of the bench.
pub(super) fn sent_us(change: &v1::WatchChange) -> Option<u64> {
    let Some(Record::Agent(agent)) = &change.record.as_ref()?.record else {
        return None;
    };
    agent.info.as_ref()?.attributes.get("bench")?.parse().ok()
}
