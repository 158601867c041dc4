//! Subscribers of one master: most read everything, some nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::cluster::{MasterClient, channel};

/// Subscribers of one connection.
const PER_CONNECTION: usize = 50;
/// Time in which the last events arrive.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Returns the microseconds of the Unix epoch.
pub(super) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

/// The results of all reading subscribers.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) delays_ms: Vec<f64>,
    pub(super) events: u64,
    pub(super) broken: usize,
}

/// The state that all subscribers share.
#[derive(Default)]
struct Counts {
    is_measured: AtomicBool,
    events: AtomicU64,
}

/// Running subscribers; they end with the value.
pub(super) struct Subscribers {
    reading: JoinSet<(Vec<f64>, bool)>,
    counts: Arc<Counts>,
    stop: tokio::sync::watch::Sender<bool>,
    /// Nothing reads these.
    stalled: Vec<Streaming<v1::WatchEvent>>,
}

impl Subscribers {
    /// # Errors
    /// If the master rejects one.
    pub(super) async fn start(
        api: &str,
        (reading, measuring): (usize, usize),
        stalled: usize,
    ) -> Result<Self> {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut subscribers = Self {
            reading: JoinSet::new(),
            counts: Arc::default(),
            stop,
            stalled: Vec::new(),
        };
        let mut connection = channel(api)?.connect().await?;
        for number in 0..reading {
            if number % PER_CONNECTION == 0 {
                connection = channel(api)?.connect().await?;
            }
            let stream = open(&connection).await?;
            let counts = Arc::clone(&subscribers.counts);
            let is_measuring = number % (reading / measuring).max(1) == 0;
            let mut stopped = stopped.clone();
            subscribers.reading.spawn(async move {
                let mut delays_ms = Vec::new();
                let reading = read(stream, &counts, is_measuring.then_some(&mut delays_ms));
                let is_broken = tokio::select! {
                    () = reading => true,
                    _ = stopped.wait_for(|stop| *stop) => false,
                };
                (delays_ms, is_broken)
            });
        }
        for _ in 0..stalled {
            // A stalled stream must not slow down those on its connection.
            let connection = channel(api)?.connect().await?;
            subscribers.stalled.push(open(&connection).await?);
        }
        Ok(subscribers)
    }

    /// Begins the measurement.
    pub(super) fn begin(&self) {
        self.counts.events.store(0, Ordering::Relaxed);
        self.counts.is_measured.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// If a subscriber panicked.
    pub(super) async fn end(mut self) -> Result<Received> {
        tokio::time::sleep(LAST_EVENTS).await;
        self.stop.send_replace(true);
        let mut received = Received {
            events: self.counts.events.load(Ordering::Relaxed),
            ..Received::default()
        };
        while let Some(ended) = self.reading.join_next().await {
            let (delays_ms, is_broken) = ended.context("a subscriber panicked")?;
            received.delays_ms.extend(delays_ms);
            received.broken += usize::from(is_broken);
        }
        drop(self.stalled);
        Ok(received)
    }
}

async fn open(connection: &Channel) -> Result<Streaming<v1::WatchEvent>> {
    let request = v1::WatchRequest {
        kinds: vec!["agent".to_owned()],
        no_snapshot: true,
        ..Default::default()
    };
    let opened = MasterClient::new(connection.clone()).watch(request).await;
    Ok(opened.context("a subscriber was rejected")?.into_inner())
}

/// Reads until the stream breaks.
async fn read(
    mut stream: Streaming<v1::WatchEvent>,
    counts: &Counts,
    mut delays_ms: Option<&mut Vec<f64>>,
) {
    while let Ok(Some(v1::WatchEvent { event })) = stream.message().await {
        let Some(Event::Change(change)) = event else {
            continue;
        };
        if !counts.is_measured.load(Ordering::Relaxed) {
            continue;
        }
        counts.events.fetch_add(1, Ordering::Relaxed);
        if let Some(delays_ms) = &mut delays_ms
            && let Some(sent) = sent_us(&change)
        {
            delays_ms.push(now_us().saturating_sub(sent) as f64 / 1e3);
        }
    }
}

/// Returns the time at which a change was requested.
fn sent_us(change: &v1::WatchChange) -> Option<u64> {
    let Some(Record::Agent(agent)) = &change.record.as_ref()?.record else {
        return None;
    };
    agent.info.as_ref()?.attributes.get("bench")?.parse().ok()
}
